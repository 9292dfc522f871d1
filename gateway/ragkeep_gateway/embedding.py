"""The embedder as the gateway uses it: vectors of questions and chunks, and which space they are in."""

from __future__ import annotations

import array
import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ragkeep.embedder.v1 import embedder_pb2
from ragkeep.types.v1.types_pb2 import Collection, EmbeddingSpace, Vectors
from ragkeep_runtime.channel import errors_of
from ragkeep_runtime.errors import DeadlineExceeded, EmbeddingSpaceMismatch, TextTooLong

if TYPE_CHECKING:
    from ragkeep.embedder.v1.embedder_pb2_grpc import EmbedderServiceAsyncStub

MAX_TEXTS, MAX_BYTES = 64, 1024 * 1024
# Small requests let several embedders share an import, and questions get in between.
_BATCH_TEXTS = 16
_IN_FLIGHT = 2
# Probes that agree this well are of the same space: a re-pulled model has another digest and the same vectors.
SAME_SPACE_COSINE = 0.999


class Embedding:
    """Calls the embedder."""

    def __init__(self, stub: EmbedderServiceAsyncStub) -> None:
        self._stub = stub
        # Spaces found to be the same: (the collection's, the embedder's).
        self._same: set[tuple[tuple[str, str, int], tuple[str, str, int]]] = set()

    async def space(self) -> EmbeddingSpace:
        """The space that the embedder serves now, with probes."""
        with errors_of("embedder"):
            response = await self._stub.GetModel(embedder_pb2.GetModelRequest())
        return response.space

    async def check(self, collection: Collection) -> None:
        """Raises EmbeddingSpaceMismatch where the embedder's vectors would not be of the collection's space."""
        await self._check(await self.space(), collection)

    async def question(self, text: str, collection: Collection) -> Vectors:
        """The vector of a question, in the collection's space."""
        response = await self._embed([text], embedder_pb2.PURPOSE_QUERY)
        await self._check(response.space, collection)
        return response.vectors

    async def questions(self, texts: Sequence[str], collection: Collection) -> list[Vectors]:
        """A vector for each of 1 to 64 questions, in the collection's space; all or none."""
        response = await self._embed(texts, embedder_pb2.PURPOSE_QUERY)
        await self._check(response.space, collection)
        dimension = response.vectors.dimension
        return [Vectors(dimension=dimension, float32_le=row) for row in rows(response.vectors)]

    async def chunks(self, texts: Sequence[str], collection: Collection) -> list[bytes]:
        """A packed vector for each text, in the collection's space.

        Raises TextTooLong with `position` in its metadata: the index of the text that does not fit.
        """
        batches: list[tuple[int, list[str]]] = []
        for position, text in enumerate(texts):
            last = batches[-1][1] if batches else []
            if not batches or len(last) == _BATCH_TEXTS or _bytes(last) + len(text.encode()) > MAX_BYTES:
                batches.append((position, [text]))
            else:
                last.append(text)
        slots = asyncio.Semaphore(_IN_FLIGHT)

        async def one(first: int, batch: list[str]) -> list[bytes]:
            try:
                async with slots:
                    response = await self._embed(batch, embedder_pb2.PURPOSE_DOCUMENT)
            except TextTooLong as error:
                index = int("".join(c for c in error.field if c.isdigit()) or 0)
                raise TextTooLong(error.message, metadata={"position": str(first + index)}) from error
            except DeadlineExceeded:
                # A slow engine, or a busy one: half of it each, as long as the import itself has time.
                middle = len(batch) // 2
                if not middle:
                    raise
                return await one(first, batch[:middle]) + await one(first + middle, batch[middle:])
            await self._check(response.space, collection)
            return rows(response.vectors)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(first, batch)) for first, batch in batches]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [row for task in tasks for row in task.result()]

    async def _embed(self, texts: Sequence[str], purpose: embedder_pb2.Purpose.ValueType) -> embedder_pb2.EmbedResponse:
        with errors_of("embedder"):
            return await self._stub.Embed(embedder_pb2.EmbedRequest(texts=texts, purpose=purpose))

    async def _check(self, served: EmbeddingSpace, collection: Collection) -> None:
        pair = (_key(collection.space), _key(served))
        if pair[0] == pair[1] or pair in self._same:
            return
        if served.dimension == collection.space.dimension and _key(current := await self.space()) == pair[1]:
            agreement = zip(rows(collection.space.probes), rows(current.probes), strict=False)
            cosines = [_dot(a, b) for a, b in agreement]
            if len(cosines) >= 3 and min(cosines) >= SAME_SPACE_COSINE:
                self._same.add(pair)
                return
        raise EmbeddingSpaceMismatch(
            f"The collection {collection.name} was made with the embedding model {collection.space.model} "
            f"({collection.space.dimension} dimensions), and the embedder serves {served.model} ({served.dimension}). "
            "Serve the collection's model again, or import into a new collection."
        )


def rows(vectors: Vectors) -> list[bytes]:
    """The packed vectors one by one."""
    size = 4 * vectors.dimension
    data = vectors.float32_le
    return [data[at : at + size] for at in range(0, len(data), size)] if size else []


def _dot(a: bytes, b: bytes) -> float:
    return sum(x * y for x, y in zip(_floats(a), _floats(b), strict=True))


def _floats(packed: bytes) -> array.array[float]:
    values = array.array("f", packed)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _key(space: EmbeddingSpace) -> tuple[str, str, int]:
    return space.model, space.digest, space.dimension


def _bytes(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)
