"""A command in a terminal of its own: what its user sees, and the keys that the user presses."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence

CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """Runs a command on a pseudo-terminal. Use it as a context manager."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.seen = ""
        self._shown = 0  # up to where `until` has looked
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command, env=dict(env) | {"TERM": "xterm"}, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )  # fmt: skip
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def press(self, keys: str) -> None:
        """Types."""
        os.write(self._master, keys.encode())

    def until(self, words: str, timeout_s: float = 300) -> str:
        """Waits until the words are shown; returns all that is new up to them."""
        end = time.monotonic() + timeout_s
        while words not in self.seen[self._shown :]:
            if time.monotonic() > end or not self._read(0.2):
                raise AssertionError(f"{words!r} was not shown; this was:\n{self.seen[self._shown :][-3000:]}")
        at = self.seen.index(words, self._shown) + len(words)
        new, self._shown = self.seen[self._shown : at], at
        return new

    def shows(self, words: str, timeout_s: float) -> bool:
        """Whether the words are shown in time; `until` still finds them."""
        end = time.monotonic() + timeout_s
        while words not in self.seen[self._shown :] and time.monotonic() < end:
            if not self._read(0.2):
                break
        return words in self.seen[self._shown :]

    def wait(self, timeout_s: float = 300) -> int:
        """The exit code."""
        end = time.monotonic() + timeout_s
        while self.process.poll() is None and time.monotonic() < end:
            self._read(0.1)
        return self.process.wait(1)

    def _read(self, timeout_s: float) -> bool:
        """Reads what there is; False where the other side is closed."""
        if select.select([self._master], [], [], timeout_s)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return False
            self.seen += data.decode(errors="replace")
            return bool(data)
        return True
