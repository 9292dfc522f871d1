"""`ragkeep tenants`: who has documents here, and how a tenant begins, pauses and ends."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragkeep_client.folder import DEFAULT, TENANT, DataOption
from ragkeep_client.output import CommandError, JsonOption, Output, plain, run

if TYPE_CHECKING:
    from ragkeep_client.tenants import Tenant

tenants = typer.Typer(
    help="List tenants; make, deactivate and delete them. For the operator.", invoke_without_command=True, rich_markup_mode=None
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The tenant.")]
OwnOption = Annotated[
    str, typer.Option("--tenant", envvar="RAGKEEP_TENANT", help="In which tenant you call: the operator's. Not the one meant.")
]


@tenants.callback()
def tenants_or_list(
    context: typer.Context, tenant: OwnOption = TENANT, data: DataOption = DEFAULT, as_json: JsonOption = False
) -> None:
    """List the tenants; or what a command below says."""
    if context.invoked_subcommand is None:
        list_(tenant, data, as_json)
        return
    given = [name for name in context.params if "COMMANDLINE" in str(context.get_parameter_source(name))]
    if given:
        # They would be passed over: the command has options of its own.
        option = given[0].replace("as_json", "json")
        raise typer.BadParameter(f"--{option} goes after the command: ragkeep tenants {context.invoked_subcommand} …")


@tenants.command("list")
def list_(tenant: OwnOption = TENANT, data: DataOption = DEFAULT, as_json: JsonOption = False) -> None:
    """List the tenants with their documents, quotas and state."""
    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> None:
        async with connected(data, tenant) as client:
            found = await client.list_tenants()
        for one in found.tenants:
            output.line("tenant", _facts(one))
            output.say(_line(one))
            limits = _limits(one)
            if limits:
                output.say(f"  {limits}", style="dim")
        if not found.tenants:
            output.say("There is no tenant yet: the first import makes one, or `ragkeep tenants create NAME`.")
        if found.unnamed:
            output.line("unnamed", found.unnamed)
            output.note(
                f"{found.unnamed} more have documents that an older ragkeep stored under a hash of their name; they are in the "
                "list once they call again.",
                style="yellow",
            )

    run(output, work())


@tenants.command()
def create(name: NameArgument, tenant: OwnOption = TENANT, data: DataOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Make a tenant. Its callers come from the policy file, or bring tokens that name it."""
    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> None:
        async with connected(data, tenant) as client:
            made = await client.create_tenant(name)
        output.line("created", _facts(made))
        output.say(f"The tenant {plain(made.name)} is there.", style="green")

    run(output, work())


@tenants.command()
def deactivate(name: NameArgument, tenant: OwnOption = TENANT, data: DataOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Refuse every call of a tenant from now on; what it has stays."""
    _set_active(name, False, tenant, data, as_json)


@tenants.command()
def activate(name: NameArgument, tenant: OwnOption = TENANT, data: DataOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Serve a tenant again."""
    _set_active(name, True, tenant, data, as_json)


@tenants.command()
def delete(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether it is meant.")] = False,
    tenant: OwnOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Delete a tenant with all its documents and what its keys are made of; it is deactivated first."""
    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> None:
        async with connected(data, tenant) as client:
            found = next((one for one in (await client.list_tenants()).tenants if one.name == name), None)
            if found is not None and not yes:
                _ask(output, found)
            if found is not None and found.active:
                await client.set_tenant_active(name, False)
            with output.notes.status("deleting …"):
                gone = await client.delete_tenant(name)
        output.line("deleted", {"tenant": name, "documents": dict(gone.documents), "left": gone.left})
        for collection, count in gone.documents.items():
            output.say(f"{collection}: {count} documents")
        output.say(f"The tenant {plain(name)} is gone.", style="green")
        output.note(gone.left, style="yellow")

    run(output, work())


def _set_active(name: str, active: bool, tenant: str, data: Path, as_json: bool) -> None:
    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> None:
        async with connected(data, tenant) as client:
            changed = await client.set_tenant_active(name, active)
        output.line("activated" if active else "deactivated", _facts(changed))
        how = "is served again" if active else "is not served any more"
        output.say(f"The tenant {plain(name)} {how}; every gateway knows within two seconds.", style="green")

    run(output, work())


def _ask(output: Output, found: Tenant) -> None:
    """Raises CommandError unless a person says yes."""
    if not sys.stdin.isatty() or output.as_json:
        raise CommandError("NOT_CONFIRMED", "Nobody is there to be asked: --yes deletes the tenant with all that it has.")
    output.note(_line(found))
    if not typer.confirm("Delete the tenant and all its documents? That cannot be undone.", err=True):
        raise CommandError("CANCELLED", "Nothing was deleted.")


def _facts(one: Tenant) -> dict[str, Any]:
    return asdict(one) | {"created": one.created.isoformat()}


def _line(one: Tenant) -> str:
    """clinic: 120 documents of at most 1000, active since 2026-03-01"""
    count, most = sum(one.documents.values()), one.quotas.documents
    documents = f"{count} document{'' if count == 1 else 's'}" + ("" if most is None else f" of at most {most}")
    state = "deletion not ended" if one.deleting else "active" if one.active else "deactivated"
    return f"{plain(one.name)}: {documents}, {state}, there since {one.created:%Y-%m-%d}"


def _limits(one: Tenant) -> str:
    """The other quotas, in words."""
    quotas = one.quotas
    words = (
        (quotas.questions_per_minute, "questions a minute"),
        (quotas.concurrent_streams, "answers at once"),
        (quotas.tokens_per_day, "tokens a day"),
    )
    return ", ".join(f"{value} {what}" for value, what in words if value is not None)
