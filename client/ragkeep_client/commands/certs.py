"""`ragkeep certs`: the certificates of a data folder, shown, made anew, and issued to other processes."""

from __future__ import annotations

import datetime as dt
import json
import re
import socket
import ssl
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragkeep_client.commands.token import Role
from ragkeep_client.folder import DEFAULT, DataFolder, DataOption
from ragkeep_client.output import CommandError, JsonOption, Output

if TYPE_CHECKING:
    from ragkeep_client.certificates import Certificates

certs = typer.Typer(no_args_is_help=True, help="Show the certificates, make them anew, or issue one to another process.")
# Seconds that a process gets to show its new certificate. A server does at the next connection; a busy machine takes a while.
_TAKEN_OVER_S = 60.0


@certs.command()
def show(data: DataOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Say whose each certificate is, until when it is valid, and who issued it. Exit code 0 only where all can be used.

    Those that `certs issue` put into the folder too, not those that went elsewhere (--out).
    """
    from ragkeep_client.certificates import Certificates, way_out

    output = Output(as_json)
    folder = DataFolder(data)
    now = dt.datetime.now(dt.UTC)
    try:
        certificates = Certificates(folder.certificates)
        found = [*certificates.show(now), *certificates.issued(folder.callers, now)]
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else "a file there is no certificate"
        raise output.fail(
            "DATA_FOLDER_UNUSABLE",
            f"Not all certificates can be read in {folder.certificates}: {problem}. `ragkeep up` makes them.",
        ) from None
    for one in found:
        dates = {"valid_from": one.valid_from.isoformat(), "valid_until": one.valid_until.isoformat()}
        output.line("certificate", asdict(one) | dates | {"serial": f"{one.serial:x}"})
    if not as_json:
        from rich.text import Text

        width = max(10, *(len(one.name) + 2 for one in found))
        for one in found:
            left = f"until {one.valid_until.astimezone():%Y-%m-%d %H:%M %Z} ({(one.valid_until - now).days} d)"
            lines = [one.uri, ", ".join(one.dns), f"{left}, by {one.issuer}"]
            for number, line in enumerate(line for line in lines if line):
                head = Text(f"{'' if number else one.name:{width}}", "bold")
                output.console.print(head.append(line, "red" if one.fault else "not bold"), soft_wrap=True)
        for one in found:
            if one.fault:
                output.say(f"{one.name}: {one.fault}. {way_out(one)} makes it anew.", style="red")
    if any(one.fault for one in found):
        raise typer.Exit(1)


@certs.command()
def renew(data: DataOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Make every certificate but the authority's anew. What runs takes them over without a restart."""
    from ragkeep_client.certificates import Certificates

    output = Output(as_json)
    folder = DataFolder(data)
    certificates = Certificates(folder.certificates)
    try:
        made = certificates.renew()
        running = _running(folder)
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    except OSError as error:
        raise output.fail(
            "DATA_FOLDER_UNUSABLE", f"{error.filename or folder.certificates}: {error.strerror or error}."
        ) from None
    wanted = {one.name: one for one in certificates.show()}
    late = _not_taken_over(certificates, running, {name: wanted[name].serial for name in running})
    for name in made:
        taken_over = name not in late if name in running else None
        until = wanted[name].valid_until
        output.line("renewed", {"name": name, "valid_until": until.isoformat(), "taken_over": taken_over})
        suffix = {True: "; the running process has it", False: "; the running process does not show it yet", None: ""}[
            taken_over
        ]
        output.say(f"{name}: a new certificate until {until.astimezone():%Y-%m-%d %H:%M %Z}{suffix}.")
    if late:
        raise output.fail(
            "NOT_READY",
            f"Not taken over within {_TAKEN_OVER_S:.0f} s: {', '.join(late)}. See `ragkeep logs` for tls_files_not_taken_over.",
        )


@certs.command()
def issue(
    name: Annotated[
        str, typer.Argument(metavar="NAMESPACE/NAME", help="Whose: helpdesk/bot is the caller caller/helpdesk/bot.")
    ],
    tenant: Annotated[list[str] | None, typer.Option("--tenant", help="A tenant that it may act in; may be repeated.")] = None,
    role: Annotated[list[Role] | None, typer.Option("--role", help="What it may do there; may be repeated.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to.  [default: callers/ in the folder]")
    ] = None,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Issue a certificate for another process on this site, and with --tenant and --role let it in.

    tls.crt, tls.key and ca.crt are written. For a year; the same command makes it anew, and clients take it over.
    """
    from ragkeep_client.certificates import CLI, Certificates

    output = Output(as_json)
    caller = f"caller/{name.removeprefix('caller/')}"
    if not re.fullmatch(r"caller/[a-z0-9](?:[a-z0-9.-]{0,62})/[a-z0-9](?:[a-z0-9.-]{0,62})", caller) or caller == CLI:
        raise typer.BadParameter("Two names of small letters, digits, - and . with a / between them are needed, not local/cli.")
    if bool(tenant) != bool(role):
        raise typer.BadParameter("--tenant and --role belong together.")
    folder = DataFolder(data)
    target = (out or folder.callers / caller.removeprefix("caller/").replace("/", "-")).expanduser().absolute()
    entry = {"tenants": tenant or ["TENANT"], "roles": [one.value for one in role or [Role.READER]]}
    try:
        # The policy first: where it cannot be written, no key lies about.
        certificates = Certificates(folder.certificates)
        certificates.check_room(caller, target)
        changed = folder.grant(caller, entry["tenants"], entry["roles"]) if tenant else None
        made = certificates.issue(caller, target)
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    except OSError as error:
        raise output.fail("DATA_FOLDER_UNUSABLE", f"{error.filename or target}: {error.strerror or error}.") from None
    files = {"cert": str(target / "tls.crt"), "key": str(target / "tls.key"), "ca": str(target / "ca.crt")}
    about = {"name": caller, "uri": made.uri, **files, "valid_until": made.valid_until.isoformat()}
    output.line("issued", about | {"policy": {None: "untouched", True: "changed", False: "as it was"}[changed]})
    output.say(
        f"{caller}: a certificate until {made.valid_until.astimezone():%Y-%m-%d %H:%M %Z}; "
        f"tls.crt, tls.key and ca.crt are in {target}."
    )
    if changed is None:
        line = json.dumps({caller: entry})[1:-1]
        output.say(f"{folder.policy} was left as it is. Say --tenant and --role to let it in, or write there under callers:")
        output.say(f"  {line}")
    else:
        words = f"in {', '.join(entry['tenants'])} as {', '.join(entry['roles'])}"
        output.say(f"It may act {words}: so says {folder.policy}, which the gateway takes over within a second.")


def _running(folder: DataFolder) -> dict[str, str]:
    """The addresses of the services that run."""
    from ragkeep_client.processes import is_ours

    state = folder.state()
    services = state.services if state else {}
    return {name: one.address for name, one in services.items() if is_ours(one.pid, one.started)}


def _not_taken_over(certificates: Certificates, running: dict[str, str], serials: dict[str, int]) -> list[str]:
    """The services that do not show the certificate with their serial number in time, by real handshakes."""
    waiting = dict(running)
    until = time.monotonic() + _TAKEN_OVER_S
    while waiting and time.monotonic() < until:
        for name, address in list(waiting.items()):
            if _shown_serial(certificates, name, address) == serials[name]:
                del waiting[name]
        if waiting:
            time.sleep(0.2)
    return list(waiting)


def _shown_serial(certificates: Certificates, name: str, address: str) -> int | None:
    from cryptography import x509

    from ragkeep_client.certificates import CLI_FILE, TRUST_DOMAIN

    context = ssl.create_default_context(cafile=certificates.ca)
    context.load_cert_chain(*certificates.files(CLI_FILE))
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=f"{name}.{TRUST_DOMAIN}") as secured,
        ):
            shown = secured.getpeercert(binary_form=True)
    except OSError:
        return None
    return x509.load_der_x509_certificate(shown).serial_number if shown else None
