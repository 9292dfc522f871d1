"""The embedded store: a SQLite file per tenant, FTS5 over our own tokens, exact vectors (sqlite-vec over plain blobs).

One transaction makes a document appear whole, in place of its older version. Good to 100,000 chunks a tenant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import apsw

from ragkeep_retriever.analyzer import tokens
from ragkeep_retriever.catalogue import dump, load, same_or_raise
from ragkeep_retriever.changes import changed
from ragkeep_retriever.fusion import nothing
from ragkeep_retriever.sealed_values import dumped
from ragkeep_retriever.sqlite_files import Files, row, rows, transaction
from ragkeep_retriever.sqlite_filters import groups_condition, where
from ragkeep_retriever.sqlite_rows import SEALED_COLUMN, has_index, listed, make_index, put_document, remove_document, sealed_of
from ragkeep_retriever.sqlite_search import search
from ragkeep_retriever.sqlite_tenants import SqliteTenants
from ragkeep_retriever.values import (
    MAX_PAGE_BYTES,
    Change,
    Collection,
    Filter,
    Found,
    ListedDocument,
    Page,
    Put,
    Query,
    Scope,
    SealedUpdate,
    StoredDocument,
    TenantRecord,
    Tenants,
    Versions,
)
from ragkeep_runtime.errors import CollectionChanged, CollectionInUse, CollectionUnknown

_COLUMNS = f"d.id, d.version, d.fields, d.groups, (SELECT count(*) FROM passages p WHERE p.document = d.key), {SEALED_COLUMN}"  # noqa: S608


class SqliteStore:
    """A store in a folder."""

    def __init__(self, folder: Path) -> None:
        self._files = Files(folder)
        self._tenants = SqliteTenants(self._files)

    async def create_collection(self, collection: Collection) -> Collection:
        """See the port."""
        return await self._files.run(self._create, collection)

    async def collection(self, name: str, *, any_analyzer: bool = False) -> Collection:
        """See the port."""
        return await self._files.run(self._collection, name, any_analyzer)

    async def collections(self, scope: Scope) -> list[tuple[Collection, int]]:
        """See the port."""
        return await self._files.run(self._collections, scope)

    async def update_collection(self, wanted: Collection) -> Change:
        """See the port. What HNSW is told is kept for the day when the documents move to Weaviate."""
        return await self._files.run(self._update, wanted)

    async def delete_collection(self, name: str) -> None:
        """See the port."""
        await self._files.run(self._delete_collection, name)

    async def versions(self, scope: Scope, collection: str, document_ids: Sequence[str]) -> Versions:
        """See the port."""
        return await self._files.run(self._versions, scope, collection, document_ids)

    async def put(
        self, scope: Scope, collection: Collection, documents: Sequence[StoredDocument], *, record: bytes = b""
    ) -> list[Put]:
        """See the port."""
        return await self._files.run(self._put, scope, collection, documents, record)

    async def search(self, scope: Scope, collection: Collection, query: Query) -> Found:
        """See the port."""
        return await self._files.run(self._search, scope, collection, query)

    async def document(self, scope: Scope, collection: Collection, document_id: str) -> ListedDocument | None:
        """See the port."""
        return await self._files.run(self._document, scope, collection, document_id)

    async def documents(
        self, scope: Scope, collection: Collection, *, filter: Filter | None = None, after: str = "", limit: int = 100
    ) -> Page:
        """See the port. By id."""
        return await self._files.run(self._documents, scope, collection, filter, after, limit)

    async def delete(
        self, scope: Scope, collection: Collection, wanted: Mapping[str, bytes | None], *, dry_run: bool = False
    ) -> list[str]:
        """See the port."""
        return await self._files.run(self._delete, scope, collection, wanted, dry_run)

    async def update_sealed(self, scope: Scope, collection: Collection, updates: Sequence[SealedUpdate]) -> list[str]:
        """See the port."""
        return await self._files.run(self._update_sealed, scope, collection, updates)

    async def ensure_tenant(self, name: str) -> tuple[TenantRecord, bool]:
        """See the port."""
        return await self._files.run(self._tenants.ensure, name)

    async def tenant(self, name: str) -> TenantRecord:
        """See the port."""
        return await self._files.run(self._tenants.get, name)

    async def tenants(self, *, count: bool = True) -> Tenants:
        """See the port."""
        return await self._files.run(self._tenants.all, count)

    async def set_tenant_active(self, name: str, active: bool) -> TenantRecord:
        """See the port."""
        return await self._files.run(self._tenants.set_active, name, active)

    async def delete_tenant(self, name: str) -> dict[str, int]:
        """See the port. Alone: no put is under way, and nobody reads a file that is not there any more."""
        return await self._files.run_alone(self._tenants.delete, name)

    async def ready(self) -> None:
        """Raises StorageFull where the folder cannot be written."""
        await self._files.run(self._files.catalogue)

    async def close(self) -> None:
        """Waits for what runs and closes the files."""
        await self._files.close()

    # Collections

    def _create(self, collection: Collection) -> Collection:
        catalogue = self._files.catalogue()
        with transaction(catalogue):
            found = row(catalogue, "SELECT definition FROM collections WHERE name = ?", (collection.name,))
            if found:
                return same_or_raise(load(found[0]), collection)
            made = replace(collection, revision=1)
            catalogue.execute("INSERT INTO collections VALUES (?, ?)", (collection.name, dump(made)))
            return made

    def _collection(self, name: str, any_analyzer: bool = False) -> Collection:
        found = row(self._files.catalogue(), "SELECT definition FROM collections WHERE name = ?", (name,))
        if found is None:
            raise CollectionUnknown(f"There is no collection {name[:64]!r}. `ragkeep collections` lists those that are.")
        return load(found[0], any_analyzer=any_analyzer)

    def _collections(self, scope: Scope) -> list[tuple[Collection, int]]:
        found = rows(self._files.catalogue(), "SELECT definition FROM collections ORDER BY name")
        file = self._files.tenant(scope.tenant)
        condition, values = groups_condition(scope.groups)
        count = f"SELECT d.collection, count(*) FROM documents d WHERE {condition} GROUP BY d.collection"  # noqa: S608
        counts = dict(rows(file, count, values)) if file else {}
        definitions = [load(one[0], any_analyzer=True) for one in found]
        return [(collection, counts.get(collection.name, 0)) for collection in definitions]

    def _update(self, wanted: Collection) -> Change:
        catalogue = self._files.catalogue()
        with transaction(catalogue):
            change = changed(self._collection(wanted.name), wanted)
            sql = "UPDATE collections SET definition = ? WHERE name = ?"
            catalogue.execute(sql, (dump(change.collection), wanted.name))
            return change

    def _delete_collection(self, name: str) -> None:
        catalogue = self._files.catalogue()
        # Puts look for the collection after they have their lock: none is under way, and none comes between.
        with self._files.writing_everywhere(), transaction(catalogue):
            self._collection(name, any_analyzer=True)
            count = "SELECT count(*) FROM documents WHERE collection = ?"
            counts = []
            for tenants_file in self._files.names():
                with self._files.passing(tenants_file) as file:
                    counts.append(rows(file, count, (name,))[0][0])
            in_use = sum(1 for one in counts if one)
            if in_use:
                raise CollectionInUse(
                    f"The collection {name} holds {sum(counts)} documents of {in_use} "
                    f"tenant{'s' if in_use > 1 else ''}. Delete the documents first.",
                    metadata={"documents": str(sum(counts)), "tenants": str(in_use)},
                )
            catalogue.execute("DELETE FROM collections WHERE name = ?", (name,))

    # Documents

    def _versions(self, scope: Scope, collection: str, document_ids: Sequence[str]) -> Versions:
        self._collection(collection)
        file = self._files.tenant(scope.tenant)
        if file is None:
            return Versions({}, frozenset())
        condition, values = groups_condition(scope.groups)
        sql = (
            f"SELECT d.id, d.version, {condition} FROM documents d WHERE d.collection = ? "  # noqa: S608
            "AND d.id IN (SELECT value FROM json_each(?))"
        )
        found = rows(file, sql, (*values, collection, json.dumps(list(document_ids))))
        seen = {document_id: version for document_id, version, is_seen in found if is_seen}
        return Versions(seen, frozenset(document_id for document_id, _, is_seen in found if not is_seen))

    def _put(self, scope: Scope, collection: Collection, documents: Sequence[StoredDocument], record: bytes) -> list[Put]:
        self._check_revision(collection)
        self._tenants.check_takes_documents(scope.tenant, record)
        file = self._files.tenant(scope.tenant, make=True)
        assert file is not None  # noqa: S101 - it was made
        # Tokens are made before the lock: it is the slow part.
        streams = [[" ".join(tokens(chunk.text)) for chunk in document.chunks] for document in documents]
        with self._files.writing(scope.tenant), transaction(file):
            self._check_revision(collection)
            self._tenants.check_takes_documents(scope.tenant, record)
            make_index(file, collection)
            pairs = zip(documents, streams, strict=True)
            return [put_document(file, scope, collection, document, stream) for document, stream in pairs]

    def _check_revision(self, collection: Collection) -> None:
        if self._collection(collection.name).revision != collection.revision:
            raise CollectionChanged(f"The collection {collection.name} was changed meanwhile; read it again.")

    def _search(self, scope: Scope, collection: Collection, query: Query) -> Found:
        file = self._file_with(scope, collection)
        return search(file, scope, collection, query) if file else nothing(query)

    def _document(self, scope: Scope, collection: Collection, document_id: str) -> ListedDocument | None:
        file = self._file_with(scope, collection)
        condition, values = groups_condition(scope.groups)
        sql = f"SELECT {_COLUMNS} FROM documents d WHERE d.collection = ? AND d.id = ? AND {condition}"  # noqa: S608
        found = row(file, sql, (collection.name, document_id, *values)) if file else None
        return listed(found, collection) if found else None

    def _documents(self, scope: Scope, collection: Collection, filter: Filter | None, after: str, limit: int) -> Page:
        file = self._file_with(scope, collection)
        if file is None:
            return Page([], "")
        seen, seen_values = groups_condition(scope.groups)
        condition, values = where(filter)
        sql = (
            f"SELECT {_COLUMNS} FROM documents d WHERE d.collection = ? AND d.id > ? AND {seen} AND {condition} "  # noqa: S608
            "ORDER BY d.id LIMIT ?"
        )
        documents: list[ListedDocument] = []
        size = 0
        for found in file.execute(sql, (collection.name, after, *seen_values, *values, limit + 1)):
            size += len(found[2].encode()) + len(found[5] or "")
            if len(documents) == limit or (documents and size > MAX_PAGE_BYTES):
                return Page(documents, documents[-1].id)
            documents.append(listed(found, collection))
        return Page(documents, "")

    def _delete(self, scope: Scope, collection: Collection, wanted: Mapping[str, bytes | None], dry_run: bool) -> list[str]:
        file = self._file_with(scope, collection)
        if file is None:
            return []
        condition, values = groups_condition(scope.groups)
        sql = f"SELECT d.key, d.version FROM documents d WHERE d.collection = ? AND d.id = ? AND {condition}"  # noqa: S608
        deleted = []
        with self._files.writing(scope.tenant), transaction(file):
            for document_id, version in wanted.items():
                found = row(file, sql, (collection.name, document_id, *values))
                if found is None or version not in (None, found[1]):
                    continue
                if not dry_run:
                    remove_document(file, collection, found[0])
                deleted.append(document_id)
        return deleted

    def _update_sealed(self, scope: Scope, collection: Collection, updates: Sequence[SealedUpdate]) -> list[str]:
        file = self._file_with(scope, collection)
        if file is None:
            return []
        condition, values = groups_condition(scope.groups)
        sql = (
            f"SELECT d.key, {SEALED_COLUMN} FROM documents d "  # noqa: S608
            f"WHERE d.collection = ? AND d.id = ? AND d.version = ? AND {condition}"
        )
        done = []
        with self._files.writing(scope.tenant), transaction(file):
            for one in updates:
                found = row(file, sql, (collection.name, one.document_id, one.version, *values))
                if found is not None and one.sealed and sealed_of(found[1]).keys() == one.sealed.keys():
                    file.execute("UPDATE sealed SET fields = ? WHERE document = ?", (dumped(one.sealed), found[0]))
                    done.append(one.document_id)
        return done

    def _file_with(self, scope: Scope, collection: Collection) -> apsw.Connection | None:
        """The tenant's file, where it ever had something of the collection."""
        file = self._files.tenant(scope.tenant)
        return file if file is not None and has_index(file, collection) else None
