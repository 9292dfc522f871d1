"""The collections as the gateway knows them: read from the retriever, kept for two seconds, made from presets on demand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ragkeep.retriever.v1 import retriever_pb2
from ragkeep.types.v1.types_pb2 import Collection, Scope
from ragkeep_gateway.embedding import Embedding
from ragkeep_gateway.presets import PRESETS
from ragkeep_gateway.scope import scope
from ragkeep_runtime.channel import errors_of
from ragkeep_runtime.errors import CollectionUnknown

if TYPE_CHECKING:
    from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub

_FRESH_S = 2.0


class Catalogue:
    """Knows collections."""

    def __init__(self, retriever: RetrieverServiceAsyncStub, embedding: Embedding) -> None:
        self._retriever = retriever
        self._embedding = embedding
        self._kept: dict[str, tuple[float, Collection]] = {}
        self._making = asyncio.Lock()

    async def get(self, name: str) -> Collection:
        """The collection's definition. Raises CollectionUnknown."""
        now = asyncio.get_running_loop().time()
        kept = self._kept.get(name)
        if kept is not None and now - kept[0] < _FRESH_S:
            return kept[1]
        with errors_of("retriever"):
            response = await self._retriever.GetCollection(retriever_pb2.GetCollectionRequest(name=name))
        # A client must not be able to fill the memory: only names that exist get here, and their number is small.
        self._kept[name] = (now, response.collection)
        return response.collection

    async def get_or_imagine(self, name: str) -> tuple[Collection, bool]:
        """As `get_or_make`, but nothing is made: (the collection as it is or would be, whether it is there)."""
        try:
            return await self.get(name), True
        except CollectionUnknown:
            if name not in PRESETS:
                raise
        imagined = PRESETS[name]()
        imagined.space.CopyFrom(await self._embedding.space())
        return imagined, False

    async def get_or_make(self, name: str) -> Collection:
        """As `get`, and where it is a preset that is not there yet, it is made."""
        try:
            return await self.get(name)
        except CollectionUnknown:
            if name not in PRESETS:
                raise
        async with self._making:
            return await self.create(PRESETS[name]())

    async def create(self, definition: Collection) -> Collection:
        """Makes it with the embedding space that is served now. Raises CollectionExists, InvalidRequest."""
        wanted = Collection()
        wanted.CopyFrom(definition)
        wanted.space.CopyFrom(await self._embedding.space())
        wanted.revision = 0
        with errors_of("retriever"):
            response = await self._retriever.CreateCollection(retriever_pb2.CreateCollectionRequest(collection=wanted))
        self.forget(definition.name)
        return response.collection

    async def update(self, definition: Collection) -> retriever_pb2.UpdateCollectionResponse:
        """Changes it. Raises CollectionUnknown, CollectionChanged, CollectionFixed, InvalidRequest."""
        with errors_of("retriever"):
            response = await self._retriever.UpdateCollection(retriever_pb2.UpdateCollectionRequest(collection=definition))
        self.forget(definition.name)
        return response

    async def delete(self, name: str) -> None:
        """Deletes it. Raises CollectionUnknown, CollectionInUse."""
        with errors_of("retriever"):
            await self._retriever.DeleteCollection(retriever_pb2.DeleteCollectionRequest(name=name))
        self.forget(name)

    def forget(self, name: str) -> None:
        """The next `get` asks the retriever."""
        self._kept.pop(name, None)

    async def summary(self, name: str) -> retriever_pb2.CollectionSummary:
        """One collection with the number of documents that the caller sees. Raises CollectionUnknown."""
        for found in await self.all():
            if found.collection.name == name:
                return found
        raise CollectionUnknown(f"There is no collection {name[:64]!r}. `ragkeep collections` lists those that are.")

    async def all(self) -> list[retriever_pb2.CollectionSummary]:
        """All collections with the number of documents that the caller sees."""
        return await self._summaries(scope())

    async def count(self, tenant: str) -> int:
        """The tenant's documents in all collections, whoever sees them."""
        return sum(found.documents for found in await self._summaries(Scope(tenant=tenant, every_document=True)))

    async def _summaries(self, seen: Scope) -> list[retriever_pb2.CollectionSummary]:
        request = retriever_pb2.ListCollectionsRequest(scope=seen)
        with errors_of("retriever"):
            response = await self._retriever.ListCollections(request)
        return list(response.collections)
