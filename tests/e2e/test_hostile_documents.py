"""Documents that want to act on whoever reads them: the terminal stays as it is, and nothing is fetched."""

from __future__ import annotations

import contextlib
import csv
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from ragkeep_client.output import plain
from tests.command import Command, running

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


class Listener:
    """Counts who comes to a port."""

    def __init__(self) -> None:
        self.visits = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                visit, _ = self._socket.accept()
                self.visits += 1
                visit.close()

    def close(self) -> None:
        """Listens no more."""
        self._socket.close()


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    """Where the links of the document lead."""
    found = Listener()
    yield found
    found.close()


@pytest.fixture(scope="module")
def ragkeep(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> Iterator[Command]:
    """An installation with such a document in it."""
    folder = tmp_path_factory.mktemp("hostile")
    link = f"![status](http://{listener.address}/p.png) [portal](http://{listener.address}/login) http://{listener.address}/"
    with (folder / "hostile.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ticket_id", "title", "description", "solution", "category"])
        text = f"The zeppelin {ESCAPES}lost its hydrogen valve. {link}."
        rows.writerow(["X-1", f"Zeppelin{ESCAPES} valve", text, f"Close the {ESCAPES}valve, then see {link}.", f"Air{ESCAPES}"])
    with running(folder, "--embedder", "e5", "--retriever", "sqlite", "--generator", "quote") as found:
        found("import", str(folder / "hostile.csv"))
        yield found


ASKING = [
    ("ask", "Why did the zeppelin lose its hydrogen valve?", "--explain"),
    ("search", "zeppelin hydrogen valve", "--explain"),
    ("documents", "get", "X-1"),
    ("documents", "list", "--limit", "1000"),
]


@pytest.mark.engine("e5")
@pytest.mark.engine("sqlite")
@pytest.mark.engine("quote")
@pytest.mark.parametrize("arguments", ASKING, ids=lambda arguments: " ".join(arguments[:2]))
def test_a_document_does_not_act_on_the_terminal(ragkeep: Command, arguments: tuple[str, ...]) -> None:
    """Its text is shown without what acts; as JSON it is whole, and escaped."""
    shown = ragkeep(*arguments)
    assert "alve" in shown.stdout
    assert "]0;owned" in shown.stdout
    for stream in (shown.stdout, shown.stderr):
        assert plain(stream) == stream
    machine = ragkeep(*arguments, "--json")
    assert plain(machine.stdout) == machine.stdout
    values = json.dumps([json.loads(line) for line in machine.stdout.splitlines()], ensure_ascii=False)
    assert "owned" in values


@pytest.mark.engine("quote")
def test_a_conversation_does_not_act_on_the_terminal(ragkeep: Command) -> None:
    """From a pipe, where no code of the command's own is in between."""
    shown = ragkeep("chat", stdin="Why did the zeppelin lose its hydrogen valve?\n/sources\n")
    assert "alve" in shown.stdout
    assert plain(shown.stdout + shown.stderr) == shown.stdout + shown.stderr


@pytest.mark.engine("quote")
def test_nothing_that_an_answer_links_to_is_fetched(ragkeep: Command, listener: Listener) -> None:
    """The answer holds the picture and the links, and nobody came to their address; a visit would have been seen."""
    shown = ragkeep("ask", "Why did the zeppelin lose its hydrogen valve?")
    assert listener.address in shown.stdout
    assert listener.visits == 0
    host, port = listener.address.split(":")
    with socket.create_connection((host, int(port))) as visit:
        assert visit.recv(1) == b""
    assert listener.visits == 1
