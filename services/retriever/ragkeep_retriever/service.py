"""RetrieverService: requests ↔ the port, a screen per method."""

from __future__ import annotations

import math
from typing import Any

from ragkeep.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from ragkeep.types.v1.types_pb2 import Outcome, OutcomeKind
from ragkeep_retriever.convert import passage_message, scope_of, sealed_of, space_of, value_of, vectors_of
from ragkeep_retriever.definitions import collection_message, collection_of
from ragkeep_retriever.document_methods import DocumentMethods
from ragkeep_retriever.filters import filter_of
from ragkeep_retriever.store import PassageStore
from ragkeep_retriever.tenant_methods import TenantMethods
from ragkeep_retriever.values import Chunk, Collection, Put, Query, StoredDocument
from ragkeep_runtime.errors import (
    CollectionChanged,
    EmbeddingSpaceMismatch,
    InvalidRequest,
    LimitOutOfRange,
    QuestionEmpty,
    QuestionTooLong,
    RequestTooLarge,
)
from ragkeep_runtime.telemetry import span

MAX_LIMIT, DEFAULT_LIMIT, DEFAULT_ALPHA = 1000, 5, 0.6
MAX_IDS, MAX_DOCUMENTS, MAX_PUT_BYTES, MAX_CHUNKS, MAX_QUESTION = 1000, 100, 32 * 1024 * 1024, 10_000, 8000
# A question of 8,000 characters has thousands of tokens; nobody reads them.
MAX_TOKENS_TOLD = 256
_KINDS = {
    Put.CREATED: OutcomeKind.OUTCOME_KIND_CREATED,
    Put.UNCHANGED: OutcomeKind.OUTCOME_KIND_UNCHANGED,
    Put.UPDATED: OutcomeKind.OUTCOME_KIND_UPDATED,
}


class RetrieverService(DocumentMethods, TenantMethods, retriever_pb2_grpc.RetrieverServiceServicer):
    """Serves one store."""

    def __init__(self, store: PassageStore) -> None:
        self._store = store

    async def CreateCollection(
        self, request: retriever_pb2.CreateCollectionRequest, context: Any
    ) -> retriever_pb2.CreateCollectionResponse:
        """Makes it, or returns the equal one that is there."""
        wanted = collection_of(request.collection)
        if not 1 <= wanted.space.dimension <= 16_384 or not wanted.space.model:
            raise InvalidRequest("The collection needs an embedding space.", field="collection.space")
        stored = await self._store.create_collection(wanted)
        return retriever_pb2.CreateCollectionResponse(collection=collection_message(stored))

    async def GetCollection(
        self, request: retriever_pb2.GetCollectionRequest, context: Any
    ) -> retriever_pb2.GetCollectionResponse:
        """A definition."""
        found = await self._store.collection(request.name)
        return retriever_pb2.GetCollectionResponse(collection=collection_message(found))

    async def UpdateCollection(
        self, request: retriever_pb2.UpdateCollectionRequest, context: Any
    ) -> retriever_pb2.UpdateCollectionResponse:
        """Another definition, where it can have that."""
        change = await self._store.update_collection(collection_of(request.collection))
        return retriever_pb2.UpdateCollectionResponse(
            collection=collection_message(change.collection), import_again=change.import_again
        )

    async def DeleteCollection(
        self, request: retriever_pb2.DeleteCollectionRequest, context: Any
    ) -> retriever_pb2.DeleteCollectionResponse:
        """Only where nobody has a document in it."""
        await self._store.delete_collection(request.name)
        return retriever_pb2.DeleteCollectionResponse()

    async def ListCollections(
        self, request: retriever_pb2.ListCollectionsRequest, context: Any
    ) -> retriever_pb2.ListCollectionsResponse:
        """All definitions, with the documents counted that the scope sees."""
        found = await self._store.collections(scope_of(request.scope))
        return retriever_pb2.ListCollectionsResponse(
            collections=[
                retriever_pb2.CollectionSummary(collection=collection_message(collection), documents=count)
                for collection, count in found
            ]
        )

    async def GetVersions(self, request: retriever_pb2.GetVersionsRequest, context: Any) -> retriever_pb2.GetVersionsResponse:
        """Which documents are there, whole."""
        scope = scope_of(request.scope)
        if not 1 <= len(request.document_ids) <= MAX_IDS:
            raise RequestTooLarge(f"A request asks for 1 to {MAX_IDS} documents.", field="document_ids")
        collection = await self._store.collection(request.collection)
        with span("store.versions", {"ragkeep.documents": len(request.document_ids)}):
            found = await self._store.versions(scope, request.collection, list(request.document_ids))
        return retriever_pb2.GetVersionsResponse(
            versions=found.seen, collection_revision=collection.revision, hidden_ids=sorted(found.hidden)
        )

    async def PutDocuments(
        self, request: retriever_pb2.PutDocumentsRequest, context: Any
    ) -> retriever_pb2.PutDocumentsResponse:
        """Each document whole, or not at all."""
        scope = scope_of(request.scope)
        if not 1 <= len(request.documents) <= MAX_DOCUMENTS or request.ByteSize() > MAX_PUT_BYTES:
            raise RequestTooLarge(f"A request puts 1 to {MAX_DOCUMENTS} documents, {MAX_PUT_BYTES} bytes.", field="documents")
        collection = await self._store.collection(request.collection)
        if collection.revision != request.collection_revision:
            raise CollectionChanged(f"The collection {collection.name} was changed meanwhile; read it again.")
        _check_space(request.space, collection)
        documents = [_document(message, collection) for message in request.documents]
        if len({document.id for document in documents}) != len(documents):
            raise InvalidRequest("Each document id may stand in a request once.", field="documents")
        with span("store.put", {"ragkeep.documents": len(documents)}):
            puts = await self._store.put(scope, collection, documents, record=request.record_digest)
        outcomes = [
            _outcome(position, document, put) for position, (document, put) in enumerate(zip(documents, puts, strict=True))
        ]
        return retriever_pb2.PutDocumentsResponse(outcomes=outcomes)

    async def Search(self, request: retriever_pb2.SearchRequest, context: Any) -> retriever_pb2.SearchResponse:
        """Passages, best first, and what their scores tell."""
        scope = scope_of(request.scope)
        collection = await self._store.collection(request.collection)
        query = _query(request, collection)
        with span("store.search", {"ragkeep.mode": str(request.WhichOneof("mode")), "ragkeep.limit": query.limit}):
            found = await self._store.search(scope, collection, query)
        return retriever_pb2.SearchResponse(
            passages=[passage_message(hit, collection) for hit in found.hits],
            evidence=retriever_pb2.Evidence(
                coverage=found.coverage,
                best_cosine=found.best_cosine,
                tokens=found.tokens[:MAX_TOKENS_TOLD],
                missing=found.missing[:MAX_TOKENS_TOLD],
            ),
        )


def _outcome(position: int, document: StoredDocument, put: Put) -> Outcome:
    if put is not Put.HIDDEN:
        return Outcome(position=position, document_id=document.id, kind=_KINDS[put])
    return Outcome(
        position=position,
        document_id=document.id,
        kind=OutcomeKind.OUTCOME_KIND_REJECTED,
        reason="DOCUMENT_HIDDEN",
        message="The id is taken by a document that the caller does not see, or the caller would not see this one.",
    )


def _query(request: retriever_pb2.SearchRequest, collection: Collection) -> Query:
    limit = request.limit if request.HasField("limit") else DEFAULT_LIMIT
    if not 1 <= limit <= MAX_LIMIT:
        raise LimitOutOfRange(f"The limit is {limit}; it must be 1 to {MAX_LIMIT}.", field="limit")
    minimum = request.minimum_cosine if request.HasField("minimum_cosine") else None
    if minimum is not None and not -1 <= minimum <= 1:
        raise InvalidRequest("minimum_cosine must be -1 to 1.", field="minimum_cosine")
    mode = request.WhichOneof("mode")
    if mode is None:
        raise InvalidRequest("The request must say how to search: vector, keyword or hybrid.", field="mode")
    vector_query = {"vector": request.vector, "hybrid": request.hybrid.vector}.get(mode)
    keyword_query = {"keyword": request.keyword, "hybrid": request.hybrid.keyword}.get(mode)
    alpha = request.hybrid.alpha if request.hybrid.HasField("alpha") else DEFAULT_ALPHA
    if not 0 <= alpha <= 1:
        raise InvalidRequest("alpha must be 0 to 1.", field="hybrid.alpha")
    return Query(
        text=_text(keyword_query) if keyword_query is not None else None,
        vector=_vector(vector_query, collection) if vector_query is not None else None,
        alpha=alpha,
        filter=filter_of(request.filter, collection) if request.HasField("filter") else None,
        limit=limit,
        minimum_cosine=minimum,
        passages_per_document=request.passages_per_document,
        explain=request.explain,
    )


def _text(query: retriever_pb2.KeywordQuery) -> str:
    if not query.text.strip():
        raise QuestionEmpty("The text to search for is empty.", field="keyword.text")
    if len(query.text) > MAX_QUESTION:
        raise QuestionTooLong(f"The text to search for has over {MAX_QUESTION} characters.", field="keyword.text")
    return query.text


def _vector(query: retriever_pb2.VectorQuery, collection: Collection) -> Any:
    _check_space(query.space, collection)
    vector = vectors_of(query.vector, 1, collection.space.dimension)[0]
    _check_finite(vector)
    return vector


def _check_space(message: Any, collection: Collection) -> None:
    given, own = space_of(message), collection.space
    if not own.same_as(given):
        raise EmbeddingSpaceMismatch(
            f"The collection {collection.name} was made with the embedding model {own.model} ({own.dimension} dimensions), "
            f"and the vectors are of {given.model or 'no model'} ({given.dimension})."
        )


def _check_finite(vector: Any) -> None:
    if not math.isfinite(sum(vector)):
        raise InvalidRequest("A vector holds a number that is not finite.", field="vectors")


def _document(message: retriever_pb2.ChunkedDocument, collection: Collection) -> StoredDocument:
    document = message.document
    if not 1 <= len(document.id) <= 256:
        raise InvalidRequest("A document's id has 1 to 256 characters.", field="documents")
    if len(message.version) != 32 or not 1 <= len(message.chunks) <= MAX_CHUNKS:
        raise InvalidRequest(f"A document has a version of 32 bytes and 1 to {MAX_CHUNKS} chunks.", field="documents")
    if "*" in document.groups:
        raise InvalidRequest("The group * is reserved.", field="documents")
    vectors = vectors_of(message.vectors, len(message.chunks), collection.space.dimension)
    for vector in vectors:
        _check_finite(vector)
    in_the_open = {field.name for field in collection.fields if not field.sealed}
    to_be_sealed = {field.name for field in collection.fields if field.sealed}
    # A value of a sealed field that is not sealed never gets to a disk.
    if any((value.WhichOneof("kind") == "sealed") != (name in to_be_sealed) for name, value in document.fields.items()):
        raise InvalidRequest("The values of sealed fields, and no others, must come sealed.", field="documents")
    return StoredDocument(
        id=document.id,
        version=message.version,
        fields={name: value_of(value) for name, value in document.fields.items() if name in in_the_open},
        sealed={name: sealed_of(value.sealed) for name, value in document.fields.items() if name in to_be_sealed},
        groups=tuple(document.groups),
        chunks=[Chunk(text, vector) for text, vector in zip(message.chunks, vectors, strict=True)],
    )
