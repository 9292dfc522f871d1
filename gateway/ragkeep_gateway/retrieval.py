"""From a question to numbered sources: embed where the mode needs it, then search."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.retriever.v1 import retriever_pb2
from ragkeep.types.v1.types_pb2 import Collection, EmbeddingSpace, Filter, MinimumEvidence, Passage, Vectors
from ragkeep_gateway.catalogue import Catalogue
from ragkeep_gateway.embedding import Embedding
from ragkeep_gateway.evidence import Background, language_of, minimum_of, suffices
from ragkeep_gateway.presets import SERVICE_TICKETS
from ragkeep_gateway.scope import scope
from ragkeep_gateway.sealing.fields import SealedFields
from ragkeep_gateway.values import plain
from ragkeep_runtime.channel import errors_of
from ragkeep_runtime.errors import InvalidRequest, LimitOutOfRange, QuestionEmpty, QuestionTooLong, RagkeepError, TextTooLong

if TYPE_CHECKING:
    from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub

MAX_QUESTION, MAX_LIMIT = 8000, 1000
# Searches of a batch that are under way together.
_AT_ONCE = 4
# What a request can be refused for, as against what any request would meet.
_ABOUT_ONE = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller wants found; None is the default."""

    collection: str
    text: str
    field: str  # the request's field that holds the text, for errors
    filter: Filter | None
    limit: int | None
    mode: gateway_pb2.SearchMode.ValueType
    alpha: float | None = None
    minimum_cosine: float | None = None
    passages_per_document: int = 0  # 0: any number
    explain: bool = False
    minimum_evidence: MinimumEvidence | None = None


def wanted_of(
    request: gateway_pb2.AskRequest | gateway_pb2.SearchRequest,
    text: str,
    field: str,
    minimum_evidence: MinimumEvidence | None = None,
) -> Wanted:
    """What both kinds of request say in the same words."""
    return Wanted(
        collection=request.collection or SERVICE_TICKETS,
        text=text,
        field=field,
        filter=request.filter if request.HasField("filter") else None,
        limit=request.limit if request.HasField("limit") else None,
        mode=request.mode,
        alpha=request.alpha if request.HasField("alpha") else None,
        minimum_cosine=request.minimum_cosine if request.HasField("minimum_cosine") else None,
        passages_per_document=request.passages_per_document,
        explain=request.explain,
        minimum_evidence=minimum_evidence,
    )


class Retrieval:
    """Finds sources for the caller of the call being served."""

    def __init__(
        self,
        catalogue: Catalogue,
        embedding: Embedding,
        retriever: RetrieverServiceAsyncStub,
        sealed_fields: SealedFields,
        default_limit: int,
    ) -> None:
        self._catalogue = catalogue
        self._sealed_fields = sealed_fields
        self._embedding = embedding
        self._retriever = retriever
        self._default_limit = default_limit
        self._background = Background()

    def check(self, wanted: Wanted) -> None:
        """Raises QuestionEmpty, QuestionTooLong, LimitOutOfRange or InvalidRequest; asks nobody."""
        if not wanted.text.strip():
            raise QuestionEmpty("The question is empty.", field=wanted.field)
        if len(wanted.text) > MAX_QUESTION:
            raise QuestionTooLong(
                f"The question has {len(wanted.text)} characters; at most {MAX_QUESTION} are taken.", field=wanted.field
            )
        if "\0" in wanted.text:
            raise InvalidRequest("The question holds a NUL character.", field=wanted.field)
        if wanted.limit is not None and not 1 <= wanted.limit <= MAX_LIMIT:
            raise LimitOutOfRange(f"The limit is {wanted.limit}; it must be 1 to {MAX_LIMIT}.", field="limit")
        if wanted.alpha is not None and not 0 <= wanted.alpha <= 1:
            raise InvalidRequest("alpha must be 0 to 1.", field="alpha")
        if wanted.minimum_cosine is not None and not -1 <= wanted.minimum_cosine <= 1:
            raise InvalidRequest("minimum_cosine must be -1 to 1.", field="minimum_cosine")
        minimum_of(wanted.minimum_evidence)

    async def sources(self, wanted: Wanted) -> list[gateway_pb2.Source]:
        """Numbered sources, best first."""
        collection = await self._prepare(wanted)
        return _numbered(await self._search(collection, wanted), collection)

    async def batch(self, wanted: Sequence[Wanted]) -> list[list[gateway_pb2.Source] | RagkeepError]:
        """As `sources` for each, a few at a time; what is wrong with one search is its own result.

        Texts for the same collection are embedded together. Raises what is nobody's fault, such as EngineUnreachable.
        """
        results: dict[int, list[gateway_pb2.Source] | RagkeepError] = {}
        collections: dict[int, Collection] = {}
        by_collection: dict[str, list[int]] = {}
        for position, one in enumerate(wanted):
            try:
                collections[position] = await self._prepare(one)
            except RagkeepError as error:
                results[position] = _of_one(error)
                continue
            if one.mode != gateway_pb2.SEARCH_MODE_KEYWORD:
                by_collection.setdefault(one.collection, []).append(position)
        vectors: dict[int, Vectors] = {}
        for positions in by_collection.values():
            texts = [wanted[position].text for position in positions]
            try:
                found = await self._embedding.questions(texts, collections[positions[0]])
                vectors |= zip(positions, found, strict=True)
            except TextTooLong:
                pass  # one of them: each is embedded with its own search
        slots = asyncio.Semaphore(_AT_ONCE)

        async def run(position: int) -> list[gateway_pb2.Source] | RagkeepError:
            collection = collections[position]
            async with slots:
                try:
                    response = await self._search(collection, wanted[position], vectors.get(position))
                except RagkeepError as error:
                    return _of_one(error)
            return _numbered(response, collection)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = {position: group.create_task(run(position)) for position in collections}
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        results |= {position: task.result() for position, task in tasks.items()}
        return [results[position] for position in range(len(wanted))]

    async def sources_that_suffice(self, wanted: Wanted) -> gateway_pb2.Sources:
        """As `sources`, with the evidence; no source where the scores say that nothing of it fits the question."""
        collection = await self._prepare(wanted)
        response = await self._search(collection, wanted)
        evidence = _evidence(response.evidence, minimum_of(collection.minimum_evidence, wanted.minimum_evidence))
        if response.passages and response.evidence.HasField("best_cosine"):

            async def probe(text: str) -> float | None:
                one = Wanted(wanted.collection, text, wanted.field, None, 1, gateway_pb2.SEARCH_MODE_VECTOR)
                found = await self._search(collection, one)
                return found.evidence.best_cosine if found.evidence.HasField("best_cosine") else None

            # By who sees what: documents that the caller does not see must not move what its answers are judged by.
            key = (scope().SerializeToString(deterministic=True), collection.name, language_of(wanted.text))
            background = await self._background.get(key, probe)
            if background is not None:
                evidence.background = background
            evidence.suffices = suffices(response.evidence, background, evidence.minimum)
        evidence.suffices &= bool(response.passages)
        return gateway_pb2.Sources(sources=_numbered(response, collection) if evidence.suffices else [], evidence=evidence)

    async def _prepare(self, wanted: Wanted) -> Collection:
        self.check(wanted)
        return await self._catalogue.get(wanted.collection)

    async def _search(
        self, collection: Collection, wanted: Wanted, known: Vectors | None = None
    ) -> retriever_pb2.SearchResponse:
        request = retriever_pb2.SearchRequest(
            scope=scope(),
            collection=collection.name,
            filter=wanted.filter,
            limit=self._default_limit if wanted.limit is None else wanted.limit,
            minimum_cosine=wanted.minimum_cosine,
            passages_per_document=wanted.passages_per_document,
            explain=wanted.explain,
        )
        keyword = retriever_pb2.KeywordQuery(text=wanted.text)
        if wanted.mode == gateway_pb2.SEARCH_MODE_KEYWORD:
            request.keyword.CopyFrom(keyword)
        else:
            space = EmbeddingSpace(
                model=collection.space.model, digest=collection.space.digest, dimension=collection.space.dimension
            )
            embedded = known or await self._embedding.question(wanted.text, collection)
            vector = retriever_pb2.VectorQuery(space=space, vector=embedded)
            if wanted.mode == gateway_pb2.SEARCH_MODE_VECTOR:
                request.vector.CopyFrom(vector)
            else:
                request.hybrid.CopyFrom(retriever_pb2.HybridQuery(vector=vector, keyword=keyword, alpha=wanted.alpha))
        with errors_of("retriever"):
            response = await self._retriever.Search(request)
        # Here, where every search comes through: no way out passes by it.
        found = [(passage.document_id, passage.fields) for passage in response.passages]
        await self._sealed_fields.show(collection.name, found)
        return response


def _evidence(found: retriever_pb2.Evidence, minimum: MinimumEvidence) -> gateway_pb2.Evidence:
    return gateway_pb2.Evidence(
        suffices=True,
        coverage=found.coverage,
        best_cosine=found.best_cosine if found.HasField("best_cosine") else None,
        minimum=minimum,
        tokens=found.tokens,
        missing=found.missing,
    )


def _of_one(error: RagkeepError) -> RagkeepError:
    """The error where it is about one search alone; raises one that is about all."""
    if error.code in _ABOUT_ONE:
        return error
    raise error


def _numbered(response: retriever_pb2.SearchResponse, collection: Collection) -> list[gateway_pb2.Source]:
    return [
        gateway_pb2.Source(number=number, title=_title(passage, collection.title_field), passage=passage)
        for number, passage in enumerate(response.passages, 1)
    ]


def _title(passage: Passage, field: str) -> str:
    fields = passage.fields
    return str(plain(fields[field])) if field and field in fields else ""
