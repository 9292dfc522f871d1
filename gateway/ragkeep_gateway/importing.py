"""Import: check → leave out what is there unchanged → chunk → embed → store. Each document has its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ragkeep.retriever.v1 import retriever_pb2
from ragkeep.types.v1.types_pb2 import Collection, Document, EmbeddingSpace, Outcome, OutcomeKind, Scope, Vectors
from ragkeep_gateway.catalogue import Catalogue
from ragkeep_gateway.chunking import Sizes, chunks
from ragkeep_gateway.documents import Prepared, prepare
from ragkeep_gateway.embedding import Embedding
from ragkeep_runtime.channel import errors_of
from ragkeep_runtime.errors import CollectionChanged, DocumentRejected, TextTooLong
from ragkeep_runtime.logs import get_logger

if TYPE_CHECKING:
    from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub

log = get_logger()
# PutDocuments takes 32 MiB; a little is left for what lies around the documents.
_PUT_BYTES = 30 * 1024 * 1024
_MAX_CHUNKS = 10_000


class Importer:
    """Imports a request's documents for one tenant."""

    def __init__(self, catalogue: Catalogue, embedding: Embedding, retriever: RetrieverServiceAsyncStub) -> None:
        self._catalogue = catalogue
        self._embedding = embedding
        self._retriever = retriever

    async def run(
        self, tenant: str, collection_name: str, documents: Sequence[Document], *, dry_run: bool = False
    ) -> list[Outcome]:
        """An outcome for each document, in order. With `dry_run` it is what would become of it, and nothing is done."""
        if dry_run:
            return await self._dry_run(tenant, collection_name, documents)
        try:
            return await self._run(tenant, collection_name, documents)
        except CollectionChanged:
            # Its definition is newer than the one kept here: once more, with the new one.
            self._catalogue.forget(collection_name)
            return await self._run(tenant, collection_name, documents)

    async def _run(self, tenant: str, collection_name: str, documents: Sequence[Document]) -> list[Outcome]:
        collection = await self._catalogue.get_or_make(collection_name)
        scope = Scope(tenant=tenant, every_document=True)
        outcomes: dict[int, Outcome] = {}
        # Off the event loop: a hundred long documents take a while to check, render and hash.
        prepared = await asyncio.to_thread(_prepare_all, documents, collection, outcomes)
        stored = await self._versions(scope, collection, prepared)
        changed = []
        for item in prepared:
            if stored.get(item.document.id) == item.version:
                outcomes[item.position] = _outcome(item, OutcomeKind.OUTCOME_KIND_UNCHANGED)
            else:
                changed.append(item)
        if changed:
            await self._store(scope, collection, changed, outcomes)
        _settle_twins(documents, outcomes)
        log.info("documents_imported", collection=collection.name, count=len(documents), changed=len(changed))
        return [outcomes[position] for position in range(len(documents))]

    async def _dry_run(self, tenant: str, collection_name: str, documents: Sequence[Document]) -> list[Outcome]:
        collection, there = await self._catalogue.get_or_imagine(collection_name)
        await self._embedding.check(collection)
        outcomes: dict[int, Outcome] = {}
        prepared = await asyncio.to_thread(_prepare_all, documents, collection, outcomes)
        scope = Scope(tenant=tenant, every_document=True)
        stored = await self._versions(scope, collection, prepared) if there else {}
        changed = [item for item in prepared if stored.get(item.document.id) != item.version]
        fitting = {item.position for item, _ in await _chunked(changed, collection, outcomes)}
        for item in prepared:
            if item.position in fitting:
                known = item.document.id in stored
                outcomes[item.position] = _outcome(
                    item, OutcomeKind.OUTCOME_KIND_UPDATED if known else OutcomeKind.OUTCOME_KIND_CREATED
                )
            elif item.position not in outcomes:
                outcomes[item.position] = _outcome(item, OutcomeKind.OUTCOME_KIND_UNCHANGED)
        _settle_twins(documents, outcomes)
        log.info("documents_checked", collection=collection.name, count=len(documents), changed=len(changed))
        return [outcomes[position] for position in range(len(documents))]

    async def _versions(self, scope: Scope, collection: Collection, prepared: Sequence[Prepared]) -> dict[str, bytes]:
        if not prepared:
            return {}
        request = retriever_pb2.GetVersionsRequest(
            scope=scope, collection=collection.name, document_ids=[item.document.id for item in prepared]
        )
        with errors_of("retriever"):
            response = await self._retriever.GetVersions(request)
        return dict(response.versions)

    async def _store(self, scope: Scope, collection: Collection, changed: list[Prepared], outcomes: dict[int, Outcome]) -> None:
        work = await _chunked(changed, collection, outcomes)
        vectors = await self._embed(collection, work, outcomes)
        batch: list[tuple[Prepared, retriever_pb2.ChunkedDocument]] = []
        size = 0
        for item, pieces in work:
            if item.position in outcomes:
                continue
            packed = b"".join(vectors[item.position])
            chunked = retriever_pb2.ChunkedDocument(
                document=item.document,
                version=item.version,
                chunks=pieces,
                vectors=Vectors(dimension=collection.space.dimension, float32_le=packed),
            )
            if batch and size + chunked.ByteSize() > _PUT_BYTES:
                await self._put(scope, collection, batch, outcomes)
                batch, size = [], 0
            batch.append((item, chunked))
            size += chunked.ByteSize()
        if batch:
            await self._put(scope, collection, batch, outcomes)

    async def _embed(
        self, collection: Collection, work: list[tuple[Prepared, list[str]]], outcomes: dict[int, Outcome]
    ) -> dict[int, list[bytes]]:
        """Vectors by document position. A document with a text that does not fit is rejected; the others go on."""
        left = list(work)
        while left:
            owners = [item for item, pieces in left for _ in pieces]
            try:
                found = await self._embedding.chunks([text for _, pieces in left for text in pieces], collection)
            except TextTooLong as error:
                item = owners[int(error.metadata["position"])]
                message = f"{error.message} Make the collection's chunks smaller."
                outcomes[item.position] = _rejected(item.position, item.document.id, error.reason, message)
                left = [(other, pieces) for other, pieces in left if other is not item]
                continue
            vectors: dict[int, list[bytes]] = {}
            for owner, vector in zip(owners, found, strict=True):
                vectors.setdefault(owner.position, []).append(vector)
            return vectors
        return {}

    async def _put(
        self,
        scope: Scope,
        collection: Collection,
        batch: list[tuple[Prepared, retriever_pb2.ChunkedDocument]],
        outcomes: dict[int, Outcome],
    ) -> None:
        space = EmbeddingSpace(
            model=collection.space.model, digest=collection.space.digest, dimension=collection.space.dimension
        )
        request = retriever_pb2.PutDocumentsRequest(
            scope=scope,
            collection=collection.name,
            collection_revision=collection.revision,
            space=space,
            documents=[chunked for _, chunked in batch],
        )
        with errors_of("retriever"):
            response = await self._retriever.PutDocuments(request)
        for (item, _), outcome in zip(batch, response.outcomes, strict=True):
            outcome.position = item.position
            outcomes[item.position] = outcome


async def _chunked(
    changed: list[Prepared], collection: Collection, outcomes: dict[int, Outcome]
) -> list[tuple[Prepared, list[str]]]:
    """Those that have a number of chunks that a document may have, with them; the others get their outcome."""
    sizes = Sizes(collection.chunking.cjk_characters or 350, collection.chunking.latin_characters or 1000)
    texts = await asyncio.to_thread(lambda: [chunks(item.content, sizes) for item in changed])
    work = []
    for item, pieces in zip(changed, texts, strict=True):
        if len(pieces) > _MAX_CHUNKS:
            outcomes[item.position] = _rejected(
                item.position, item.document.id, "DOCUMENT_TOO_LARGE", f"The document has more than {_MAX_CHUNKS} chunks."
            )
        else:
            work.append((item, pieces))
    return work


def _prepare_all(documents: Sequence[Document], collection: Collection, outcomes: dict[int, Outcome]) -> list[Prepared]:
    """Those that may be stored, each id once; the others get their outcome."""
    first: dict[str, Prepared] = {}
    for position, document in enumerate(documents):
        try:
            item = prepare(position, document, collection)
        except DocumentRejected as error:
            outcomes[position] = _rejected(position, document.id, error.reason, error.message)
            continue
        twin = first.setdefault(document.id, item)
        if twin is not item and twin.version != item.version:
            message = f"The id {document.id} came before in this request with other content; the first one is taken."
            outcomes[position] = _rejected(position, document.id, "DUPLICATE_ID", message)
    return list(first.values())


def _settle_twins(documents: Sequence[Document], outcomes: dict[int, Outcome]) -> None:
    """An exact repetition of a document inside the request: unchanged, or rejected as its first one was."""
    first: dict[str, int] = {}
    for position, document in enumerate(documents):
        origin = first.setdefault(document.id, position)
        if position in outcomes:
            continue
        rejected = outcomes[origin].kind == OutcomeKind.OUTCOME_KIND_REJECTED
        outcome = Outcome(position=position, document_id=document.id, kind=OutcomeKind.OUTCOME_KIND_UNCHANGED)
        if rejected:
            outcome.CopyFrom(outcomes[origin])
            outcome.position = position
        outcomes[position] = outcome


def _outcome(item: Prepared, kind: OutcomeKind.ValueType) -> Outcome:
    return Outcome(position=item.position, document_id=item.document.id, kind=kind)


def _rejected(position: int, document_id: str, reason: str, message: str) -> Outcome:
    return Outcome(
        position=position,
        document_id=document_id[:256],
        kind=OutcomeKind.OUTCOME_KIND_REJECTED,
        reason=reason,
        message=message,
    )
