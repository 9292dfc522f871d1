"""One run of `ragkeep import`: rows in, outcomes out, and what became of each file."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ragkeep_client.documents import Duplicate, Found, Rejected
from ragkeep_client.intake import Begun, Ended, Intake, Item
from ragkeep_client.output import CommandError, Output, plain
from ragkeep_client.rejected import RejectedFile
from ragkeep_client.rows import RowFile, UnreadableFile, reason_of
from ragkeep_client.source import Source
from ragkeep_runtime.errors import RagkeepError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ragkeep.types.v1 import types_pb2
    from ragkeep_client.client import Client
    from ragkeep_client.events import Outcome

COUNTED = ("created", "updated", "unchanged", "rejected", "duplicates")
# For people: further ones are only counted. With --json each is a line.
_SHOWN = 50
_MOST_IGNORED = 100


@dataclass(slots=True)
class _File:
    """What became of a source so far."""

    number: int
    source: Source
    before: int  # bytes of the sources before it
    row_file: RowFile | None = None
    counts: Counter[str] = field(default_factory=Counter)  # rows, and as in COUNTED
    on_the_way: int = 0
    ended: bool = False
    problem: UnreadableFile | None = None

    def facts(self) -> dict[str, Any]:
        """For a JSON line."""
        facts: dict[str, Any] = {"file": self.source.name, "format": self.source.format}
        if self.row_file is not None:
            facts |= {"encoding": self.row_file.encoding, "delimiter": self.row_file.delimiter}
        facts |= {"rows": self.counts["rows"], **{name: self.counts[name] for name in COUNTED}}
        if self.problem is not None:
            facts["error"] = {"reason": self.problem.reason, "message": self.problem.message}
        return facts


@dataclass(frozen=True, slots=True)
class _Way:
    """A document that is on its way."""

    file: _File
    line: int
    bytes_read: int
    raw: bytes | None
    limited: bool  # for its groups alone


class ImportRun:
    """Imports sources into a collection and reports on the way."""

    def __init__(
        self, output: Output, sources: Sequence[Source], intake: Intake, rejected: RejectedFile | None, *, dry_run: bool
    ) -> None:
        self.counts: Counter[str] = Counter()  # over all files
        self.problems: list[UnreadableFile] = []
        self.ignored: dict[str, None] = {}  # columns
        self.with_groups = 0  # documents that only some may see
        self.encodings: dict[str, None] = {}
        self.files = len(sources)
        self._output = output
        self._sources = sources
        self._intake = intake
        self._rejected = rejected
        self._dry_run = dry_run
        self._on_the_way: dict[int, _Way] = {}  # by position, in order
        self._files: dict[int, _File] = {}  # of which not all is known
        self._sizes = [source.size for source in sources]
        self._read: tuple[int, _File | None, int] = 0, None, 0  # how far: bytes of all sources, the last one and its line

    async def run(self, client: Client, collection: str) -> None:
        """To the end. Raises CommandError, also where it was cancelled, and RagkeepError, having said how far it came."""
        try:
            with _progress(self._output) as progress:
                total = sum(self._sizes) if all(self._sizes) else None
                bar = progress.add_task("importing", total=total, documents=0, rate="")
                outcomes = client.import_documents(self._documents(), collection=collection, dry_run=self._dry_run)
                async with aclosing(outcomes):
                    async for outcome in outcomes:
                        self._settle(outcome)
                        self._advance(progress, bar)
        except asyncio.CancelledError:
            raise CommandError("CANCELLED", f"Cancelled {self._how_far()}") from None
        except (RagkeepError, CommandError):
            if self.counts["rows"]:
                self._output.note(f"It came {self._how_far()}", style="yellow")
            raise
        finally:
            for file in list(self._files.values()):
                self._say(file)
        if self.counts["rejected"] > _SHOWN:
            more = self.counts["rejected"] - _SHOWN
            self._output.note(f"… and {more} more rejected rows; --json or --rejected FILE show each.", style="yellow")

    async def _documents(self) -> AsyncGenerator[types_pb2.Document]:
        position = 0
        async with aclosing(self._intake.events()) as events:
            async for event in events:
                file = self._file(event.source)
                if isinstance(event, Begun):
                    file.row_file = event.file
                elif isinstance(event, Ended):
                    self._end(file, event.problem)
                elif isinstance(found := self._take(file, event), Found):
                    raw = found.raw if self._rejected else None
                    way = _Way(file, found.line, self._read[0], raw, limited=bool(found.document.groups))
                    self._on_the_way[position] = way
                    file.on_the_way += 1
                    position += 1
                    yield found.document

    def _file(self, number: int) -> _File:
        if number not in self._files:
            self._files[number] = _File(number, self._sources[number], sum(self._sizes[:number]))
        return self._files[number]

    def _take(self, file: _File, item: Item) -> Found | Rejected | Duplicate:
        self._count(file, "rows")
        self._read = file.before + item.bytes_read, file, item.found.line
        if isinstance(item.found, Rejected):
            self._reject(file, item.found)
        elif isinstance(item.found, Duplicate):
            self._count(file, "duplicates")
        return item.found

    def _settle(self, outcome: Outcome) -> None:
        way = self._on_the_way.pop(outcome.position)
        if outcome.kind == "rejected":
            row = Rejected(way.line, outcome.document_id, outcome.reason, outcome.message, way.raw)
            self._reject(way.file, row)
        else:
            self._count(way.file, outcome.kind)
            self.with_groups += way.limited
        way.file.on_the_way -= 1
        if way.file.ended and not way.file.on_the_way:
            self._say(way.file)

    def _end(self, file: _File, problem: UnreadableFile | None) -> None:
        file.ended, file.problem = True, problem
        if problem is not None:
            self.problems.append(problem)
        if not file.on_the_way:
            self._say(file)

    def _count(self, file: _File, what: str) -> None:
        file.counts[what] += 1
        self.counts[what] += 1

    def _reject(self, file: _File, row: Rejected) -> None:
        self._count(file, "rejected")
        facts = {"file": file.source.name, "line": row.line, "document_id": row.document_id}
        self._output.line("rejected", {**facts, "reason": row.reason, "message": row.message})
        if self.counts["rejected"] <= _SHOWN:
            where = f"{file.source.name}: line {row.line}" if len(self._sources) > 1 else f"line {row.line}"
            name = f" ({plain(row.document_id)[:64]})" if row.document_id else ""
            self._output.note(f"{where}{name}: {plain(row.message)} {row.reason}", style="yellow")
        if self._rejected is not None and file.row_file is not None:
            options = self._intake.options if row.options is None else row.options
            self._rejected.write(file.row_file, row.raw, reason_of(row.reason, row.message, options))

    def _say(self, file: _File) -> None:
        """What became of a file, once all of it is known; what is forgotten with it needs no memory."""
        self._files.pop(file.number, None)
        if file.row_file is not None:
            unusual = file.row_file.format == "csv" and file.row_file.delimiter != ","
            between = {";": " with semicolons", "\t": " with tabs"}[file.row_file.delimiter] if unusual else ""
            self.encodings[file.row_file.encoding + between] = None
            for name in file.row_file.ignored:
                if len(self.ignored) < _MOST_IGNORED:
                    self.ignored[name] = None
        self._output.line("file", file.facts())
        if len(self._sources) > 1:
            if file.problem is not None:
                self._output.note(f"{plain(file.problem.message)} {file.problem.reason}", style="red")
            if file.row_file is not None:
                # Not on stdout, where it would break the progress bar.
                self._output.note(f"{file.source.name}: {words(file.counts, self._dry_run)}", style="dim")

    def _advance(self, progress: Progress, bar: TaskID) -> None:
        # What is read is not yet imported: the oldest document on its way says how far it is.
        way = next(iter(self._on_the_way.values()), None)
        documents = sum(self.counts[kind] for kind in ("created", "updated", "unchanged"))
        seconds = progress.tasks[bar].elapsed or 0.0
        rate = f"{documents / seconds:.0f}/s" if seconds > 1 else ""
        file = way.file if way else self._read[1]
        name = "importing"
        if file is not None and len(self._sources) > 1:
            short = file.source.path.name if file.source.path else "-"
            name = f"{file.number + 1}/{len(self._sources)} {plain(short)[-30:]}"
        completed = way.bytes_read if way else self._read[0]
        progress.update(bar, description=name, completed=completed, documents=documents, rate=rate)

    def _how_far(self) -> str:
        way = next(iter(self._on_the_way.values()), None)
        file, line = (way.file, way.line) if way else self._read[1:]
        if file is None:
            return "before any row was read."
        done = words(self.counts, self._dry_run)
        return f"as far as line {line} of {file.source.name}: {done}. Run the same command again to go on."


def words(counts: Counter[str], dry_run: bool) -> str:
    """Counts as a sentence's part."""
    numbers = ", ".join(f"{counts[name]} {name}" for name in COUNTED)
    return f"{'Dry run, nothing is changed: ' if dry_run else ''}{numbers} (of {counts['rows']} rows)"


def _progress(output: Output) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[documents]} documents  {task.fields[rate]}"),
        TimeRemainingColumn(),
        console=output.notes,
        transient=True,
        disable=not output.notes.is_terminal,
    )
