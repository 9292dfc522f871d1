"""The `ragkeep` command as its user types it, with one data folder and ports of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.ports import free_ports

SAMPLE = Path("examples/service_tickets.csv")
EMBEDDED = ("--embedder", "e5", "--retriever", "sqlite", "--generator", "quote")


class Command:
    """Runs `ragkeep` with one data folder and ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "RAGKEEP_DATA": str(folder / "data")}
        # Of its own, as --ports are: several installations are begun at the same moment.
        self.env["RAGKEEP_HTTP_PORT"] = str(free_ports(1))

    def __call__(self, *arguments: str, code: int = 0, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs it and checks the exit code."""
        ran = subprocess.run(
            [str(Path(sys.executable).with_name("ragkeep")), *arguments],
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        if arguments[:1] != ("token",):  # which is there to show one
            with (self.folder / "commands.output").open("a") as file:
                file.write(ran.stdout + ran.stderr)
        assert ran.returncode == code, f"{arguments}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        return ran

    def lines(self, *arguments: str, code: int = 0) -> list[dict[str, object]]:
        """What `--json` wrote on stdout."""
        return [json.loads(line) for line in self(*arguments, "--json", code=code).stdout.splitlines()]


@contextlib.contextmanager
def running(folder: Path, *options: str) -> Iterator[Command]:
    """A running installation with the sample in it; `options` are those of `up`.

    On the embedded engines the sample was imported once in the session, into a data folder that this one is a copy of.
    """
    found = Command(folder)
    # A folder that its test has put something into stays as it is.
    embedded = options in ((), EMBEDDED) and not (folder / "data").exists()
    if embedded:
        shutil.copytree(_prepared(folder.parent), folder / "data", ignore=shutil.ignore_patterns("logs"))
    try:
        found("up", "--detach", *own_ports(), *options)
        if not embedded:
            found("import", str(SAMPLE))
        yield found
    finally:
        found("down")


def own_ports() -> list[str]:
    """Options of `up`."""
    first = free_ports(8)
    return ["--ports", str(first), "--health-ports", str(first + 4)]


def _prepared(session: Path) -> Path:
    """A data folder with the sample in it, on the embedded engines: embedding it takes longer than anything else of a start.

    `session` is pytest's folder of the run.
    """
    folder = session / "prepared-sample"
    if not folder.exists():
        folder.mkdir()
        command = Command(folder)
        try:
            command("up", "--detach", *own_ports(), *EMBEDDED)
            assert "120 created" in command("import", str(SAMPLE)).stdout
        except BaseException:
            command("down")
            shutil.rmtree(folder)
            raise
        command("down")
    return folder / "data"
