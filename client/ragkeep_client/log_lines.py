"""Reading the processes' logs: the last lines, following them over rotation, and a line as people read it."""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from ragkeep_client.supervision import former

# Seconds between two looks for new lines.
LOOK_S = 0.2
_PIECE = 256 * 1024
# What has a place of its own in a line.
_OWN = ("event", "service", "level", "timestamp", "exception", "exc_info")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log. `event` is None where it is no JSON object (a library's print, a crash of the interpreter)."""

    service: str
    text: str
    event: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def timestamp(self) -> str:
        """As it was written, UTC; "" where there is none."""
        return str(self.event.get("timestamp", "")) if self.event else ""


def parse(service: str, raw: bytes) -> Line:
    """A line of a service's log."""
    text = raw.decode("utf-8", "replace").rstrip("\r\n")
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            return Line(service, text, found)
    return Line(service, text)


def last(logs: Mapping[str, Path], count: int, ends: Mapping[str, int]) -> list[Line]:
    """The last `count` lines of all logs by their time, each log up to its byte `ends`. A line without a time stays behind
    the one that it came after."""
    timed: list[tuple[str, int, Line]] = []
    for service, log in logs.items():
        stamp = ""
        for raw in _tail(log, count, ends[service]):
            line = parse(service, raw)
            stamp = line.timestamp or stamp
            timed.append((stamp, len(timed), line))
    timed.sort(key=lambda one: one[:2])
    return [line for _, _, line in timed[max(0, len(timed) - count) :]] if count else []


def _tail(log: Path, count: int, end: int) -> list[bytes]:
    kept: deque[bytes] = deque(maxlen=count)
    with contextlib.suppress(FileNotFoundError), former(log).open("rb") as lines:
        kept.extend(line for line in lines if line.strip())
    with contextlib.suppress(FileNotFoundError), log.open("rb") as lines:
        read = 0
        for line in lines:
            read += len(line)
            if read > end:
                break
            if line.strip():
                kept.append(line)
    return list(kept)


class Follower:
    """One log from its present end on. It is read on from the start where it was cut or replaced."""

    def __init__(self, service: str, log: Path) -> None:
        self.service = service
        self.begins = 0  # the byte from which on lines are new
        self._log = log
        self._file: BinaryIO | None = None
        self._inode = 0
        self._rest = b""
        self._open(at_end=True)

    def _open(self, *, at_end: bool) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._file = self._log.open("rb")
            self._inode = os.fstat(self._file.fileno()).st_ino
            if at_end:
                self.begins = self._file.seek(0, os.SEEK_END)

    def lines(self) -> list[Line]:
        """The whole lines that came since the last time."""
        if self._file is None:
            self._open(at_end=False)
        found = self._read()
        try:
            now = self._log.stat()
        except FileNotFoundError:
            return found
        if self._file is not None and now.st_ino != self._inode:
            found += self._read()  # what came to the old one until it was replaced
            self._file.close()
            self._rest = b""
            self._open(at_end=False)
            found += self._read()
        elif self._file is not None and now.st_size < self._file.tell():
            self._file.seek(0)
            self._rest = b""
            found += self._read()
        return found

    def _read(self) -> list[Line]:
        found: list[Line] = []
        while self._file is not None and (piece := self._file.read(_PIECE)):
            *whole, self._rest = (self._rest + piece).split(b"\n")
            found += [parse(self.service, raw) for raw in whole if raw.strip()]
        return found

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()


def clock(timestamp: str) -> str:
    """The time of a line in UTC, as audit lines and traces have it; as it was written where that is no time."""
    try:
        return f"{datetime.fromisoformat(timestamp).astimezone(UTC):%m-%d %H:%M:%S.%f}"[:-3] + "Z"
    except ValueError:
        return timestamp


def keys(event: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the event carries beside time, level and name."""
    return [(key, _value(value)) for key, value in event.items() if key not in _OWN]


def _value(value: object) -> str:
    if isinstance(value, str):
        return value if value and not any(char.isspace() for char in value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def traceback(event: Mapping[str, Any]) -> list[str]:
    """The defect of an event, a line per place, the last one first; empty where there is none."""
    found: list[str] = []
    chain = event.get("exception") or []
    if not isinstance(chain, list):
        return str(chain).splitlines()
    for one in chain:
        if not isinstance(one, dict):
            continue
        found.append(f"{one.get('exc_type')}: {one.get('exc_value')}")
        for frame in reversed(one.get("frames") or ()):
            found.append(f"  at {frame.get('filename')}:{frame.get('lineno')} in {frame.get('name')}")
    return found
