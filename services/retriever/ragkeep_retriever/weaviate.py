"""The store on Weaviate: HNSW and BM25 over our own tokens, multi-tenant, a manifest per document as its commit point.

Weaviate has no transactions. A put writes its passages under a fresh random generation and then one manifest that names it;
readers drop passages whose generation is not the manifest's. So a document appears whole or not at all, whoever is killed when.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import uuid
import warnings
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx

from ragkeep_retriever.analyzer import query_tokens, tokens
from ragkeep_retriever.catalogue import dump, load, same_or_raise
from ragkeep_retriever.fusion import CANDIDATES, coverage
from ragkeep_retriever.store import Collection, Found, Hit, Put, Query, Scope, StoredDocument
from ragkeep_retriever.weaviate_schema import (
    CATALOGUE,
    create_catalogue,
    create_classes,
    decoded,
    manifests_class,
    passages_class,
    property_of,
    stored,
    where,
)
from ragkeep_runtime.errors import CollectionChanged, CollectionUnknown, EngineFailed, EngineUnreachable
from ragkeep_runtime.logs import get_logger

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import weaviate
    from weaviate.classes.config import ConsistencyLevel
    from weaviate.classes.data import DataObject
    from weaviate.classes.init import AdditionalConfig, Auth, Timeout
    from weaviate.classes.query import Filter as WeaviateFilter
    from weaviate.classes.query import MetadataQuery
    from weaviate.classes.tenants import Tenant
    from weaviate.connect import ConnectionParams
    from weaviate.exceptions import (
        UnexpectedStatusCodeError,
        WeaviateBaseError,
        WeaviateClosedClientError,
        WeaviateConnectionError,
        WeaviateGRPCUnavailableError,
        WeaviateQueryError,
        WeaviateStartUpError,
    )

log = get_logger()
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,61}")
_NAMESPACE = uuid.UUID("6f0c8f0e-6f6e-5a39-9c1e-7d1d1f2c9a54")
_BM25 = re.compile(r"keyword,bm25\).*?original score (\d+(?:\.\d+)?)", re.DOTALL)
# An insert is split by objects and by bytes: one message holds at most 100 MiB.
_INSERT_OBJECTS, _INSERT_BYTES = 500, 20 * 1024 * 1024
# How long a put waits until its vectors can be found; with asynchronous indexing that takes 0.2 s.
_INDEXED_S, _INDEXED_POLL_S = 10.0, 0.05
_MOST_PAGES = 20


@dataclass(frozen=True, slots=True)
class _Manifest:
    generation: str
    version: bytes
    fields: str


class WeaviateStore:
    """One Weaviate. It connects when first needed, so the process starts, and recovers, without it."""

    def __init__(self, url: str, grpc_port: int, *, api_key: str = "", replicas: int = 1) -> None:
        self._url = url
        self._replicas = replicas
        # skip_init_checks: else the client asks a package index for its newest version.
        self._client = weaviate.WeaviateAsyncClient(
            connection_params=ConnectionParams.from_url(url, grpc_port),
            auth_client_secret=Auth.api_key(api_key) if api_key else None,
            additional_config=AdditionalConfig(timeout=Timeout(init=2, query=10, insert=60), trust_env=False),
            skip_init_checks=True,
        )
        self._connecting = asyncio.Lock()
        self._tenants: set[tuple[str, str]] = set()
        self._making = asyncio.Lock()

    async def create_collection(self, collection: Collection) -> Collection:
        """See the port. Classes first, the catalogue's entry last: it is what makes the collection exist."""
        async with self._errors(), self._making:
            existing = await self._definition(collection.name)
            if existing is not None:
                return same_or_raise(existing, collection)
            made = replace(collection, revision=1)
            await create_classes(self._client, made, self._replicas)
            await create_catalogue(self._client, self._replicas)
            entry = {"name": made.name, "definition": dump(made)}
            await self._client.collections.use(CATALOGUE).data.insert(entry, uuid=_id(made.name))
            return made

    async def collection(self, name: str) -> Collection:
        """See the port."""
        async with self._errors():
            found = await self._definition(name)
        if found is None:
            raise CollectionUnknown(f"There is no collection {name[:64]!r}. `ragkeep collections` lists those that are.")
        return found

    async def collections(self, tenant: str) -> list[tuple[Collection, int]]:
        """See the port."""
        async with self._errors():
            if not await self._client.collections.exists(CATALOGUE):
                return []
            entries = (await self._client.collections.use(CATALOGUE).query.fetch_objects(limit=1000)).objects
            found = sorted((load(str(entry.properties["definition"])) for entry in entries), key=lambda one: one.name)
            return [(one, await self._count(one, tenant)) for one in found]

    async def versions(self, tenant: str, collection: str, document_ids: Sequence[str]) -> dict[str, bytes]:
        """See the port. What no manifest names is not there."""
        async with self._errors():
            if not await self._has_tenant(collection, tenant):
                return {}
            manifests = await self._manifests(collection, tenant, document_ids)
        return {document_id: manifest.version for document_id, manifest in manifests.items()}

    async def put(self, tenant: str, collection: Collection, documents: Sequence[StoredDocument]) -> list[Put]:
        """See the port."""
        async with self._errors():
            stored_definition = await self._definition(collection.name)
            if stored_definition is None or stored_definition.revision != collection.revision:
                raise CollectionChanged(f"The collection {collection.name} was changed meanwhile; read it again.")
            await self._make_tenant(collection.name, tenant)
            before = await self._manifests(collection.name, tenant, [document.id for document in documents])
            changed = [d for d in documents if d.id not in before or before[d.id].version != d.version]
            if changed:
                await self._put_changed(tenant, collection, changed, before)
        changed_ids = {document.id for document in changed}
        return [Put.UNCHANGED if d.id not in changed_ids else Put.UPDATED if d.id in before else Put.CREATED for d in documents]

    async def search(self, scope: Scope, collection: Collection, query: Query) -> Found:
        """See the port."""
        question = query_tokens(query.text) if query.text else []
        async with self._errors():
            if not await self._has_tenant(collection.name, scope.tenant):
                return Found([], 0.0, None)
            hits = await self._live_hits(scope, collection, query, question)
        cosines = [hit.cosine for hit in hits if hit.cosine is not None]
        # Weaviate does not tell how rare a token is: all count the same.
        return Found(hits, coverage(question, [set(tokens(hit.text)) for hit in hits]), max(cosines, default=None))

    async def ready(self) -> None:
        """Raises EngineUnreachable where Weaviate does not answer."""
        async with self._errors():
            if not await self._client.is_ready():
                raise self._unreachable()

    async def close(self) -> None:
        """Lets go of the connections."""
        await self._client.close()

    # Puts

    async def _put_changed(
        self, tenant: str, collection: Collection, changed: Sequence[StoredDocument], before: dict[str, _Manifest]
    ) -> None:
        generations = {document.id: uuid.uuid4().hex for document in changed}
        passages = self._client.collections.use(passages_class(collection.name)).with_tenant(_tenant(tenant))
        # Tokens and objects are made off the event loop.
        objects = await asyncio.to_thread(_passage_objects, collection, changed, generations)
        for batch in _batches(objects):
            result = await passages.data.insert_many([item for item, _ in batch])
            if result.has_errors:
                raise self._failed("insert", str(next(iter(result.errors.values())).message))
        await self._wait_until_indexed(passages_class(collection.name), tenant)
        manifests = self._manifest_class(collection.name, tenant)
        entries = [_manifest_object(document, generations[document.id]) for document in changed]
        result = await manifests.data.insert_many(entries)
        if result.has_errors:
            raise self._failed("manifest", str(next(iter(result.errors.values())).message))
        # Another writer may have come later: only who is named now removes what it replaced, and nothing else.
        now = await self._manifests(collection.name, tenant, list(generations))
        replaced = [
            before[name].generation
            for name, generation in generations.items()
            if name in before and name in now and now[name].generation == generation
        ]
        if replaced:
            await passages.data.delete_many(where=WeaviateFilter.by_property("generation").contains_any(replaced))

    async def _wait_until_indexed(self, name: str, tenant: str) -> None:
        """Until the tenant's queue of vectors is empty: what is acknowledged is found afterwards."""
        deadline = asyncio.get_running_loop().time() + _INDEXED_S
        while True:
            nodes = await self._client.cluster.nodes(collection=name, shard=_tenant(tenant), output="verbose")
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
        hits: list[Hit] = []
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
                hit = _hit(one, manifest, collection, query)
                if query.minimum_cosine is not None and hit.bm25 is None and (hit.cosine or -1) < query.minimum_cosine:
                    continue
                taken[document_id] = taken.get(document_id, 0) + 1
                if query.passages_per_document and taken[document_id] > query.passages_per_document:
                    continue
                hits.append(hit)
                if len(hits) == query.limit:
                    return hits
            if len(found) < page:
                return hits
        return hits

    async def _page(
        self, scope: Scope, collection: Collection, query: Query, question: list[str], limit: int, offset: int
    ) -> list[Any]:
        handle = self._client.collections.use(passages_class(collection.name)).with_tenant(_tenant(scope.tenant))
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

    async def _manifests(self, collection: str, tenant: str, document_ids: Sequence[str]) -> dict[str, _Manifest]:
        ids = [_id(document_id) for document_id in document_ids]
        found = await self._manifest_class(collection, tenant).query.fetch_objects_by_ids(ids, limit=len(ids))
        return {
            str(one.properties["document_id"]): _Manifest(
                str(one.properties["generation"]),
                bytes.fromhex(str(one.properties["version"])),
                str(one.properties["fields"]),
            )
            for one in found.objects
        }

    def _manifest_class(self, collection: str, tenant: str) -> Any:
        handle = self._client.collections.use(manifests_class(collection)).with_tenant(_tenant(tenant))
        return handle.with_consistency_level(ConsistencyLevel.QUORUM)

    async def _definition(self, name: str) -> Collection | None:
        if not await self._client.collections.exists(CATALOGUE):
            return None
        entry = await self._client.collections.use(CATALOGUE).query.fetch_object_by_id(_id(name))
        return load(str(entry.properties["definition"])) if entry else None

    async def _count(self, collection: Collection, tenant: str) -> int:
        if not await self._has_tenant(collection.name, tenant):
            return 0
        return int((await self._manifest_class(collection.name, tenant).aggregate.over_all(total_count=True)).total_count or 0)

    # Tenants

    async def _has_tenant(self, collection: str, tenant: str) -> bool:
        if (collection, tenant) not in self._tenants:
            handle = self._client.collections.use(manifests_class(collection))
            if not await handle.tenants.exists(_tenant(tenant)):
                return False
            self._tenants.add((collection, tenant))
        return True

    async def _make_tenant(self, collection: str, tenant: str) -> None:
        if await self._has_tenant(collection, tenant):
            return
        # Manifests last: that class is what is asked whether a tenant is there.
        for name in (passages_class(collection), manifests_class(collection)):
            handle = self._client.collections.use(name)
            if not await handle.tenants.exists(_tenant(tenant)):
                await handle.tenants.create([Tenant(name=_tenant(tenant))])

    # Errors

    @contextlib.asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        try:
            if not self._client.is_connected():
                async with self._connecting:
                    if not self._client.is_connected():
                        await self._client.connect()
            yield
        except (
            WeaviateClosedClientError,
            WeaviateConnectionError,
            WeaviateGRPCUnavailableError,
            WeaviateStartUpError,
            httpx.ConnectError,
            httpx.ConnectTimeout,
            ConnectionError,
        ):
            raise self._unreachable() from None
        except (UnexpectedStatusCodeError, WeaviateQueryError, WeaviateBaseError, httpx.HTTPError) as error:
            words = str(error)
            if "UNAVAILABLE" in words or "failed to connect" in words or "Connection refused" in words:
                raise self._unreachable() from None
            raise self._failed(type(error).__name__, words) from None

    def _unreachable(self) -> EngineUnreachable:
        message = f"Weaviate does not answer at {self._url}. Start it, or set RAGKEEP_WEAVIATE_URL and _GRPC_PORT."
        return EngineUnreachable(message, metadata={"engine": "weaviate", "address": self._url})

    def _failed(self, what: str, words: str) -> EngineFailed:
        log.error("weaviate_failed", what=what, engine_says=words[:300])
        return EngineFailed("Weaviate answered with an error; its words are in the retriever's log.")


def _tenant(name: str) -> str:
    return f"t-{name}" if _PLAIN_NAME.fullmatch(name) else f"h-{hashlib.sha256(name.encode()).hexdigest()[:60]}"


def _id(name: str) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, name)


def _passage_objects(
    collection: Collection, documents: Sequence[StoredDocument], generations: dict[str, str]
) -> list[tuple[Any, int]]:
    """(object, its size in bytes about) of every chunk."""
    filterable = {field.name for field in collection.fields if field.filterable}
    objects = []
    for document in documents:
        generation = generations[document.id]
        fields = {property_of(name): stored(value) for name, value in document.fields.items() if name in filterable}
        for position, chunk in enumerate(document.chunks):
            properties = {
                **fields,
                "document_id": document.id,
                "generation": generation,
                "chunk": position,
                "text": chunk.text,
                "tokens": " ".join(tokens(chunk.text)),
                "groups": list(document.groups) or ["*"],
            }
            item = DataObject(properties=properties, vector=list(chunk.vector), uuid=_id(f"{generation}/{position}"))
            objects.append((item, 6 * len(chunk.text) + 4 * len(chunk.vector) + 1000))
    return objects


def _batches(objects: list[tuple[Any, int]]) -> list[list[tuple[Any, int]]]:
    batches: list[list[tuple[Any, int]]] = []
    size = 0
    for item in objects:
        if not batches or len(batches[-1]) == _INSERT_OBJECTS or size + item[1] > _INSERT_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(item)
        size += item[1]
    return batches


def _manifest_object(document: StoredDocument, generation: str) -> Any:
    properties = {
        "document_id": document.id,
        "generation": generation,
        "version": document.version.hex(),
        "chunks": len(document.chunks),
        "fields": json.dumps({name: stored(value) for name, value in document.fields.items()}, ensure_ascii=False, default=str),
    }
    return DataObject(properties=properties, uuid=_id(document.id))


def _hit(one: Any, manifest: _Manifest, collection: Collection, query: Query) -> Hit:
    cosine = bm25 = fused = None
    if query.vector is None:
        bm25 = one.metadata.score
    elif one.metadata.distance is not None:
        cosine = 1 - one.metadata.distance
    else:
        vector = one.vector["default"]
        cosine = sum(a * b for a, b in zip(vector, query.vector, strict=True))
        fused = one.metadata.score
        # Raw scores stand in the explanation's text alone, and only of the halves that found the passage.
        explained = _BM25.search(one.metadata.explain_score or "")
        bm25 = float(explained[1]) if explained else None
    return Hit(
        document_id=str(one.properties["document_id"]),
        version=manifest.version,
        chunk=int(one.properties["chunk"]),
        text=str(one.properties["text"]),
        fields=decoded(manifest.fields, collection),
        cosine=cosine,
        bm25=bm25,
        fused=fused,
    )
