"""A file that is read again when it changes: policy, keys. A broken new one leaves the old one in force, and says so loudly.

A process looks at all of its files each second, calls or not. A call looks too where the last look is a second ago: on a busy
machine the process may be late, and nobody is let in by a file that changed longer ago.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.metrics import file_not_taken_over

T = TypeVar("T")
# How often the file is looked at, in seconds: one call of stat. How often a broken one is complained about.
EVERY_S, COMPLAIN_S = 1.0, 60.0
_ABSENT: tuple[int, ...] = ()


class FollowedFile(Generic[T]):
    """What a file holds, as it is now. `parse` raises ValueError with words that may be logged, never with a secret."""

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes], T],
        *,
        what: str,  # in the log, e.g. "policy"
        absent: Callable[[], T] | None = None,  # what holds before the file is there; None: it must be there
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads it. Raises OSError, or ValueError naming the file."""
        self.path = path
        self.what = what
        self._parse = parse
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = clock()
        self._complained = -COMPLAIN_S
        self._broken: tuple[int, ...] | None = None
        try:
            self._stamp = self._stamp_now()
            self._value = parse(path.read_bytes())
        except FileNotFoundError:
            if absent is None:
                raise
            self._stamp, self._value = _ABSENT, absent()
        except ValueError as error:
            raise ValueError(f"the file {path.name} ({what}) is wrong: {error}") from None

    def current(self) -> T:
        """The file's value; that of the last good version where it is broken or gone."""
        if self._clock() - self._looked >= EVERY_S:
            self.look()
        return self._value

    def look(self) -> None:
        """Reads the file where it changed."""
        if not self._lock.acquire(blocking=False):
            return  # somebody does
        try:
            now = self._looked = self._clock()
            self._look(now)
        finally:
            self._lock.release()

    def _look(self, now: float) -> None:
        try:
            stamp = self._stamp_now()
            if stamp == self._stamp:
                if self._broken is not None:  # the one in force was put back
                    self._taken_over(stamp)
                return
            value = self._parse(self.path.read_bytes())
            if self._stamp_now() != stamp:
                return  # it changed while it was read: at the next look
        except (OSError, ValueError) as error:
            if self._stamp is not _ABSENT or not isinstance(error, FileNotFoundError):
                self._complain(now, error)
            return
        self._value = value
        self._taken_over(stamp)

    def _taken_over(self, stamp: tuple[int, ...]) -> None:
        self._stamp, self._broken = stamp, None
        get_logger().info("file_taken_over", what=self.what, file=self.path.name)

    def _complain(self, now: float, error: Exception) -> None:
        try:
            broken = self._stamp_now()
        except OSError:
            broken = _ABSENT
        if broken == self._broken and now - self._complained < COMPLAIN_S:
            return
        self._broken, self._complained = broken, now
        file_not_taken_over(self.what)
        words = str(error) if isinstance(error, ValueError) else type(error).__name__
        get_logger().error(
            "file_not_taken_over", what=self.what, file=self.path.name, error=words[:500], in_force="the old one"
        )

    def _stamp_now(self) -> tuple[int, ...]:
        stat = self.path.stat()
        return stat.st_mtime_ns, stat.st_ino, stat.st_size


async def look_always(looks: Sequence[Callable[[], object]]) -> None:
    """Takes each of them once a second, in their order, until it is cancelled: files, and what follows from their change."""
    while True:
        for look in looks:
            try:
                look()
            except Exception:  # whatever it is, the next change must not be missed for it
                get_logger().exception("files_not_looked_at")
        await asyncio.sleep(EVERY_S)
