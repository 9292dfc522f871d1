"""Reads sources one after the other in a thread, a few rows ahead of those who take them, and says what it met."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass

from ragkeep_client.csv_file import CsvFile
from ragkeep_client.documents import Columns, Documents, Duplicate, Found, Rejected
from ragkeep_client.first_rows import first_checked
from ragkeep_client.jsonl_file import JsonlFile
from ragkeep_client.mapping import Mapping
from ragkeep_client.rows import RowFile, UnreadableFile
from ragkeep_client.source import OpenFile, Source, unreadable

# What is read ahead at most.
_AHEAD_ROWS, _AHEAD_BYTES = 64, 1024 * 1024


@dataclass(frozen=True, slots=True)
class Begun:
    """A source is open."""

    source: int  # its place among the sources
    file: RowFile


@dataclass(frozen=True, slots=True)
class Item:
    """A row."""

    source: int
    found: Found | Rejected | Duplicate
    bytes_read: int  # of the source, to the row's end


@dataclass(frozen=True, slots=True)
class Ended:
    """A source was read."""

    source: int
    problem: UnreadableFile | None  # why not, or not whole


Event = Begun | Item | Ended


class Intake:
    """The rows of an import."""

    def __init__(self, sources: Sequence[Source], columns: Columns, mapping: Mapping) -> None:
        self._sources = sources
        self._columns = columns
        self._mapping = mapping
        self._stop = threading.Event()

    @property
    def options(self) -> str:
        """Of the import."""
        return self._columns.options

    async def events(self) -> AsyncGenerator[Event]:
        """Begun, Item …, Ended for each source. Raises CommandError where there is no room for temporary files."""
        ahead = _Ahead(self._read())
        # One thread for all: each that allocates takes memory of its own.
        thread = threading.Thread(target=ahead.fill, name="import-reader", daemon=True)
        thread.start()
        try:
            while some := await ahead.take():
                for event in some:
                    yield event
        finally:
            # A thread cannot be cancelled; one that waits for standard input looks up when it is told to.
            self._stop.set()
            ahead.stop()
            thread.join()

    def _read(self) -> Generator[Event]:
        documents = Documents(self._columns, [source.name for source in self._sources])
        try:
            for number, source in enumerate(self._sources):
                yield from self._read_one(documents, number, source)
        finally:
            documents.close()

    def _read_one(self, documents: Documents, number: int, source: Source) -> Generator[Event]:
        problem: UnreadableFile | None = None
        opened: OpenFile | None = None
        try:
            opened = source.open(self._stop)
            file = self._begin(opened, source)
            yield Begun(number, file)
            rows = first_checked(file, self._columns, source.name) if source.format == "jsonl" else file.rows()
            for found in documents.of(rows, number):
                yield Item(number, found, file.bytes_read)
                if isinstance(found, Rejected) and found.fatal:
                    problem = UnreadableFile("FILE_UNREADABLE", f"{source.name}, line {found.line}: {found.message}")
            if opened.changed():
                raise UnreadableFile(
                    "FILE_CHANGED", f"{source.name} changed while it was read. Import it again when nothing writes to it."
                )
        except UnreadableFile as error:
            problem = error
        except OSError as error:
            problem = unreadable(source.name, error)
        finally:
            if opened is not None:
                opened.close()
        yield Ended(number, problem)

    def _begin(self, file: OpenFile, source: Source) -> RowFile:
        if source.format == "jsonl":
            return JsonlFile.begin(file, source.name, self._mapping)
        return CsvFile.begin(file, source.name, source.format, self._columns.in_header, self._mapping, self._columns.collection)


class _Ahead:
    """A few events between the thread that reads and the loop that takes them. None is held back for the next one's sake."""

    def __init__(self, reading: Generator[Event]) -> None:
        self._reading = reading
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._some = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None

    def fill(self) -> None:
        """Reads to the end, waiting where there is no room; in a thread."""
        try:
            for event in self._reading:
                with self._changed:
                    self._changed.wait_for(self._has_room)
                    if self._ended:
                        break
                    self._events.append(event)
                    self._bytes += len(event.found.raw) if isinstance(event, Item) and isinstance(event.found, Found) else 0
                    first = len(self._events) == 1
                if first:
                    self._loop.call_soon_threadsafe(self._some.set)
        except Exception as error:  # the one who takes raises it
            self._error = error
        finally:
            self._reading.close()
            with self._changed:
                self._ended = True
            self._loop.call_soon_threadsafe(self._some.set)

    async def take(self) -> list[Event]:
        """What there is, and at least one; none at the end."""
        while True:
            with self._changed:
                self._some.clear()
                if self._events or self._ended:
                    some = list(self._events)
                    self._events.clear()
                    self._bytes = 0
                    self._changed.notify()
                    break
            await self._some.wait()
        if not some and self._error is not None:
            raise self._error
        return some

    def stop(self) -> None:
        """Nobody takes any more."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _has_room(self) -> bool:
        return self._ended or (len(self._events) < _AHEAD_ROWS and self._bytes < _AHEAD_BYTES)
