"""The store on Weaviate: HNSW and BM25 over our own tokens, multi-tenant, a manifest per document as its commit point.

Weaviate has no transactions. A put writes its passages under a fresh random generation and then one manifest that names it;
readers drop passages whose generation is not the manifest's. So a document appears whole or not at all, whoever is killed when.
A deletion writes a tombstone in the manifest's place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ragkeep_retriever.analyzer import query_tokens, tokens
from ragkeep_retriever.fusion import judged, nothing
from ragkeep_retriever.matching import matches
from ragkeep_retriever.values import (
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
from ragkeep_retriever.weaviate_catalogue import WeaviateCatalogue
from ragkeep_retriever.weaviate_connection import Connection, anew
from ragkeep_retriever.weaviate_manifests import Manifests
from ragkeep_retriever.weaviate_reader import WeaviateReader
from ragkeep_retriever.weaviate_sealed import SealedObjects
from ragkeep_retriever.weaviate_tenants import WeaviateTenants
from ragkeep_retriever.weaviate_writer import WeaviateWriter, becomes
from ragkeep_runtime.errors import CollectionChanged


class WeaviateStore:
    """The store on one Weaviate."""

    def __init__(self, url: str, grpc_port: int, *, api_key: str = "", replicas: int = 1) -> None:
        self._connection = Connection(url, grpc_port, api_key)
        self._client = self._connection.client
        self._errors = self._connection.errors
        self._catalogue = WeaviateCatalogue(self._connection, replicas)
        self._manifests = Manifests(self._connection, self._catalogue)
        self._tenants = WeaviateTenants(self._connection, self._catalogue, replicas)
        sealed = SealedObjects(self._connection)
        self._reader = WeaviateReader(self._connection, self._manifests, sealed)
        self._writer = WeaviateWriter(self._connection, self._catalogue, self._manifests, sealed)

    async def create_collection(self, collection: Collection) -> Collection:
        """See the port."""
        async with self._errors():
            return await self._catalogue.create(collection)

    async def collection(self, name: str, *, any_analyzer: bool = False) -> Collection:
        """See the port."""
        async with self._errors():
            return await self._catalogue.get(name, any_analyzer=any_analyzer)

    @anew
    async def collections(self, scope: Scope) -> list[tuple[Collection, int]]:
        """See the port."""
        async with self._errors():
            return [(one, await self._manifests.count(scope, one.name)) for one in await self._catalogue.all()]

    @anew
    async def update_collection(self, wanted: Collection) -> Change:
        """See the port."""
        async with self._errors():
            return await self._catalogue.update(wanted)

    @anew
    async def delete_collection(self, name: str) -> None:
        """See the port."""
        async with self._errors():
            await self._catalogue.delete(name)

    @anew
    async def versions(self, scope: Scope, collection: str, document_ids: Sequence[str]) -> Versions:
        """See the port. What no manifest names is not there."""
        async with self._errors():
            if not await self._connection.has_tenant(collection, scope.tenant):
                return Versions({}, frozenset())
            found = await self._manifests.with_groups(collection, scope.tenant, document_ids)
        seen = {document_id: one.version for document_id, one in found.items() if one.seen_by(scope)}
        return Versions(seen, frozenset(found.keys() - seen.keys()))

    @anew
    async def put(
        self, scope: Scope, collection: Collection, documents: Sequence[StoredDocument], *, record: bytes = b""
    ) -> list[Put]:
        """See the port. Of two writers at the same moment one is the last; what that one sees was looked at when it began."""
        async with self._errors():
            await self._writer.check_revision(collection)
            record = await self._tenants.check_takes_documents(scope.tenant, record)
            await self._connection.make_tenant(collection.name, scope.tenant)
            before = await self._manifests.with_groups(collection.name, scope.tenant, [document.id for document in documents])
            done = {document.id: becomes(scope, document, before.get(document.id)) for document in documents}
            changed = [document for document in documents if done[document.id] in (Put.CREATED, Put.UPDATED)]
            if changed:
                await self._writer.put(scope.tenant, collection, changed, before)
                if await self._catalogue.for_writing(collection.name) is None:
                    raise CollectionChanged(f"The collection {collection.name} was deleted meanwhile.")
                await self._tenants.check_took_documents(scope.tenant, collection.name, record)
        return [done[document.id] for document in documents]

    @anew
    async def search(self, scope: Scope, collection: Collection, query: Query) -> Found:
        """See the port."""
        question = query_tokens(query.text) if query.text else []
        async with self._errors():
            if not await self._connection.has_tenant(collection.name, scope.tenant):
                return nothing(query)
            hits = await self._reader.live_hits(scope, collection, query, question)
        # Weaviate does not tell how rare a token is: all count the same.
        return judged(scope, question, hits, [set(tokens(hit.text)) for hit in hits])

    @anew
    async def document(self, scope: Scope, collection: Collection, document_id: str) -> ListedDocument | None:
        """See the port."""
        async with self._errors():
            seen = await self._manifests.seen(scope, collection.name, [document_id])
            found = await self._reader.whole(scope, collection, list(seen.values()))
        return found[0] if found else None

    @anew
    async def documents(
        self, scope: Scope, collection: Collection, *, filter: Filter | None = None, after: str = "", limit: int = 100
    ) -> Page:
        """See the port. By the ids of the manifests; the filter is held against them here, for they have no such index."""
        async with self._errors():
            manifests, after = await self._reader.listed(scope, collection, filter, after, limit)
            whole = await self._reader.whole(scope, collection, manifests)
        # One that changed while it was read may no longer match.
        return Page([one for one in whole if matches(filter, one.fields)], after)

    @anew
    async def delete(
        self, scope: Scope, collection: Collection, wanted: Mapping[str, bytes | None], *, dry_run: bool = False
    ) -> list[str]:
        """See the port. A tombstone in the manifest's place is what deletes; then the passages go."""
        async with self._errors():
            if not wanted or not await self._connection.has_tenant(collection.name, scope.tenant):
                return []
            seen = await self._manifests.seen(scope, collection.name, list(wanted))
            before = {name: one for name, one in seen.items() if wanted[name] in (None, one.version)}
            if before and not dry_run:
                await self._writer.delete(collection.name, scope.tenant, before)
        return [name for name in wanted if name in before]

    @anew
    async def update_sealed(self, scope: Scope, collection: Collection, updates: Sequence[SealedUpdate]) -> list[str]:
        """See the port."""
        async with self._errors():
            return await self._writer.update_sealed(scope, collection, updates)

    async def ensure_tenant(self, name: str) -> tuple[TenantRecord, bool]:
        """See the port. A new one takes a second: retrievers agree on its salt."""
        async with self._errors():
            return await self._tenants.ensure(name)

    async def tenant(self, name: str) -> TenantRecord:
        """See the port."""
        async with self._errors():
            return await self._tenants.get(name)

    @anew
    async def tenants(self, *, count: bool = True) -> Tenants:
        """See the port."""
        async with self._errors():
            return await self._tenants.all(count)

    async def set_tenant_active(self, name: str, active: bool) -> TenantRecord:
        """See the port."""
        async with self._errors():
            return await self._tenants.set_active(name, active)

    @anew
    async def delete_tenant(self, name: str) -> dict[str, int]:
        """See the port."""
        async with self._errors():
            return await self._tenants.delete(name)

    async def ready(self) -> None:
        """Raises EngineUnreachable where Weaviate does not answer."""
        await self._connection.ready()

    async def close(self) -> None:
        """Lets go of the connections."""
        await self._client.close()
