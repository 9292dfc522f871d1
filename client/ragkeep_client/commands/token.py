"""`ragkeep token`: a person's token for trying things out, where no identity provider is at hand."""

from __future__ import annotations

import datetime as dt
import os
import re
import time
import uuid
from enum import StrEnum
from typing import Annotated

import typer

from ragkeep_client.folder import DEFAULT, TENANT, DataFolder, DataOption, TenantOption
from ragkeep_client.output import CommandError, JsonOption, Output

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_S = 30 * 86_400


class Role(StrEnum):
    """What a person may do."""

    READER, EDITOR, ADMIN, AUDITOR, UNSEALER = "reader", "editor", "admin", "auditor", "unsealer"


def token(
    subject: Annotated[str, typer.Argument(help="Who it speaks of, e.g. li.wei.")],
    role: Annotated[list[Role] | None, typer.Option("--role", help="May be repeated.  [default: reader]")] = None,
    group: Annotated[list[str] | None, typer.Option("--group", help="A group of the person; may be repeated.")] = None,
    lasts: Annotated[str, typer.Option("--for", metavar="TIME", help="How long it counts: 90s, 15m, 8h, up to 30d.")] = "1h",
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Issue a person's token for trying things out, signed with the data folder's own secret.

    On stdout alone, so that it can be written to a file: RAGKEEP_TOKEN_FILE=FILE lets the other commands act for that person.
    """
    import jwt

    from ragkeep_client.launching import TOKEN_AUDIENCE, TOKEN_ISSUER

    output = Output(as_json)
    folder = DataFolder(data)
    try:
        seconds = _seconds(lasts)
        secret = _secret(folder)
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    now = int(time.time())
    roles = [one.value for one in role or [Role.READER]]
    claims = {"iss": TOKEN_ISSUER, "aud": TOKEN_AUDIENCE, "iat": now, "exp": now + seconds, "jti": uuid.uuid4().hex}
    about = {"sub": subject, "tenant": tenant, "roles": roles, "groups": group or []}
    made = jwt.encode({**claims, **about}, secret, algorithm="HS256")
    until = dt.datetime.fromtimestamp(now + seconds, dt.UTC)
    if as_json:
        output.line("token", {"token": made, **about, "id": claims["jti"], "expires": until.isoformat()})
        return
    typer.echo(made)
    member = f"in the groups {', '.join(group)}" if group else "in no group"
    output.note(f"For {subject} in {tenant} as {', '.join(roles)}, {member}, until {until.astimezone():%Y-%m-%d %H:%M %Z}.")


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text)
    seconds = int(found[1]) * _UNITS_S[found[2]] if found else 0
    if not 0 < seconds <= _LONGEST_S:
        raise typer.BadParameter("A number and s, m, h or d are needed, up to 30d, e.g. 8h.", param_hint="--for")
    return seconds


def _secret(folder: DataFolder) -> bytes:
    """The folder's own. Raises CommandError where the gateway does not go by it."""
    from ragkeep_client.commands.config import settings_of
    from ragkeep_client.settings import SettingsFile

    file = SettingsFile.read(folder.path)
    own = str(folder.token_secret)
    settings = settings_of(folder, file, file.first_ports(folder.ports()))
    if all(one.value != own for one in settings if one.name == "jwt_secret"):
        raise CommandError(
            "TOKEN_UNUSABLE",
            "This installation takes the tokens of its identity provider (jwt_secret or jwt_jwks is set): get one there.",
        )
    try:
        return folder.token_secret.read_bytes().strip()
    except FileNotFoundError:
        raise CommandError("NOT_RUNNING", f"There is no installation in {folder.path} yet. `ragkeep up` makes one.") from None
    except OSError as error:
        raise CommandError(
            "DATA_FOLDER_UNUSABLE", f"{folder.token_secret} cannot be read: {os.strerror(error.errno or 0)}."
        ) from None
