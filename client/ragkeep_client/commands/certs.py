"""`ragkeep certs`: the certificates of a data folder, shown and made anew."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from ragkeep_client.folder import DEFAULT, DataFolder, DataOption
from ragkeep_client.output import CommandError, JsonOption, Output

if TYPE_CHECKING:
    from ragkeep_client.certificates import Certificates

certs = typer.Typer(no_args_is_help=True, help="Show the certificates, or make them anew.")
# Seconds that a process gets to show its new certificate. A server does at the next connection.
_TAKEN_OVER_S = 10.0


@certs.command()
def show(data: DataOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Say whose each certificate is, until when it is valid, and who issued it. Exit code 0 only where all can be used."""
    from ragkeep_client.certificates import Certificates

    output = Output(as_json)
    folder = DataFolder(data)
    now = dt.datetime.now(dt.UTC)
    try:
        found = Certificates(folder.certificates).show(now)
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else "a file there is no certificate"
        raise output.fail(
            "DATA_FOLDER_UNUSABLE", f"No certificates can be read in {folder.certificates}: {problem}. `ragkeep up` makes them."
        ) from None
    for one in found:
        dates = {"valid_from": one.valid_from.isoformat(), "valid_until": one.valid_until.isoformat()}
        output.line("certificate", asdict(one) | dates | {"serial": f"{one.serial:x}"})
    if not as_json:
        from rich.text import Text

        for one in found:
            left = f"until {one.valid_until.astimezone():%Y-%m-%d %H:%M} ({(one.valid_until - now).days} d)"
            lines = [one.uri, ", ".join(one.dns), f"{left}, by {one.issuer}"]
            for number, line in enumerate(line for line in lines if line):
                head = Text(f"{'' if number else one.name:10}", "bold")
                output.console.print(head.append(line, "red" if one.fault else "not bold"), soft_wrap=True)
        for one in found:
            if one.fault:
                way = "ragkeep up" if one.name == "ca" else "ragkeep certs renew"
                output.say(f"{one.name}: {one.fault}. `{way}` makes it anew.", style="red")
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
        output.say(f"{name}: a new certificate until {until.astimezone():%Y-%m-%d %H:%M}{suffix}.")
    if late:
        raise output.fail(
            "NOT_READY",
            f"Not taken over within {_TAKEN_OVER_S:.0f} s: {', '.join(late)}. See `ragkeep logs` for tls_files_not_taken_over.",
        )


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
            socket.create_connection((host, int(port)), timeout=2) as plain,
            context.wrap_socket(plain, server_hostname=f"{name}.{TRUST_DOMAIN}") as secured,
        ):
            shown = secured.getpeercert(binary_form=True)
    except OSError:
        return None
    return x509.load_der_x509_certificate(shown).serial_number if shown else None
