"""Certificates that came to their end, as the user of the command meets them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragkeep_client.certificates import Certificates
from tests.command import Command
from tests.ports import free_ports

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]

# A leaf that was made then has ended; the authority that was made then has not.
LONG_AGO = dt.datetime.now(dt.UTC) - dt.timedelta(days=400)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A running installation whose authority is old enough to have issued what has ended."""
    folder = tmp_path_factory.mktemp("ended")
    Certificates(folder / "data" / "certificates").ensure(LONG_AGO)
    found, first = Command(folder), free_ports(8)
    try:
        found("up", "--detach", "--ports", str(first), "--health-ports", str(first + 4))
        yield found
    finally:
        found("down")


@pytest.fixture
def ended(command: Command) -> Iterator[Certificates]:
    """All its leaves have ended; afterwards they are new."""
    certificates = Certificates(command.folder / "data" / "certificates")
    certificates.renew(LONG_AGO)
    yield certificates
    command("certs", "renew")


def test_the_commands_own_certificate_is_named_with_its_end(command: Command, ended: Certificates) -> None:
    """And what makes it anew; not that nothing runs."""
    error = command.lines("search", "VPN error 809", code=1)[-1]["error"]
    until = {one.name: one.valid_until for one in ended.show()}["cli"]
    assert error["reason"] == "CERTIFICATE_UNUSABLE"  # type: ignore[index]
    assert f"cli.crt ended on {until:%Y-%m-%d} at {until:%H:%M} UTC. `ragkeep certs renew`" in error["message"]  # type: ignore[index]


def test_the_gateways_certificate_is_named_with_its_end(command: Command, ended: Certificates) -> None:
    """The command's own is good; the handshake says nothing of the dates."""
    kept = {path: path.read_bytes() for path in ended.files("gateway")}
    ended.renew()
    for path, content in kept.items():
        path.write_bytes(content)
    error = command.lines("search", "VPN error 809", code=1)[-1]["error"]
    assert error["reason"] == "CERTIFICATE_UNUSABLE"  # type: ignore[index]
    assert "The certificate gateway" in error["message"]  # type: ignore[index]
    assert "it has expired" in error["message"]  # type: ignore[index]


def test_status_says_whose_certificates_have_ended(command: Command, ended: Certificates) -> None:
    """The processes are well, and nobody can call them: not ready, HTTPS neither; in words for people too."""
    assert {one.fault for one in ended.show() if one.name != "ca"} == {"it has expired"}
    lines = command.lines("status", code=1)
    looks = [line["process"] for line in lines if "process" in line]
    assert {(one["running"], one["ready"]) for one in looks} == {(True, False)}  # type: ignore[index]
    assert all("it has expired" in one["missing"] and "`ragkeep certs renew`" in one["missing"] for one in looks)  # type: ignore[index]
    https = next(line["https"] for line in lines if "https" in line)
    assert https["ready"] is False  # type: ignore[index]
    assert "Its certificate ended on" in https["missing"]  # type: ignore[index]
    assert [line["attention"]["about"] for line in lines if "attention" in line] == ["cli"]  # type: ignore[index]
    assert lines[-1]["status"]["ready"] is False  # type: ignore[index]
    text = command("status", code=1).stdout
    assert text.count("not ready") == 5
    assert "cli: Its certificate cannot be used: it has expired" in text


def test_another_processs_certificate_is_named_with_its_end(command: Command, tmp_path: Path) -> None:
    """With the command that issues it anew, by its own name."""
    Certificates(command.folder / "data" / "certificates").issue("caller/helpdesk/bot", tmp_path, LONG_AGO)
    gateway = next(line["process"] for line in command.lines("status") if "process" in line)["address"]  # type: ignore[index]
    elsewhere = Command(command.folder)
    files = {"CERT": tmp_path / "tls.crt", "KEY": tmp_path / "tls.key", "CA": tmp_path / "ca.crt"}
    elsewhere.env |= {"RAGKEEP_GATEWAY": gateway} | {f"RAGKEEP_TLS_{name}": str(path) for name, path in files.items()}
    error = json.loads(elsewhere("search", "VPN error 809", "--json", code=1).stdout)["error"]
    assert error["reason"] == "CERTIFICATE_UNUSABLE"
    assert "`ragkeep certs issue helpdesk/bot`" in error["message"]
    assert " UTC. " in error["message"]


def test_certs_show_tells_what_was_issued_to_others(command: Command) -> None:
    """With what makes one anew that has ended: `certs renew` leaves them alone."""
    folder = command.folder / "data" / "callers" / "helpdesk-bot"
    Certificates(command.folder / "data" / "certificates").issue("caller/helpdesk/bot", folder, LONG_AGO)
    name = "caller/helpdesk/bot"
    shown = command.lines("certs", "show", code=1)[-1]["certificate"]
    assert (shown["name"], shown["fault"]) == (name, "it has expired")  # type: ignore[index]
    assert (
        f"{name}: it has expired. `ragkeep certs issue helpdesk/bot` makes it anew." in command("certs", "show", code=1).stdout
    )
    command("certs", "issue", "helpdesk/bot")
    text = command("certs", "show").stdout
    assert f"{name}  spiffe://ragkeep.internal/{name}" in text
    assert text.count("ragkeep local authority") == 8
