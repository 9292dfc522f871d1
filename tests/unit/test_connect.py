"""What the command says where a service cannot be reached: whether it comes again, and what helps."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragkeep_client.connect import explained
from ragkeep_client.folder import DataFolder, Running, State
from ragkeep_client.output import CommandError
from ragkeep_client.processes import started
from ragkeep_runtime.errors import CollectionUnknown, NotReady

NO_GATEWAY = NotReady("The gateway cannot be reached at 127.0.0.1:1 (connection).", metadata={"unreachable": "connection"})
NO_RETRIEVER = NotReady("The retriever cannot be reached. Is its process running?", metadata={"service": "retriever"})
GONE = (2**22 - 1, "1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataFolder:
    """In which something was started."""
    monkeypatch.delenv("RAGKEEP_GATEWAY", raising=False)
    return DataFolder(tmp_path)


@pytest.fixture
def alive() -> Iterator[tuple[int, str]]:
    """A process that passes for one of ragkeep's."""
    with subprocess.Popen([sys.executable, "-c", "input()", "ragkeep"], stdin=subprocess.PIPE) as process:
        yield process.pid, started(process.pid)
        process.kill()


def said(
    folder: DataFolder, error: NotReady, up: tuple[int, str], service: tuple[int, str], ended: str = "", again: float = 0
) -> str:
    """What the command says, with `up` and all its services as these processes."""
    one = Running(*service, "127.0.0.1:1", "127.0.0.1:2", "", "", ended=ended, again_at=again)
    folder.write_state(State(*up, True, {"gateway": one, "retriever": one}))
    found = explained(error, folder.path)
    assert isinstance(found, CommandError)
    assert found.reason == "NOT_READY"
    return found.message


@pytest.mark.parametrize("error", [NO_GATEWAY, NO_RETRIEVER])
def test_one_that_starts_again_is_waited_for(folder: DataFolder, error: NotReady, alive: tuple[int, str]) -> None:
    """Nobody is told to start what is being started."""
    text = said(folder, error, alive, GONE, "was ended by SIGKILL", time.time() + 100)
    assert "It was ended by SIGKILL, and `up` starts it again in " in text
    assert f"`ragkeep logs {'retriever' if error is NO_RETRIEVER else 'gateway'}`" in text
    assert "ragkeep up" not in text
    assert "It has ended, and `up` starts it again: try again" in said(folder, error, alive, GONE)


@pytest.mark.parametrize("error", [NO_GATEWAY, NO_RETRIEVER])
def test_one_that_runs_is_starting_or_busy(folder: DataFolder, error: NotReady, alive: tuple[int, str]) -> None:
    """With what says more, and no question that is answered already."""
    text = said(folder, error, alive, alive)
    assert "try again in a moment" in text
    assert "`ragkeep status`" in text
    assert "?" not in text


def test_one_that_nobody_starts_again_needs_a_new_start(folder: DataFolder) -> None:
    """`down` first: others may run."""
    assert "`ragkeep down`, then `ragkeep up`" in said(folder, NO_GATEWAY, GONE, GONE)


def test_what_is_not_known_better_stays_as_it_was(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another error; nothing started; a gateway elsewhere, of which this machine's folder says nothing."""
    other = CollectionUnknown("There is none.")
    assert explained(other, folder.path) is other
    assert explained(NO_GATEWAY, folder.path) is NO_GATEWAY
    for name in ("GATEWAY", "TLS_CERT", "TLS_KEY", "TLS_CA"):
        monkeypatch.setenv(f"RAGKEEP_{name}", "x")
    assert explained(NO_RETRIEVER, folder.path) is NO_RETRIEVER
    elsewhere = explained(NO_GATEWAY, folder.path)
    assert isinstance(elsewhere, CommandError)
    assert "RAGKEEP_GATEWAY names it" in elsewhere.message
    assert "ragkeep up" not in elsewhere.message
