"""EmbedderService: requests ↔ the port, a screen per method."""

from __future__ import annotations

from typing import Any

from ragkeep.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from ragkeep.types.v1.types_pb2 import EmbeddingSpace, Model, Vectors
from ragkeep_embedder.embedder import PROBES, Embedder, ModelInfo, Purpose
from ragkeep_embedder.model_methods import ModelMethods
from ragkeep_embedder.vectors import packed
from ragkeep_runtime.errors import InvalidRequest, RequestTooLarge, TextInvalid
from ragkeep_runtime.gate import Gate

MAX_TEXTS, MAX_BYTES = 64, 1024 * 1024
_PURPOSES = {embedder_pb2.PURPOSE_QUERY: Purpose.QUERY, embedder_pb2.PURPOSE_DOCUMENT: Purpose.DOCUMENT}


class EmbedderService(ModelMethods, embedder_pb2_grpc.EmbedderServiceServicer):
    """Serves one embedder; the gate bounds how many requests it works on."""

    def __init__(self, embedder: Embedder, gate: Gate) -> None:
        self._embedder = embedder
        self._library = embedder.library()
        self._gate = gate
        self._probes: tuple[ModelInfo, bytes] | None = None

    async def Embed(self, request: embedder_pb2.EmbedRequest, context: Any) -> embedder_pb2.EmbedResponse:
        """Vectors of unit length, all or none."""
        purpose = _PURPOSES.get(request.purpose)
        if purpose is None:
            raise InvalidRequest("The purpose must be query or document.", field="purpose")
        _check(request.texts)
        async with self._gate:
            vectors = await self._embedder.embed(list(request.texts), purpose)
            model = await self._embedder.model()
        return embedder_pb2.EmbedResponse(
            vectors=Vectors(dimension=len(vectors[0]), float32_le=packed(vectors)), space=_space(model)
        )

    async def GetModel(self, request: embedder_pb2.GetModelRequest, context: Any) -> embedder_pb2.GetModelResponse:
        """The model, and its space with the probes' vectors."""
        model = await self._embedder.model()
        if self._probes is None or self._probes[0] != model:
            async with self._gate:
                self._probes = (model, packed(await self._embedder.embed(PROBES, Purpose.DOCUMENT)))
        space = _space(model)
        space.probes.CopyFrom(Vectors(dimension=model.dimension, float32_le=self._probes[1]))
        described = Model(engine=model.engine, name=model.name, digest=model.digest, context_tokens=model.context_tokens)
        return embedder_pb2.GetModelResponse(model=described, space=space)


def _check(texts: Any) -> None:
    if not texts:
        raise InvalidRequest("There is no text in the request.", field="texts")
    if len(texts) > MAX_TEXTS or sum(len(text.encode()) for text in texts) > MAX_BYTES:
        raise RequestTooLarge(f"A request holds at most {MAX_TEXTS} texts and {MAX_BYTES} bytes.", field="texts")
    for position, text in enumerate(texts):
        # Engines embed these without a word, or stop reading at them.
        if not text.strip():
            raise TextInvalid("The text is empty.", field=f"texts[{position}]")
        if "\0" in text:
            raise TextInvalid("The text holds a NUL character.", field=f"texts[{position}]")


def _space(model: ModelInfo) -> EmbeddingSpace:
    return EmbeddingSpace(model=model.name, digest=model.digest, dimension=model.dimension)
