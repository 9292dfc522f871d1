"""The embedded store's files: a catalogue and one per tenant, a connection per thread, transactions, and who may write."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import threading
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
_CATALOGUE = ("CREATE TABLE IF NOT EXISTS collections (name TEXT PRIMARY KEY, definition TEXT NOT NULL)",)
_TENANT = (
    "CREATE TABLE IF NOT EXISTS documents (key INTEGER PRIMARY KEY, collection TEXT NOT NULL, id TEXT NOT NULL, "
    "version BLOB NOT NULL, fields TEXT NOT NULL, groups TEXT NOT NULL, UNIQUE (collection, id))",
    "CREATE TABLE IF NOT EXISTS passages (key INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents (key), "
    "chunk INTEGER NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS passages_by_document ON passages (document)",
)


class Files:
    """A folder of files: `catalogue.db` and one per tenant."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._threads = ThreadPoolExecutor(_THREADS, "sqlite")
        self._local = threading.local()
        self._open: list[apsw.Connection] = []
        self._opening = threading.Lock()
        self._writing: dict[str, threading.Lock] = {}
        # Held by who writes everywhere; a writer that comes with a tenant not seen before waits here.
        self._all_writing = threading.Lock()

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Does the work in a thread; what is wrong with the files becomes a domain error."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._guarded, work, args)

    async def close(self) -> None:
        """Waits for what runs and closes the files."""
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._open:
            connection.close()

    def catalogue(self) -> apsw.Connection:
        """The list of collections."""
        return self._connect("catalogue", _CATALOGUE)

    def tenant(self, tenant: str, make: bool = False) -> apsw.Connection | None:
        """The tenant's file; None where it has none and none is to be made: a search must not create files."""
        name = f"tenant-{tenant}" if _PLAIN_NAME.fullmatch(tenant) else f"tenant+{hashlib.sha256(tenant.encode()).hexdigest()}"
        if not make and not (self.folder / f"{name}.db").exists():
            return None
        return self._connect(name, _TENANT)

    def tenants(self) -> Iterator[apsw.Connection]:
        """Every tenant's file in turn."""
        for path in sorted(self.folder.glob("tenant[-+]*.db")):
            yield self._connect(path.stem, _TENANT)

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

    def _guarded(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        try:
            return work(*args)
        except (apsw.FullError, apsw.ReadOnlyError, apsw.CantOpenError, apsw.IOError, PermissionError, OSError) as error:
            raise StorageFull(
                f"The folder {self.folder} cannot be written ({type(error).__name__}): make room, or make it writable."
            ) from error
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise EngineFailed(f"A file in {self.folder} is damaged: restore it from a backup, or import anew.") from error

    def _connect(self, name: str, schema: Sequence[str]) -> apsw.Connection:
        """This thread's own connection to a file."""
        kept: dict[str, apsw.Connection] | None = getattr(self._local, "kept", None)
        if kept is None:
            kept = self._local.kept = {}
        if name not in kept:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            connection = apsw.Connection(str(self.folder / f"{name}.db"))
            connection.set_busy_timeout(_BUSY_MS)
            # One pragma a call: several in one string are silently not all set. FULL: what is acknowledged survives.
            for pragma, wanted in (("journal_mode=wal", "wal"), ("synchronous=full", None), ("foreign_keys=on", None)):
                got = list(connection.execute(f"PRAGMA {pragma}"))
                if wanted and got != [(wanted,)]:
                    raise EngineFailed(f"SQLite did not take {pragma}.")
            connection.enable_load_extension(True)
            connection.load_extension(sqlite_vec.loadable_path())
            connection.enable_load_extension(False)
            for statement in schema:
                connection.execute(statement)
            kept[name] = connection
            with self._opening:
                self._open.append(connection)
        return kept[name]


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
