"""The store on Weaviate: HNSW and BM25 over our own tokens, multi-tenant, a manifest per document as its commit point.

Weaviate has no transactions. A put writes its passages under a fresh random generation and then one manifest that names it;
readers drop passages whose generation is not the manifest's. So a document appears whole or not at all, whoever is killed when.
A deletion writes a tombstone in the manifest's place.
"""

from __future__ import annotations

import asyncio
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ragkeep_retriever.analyzer import query_tokens, tokens
from ragkeep_retriever.fusion import CANDIDATES, judged
from ragkeep_retriever.matching import matches, visible
from ragkeep_retriever.store import (
    MAX_PAGE_BYTES,
    Change,
    Collection,
    Filter,
    Found,
    Hit,
    ListedDocument,
    Page,
    Put,
    Query,
    Scope,
    StoredDocument,
)
from ragkeep_retriever.weaviate_catalogue import WeaviateCatalogue
from ragkeep_retriever.weaviate_connection import Connection, object_id, tenant_name
from ragkeep_retriever.weaviate_objects import (
    Manifest,
    hit_of,
    manifest_object,
    manifest_of,
    open_groups,
    passage_batches,
    passage_id,
    tombstone_object,
)
from ragkeep_retriever.weaviate_schema import passages_class, where
from ragkeep_runtime.errors import CollectionChanged, InvalidRequest
from ragkeep_runtime.logs import get_logger

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from weaviate.classes.query import Filter as WeaviateFilter
    from weaviate.classes.query import MetadataQuery

log = get_logger()
# How long a put waits until its vectors can be found; with asynchronous indexing that takes 0.2 s.
_INDEXED_S, _INDEXED_POLL_S = 10.0, 0.05
_MOST_PAGES = 20
# A list reads manifests, which may have 1 MiB each, in such numbers, and looks at so many for one page.
_LISTED_AT_ONCE, _LOOKED_AT = 64, 5000
# Weaviate deletes at most this many objects by one condition.
_DELETED_AT_ONCE = 10_000


class WeaviateStore:
    """The store on one Weaviate."""

    def __init__(self, url: str, grpc_port: int, *, api_key: str = "", replicas: int = 1) -> None:
        self._connection = Connection(url, grpc_port, api_key)
        self._client = self._connection.client
        self._errors = self._connection.errors
        self._catalogue = WeaviateCatalogue(self._connection, replicas)

    async def create_collection(self, collection: Collection) -> Collection:
        """See the port."""
        async with self._errors():
            return await self._catalogue.create(collection)

    async def collection(self, name: str, *, any_analyzer: bool = False) -> Collection:
        """See the port."""
        async with self._errors():
            return await self._catalogue.get(name, any_analyzer=any_analyzer)

    async def collections(self, tenant: str) -> list[tuple[Collection, int]]:
        """See the port."""
        async with self._errors():
            return [(one, await self._catalogue.count(one.name, tenant)) for one in await self._catalogue.all()]

    async def update_collection(self, wanted: Collection) -> Change:
        """See the port."""
        async with self._errors():
            return await self._catalogue.update(wanted)

    async def delete_collection(self, name: str) -> None:
        """See the port."""
        async with self._errors():
            await self._catalogue.delete(name)

    async def versions(self, tenant: str, collection: str, document_ids: Sequence[str]) -> dict[str, bytes]:
        """See the port. What no manifest names is not there."""
        async with self._errors():
            if not await self._connection.has_tenant(collection, tenant):
                return {}
            manifests = await self._manifests(collection, tenant, document_ids)
        return {document_id: manifest.version for document_id, manifest in manifests.items()}

    async def put(self, tenant: str, collection: Collection, documents: Sequence[StoredDocument]) -> list[Put]:
        """See the port."""
        async with self._errors():
            await self._check_revision(collection)
            await self._connection.make_tenant(collection.name, tenant)
            before = await self._manifests(collection.name, tenant, [document.id for document in documents])
            changed = [d for d in documents if d.id not in before or before[d.id].version != d.version]
            if changed:
                await self._put_changed(tenant, collection, changed, before)
                if await self._catalogue.for_writing(collection.name) is None:
                    raise CollectionChanged(f"The collection {collection.name} was deleted meanwhile.")
        changed_ids = {document.id for document in changed}
        return [Put.UNCHANGED if d.id not in changed_ids else Put.UPDATED if d.id in before else Put.CREATED for d in documents]

    async def search(self, scope: Scope, collection: Collection, query: Query) -> Found:
        """See the port."""
        question = query_tokens(query.text) if query.text else []
        async with self._errors():
            if not await self._connection.has_tenant(collection.name, scope.tenant):
                return Found([], 0.0, None)
            hits = await self._live_hits(scope, collection, query, question)
        # Weaviate does not tell how rare a token is: all count the same.
        return judged(question, hits, [set(tokens(hit.text)) for hit in hits])

    async def document(self, scope: Scope, collection: Collection, document_id: str) -> ListedDocument | None:
        """See the port."""
        async with self._errors():
            found = (await self._seen(scope, collection, [document_id])).get(document_id)
        return found.listed(collection) if found else None

    async def documents(
        self, scope: Scope, collection: Collection, *, filter: Filter | None = None, after: str = "", limit: int = 100
    ) -> Page:
        """See the port. By the ids of the manifests; the filter is held against them here, for they have no such index."""
        documents: list[ListedDocument] = []
        looked_at = size = 0
        async with self._errors():
            if not await self._connection.has_tenant(collection.name, scope.tenant):
                return Page([], "")
            manifests = self._connection.manifests(collection.name, scope.tenant)
            while looked_at < _LOOKED_AT:
                found = (await manifests.query.fetch_objects(limit=_LISTED_AT_ONCE, after=_uuid(after))).objects
                current = await self._with_groups(collection.name, scope.tenant, [manifest_of(one) for one in found])
                for one, manifest in zip(found, current, strict=True):
                    if manifest is not None and visible(scope.groups, manifest.groups or ()):
                        document = manifest.listed(collection)
                        if matches(filter, document.fields):
                            size += len(manifest.fields.encode())
                            if len(documents) == limit or (documents and size > MAX_PAGE_BYTES):
                                return Page(documents, after)
                            documents.append(document)
                    after = str(one.uuid)
                looked_at += len(found)
                if len(found) < _LISTED_AT_ONCE:
                    return Page(documents, "")
        return Page(documents, after)

    async def delete(
        self, scope: Scope, collection: Collection, wanted: Mapping[str, bytes | None], *, dry_run: bool = False
    ) -> list[str]:
        """See the port. A tombstone in the manifest's place is what deletes; then the passages go."""
        async with self._errors():
            if not wanted or not await self._connection.has_tenant(collection.name, scope.tenant):
                return []
            seen = await self._seen(scope, collection, list(wanted))
            before = {name: one for name, one in seen.items() if wanted[name] in (None, one.version)}
            if before and not dry_run:
                await self._delete(collection.name, scope.tenant, before)
        return [name for name in wanted if name in before]

    async def ready(self) -> None:
        """Raises EngineUnreachable where Weaviate does not answer."""
        await self._connection.ready()

    async def close(self) -> None:
        """Lets go of the connections."""
        await self._client.close()

    # Writing

    async def _check_revision(self, collection: Collection) -> None:
        stored = await self._catalogue.for_writing(collection.name)
        if stored is None or stored.revision != collection.revision:
            raise CollectionChanged(f"The collection {collection.name} was changed meanwhile; read it again.")

    async def _put_changed(
        self, tenant: str, collection: Collection, changed: Sequence[StoredDocument], before: dict[str, Manifest]
    ) -> None:
        generations = {document.id: uuid.uuid4().hex for document in changed}
        passages = self._connection.passages(collection.name, tenant)
        # Tokens and objects are made off the event loop.
        for batch in await asyncio.to_thread(passage_batches, collection, changed, generations):
            self._check(await passages.data.insert_many(batch), "insert")
        await self._wait_until_indexed(passages_class(collection.name), tenant)
        manifests = self._connection.manifests(collection.name, tenant)
        entries = [manifest_object(document, generations[document.id]) for document in changed]
        self._check(await manifests.data.insert_many(entries), "manifest")
        # Another writer may have come later: only who is named now removes what it replaced, and nothing else.
        now = await self._manifests(collection.name, tenant, list(generations))
        replaced = [
            before[name].generation
            for name, generation in generations.items()
            if name in before and name in now and now[name].generation == generation
        ]
        await self._delete_passages(collection.name, tenant, replaced)

    async def _delete(self, collection: str, tenant: str, before: dict[str, Manifest]) -> None:
        manifests = self._connection.manifests(collection, tenant)
        self._check(await manifests.data.insert_many([tombstone_object(name) for name in before]), "tombstone")
        now = await self._manifests(collection, tenant, list(before))
        # A later put may stand there already, under a generation of its own. What was there before must not.
        if any(name in now and now[name].generation == one.generation for name, one in before.items()):
            raise self._connection.failed("tombstone", "the manifest is still there")
        await self._delete_passages(collection, tenant, [one.generation for one in before.values()])

    async def _delete_passages(self, collection: str, tenant: str, generations: list[str]) -> None:
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

    # Reading

    async def _live_hits(self, scope: Scope, collection: Collection, query: Query, question: list[str]) -> list[Hit]:
        """Hits of passages that their document's manifest names; further pages until there are enough."""
        page = max(CANDIDATES, query.limit)
        hits: list[tuple[str, Hit]] = []  # with the passage's id
        taken: dict[str, int] = {}
        for number in range(_MOST_PAGES):
            found = await self._page(scope, collection, query, question, page, number * page)
            ids = list(dict.fromkeys(str(one.properties["document_id"]) for one in found))
            manifests = await self._manifests(collection.name, scope.tenant, ids) if ids else {}
            for one in found:
                document_id = str(one.properties["document_id"])
                manifest = manifests.get(document_id)
                if manifest is None or manifest.generation != one.properties["generation"]:
                    continue
                hit = hit_of(one, manifest, collection, query)
                if query.minimum_cosine is not None and hit.bm25 is None and (hit.cosine or -1) < query.minimum_cosine:
                    continue
                taken[document_id] = taken.get(document_id, 0) + 1
                if query.passages_per_document and taken[document_id] > query.passages_per_document:
                    continue
                hits.append((str(one.uuid), hit))
                if len(hits) == query.limit:
                    break
            if len(found) < page or len(hits) == query.limit:
                break
        if query.explain and hits:
            return await self._with_ranks(scope, collection, query, question, hits, (number + 1) * page)
        return [hit for _, hit in hits]

    async def _with_ranks(
        self, scope: Scope, collection: Collection, query: Query, question: list[str], hits: list[tuple[str, Hit]], depth: int
    ) -> list[Hit]:
        """The hits with their places in each half. A hybrid query does not tell them, so each half is asked alone."""
        halves = []
        for half in (replace(query, text=None), replace(query, vector=None)):
            asked = half.vector is not None or (half.text is not None and question)
            words = question if half.text is not None else []
            found = await self._page(scope, collection, half, words, depth, 0) if asked else []
            halves.append({str(one.uuid): place for place, one in enumerate(found, 1)})
        by_vector, by_keyword = halves
        least = query.minimum_cosine
        return [
            replace(
                hit,
                vector_rank=None if least is not None and hit.cosine is not None and hit.cosine < least else by_vector.get(key),
                keyword_rank=by_keyword.get(key),
            )
            for key, hit in hits
        ]

    async def _page(
        self, scope: Scope, collection: Collection, query: Query, question: list[str], limit: int, offset: int
    ) -> list[Any]:
        handle = self._connection.passages(collection.name, scope.tenant)
        shared: dict[str, Any] = {
            "filters": where(query.filter, scope.groups),
            "limit": limit,
            "offset": offset,
            "return_properties": ["document_id", "generation", "chunk", "text"],
        }
        if query.vector is None:
            if not question:
                return []
            metadata = MetadataQuery(score=True)
            result = await handle.query.bm25(
                " ".join(question), query_properties=["tokens"], return_metadata=metadata, **shared
            )
        elif not question:
            metadata = MetadataQuery(distance=True)
            result = await handle.query.near_vector(list(query.vector), return_metadata=metadata, **shared)
        else:
            metadata = MetadataQuery(score=True, explain_score=True)
            result = await handle.query.hybrid(
                " ".join(question),
                vector=list(query.vector),
                alpha=query.alpha,
                query_properties=["tokens"],
                include_vector=True,
                return_metadata=metadata,
                **shared,
            )
        return list(result.objects)

    async def _manifests(self, collection: str, tenant: str, document_ids: Sequence[str]) -> dict[str, Manifest]:
        """The manifests by document id; what is deleted has none."""
        ids = [object_id(document_id) for document_id in document_ids]
        found = await self._connection.manifests(collection, tenant).query.fetch_objects_by_ids(ids, limit=len(ids))
        current = [manifest_of(one) for one in found.objects]
        return {manifest.document_id: manifest for manifest in current if manifest is not None}

    async def _seen(self, scope: Scope, collection: Collection, document_ids: Sequence[str]) -> dict[str, Manifest]:
        """As `_manifests`, with their groups, and only those that the scope sees."""
        if not await self._connection.has_tenant(collection.name, scope.tenant):
            return {}
        manifests = await self._manifests(collection.name, scope.tenant, document_ids)
        found = await self._with_groups(collection.name, scope.tenant, list(manifests.values()))
        return {one.document_id: one for one in found if one is not None and visible(scope.groups, one.groups or ())}

    async def _with_groups(self, collection: str, tenant: str, manifests: Sequence[Manifest | None]) -> list[Manifest | None]:
        """Manifests of the catalogue's first version have no groups: their passages know them."""
        ids = [passage_id(one.generation, 0) for one in manifests if one is not None and one.groups is None]
        if not ids:
            return list(manifests)
        passages = self._connection.passages(collection, tenant)
        found = await passages.query.fetch_objects_by_ids(ids, limit=len(ids), return_properties=["generation", "groups"])
        groups = {str(one.properties["generation"]): open_groups(one.properties["groups"]) for one in found.objects}
        return [
            replace(one, groups=groups[one.generation]) if one is not None and one.generation in groups else one
            for one in manifests
        ]


def _uuid(after: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(after) if after else None
    except ValueError:
        raise InvalidRequest("The page token is not one of this list: begin without one.", field="page_token") from None
