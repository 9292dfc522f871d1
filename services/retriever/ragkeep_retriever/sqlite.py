"""The embedded store: a SQLite file per tenant, FTS5 over our own tokens, exact vectors (sqlite-vec over plain blobs).

One transaction makes a document appear whole, in place of its older version. Good to 100,000 chunks a tenant.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import hashlib
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import apsw
import sqlite_vec

from ragkeep_retriever.analyzer import query_tokens, tokens
from ragkeep_retriever.catalogue import dump, load, same_or_raise
from ragkeep_retriever.fusion import CANDIDATES, coverage, fuse
from ragkeep_retriever.sqlite_filters import groups_condition, where
from ragkeep_retriever.store import (
    Collection,
    FieldType,
    FieldValue,
    Found,
    Hit,
    Put,
    Query,
    Scope,
    StoredDocument,
)
from ragkeep_runtime.errors import CollectionChanged, CollectionUnknown, EngineFailed, StorageFull

T = TypeVar("T")
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_THREADS = 4
_BUSY_MS = 10_000
# Passes our stream through unchanged: every character belongs to a token, blanks divide.
_TOKENIZE = "unicode61 remove_diacritics 0 categories 'L* M* N* P* S* Co'"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_JOINED = "passages p JOIN documents d ON d.key = p.document"
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS documents (key INTEGER PRIMARY KEY, collection TEXT NOT NULL, id TEXT NOT NULL, "
    "version BLOB NOT NULL, fields TEXT NOT NULL, groups TEXT NOT NULL, UNIQUE (collection, id))",
    "CREATE TABLE IF NOT EXISTS passages (key INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents (key), "
    "chunk INTEGER NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS passages_by_document ON passages (document)",
)


class SqliteStore:
    """A folder of files: `catalogue.db` and one per tenant."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = ThreadPoolExecutor(_THREADS, "sqlite")
        self._local = threading.local()
        self._open: list[apsw.Connection] = []
        self._writing: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    async def create_collection(self, collection: Collection) -> Collection:
        """See the port."""
        return await self._run(self._create, collection)

    async def collection(self, name: str) -> Collection:
        """See the port."""
        return await self._run(self._collection, name)

    async def collections(self, tenant: str) -> list[tuple[Collection, int]]:
        """See the port."""
        return await self._run(self._collections, tenant)

    async def versions(self, tenant: str, collection: str, document_ids: Sequence[str]) -> dict[str, bytes]:
        """See the port."""
        return await self._run(self._versions, tenant, collection, document_ids)

    async def put(self, tenant: str, collection: Collection, documents: Sequence[StoredDocument]) -> list[Put]:
        """See the port."""
        return await self._run(self._put, tenant, collection, documents)

    async def search(self, scope: Scope, collection: Collection, query: Query) -> Found:
        """See the port."""
        return await self._run(self._search, scope, collection, query)

    async def ready(self) -> None:
        """Raises StorageFull where the folder cannot be written."""
        await self._run(self._catalogue)

    async def close(self) -> None:
        """Waits for what runs and closes the files."""
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._open:
            connection.close()

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._guarded, work, args)

    def _guarded(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        try:
            return work(*args)
        except (apsw.FullError, apsw.ReadOnlyError, apsw.CantOpenError, apsw.IOError, PermissionError, OSError) as error:
            raise StorageFull(
                f"The folder {self._folder} cannot be written ({type(error).__name__}): make room, or make it writable."
            ) from error
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise EngineFailed(f"A file in {self._folder} is damaged: restore it from a backup, or import anew.") from error

    # Files

    def _connect(self, name: str, schema: Sequence[str]) -> apsw.Connection:
        """This thread's own connection to a file."""
        kept: dict[str, apsw.Connection] | None = getattr(self._local, "kept", None)
        if kept is None:
            kept = self._local.kept = {}
        if name not in kept:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            connection = apsw.Connection(str(self._folder / f"{name}.db"))
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
            with self._guard:
                self._open.append(connection)
        return kept[name]

    def _catalogue(self) -> apsw.Connection:
        return self._connect(
            "catalogue", ["CREATE TABLE IF NOT EXISTS collections (name TEXT PRIMARY KEY, definition TEXT NOT NULL)"]
        )

    def _tenant(self, tenant: str, make: bool = False) -> apsw.Connection | None:
        """The tenant's file; None where it has none and none is to be made: a search must not create files."""
        name = f"tenant-{tenant}" if _PLAIN_NAME.fullmatch(tenant) else f"tenant+{hashlib.sha256(tenant.encode()).hexdigest()}"
        if not make and not (self._folder / f"{name}.db").exists():
            return None
        return self._connect(name, _SCHEMA)

    # Collections

    def _create(self, collection: Collection) -> Collection:
        catalogue = self._catalogue()
        with self._transaction(catalogue):
            row = _row(catalogue, "SELECT definition FROM collections WHERE name = ?", (collection.name,))
            if row:
                return same_or_raise(load(row[0]), collection)
            made = replace(collection, revision=1)
            catalogue.execute("INSERT INTO collections VALUES (?, ?)", (collection.name, dump(made)))
            return made

    def _collection(self, name: str) -> Collection:
        row = _row(self._catalogue(), "SELECT definition FROM collections WHERE name = ?", (name,))
        if row is None:
            raise CollectionUnknown(f"There is no collection {name[:64]!r}. `ragkeep collections` lists those that are.")
        return load(row[0])

    def _collections(self, tenant: str) -> list[tuple[Collection, int]]:
        rows = _rows(self._catalogue(), "SELECT definition FROM collections ORDER BY name")
        file = self._tenant(tenant)
        count = "SELECT collection, count(*) FROM documents GROUP BY collection"
        counts = dict(_rows(file, count)) if file else {}
        return [(collection, counts.get(collection.name, 0)) for collection in (load(row[0]) for row in rows)]

    # Documents

    def _versions(self, tenant: str, collection: str, document_ids: Sequence[str]) -> dict[str, bytes]:
        self._collection(collection)
        file = self._tenant(tenant)
        if file is None:
            return {}
        sql = "SELECT id, version FROM documents WHERE collection = ? AND id IN (SELECT value FROM json_each(?))"
        return dict(_rows(file, sql, (collection, json.dumps(list(document_ids)))))

    def _put(self, tenant: str, collection: Collection, documents: Sequence[StoredDocument]) -> list[Put]:
        if self._collection(collection.name).revision != collection.revision:
            raise CollectionChanged(f"The collection {collection.name} was changed meanwhile; read it again.")
        file = self._tenant(tenant, make=True)
        assert file is not None  # noqa: S101 - it was made
        with self._guard:
            writing = self._writing.setdefault(tenant, threading.Lock())
        # Tokens are made before the lock: it is the slow part.
        streams = [[" ".join(tokens(chunk.text)) for chunk in document.chunks] for document in documents]
        with writing, self._transaction(file):
            self._index(file, collection)
            pairs = zip(documents, streams, strict=True)
            return [self._put_one(file, collection, document, stream) for document, stream in pairs]

    def _put_one(self, file: apsw.Connection, collection: Collection, document: StoredDocument, streams: list[str]) -> Put:
        sql = "SELECT key, version FROM documents WHERE collection = ? AND id = ?"
        row = _row(file, sql, (collection.name, document.id))
        if row and row[1] == document.version:
            return Put.UNCHANGED
        table = _index_table(collection)
        if row:
            file.execute(f"DELETE FROM {table} WHERE rowid IN (SELECT key FROM passages WHERE document = ?)", (row[0],))  # noqa: S608
            file.execute("DELETE FROM passages WHERE document = ?", (row[0],))
            file.execute("DELETE FROM documents WHERE key = ?", (row[0],))
        fields = json.dumps({name: _stored(value) for name, value in document.fields.items()}, ensure_ascii=False)
        groups = json.dumps(list(document.groups) or ["*"], ensure_ascii=False)
        file.execute(
            "INSERT INTO documents (collection, id, version, fields, groups) VALUES (?, ?, ?, ?, ?)",
            (collection.name, document.id, document.version, fields, groups),
        )
        key = file.last_insert_rowid()
        for position, (chunk, stream) in enumerate(zip(document.chunks, streams, strict=True)):
            file.execute(
                "INSERT INTO passages (document, chunk, text, vector) VALUES (?, ?, ?, ?)",
                (key, position, chunk.text, array.array("f", chunk.vector).tobytes()),
            )
            file.execute(f"INSERT INTO {table} (rowid, tokens) VALUES (?, ?)", (file.last_insert_rowid(), stream))  # noqa: S608
        return Put.UPDATED if row else Put.CREATED

    def _index(self, file: apsw.Connection, collection: Collection) -> None:
        table = _index_table(collection)
        file.execute(
            f"CREATE VIRTUAL TABLE IF NOT EXISTS {table} USING fts5 "
            f'(tokens, content="", contentless_delete=1, tokenize="{_TOKENIZE}")'
        )
        vocabulary = _vocabulary_table(collection)
        file.execute(f"CREATE VIRTUAL TABLE IF NOT EXISTS {vocabulary} USING fts5vocab ({table}, row)")

    # Search

    def _search(self, scope: Scope, collection: Collection, query: Query) -> Found:
        file = self._tenant(scope.tenant)
        if file is None or not self._has_index(file, collection):
            return Found([], 0.0, None)
        conditions, values = ["d.collection = ?"], [collection.name]
        for condition, more in (groups_condition(scope.groups), where(query.filter)):
            conditions.append(condition)
            values.extend(more)
        condition = " AND ".join(conditions)
        wanted = max(CANDIDATES, query.limit)
        question = query_tokens(query.text) if query.text else []
        # One snapshot for all reads: a document that is replaced meanwhile is seen whole, as it was.
        with self._transaction(file, "DEFERRED"):
            cosines = self._by_vector(file, query, condition, values, wanted)
            bm25 = self._by_keyword(file, collection, question, condition, values, wanted)
            if query.vector is None:
                order = bm25
            elif query.text is None:
                order = cosines
            else:
                order = fuse(cosines, bm25, query.alpha)
            best = sorted(order, key=lambda key: (-order[key], key))
            hybrid = query.vector is not None and query.text is not None
            if query.vector is not None:
                missing = [key for key in best if key not in cosines]
                cosines = {**cosines, **self._cosines(file, query.vector, missing)}
            scores = {key: (cosines.get(key), bm25.get(key), order[key] if hybrid else None) for key in best}
            hits = self._hits(file, collection, best, scores, query)
            weights = self._rarity(file, collection, question)
        held = [set(tokens(hit.text)) for hit in hits]
        found_cosines = [hit.cosine for hit in hits if hit.cosine is not None]
        return Found(hits, coverage(question, held, weights), max(found_cosines, default=None))

    def _by_vector(
        self, file: apsw.Connection, query: Query, condition: str, values: list[Any], limit: int
    ) -> dict[int, float]:
        if query.vector is None:
            return {}
        packed = array.array("f", query.vector).tobytes()
        sql = (
            f"SELECT p.key, 1 - vec_distance_cosine(p.vector, ?) AS cosine FROM {_JOINED} "  # noqa: S608
            f"WHERE {condition} ORDER BY cosine DESC, p.key LIMIT ?"
        )
        rows = _rows(file, sql, (packed, *values, limit))
        least = query.minimum_cosine
        return {key: cosine for key, cosine in rows if least is None or cosine >= least}

    def _by_keyword(
        self, file: apsw.Connection, collection: Collection, question: list[str], condition: str, values: list[Any], limit: int
    ) -> dict[int, float]:
        if not question:
            return {}
        match = " OR ".join('"' + token.replace('"', '""') + '"' for token in question)
        table = _index_table(collection)
        sql = (
            f"SELECT f.rowid, -f.rank FROM {table} f JOIN passages p ON p.key = f.rowid "  # noqa: S608
            f"JOIN documents d ON d.key = p.document WHERE f.tokens MATCH ? AND {condition} ORDER BY f.rank LIMIT ?"
        )
        return dict(_rows(file, sql, (match, *values, limit)))

    def _cosines(self, file: apsw.Connection, vector: Sequence[float], keys: list[int]) -> dict[int, float]:
        packed = array.array("f", vector).tobytes()
        sql = "SELECT key, 1 - vec_distance_cosine(vector, ?) FROM passages WHERE key IN (SELECT value FROM json_each(?))"
        return dict(_rows(file, sql, (packed, json.dumps(keys))))

    def _hits(
        self,
        file: apsw.Connection,
        collection: Collection,
        best: list[int],
        scores: Mapping[int, tuple[float | None, float | None, float | None]],
        query: Query,
    ) -> list[Hit]:
        types = {field.name: field.type for field in collection.fields}
        taken: dict[str, int] = {}
        hits: list[Hit] = []
        sql = f"SELECT d.id, d.version, d.fields, p.chunk, p.text FROM {_JOINED} WHERE p.key = ?"  # noqa: S608
        for key in best:
            document_id, version, fields, chunk, text = _rows(file, sql, (key,))[0]
            taken[document_id] = taken.get(document_id, 0) + 1
            if query.passages_per_document and taken[document_id] > query.passages_per_document:
                continue
            decoded = {name: _decoded(value, types.get(name)) for name, value in json.loads(fields).items()}
            hits.append(Hit(document_id, version, chunk, text, decoded, *scores[key]))
            if len(hits) == query.limit:
                break
        return hits

    def _rarity(self, file: apsw.Connection, collection: Collection, question: list[str]) -> dict[str, float]:
        """The question's tokens by idf in this tenant's part of the collection."""
        if not question:
            return {}
        count = _rows(file, f"SELECT count(*) FROM {_index_table(collection)}")[0][0]  # noqa: S608
        sql = f"SELECT term, doc FROM {_vocabulary_table(collection)} WHERE term = ?"  # noqa: S608
        frequency = {token: next((row[1] for row in file.execute(sql, (token,))), 0) for token in question}
        return {token: math.log(1 + (count - n + 0.5) / (n + 0.5)) for token, n in frequency.items()}

    def _has_index(self, file: apsw.Connection, collection: Collection) -> bool:
        sql = "SELECT 1 FROM sqlite_master WHERE name = ?"
        return _row(file, sql, (_index_table(collection).strip('"'),)) is not None

    @contextlib.contextmanager
    def _transaction(self, file: apsw.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
        file.execute(f"BEGIN {kind}")
        try:
            yield
        except BaseException:
            file.execute("ROLLBACK")
            raise
        file.execute("COMMIT")


def _rows(file: apsw.Connection, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    return list(file.execute(sql, tuple(values)))


def _row(file: apsw.Connection, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
    return next(iter(_rows(file, sql, values)), None)


def _index_table(collection: Collection) -> str:
    # The name is [a-z0-9_-]: checked when the collection was made.
    return f'"tokens:{collection.name}"'


def _vocabulary_table(collection: Collection) -> str:
    return f'"vocabulary:{collection.name}"'


def _stored(value: FieldValue) -> FieldValue:
    """As JSON holds it: moments are microseconds since 1970, so that they compare."""
    return (value - _EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else value


def _decoded(value: Any, kind: FieldType | None) -> FieldValue:
    if kind is FieldType.TIMESTAMP:
        return _EPOCH + timedelta(microseconds=int(value))
    return float(value) if kind is FieldType.NUMBER else value
