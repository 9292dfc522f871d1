"""What keeps a local installation going: when a process that died starts again, logs that stay small, and a place in the
background."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import typer

# Seconds before a process that died starts again: doubled each time, never given up. One that ran for a minute begins anew.
FIRST_S, LONGEST_S, STEADY_S = 1.0, 60.0, 60.0
MAX_LOG_BYTES = 10 * 1024 * 1024
_PIECE = 1024 * 1024


@dataclass(slots=True)
class Backoff:
    """Of one process."""

    wait_s: float = 0.0  # the last one; 0: none yet

    def after(self, lived_s: float) -> float:
        """Seconds to wait after a process that lived for `lived_s` seconds died."""
        first = not self.wait_s or lived_s >= STEADY_S
        self.wait_s = FIRST_S if first else min(2 * self.wait_s, LONGEST_S)
        return self.wait_s


def how_it_ended(code: int) -> str:
    """A sentence's end for an exit code as subprocess has it."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def former(log: Path) -> Path:
    """Where a log's older part is."""
    return log.with_name(log.name + ".1")


def keep_small(log: Path, limit: int = MAX_LOG_BYTES) -> bool:
    """Moves what a log holds to `former(log)` where it is larger than `limit`; whether it was. Raises OSError.

    Its writer has it open for appending and goes on at its new beginning. What it writes while this copies is copied too; a
    line that comes in the instant between the copy's end and the cut is lost or broken.
    """
    if not log.exists() or log.stat().st_size <= limit:
        return False
    with log.open("r+b") as source, former(log).open("wb") as target:
        os.fchmod(target.fileno(), 0o600)
        while piece := source.read(_PIECE):
            target.write(piece)
        target.flush()
        source.truncate(0)
    return True


def go_into_background() -> Callable[[Path], None]:
    """Forks. In the child it returns what says that all is ready and sends all later output to a log.

    In the parent it waits for that, or for the child's end, and raises typer.Exit with its code. Signals are passed on.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        raise typer.Exit(_outcome(child, reading))
    os.close(reading)
    os.setsid()

    def ready(log: Path) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.flush()
        nothing = os.open(os.devnull, os.O_RDONLY)
        kept = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for descriptor, replaced in ((nothing, 0), (kept, 1), (kept, 2)):
            os.dup2(descriptor, replaced)
        os.write(writing, b"1")
        os.close(writing)

    return ready


def _outcome(child: int, reading: int) -> int:
    def pass_on(_number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    if os.read(reading, 1):
        return 0
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 1
