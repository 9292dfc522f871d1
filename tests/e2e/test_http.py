"""docs/http.md as its reader would use it: `ragkeep up`, then curl and the openai client, from top to bottom."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragkeep_client.ports import taken
from ragkeep_gateway.http.routes import OPENAPI_PATH, routes_of
from tests.command import Command
from tests.ports import free_ports

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
PAGE = Path("docs/http.md").read_text()
PIECES = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
ENGINES = ("--embedder", "e5", "--retriever", "sqlite", "--generator", "quote")


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Command, dict[str, str]]]:
    """A fresh `ragkeep up` with the sample tickets, and what it said when it was ready."""
    command = Command(tmp_path_factory.mktemp("http"))
    first = free_ports(8)
    try:
        ports = ("--ports", str(first), "--health-ports", str(first + 4))
        ready = command.lines("up", "--detach", *ports, *ENGINES)[-1]["ready"]
        command("import", "examples/service_tickets.csv")
        yield command, ready  # type: ignore[misc]
    finally:
        command("down")


def shell(command: Command, script: str) -> str:
    """What a reader's shell writes."""
    env = {**command.env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ran = subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=env, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_page_runs_from_top_to_bottom(installation: tuple[Command, dict[str, str]]) -> None:
    """Each piece answers: a stream to its end, JSON, or what the client printed."""
    command, ready = installation
    assert ready["https"] == f"https://localhost:{command.env['RAGKEEP_HTTP_PORT']}"

    def adapted(text: str) -> str:
        return text.replace("https://localhost:8443", ready["https"]).replace(
            "~/.local/share/ragkeep", command.env["RAGKEEP_DATA"]
        )

    before = adapted(PIECES[0][1])
    assert len(PIECES) >= 7
    for kind, text in PIECES[1:]:
        if kind == "python":
            out = shell(command, f"{before}\nexport TOKEN\npython - <<'END'\n{adapted(text)}\nEND")
            assert "service-tickets" in out
            assert "384" in out.splitlines()[-1]
            continue
        out = shell(command, before + adapted(text))
        if "/chat/stream" in text:
            assert "event: sources" in out
            assert json.loads(out.strip().splitlines()[-1].removeprefix("data: "))["finish"] == "stop", out
        else:
            assert "error" not in json.loads(out)


def test_the_line_that_up_prints_asks(installation: tuple[Command, dict[str, str]]) -> None:
    """Pasted as it is, with a token that it fetches itself."""
    command, ready = installation
    assert "event: done" in shell(command, ready["curl"])


def test_a_renewed_certificate_is_shown(installation: tuple[Command, dict[str, str]]) -> None:
    """`ragkeep certs renew` while it serves; the next request is answered by the new one."""
    command, ready = installation
    before = next(line["certificate"] for line in command.lines("certs", "show") if line["certificate"]["name"] == "https")  # type: ignore[index]
    command("certs", "renew")
    after = next(line["certificate"] for line in command.lines("certs", "show") if line["certificate"]["name"] == "https")  # type: ignore[index]
    assert after["serial"] != before["serial"]  # type: ignore[index]
    shown = ssl.get_server_certificate(("localhost", int(ready["https"].rpartition(":")[2])), timeout=60)
    assert shown == (Path(command.env["RAGKEEP_DATA"]) / "certificates" / "https.crt").read_text()


def test_the_page_knows_every_route() -> None:
    """And which RPC each is admitted as."""
    for route in routes_of(None):  # type: ignore[arg-type]  # handlers are not called here
        path = route.path.replace("{model:path}", "NAME")
        (row,) = [line for line in PAGE.splitlines() if f"`{route.verb} {path}`" in line and line.startswith("|")]
        assert f"`{route.rpc}`" in row
    assert f"`GET {OPENAPI_PATH}`" in PAGE


def test_a_port_that_is_taken_is_not_taken_twice(tmp_path: Path) -> None:
    """Where nobody said one, the next that is free is taken, said and kept; one that was asked for is an error with its name."""
    command = Command(tmp_path)
    wanted = command.env.pop("RAGKEEP_HTTP_PORT")
    first = free_ports(8)
    ports = ("--ports", str(first), "--health-ports", str(first + 4))
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not taken([8443]):
            holder.bind(("127.0.0.1", 8443))
            holder.listen()
        try:
            ready = command.lines("up", "--detach", *ports, *ENGINES)[-1]["ready"]
            port = int(ready["https"].rpartition(":")[2])  # type: ignore[index]
            assert port > 8443
        finally:
            command("down")
        assert command.lines("config", "show", "gateway")
        kept = {line["setting"]["name"]: line["setting"] for line in command.lines("config", "show", "gateway")}  # type: ignore[index]
        assert kept["http_listen"]["value"] == f"127.0.0.1:{port}"  # type: ignore[index]
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", int(wanted)))
        holder.listen()
        ran = command("up", "--detach", *ports, "--http-port", wanted, code=1)
    assert f"Port {wanted} is in use" in ran.stderr
    assert "--http-port" in ran.stderr


def test_it_can_be_left_out(tmp_path: Path) -> None:
    """`--http-port 0`: nothing listens, and nothing of it is said."""
    command = Command(tmp_path)
    first = free_ports(8)
    try:
        ports = ("--ports", str(first), "--health-ports", str(first + 4), "--http-port", "0")
        ready = command.lines("up", "--detach", *ports, *ENGINES)[-1]["ready"]
        assert (ready["https"], ready["curl"]) == ("", "")  # type: ignore[index]
        assert "serving_https" not in (tmp_path / "data" / "logs" / "gateway.log").read_text()
    finally:
        command("down")
