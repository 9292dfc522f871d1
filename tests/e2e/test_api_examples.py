"""docs/api-examples.md, run from top to bottom: every RPC of the contract, in Python and with the real grpcurl."""

from __future__ import annotations

import ast
import base64
import inspect
import os
import re
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import CodeType

import pytest

from ragkeep_client.hints import protos
from tests.e2e.test_command import Command
from tests.e2e.test_daily import ports
from tests.engines.process import binary

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
PAGE = Path("docs/api-examples.md")
FILES = [Path(f"protos/ragkeep/gateway/v1/{name}.proto") for name in ("gateway", "audit", "keys", "tenants")]
METHODS = [
    method.name
    for file in FILES
    for service in import_module(f"ragkeep.gateway.v1.{file.stem}_pb2").DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def sections() -> dict[str, dict[str, str]]:
    """By heading: the page's pieces in Python and for the shell."""
    parts = re.split(r"^## (\w+)$", PAGE.read_text(), flags=re.MULTILINE)
    found = {}
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        found[name] = dict(re.findall(r"^```(python|sh)\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    return found


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Command, str]]:
    """A fresh `ragkeep up` with the sample tickets, and where its gateway is."""
    command = Command(tmp_path_factory.mktemp("examples"))
    grpc, health = ports()[1], ports()[3]
    try:
        engines = ["--embedder", "e5", "--retriever", "sqlite", "--generator", "quote"]
        command("up", "--detach", "--ports", grpc, "--health-ports", health, *engines)
        command("keys", "init")
        command("import", "examples/service_tickets.csv")
        yield command, grpc
    finally:
        command("down")


def test_every_rpc_has_its_example_in_both() -> None:
    """A method that is added without one fails here."""
    assert set(METHODS) == set(sections()) - {"Before"}
    for name, found in sections().items():
        assert set(found) == {"python", "sh"}, name


async def test_the_page_runs_from_top_to_bottom(installation: tuple[Command, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Python and shell in the order of the page; what each prints is an answer of the gateway."""
    command, port = installation
    here = {
        "127.0.0.1:50061": f"127.0.0.1:{port}",
        "~/.local/share/ragkeep": command.env["RAGKEEP_DATA"],
        "path protos": f"path {protos()}",
    }

    def adapted(text: str) -> str:
        for there, ours in here.items():
            text = text.replace(there, ours)
        return text

    names: dict[str, object] = {}
    before = adapted(sections()["Before"]["sh"])
    env = {**os.environ, "PATH": f"{binary('grpcurl').parent}:{os.environ['PATH']}"}
    try:
        for name, found in sections().items():
            capsys.readouterr()
            await _run(adapted(found["python"]), names)
            printed = capsys.readouterr().out
            assert name == "Before" or name in SILENT or printed.strip(), f"{name} printed nothing"
            assert "rejected" not in printed
            if name != "Before":
                script = before + adapted(found["sh"])
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", script], env=env, capture_output=True, text=True, timeout=300
                )
                assert done.returncode == 0, f"{name}: {done.stderr}"
                assert done.stdout.startswith("{") or "|| true" in found["sh"], f"{name}: {done.stdout}{done.stderr}"
                assert "REJECTED" not in done.stdout, done.stdout
                if "|| true" in found["sh"]:
                    (reason,) = re.findall(r"\|\| true # ([A-Z_]+)", found["sh"])
                    # grpcurl writes details that it has no description of in base64.
                    details = [base64.b64decode(one) for one in re.findall(r'"@value": "([^"]+)"', done.stderr)]
                    assert any(reason.encode() in detail for detail in details), f"{name}: {done.stderr}"
    finally:
        client = names.get("client")
        if client is not None:
            await client.close()  # type: ignore[attr-defined]


async def test_the_clients_readme_runs_as_it_stands(
    installation: tuple[Command, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its document is taken in, found by its field and deleted again."""
    command, port = installation
    (text,) = re.findall(r"^```python\n(.*?)^```", Path("client/README.md").read_text(), re.DOTALL | re.MULTILINE)
    text = text.replace("127.0.0.1:50061", f"127.0.0.1:{port}")
    for name in ("cli.crt", "cli.key", "ca.crt"):
        text = text.replace(name, f"{command.env['RAGKEEP_DATA']}/certificates/{name}")
    names: dict[str, object] = {}
    await _run(text, names)
    assert "A-1 {" in capsys.readouterr().out
    assert names["gone"] == ["A-1"]


# What returns nothing.
SILENT = {"CreateCollection", "DeleteCollection"}


async def _run(text: str, names: dict[str, object]) -> None:
    """A piece with `await` at its top, as in `python -m asyncio`."""
    code: CodeType = compile(text, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.isawaitable(result):
        await result
