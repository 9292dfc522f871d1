"""The `ragkeep` command. Each subcommand is a module of its own; gRPC is imported only by those that call."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ragkeep_client.commands.ask import ask
from ragkeep_client.commands.audit import audit_app
from ragkeep_client.commands.certs import certs
from ragkeep_client.commands.chat import chat
from ragkeep_client.commands.collections import collections
from ragkeep_client.commands.config import config
from ragkeep_client.commands.documents import documents
from ragkeep_client.commands.down import down
from ragkeep_client.commands.export import export
from ragkeep_client.commands.import_ import import_
from ragkeep_client.commands.keys import keys
from ragkeep_client.commands.logs import logs
from ragkeep_client.commands.models import models_app
from ragkeep_client.commands.policy import policy
from ragkeep_client.commands.search import search
from ragkeep_client.commands.status import status
from ragkeep_client.commands.tenants import tenants
from ragkeep_client.commands.token import token
from ragkeep_client.commands.up import up
from ragkeep_client.output import mute_stdout

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(up)
app.command("import")(import_)
app.command()(ask)
app.command()(chat)
app.command()(search)
app.add_typer(collections, name="collections")
app.add_typer(documents, name="documents")
app.command()(export)
app.add_typer(models_app, name="models")
app.add_typer(tenants, name="tenants")
app.command()(down)
app.command()(status)
app.command()(logs)
app.add_typer(audit_app, name="audit")
app.add_typer(certs, name="certs")
app.add_typer(policy, name="policy")
app.add_typer(keys, name="keys")
app.command()(token)
app.add_typer(config, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"ragkeep {version('ragkeep')}")
        raise typer.Exit


@app.callback()
def ragkeep(
    _wanted: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")] = False,
) -> None:
    """Ask your own documents; nothing leaves this machine.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 cancelled.
    """


def main() -> None:
    """Runs the command."""
    # gRPC's own lines on stderr are for its developers; errors come back as statuses.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        app(prog_name="ragkeep")
    except BrokenPipeError:
        mute_stdout()
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
