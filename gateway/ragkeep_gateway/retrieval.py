"""From a question to numbered sources: embed where the mode needs it, then search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.retriever.v1 import retriever_pb2
from ragkeep.types.v1.types_pb2 import Collection, EmbeddingSpace, Filter, MinimumEvidence, Passage, Scope
from ragkeep_gateway.catalogue import Catalogue
from ragkeep_gateway.documents import plain
from ragkeep_gateway.embedding import Embedding
from ragkeep_gateway.evidence import Background, language_of, minimum_of, suffices
from ragkeep_runtime.channel import errors_of
from ragkeep_runtime.errors import InvalidRequest, LimitOutOfRange, QuestionEmpty, QuestionTooLong

if TYPE_CHECKING:
    from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub

MAX_QUESTION, MAX_LIMIT = 8000, 1000


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


class Retrieval:
    """Finds sources for one tenant."""

    def __init__(
        self, catalogue: Catalogue, embedding: Embedding, retriever: RetrieverServiceAsyncStub, default_limit: int
    ) -> None:
        self._catalogue = catalogue
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

    async def sources(self, tenant: str, wanted: Wanted) -> list[gateway_pb2.Source]:
        """Numbered sources, best first."""
        collection = await self._prepare(wanted)
        return _numbered(await self._search(tenant, collection, wanted), collection)

    async def sources_that_suffice(self, tenant: str, wanted: Wanted) -> gateway_pb2.Sources:
        """As `sources`, with the evidence; no source where the scores say that nothing of it fits the question."""
        collection = await self._prepare(wanted)
        response = await self._search(tenant, collection, wanted)
        evidence = _evidence(response.evidence, minimum_of(collection.minimum_evidence, wanted.minimum_evidence))
        if response.passages and response.evidence.HasField("best_cosine"):

            async def probe(text: str) -> float | None:
                one = Wanted(wanted.collection, text, wanted.field, None, 1, gateway_pb2.SEARCH_MODE_VECTOR)
                found = await self._search(tenant, collection, one)
                return found.evidence.best_cosine if found.evidence.HasField("best_cosine") else None

            key = (tenant, collection.name, language_of(wanted.text))
            background = await self._background.get(key, probe)
            if background is not None:
                evidence.background = background
            evidence.suffices = suffices(response.evidence, background, evidence.minimum)
        evidence.suffices &= bool(response.passages)
        return gateway_pb2.Sources(sources=_numbered(response, collection) if evidence.suffices else [], evidence=evidence)

    async def _prepare(self, wanted: Wanted) -> Collection:
        self.check(wanted)
        return await self._catalogue.get(wanted.collection)

    async def _search(self, tenant: str, collection: Collection, wanted: Wanted) -> retriever_pb2.SearchResponse:
        request = retriever_pb2.SearchRequest(
            scope=Scope(tenant=tenant, every_document=True),
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
            vector = retriever_pb2.VectorQuery(space=space, vector=await self._embedding.question(wanted.text, collection))
            if wanted.mode == gateway_pb2.SEARCH_MODE_VECTOR:
                request.vector.CopyFrom(vector)
            else:
                request.hybrid.CopyFrom(retriever_pb2.HybridQuery(vector=vector, keyword=keyword, alpha=wanted.alpha))
        with errors_of("retriever"):
            return await self._retriever.Search(request)


def _evidence(found: retriever_pb2.Evidence, minimum: MinimumEvidence) -> gateway_pb2.Evidence:
    return gateway_pb2.Evidence(
        suffices=True,
        coverage=found.coverage,
        best_cosine=found.best_cosine if found.HasField("best_cosine") else None,
        minimum=minimum,
        tokens=found.tokens,
        missing=found.missing,
    )


def _numbered(response: retriever_pb2.SearchResponse, collection: Collection) -> list[gateway_pb2.Source]:
    return [
        gateway_pb2.Source(number=number, title=_title(passage, collection.title_field), passage=passage)
        for number, passage in enumerate(response.passages, 1)
    ]


def _title(passage: Passage, field: str) -> str:
    fields = passage.fields
    return str(plain(fields[field])) if field and field in fields else ""
