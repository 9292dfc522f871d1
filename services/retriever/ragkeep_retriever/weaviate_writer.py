"""What is written to Weaviate: passages under a fresh generation, then the manifest that names it; a tombstone in its place."""

from __future__ import annotations

import asyncio
import uuid
import warnings
from collections.abc import Sequence
from typing import Any

from ragkeep_retriever.values import Collection, Put, Scope, SealedUpdate, StoredDocument
from ragkeep_retriever.weaviate_catalogue import WeaviateCatalogue
from ragkeep_retriever.weaviate_connection import Connection, tenant_name
from ragkeep_retriever.weaviate_manifests import Manifests
from ragkeep_retriever.weaviate_objects import Manifest, manifest_object, passage_batches, tombstone_object
from ragkeep_retriever.weaviate_schema import passages_class
from ragkeep_retriever.weaviate_sealed import SealedObjects
from ragkeep_runtime.errors import CollectionChanged
from ragkeep_runtime.logs import get_logger

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from weaviate.classes.query import Filter as WeaviateFilter

log = get_logger()
# How long a put waits until its vectors can be found; with asynchronous indexing that takes 0.2 s.
_INDEXED_S, _INDEXED_POLL_S = 10.0, 0.05
# Weaviate deletes at most this many objects by one condition.
_DELETED_AT_ONCE = 10_000


class WeaviateWriter:
    """Writes; its methods run inside `Connection.errors()`."""

    def __init__(
        self, connection: Connection, catalogue: WeaviateCatalogue, manifests: Manifests, sealed: SealedObjects
    ) -> None:
        self._connection = connection
        self._client = connection.client
        self._catalogue = catalogue
        self._manifests = manifests
        self._sealed = sealed

    async def check_revision(self, collection: Collection) -> None:
        """Raises CollectionChanged."""
        stored = await self._catalogue.for_writing(collection.name)
        if stored is None or stored.revision != collection.revision:
            raise CollectionChanged(f"The collection {collection.name} was changed meanwhile; read it again.")

    async def put(
        self, tenant: str, collection: Collection, changed: Sequence[StoredDocument], before: dict[str, Manifest]
    ) -> None:
        """Passages first, then sealed values, then the manifests: those make the documents. Removes what they replaced."""
        generations = {document.id: uuid.uuid4().hex for document in changed}
        passages = self._connection.passages(collection.name, tenant)
        # Tokens and objects are made off the event loop.
        for batch in await asyncio.to_thread(passage_batches, collection, changed, generations):
            self._check(await passages.data.insert_many(batch), "insert")
        await self._wait_until_indexed(passages_class(collection.name), tenant)
        sealed = {generations[document.id]: document.sealed for document in changed if document.sealed}
        await self._sealed.write(collection.name, tenant, sealed, make=True)
        manifests = self._connection.manifests(collection.name, tenant)
        entries = [manifest_object(document, generations[document.id]) for document in changed]
        self._check(await manifests.data.insert_many(entries), "manifest")
        # Another writer may have come later: only who is named now removes what it replaced, and nothing else.
        now = await self._manifests.of(collection.name, tenant, list(generations))
        replaced = [
            before[name]
            for name, generation in generations.items()
            if name in before and name in now and now[name].generation == generation
        ]
        await self._delete_generations(collection.name, tenant, replaced)

    async def delete(self, collection: str, tenant: str, before: dict[str, Manifest]) -> None:
        """Tombstones first: with those the documents are gone. Then their passages go."""
        manifests = self._connection.manifests(collection, tenant)
        self._check(await manifests.data.insert_many([tombstone_object(name) for name in before]), "tombstone")
        now = await self._manifests.of(collection, tenant, list(before))
        # A later put may stand there already, under a generation of its own. What was there before must not.
        if any(name in now and now[name].generation == one.generation for name, one in before.items()):
            raise self._connection.failed("tombstone", "the manifest is still there")
        await self._delete_generations(collection, tenant, list(before.values()))

    async def update_sealed(self, scope: Scope, collection: Collection, updates: Sequence[SealedUpdate]) -> list[str]:
        """Who was overtaken by a put or a deletion wrote to a generation that nobody reads, and removes it."""
        seen = await self._manifests.seen(scope, collection.name, [one.document_id for one in updates])
        chosen = {
            one.document_id: one.sealed
            for one in updates
            if one.sealed
            and one.document_id in seen
            and seen[one.document_id].version == one.version
            and seen[one.document_id].sealed.keys() == one.sealed.keys()
        }
        if not chosen:
            return []
        generations = {name: seen[name].generation for name in chosen}
        written = {generations[name]: sealed for name, sealed in chosen.items()}
        await self._sealed.write(collection.name, scope.tenant, written)
        now = await self._manifests.of(collection.name, scope.tenant, list(chosen))
        current = [name for name in chosen if name in now and now[name].generation == generations[name]]
        late = [generation for name, generation in generations.items() if name not in current]
        await self._sealed.remove(collection.name, scope.tenant, late)
        return current

    async def _delete_generations(self, collection: str, tenant: str, manifests: list[Manifest]) -> None:
        await self._sealed.remove(collection, tenant, [one.generation for one in manifests if one.sealed])
        generations = [one.generation for one in manifests]
        passages = self._connection.passages(collection, tenant)
        condition = WeaviateFilter.by_property("generation").contains_any(generations) if generations else None
        while condition is not None:
            if (await passages.data.delete_many(where=condition)).matches < _DELETED_AT_ONCE:
                return

    def _check(self, result: Any, what: str) -> None:
        if result.has_errors:
            raise self._connection.failed(what, str(next(iter(result.errors.values())).message))

    async def _wait_until_indexed(self, name: str, tenant: str) -> None:
        """Until the tenant's queue of vectors is empty: what is acknowledged is found afterwards."""
        deadline = asyncio.get_running_loop().time() + _INDEXED_S
        while True:
            nodes = await self._client.cluster.nodes(collection=name, shard=tenant_name(tenant), output="verbose")
            if not any(shard.vector_queue_length for node in nodes for shard in node.shards or []):
                return
            if asyncio.get_running_loop().time() > deadline:
                log.warning("vectors_not_indexed_in_time", seconds=_INDEXED_S)
                return
            await asyncio.sleep(_INDEXED_POLL_S)


def becomes(scope: Scope, document: StoredDocument, before: Manifest | None) -> Put:
    """What a put makes of the document."""
    if not scope.sees(document.groups) or (before is not None and not before.seen_by(scope)):
        return Put.HIDDEN
    if before is None:
        return Put.CREATED
    return Put.UNCHANGED if before.version == document.version else Put.UPDATED
