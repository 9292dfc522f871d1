"""The embedded store's files: a catalogue and one per tenant, connections of each thread, who may write or remove."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import apsw
import sqlite_vec

from ragkeep_runtime.errors import EngineFailed, StorageFull

T = TypeVar("T")
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_THREADS = 4
_BUSY_MS = 10_000
# Files that a thread keeps open, of often 1024 descriptors for a process. Each of them may hold six: a log, its index, and the
# file itself for every thread, since SQLite closes it for none while another one has it open.
MOST_KEPT = 16
_CATALOGUE = (
    "CREATE TABLE IF NOT EXISTS collections (name TEXT PRIMARY KEY, definition TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS tenants (name TEXT PRIMARY KEY, record TEXT NOT NULL)",
)
_TENANT = (
    "CREATE TABLE IF NOT EXISTS documents (key INTEGER PRIMARY KEY, collection TEXT NOT NULL, id TEXT NOT NULL, "
    "version BLOB NOT NULL, fields TEXT NOT NULL, groups TEXT NOT NULL, UNIQUE (collection, id))",
    "CREATE TABLE IF NOT EXISTS passages (key INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents (key), "
    "chunk INTEGER NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS passages_by_document ON passages (document)",
    # A row of its own a document, so that re-sealing writes that alone.
    "CREATE TABLE IF NOT EXISTS sealed (document INTEGER PRIMARY KEY REFERENCES documents (key), fields TEXT NOT NULL)",
)


class Files:
    """A folder of files: `catalogue.db` and one per tenant."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._threads = ThreadPoolExecutor(_THREADS, "sqlite")
        self._local = threading.local()
        # Of each thread its connections by file, the longest unused first. What runs holds `_running`; who removes files waits
        # until nothing does.
        self._kept: list[OrderedDict[str, apsw.Connection]] = []
        self._turn = threading.Condition()
        self._running, self._alone = 0, False
        self._writing: dict[str, threading.Lock] = {}
        # Held by who writes everywhere; a writer that comes with a tenant not seen before waits here.
        self._all_writing = threading.Lock()

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Does the work in a thread; what is wrong with the files becomes a domain error."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._guarded, self._together, work, args)

    async def run_alone(self, work: Callable[..., T], *args: Any) -> T:
        """As `run`, while nothing else runs: what removes a file."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._guarded, self._by_itself, work, args)

    async def close(self) -> None:
        """Waits for what runs and closes the files."""
        await asyncio.to_thread(self._threads.shutdown)
        for connections in self._kept:
            for connection in connections.values():
                connection.close()

    def catalogue(self) -> apsw.Connection:
        """The list of collections and tenants. What is overwritten in it is overwritten: a salt must not outlive its tenant."""
        return self._connect("catalogue", (*_CATALOGUE, "PRAGMA secure_delete=on"))

    def forget_what_was_overwritten(self) -> None:
        """In the catalogue's log too, in `run_alone`."""
        self.catalogue().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def tenant(self, tenant: str, make: bool = False) -> apsw.Connection | None:
        """The tenant's file; None where it has none and none is to be made: a search must not create files."""
        name = file_name(tenant)
        if not make and not (self.folder / f"{name}.db").exists():
            return None
        return self._connect(name, _TENANT)

    def names(self) -> list[str]:
        """The names of all tenants' files."""
        return sorted(path.stem for path in self.folder.glob("tenant[-+]*.db"))

    @contextlib.contextmanager
    def passing(self, name: str) -> Iterator[apsw.Connection]:
        """A file for a moment: who looks at every tenant must not keep all of them open."""
        connection = self._opened(name, _TENANT)
        try:
            yield connection
        finally:
            connection.close()

    def remove(self, tenant: str) -> None:
        """The tenant's file, in `run_alone`. What was not yet in it goes first, so that no later file takes it over."""
        name = file_name(tenant)
        for connections in self._kept:
            if name in connections:
                connections.pop(name).close()
        for suffix in ("-wal", "-shm", ""):
            (self.folder / f"{name}.db{suffix}").unlink(missing_ok=True)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def writing(self, tenant: str) -> Iterator[None]:
        """One writer at a time in a tenant's file."""
        with self._all_writing:
            lock = self._writing.setdefault(tenant, threading.Lock())
        with lock:
            yield

    @contextlib.contextmanager
    def writing_everywhere(self) -> Iterator[None]:
        """No other writer in any tenant's file."""
        with self._all_writing, contextlib.ExitStack() as held:
            for lock in self._writing.values():
                held.enter_context(lock)
            yield

    def _together(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        with self._turn:
            self._turn.wait_for(lambda: not self._alone)
            self._running += 1
        try:
            self._close_unused()
            return work(*args)
        finally:
            with self._turn:
                self._running -= 1
                self._turn.notify_all()

    def _by_itself(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        with self._turn:
            self._turn.wait_for(lambda: not self._alone)
            self._alone = True
            self._turn.wait_for(lambda: not self._running)
        try:
            self._close_unused()
            return work(*args)
        finally:
            with self._turn:
                self._alone = False
                self._turn.notify_all()

    def _guarded(self, how: Callable[..., T], work: Callable[..., T], args: tuple[Any, ...]) -> T:
        try:
            return how(work, args)
        except (apsw.FullError, apsw.ReadOnlyError, apsw.CantOpenError, apsw.IOError, PermissionError, OSError) as error:
            raise StorageFull(
                f"The folder {self.folder} cannot be written ({type(error).__name__}): make room, or make it writable."
            ) from error
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise EngineFailed(f"A file in {self.folder} is damaged: restore it from a backup, or import anew.") from error

    def _connect(self, name: str, schema: Sequence[str]) -> apsw.Connection:
        """This thread's own connection to a file."""
        kept = self._own()
        if name not in kept:
            kept[name] = self._opened(name, schema)
        kept.move_to_end(name)
        return kept[name]

    def _own(self) -> OrderedDict[str, apsw.Connection]:
        """This thread's connections, which no other one uses."""
        kept: OrderedDict[str, apsw.Connection] | None = getattr(self._local, "kept", None)
        if kept is None:
            kept = self._local.kept = OrderedDict()
            self._kept.append(kept)
        return kept

    def _close_unused(self) -> None:
        """Between two works of this thread, when it reads from none of them."""
        kept = self._own()
        while len(kept) > MOST_KEPT:
            kept.popitem(last=False)[1].close()

    def _make_folder(self) -> None:
        """Private to its user, also where it was there: its files tell who has documents, and hold the tenants' salts."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = self.folder.stat()
        # A volume's folder may be the system's.
        if status.st_mode & 0o077 and status.st_uid == os.geteuid():
            self.folder.chmod(stat.S_IMODE(status.st_mode) & ~0o077)

    def _opened(self, name: str, schema: Sequence[str]) -> apsw.Connection:
        self._make_folder()
        connection = apsw.Connection(str(self.folder / f"{name}.db"))
        connection.set_busy_timeout(_BUSY_MS)
        # One pragma a call: several in one string are silently not all set. FULL: what is acknowledged survives.
        for pragma, wanted in (("journal_mode=wal", "wal"), ("synchronous=full", None), ("foreign_keys=on", None)):
            got = _patiently(connection, f"PRAGMA {pragma}")
            if wanted and got != [(wanted,)]:
                raise EngineFailed(f"SQLite did not take {pragma}.")
        connection.enable_load_extension(True)
        connection.load_extension(sqlite_vec.loadable_path())
        connection.enable_load_extension(False)
        connection.register_fts5_function("ragkeep_frequencies", frequencies)
        for statement in schema:
            _patiently(connection, statement)
        return connection


def _patiently(connection: apsw.Connection, statement: str) -> list[Any]:
    """Several may open a new file at once, and whoever turns it to WAL lets the others fail at once, whatever their timeout."""
    until = time.monotonic() + _BUSY_MS / 1000
    while True:
        try:
            return list(connection.execute(statement))
        except apsw.BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.005)


def file_name(tenant: str) -> str:
    """The tenant's file without its suffix: under the name itself where it can be one, else under its hash."""
    return f"tenant-{tenant}" if _PLAIN_NAME.fullmatch(tenant) else f"tenant+{hashlib.sha256(tenant.encode()).hexdigest()}"


def name_of(file: str) -> str | None:
    """The tenant whose file it is; None where it has a hash."""
    return file.removeprefix("tenant-") if file.startswith("tenant-") else None


def frequencies(row: apsw.FTS5ExtensionApi, *_: Any) -> str:
    """An auxiliary function of FTS5: the row's number of tokens, then how often it holds each of the question's that it holds,
    as JSON [tokens, {position in the question: times}]."""
    found = {position: len(row.phrase_column_offsets(position, 0)) for position in range(row.phrase_count)}
    return json.dumps([row.column_size(0), {position: times for position, times in found.items() if times}])


@contextlib.contextmanager
def transaction(file: apsw.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """All of it, or nothing."""
    file.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        file.execute("ROLLBACK")
        raise
    file.execute("COMMIT")


def rows(file: apsw.Connection, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows."""
    return list(file.execute(sql, tuple(values)))


def row(file: apsw.Connection, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
    """The first row."""
    return next(iter(rows(file, sql, values)), None)
