"""The `ragkeep` command as its user types it, with one data folder and ports of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.stack import free_ports

SAMPLE = Path("examples/service_tickets.csv")


class Command:
    """Runs `ragkeep` with one data folder and ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "RAGKEEP_DATA": str(folder / "data")}

    def __call__(self, *arguments: str, code: int = 0, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs it and checks the exit code."""
        ran = subprocess.run(
            [str(Path(sys.executable).with_name("ragkeep")), *arguments],
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == code, f"{arguments}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        return ran

    def lines(self, *arguments: str, code: int = 0) -> list[dict[str, object]]:
        """What `--json` wrote on stdout."""
        return [json.loads(line) for line in self(*arguments, "--json", code=code).stdout.splitlines()]


@contextlib.contextmanager
def running(folder: Path, *options: str) -> Iterator[Command]:
    """A running installation with the sample in it; `options` are those of `up`."""
    found = Command(folder)
    first = free_ports(8)
    try:
        found("up", "--detach", "--ports", str(first), "--health-ports", str(first + 4), *options)
        found("import", str(SAMPLE))
        yield found
    finally:
        found("down")
