"""Reads sources one after the other in a thread, a few rows ahead of those who take them, and says what it met."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ragkeep_client.csv_file import CsvFile
from ragkeep_client.documents import Documents, Duplicate, Found, Rejected, Schema
from ragkeep_client.jsonl_file import JsonlFile
from ragkeep_client.mapping import Mapping
from ragkeep_client.rows import RowFile, UnreadableFile
from ragkeep_client.source import OpenFile, Source, unreadable

# What is read ahead: rows, bytes of them, and for how long a row is held back, in seconds.
_AHEAD_ROWS, _AHEAD_BYTES, _AHEAD_S = 64, 1024 * 1024, 0.1


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

    def __init__(self, sources: Sequence[Source], schema: Schema, mapping: Mapping) -> None:
        self._sources = sources
        self._schema = schema
        self._mapping = mapping
        self._stop = threading.Event()

    async def events(self) -> AsyncGenerator[Event]:
        """Begun, Item …, Ended for each source. Raises CommandError where there is no room for temporary files."""
        reading = self._read()
        # One thread for all: each that allocates takes memory of its own.
        with ThreadPoolExecutor(1) as thread:
            try:
                while some := await self._in_thread(thread, reading):
                    for event in some:
                        yield event
            finally:
                reading.close()

    async def _in_thread(self, thread: ThreadPoolExecutor, reading: Iterator[Event]) -> list[Event]:
        work = asyncio.get_running_loop().run_in_executor(thread, _ahead, reading)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # A thread cannot be cancelled; one that waits for standard input looks up when it is told to.
            self._stop.set()
            await asyncio.wait([work])
            raise

    def _read(self) -> Generator[Event]:
        documents = Documents(self._schema, [source.name for source in self._sources])
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
            for found in documents.of(file, number):
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
        return CsvFile.begin(file, source.name, source.format, self._schema.needed, self._mapping)


def _ahead(reading: Iterator[Event]) -> list[Event]:
    some: list[Event] = []
    size = 0
    began = time.monotonic()
    for event in itertools.islice(reading, _AHEAD_ROWS):
        some.append(event)
        if isinstance(event, Item) and isinstance(event.found, Found):
            size += len(event.found.raw)
        if size > _AHEAD_BYTES or time.monotonic() - began > _AHEAD_S:
            break
    return some
