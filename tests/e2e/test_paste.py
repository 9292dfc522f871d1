"""The lines that `up` prints work as they are, pasted into a shell."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragkeep_client.hints import protos
from tests.e2e.test_command import Command
from tests.e2e.test_daily import ports
from tests.engines.process import binary

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
TICKETS = """ticket_id,title,description,solution,category
T-1003,打印机脱机,打印机显示脱机。,在设备设置里取消“脱机使用打印机”，再重启后台打印服务。,打印与外设
"""


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Command, dict[str, str]]]:
    """A running installation in a folder that needs quoting, and what `up` said when it was ready."""
    command = Command(tmp_path_factory.mktemp("paste"))
    del command.env["RAGKEEP_DATA"]
    data = command.folder / "a folder's name"
    tickets = command.folder / "tickets.csv"
    tickets.write_text(TICKETS)
    try:
        ready = command.lines("up", "--detach", "--data", str(data), *ports())[-1]["ready"]
        command("import", str(tickets), "--data", str(data))
        yield command, ready  # type: ignore[misc]
    finally:
        command("down", "--data", str(data))


def shell(command: Command, line: str, folder: Path) -> str:
    """What a line writes in a shell that finds the programs of a folder."""
    env = command.env | {"PATH": f"{folder}:{command.env['PATH']}"}
    ran = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_line_for_ragkeep_asks(pasted: tuple[Command, dict[str, str]]) -> None:
    """With the folder that it runs on."""
    command, ready = pasted
    assert "T-1003" in shell(command, ready["ask"], Path(sys.executable).parent)


def test_the_line_for_grpcurl_asks(pasted: tuple[Command, dict[str, str]]) -> None:
    """Over mutual TLS, with the protos of this installation; events come as the contract says."""
    command, ready = pasted
    out = shell(command, ready["grpcurl"], binary("grpcurl").parent)
    events, rest = [], out.strip()
    while rest:
        event, end = json.JSONDecoder().raw_decode(rest)
        events.append(event)
        rest = rest[end:].strip()
    kinds = [next(kind for kind in event if kind != "sequence") for event in events]
    assert kinds[:3] == ["status", "sources", "status"]
    assert kinds[-1] == "done"
    assert "重启后台打印服务" in "".join(event["delta"]["text"] for event in events if "delta" in event)


def test_grpcurl_is_refused_without_the_gateways_own_name(pasted: tuple[Command, dict[str, str]]) -> None:
    """The line verifies whom it talks to: another service's name in it fails."""
    command, ready = pasted
    line = ready["grpcurl"].replace("gateway.ragkeep.internal", "embedder.ragkeep.internal")
    env = command.env | {"PATH": f"{binary('grpcurl').parent}:{command.env['PATH']}"}
    ran = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode != 0
    assert "embedder.ragkeep.internal" in ran.stderr


def test_the_protos_lie_where_the_line_says() -> None:
    """All of them, beside their stubs."""
    assert (protos() / "ragkeep" / "gateway" / "v1" / "gateway.proto").exists()
    assert {file.name for file in protos().rglob("*.proto")} >= {"gateway.proto", "types.proto", "access.proto"}
