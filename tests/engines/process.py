"""A real engine as a process of the test run: on loopback, on free ports, ended by its own id."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("RAGKEEP_CACHE", Path.home() / ".cache" / "ragkeep"))


def binary(name: str) -> Path:
    """The engine's binary; without it the test is skipped, loudly (and that fails in CI)."""
    found = CACHE / "bin" / name
    if not found.exists():
        pytest.skip(f"{name} is not built: run `make engines`")
    return found


class EngineProcess:
    """Starts, kills and stops one engine; `ready` is the path that answers 200 when it serves."""

    def __init__(self, command: Sequence[str], env: dict[str, str], url: str, ready: str, log: Path) -> None:
        self.command = list(command)
        self.env = env
        self.url = url
        self.log = log
        self._ready = ready
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 300) -> None:
        """Starts it and waits until it answers."""
        base = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=base | self.env, stdout=log, stderr=log)
        until = time.monotonic() + timeout_s
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with urllib.request.urlopen(self.url + self._ready, timeout=5) as response:
                    if response.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        pytest.fail(f"{self.command[0]} did not start:\n{self.log.read_text()[-2000:]}")

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ends it."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
