"""What the command says: results on stdout, all else on stderr; with --json one JSON object a line on stdout."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Coroutine
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

T = TypeVar("T")
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON object a line on stdout.")]
# C0 and C1 controls but tab and newline, bidi overrides and isolates, tag characters: a document must not move the cursor,
# retitle the terminal, or show a line in another order than it has.
_CONTROLS = {
    number: None
    for number in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xE0000, 0xE0080))
    if chr(number) not in "\t\n"
}
# JSON escapes the others itself; these would reach a terminal that shows the lines.
_ESCAPED = {number: f"\\u{number:04x}" for number in (*range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


class CommandError(Exception):
    """A failure of the command itself: a stable reason and a sentence that helps."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def plain(text: str) -> str:
    """The text without control characters."""
    return text.translate(_CONTROLS)


def mute_stdout() -> None:
    """For when what read it has gone: nothing may be written at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Output:
    """Where a command writes to."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace", **({"encoding": "utf-8"} if as_json else {}))
        if hasattr(sys.stdin, "reconfigure"):
            # What is typed or piped with broken bytes is a text with a mark in it, not a crash.
            sys.stdin.reconfigure(errors="replace")

    @cached_property
    def console(self) -> Console:
        """For people's results: stdout, or stderr where stdout is for machines."""
        return self._console(stderr=self.as_json)

    @cached_property
    def notes(self) -> Console:
        """For progress, notes and errors: stderr."""
        return self._console(stderr=True)

    def _console(self, stderr: bool) -> Console:
        from rich.console import Console

        # Text that is piped on is not broken at 80 columns.
        tty = (sys.stderr if stderr else sys.stdout).isatty()
        return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=not tty, width=None if tty else 160)

    def line(self, kind: str, value: object) -> None:
        """One JSON line {kind: value}; nothing without --json."""
        if self.as_json:
            print(json.dumps({kind: value}, ensure_ascii=False).translate(_ESCAPED), flush=True)

    def say(self, *parts: RenderableType, style: str | None = None) -> None:
        """A line for people."""
        self.console.print(*parts, style=style)

    def note(self, *parts: RenderableType, style: str | None = None) -> None:
        """A line on stderr."""
        self.notes.print(*parts, style=style)

    def fail(self, reason: str, message: str) -> typer.Exit:
        """Says what failed; raise what it returns."""
        self.line("error", {"reason": reason, "message": message})
        from rich.text import Text

        self.note(Text.assemble(("✗ ", "bold red"), plain(message), (f"  {reason}", "dim")))
        return typer.Exit(1)


def run(output: Output, work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's calls. Every failure becomes one line and exit code 1; Ctrl-C cancels the calls: 130."""
    result, failure = _outcome(work)
    # Without it what is left of the channel lies in a cycle, and gRPC waits two seconds for it when the process ends.
    gc.collect()
    if failure is None:
        return cast(T, result)
    if failure.reason == "CANCELLED":
        output.note(failure.message, style="yellow")
        raise typer.Exit(130)
    raise output.fail(failure.reason, failure.message)


def _outcome(work: Coroutine[Any, Any, T]) -> tuple[T | None, CommandError | None]:
    try:
        return asyncio.run(work), None
    except KeyboardInterrupt:
        return None, CommandError("CANCELLED", "Cancelled.")
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        # Without the error's traceback, which would hold the channel.
        return None, failure


def failure_of(error: Exception) -> CommandError | None:
    """What the command says of an error; None for one that is a defect, or that main ends quietly."""
    from ragkeep_runtime.errors import RagkeepError

    if isinstance(error, CommandError):
        return CommandError(error.reason, error.message)
    if isinstance(error, RagkeepError):
        unreachable = error.metadata.get("unreachable")
        if unreachable is None:
            return CommandError(error.reason, error.message)
        hint = "Something else listens there, or the certificates of this data folder are not its own."
        return CommandError("NOT_RUNNING", f"{error.message} {hint if unreachable == 'TLS' else NOT_RUNNING}")
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return CommandError("FILE_UNREADABLE", f"{error.filename or 'A file'}: {error.strerror or error}.")
    return None


NOT_RUNNING = "ragkeep is not running here: start it with `ragkeep up`, or name its folder with --data."
