"""Import: check → leave out what is there unchanged → chunk → embed → store. Each document has its own outcome."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragkeep.retriever.v1 import retriever_pb2
from ragkeep.types.v1.types_pb2 import Collection, Document, EmbeddingSpace, Outcome, OutcomeKind, Scope, Vectors
from ragkeep_gateway.catalogue import Catalogue
from ragkeep_gateway.chunking import Sizes, chunks
from ragkeep_gateway.document_quota import DocumentQuota
from ragkeep_gateway.documents import NO_MARK, Prepared, prepare
from ragkeep_gateway.embedding import Embedding
from ragkeep_gateway.quotas import DOCUMENTS, QuotaKeeper, count_refused
from ragkeep_gateway.scope import scope
from ragkeep_gateway.sealing.fields import SealedFields, Whole, sealed_names
from ragkeep_gateway.sealing.sealer import TenantSealer
from ragkeep_gateway.tenants import Tenants
from ragkeep_runtime.call import call
from ragkeep_runtime.channel import errors_of
from ragkeep_runtime.errors import CollectionChanged, DocumentRejected, TextTooLong
from ragkeep_runtime.logs import get_logger

if TYPE_CHECKING:
    from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub

log = get_logger()
# PutDocuments takes 32 MiB; a little is left for what lies around the documents.
_PUT_BYTES = 30 * 1024 * 1024
_MAX_CHUNKS = 10_000


@dataclass(frozen=True, slots=True)
class _Into:
    """Where documents are stored."""

    scope: Scope
    collection: Collection
    sealer: TenantSealer | None
    record_digest: bytes  # of the tenant's record


class Importer:
    """Imports a request's documents for the caller of the call being served."""

    def __init__(
        self,
        catalogue: Catalogue,
        embedding: Embedding,
        retriever: RetrieverServiceAsyncStub,
        tenants: Tenants,
        quotas: QuotaKeeper,
        sealed_fields: SealedFields,
    ) -> None:
        self._catalogue = catalogue
        self._sealed_fields = sealed_fields
        self._embedding = embedding
        self._retriever = retriever
        self._tenants = tenants
        self._quotas = quotas
        self._document_quota = DocumentQuota()

    async def run(self, collection_name: str, documents: Sequence[Document], *, dry_run: bool = False) -> list[Outcome]:
        """An outcome for each document, in order. With `dry_run` it is what would become of it, and nothing is done."""
        if dry_run:
            return await self._dry_run(collection_name, documents)
        # Of the tenant that there is now, to the end: not of one that is made under its name meanwhile.
        record = await self._tenants.now(scope().tenant)
        try:
            return await self._run(collection_name, documents, record)
        except CollectionChanged:
            # Its definition is newer than the one kept here: once more, with the new one.
            self._catalogue.forget(collection_name)
            return await self._run(collection_name, documents, record)

    async def _run(
        self, collection_name: str, documents: Sequence[Document], record: retriever_pb2.TenantRecord | None
    ) -> list[Outcome]:
        sees = scope()
        collection = await self._catalogue.get_or_make(collection_name)
        if record is None and sealed_names(collection):
            self._sealed_fields.check(collection)
            record, _ = await self._tenants.make(sees.tenant)
        sealer = self._sealed_fields.sealer(sees.tenant, collection, record)
        outcomes: dict[int, Outcome] = {}
        prepared = await self._prepared(sees, collection, sealer, documents, outcomes)
        stored = await self._versions(sees, collection, prepared, outcomes)
        changed = []
        for item in prepared:
            if item.position in outcomes:
                continue
            if stored.get(item.document.id) == item.version:
                outcomes[item.position] = _outcome(item, OutcomeKind.OUTCOME_KIND_UNCHANGED)
            else:
                changed.append(item)
        if changed:
            if record is None:
                record, _ = await self._tenants.make(sees.tenant)
            await self._store(_Into(sees, collection, sealer, hashlib.sha256(record.salt).digest()), changed, outcomes)
        _settle_twins(documents, outcomes)
        log.info("documents_imported", collection=collection.name, count=len(documents), changed=len(changed))
        return [outcomes[position] for position in range(len(documents))]

    async def _dry_run(self, collection_name: str, documents: Sequence[Document]) -> list[Outcome]:
        sees = scope()
        collection, there = await self._catalogue.get_or_imagine(collection_name)
        await self._embedding.check(collection)
        sealer = self._sealed_fields.sealer(sees.tenant, collection, await self._tenants.now(sees.tenant))
        outcomes: dict[int, Outcome] = {}
        prepared = await self._prepared(sees, collection, sealer, documents, outcomes)
        _reject_hidden(sees, prepared, frozenset(), outcomes)
        stored = await self._versions(sees, collection, prepared, outcomes) if there else {}
        changed = [item for item in prepared if item.position not in outcomes and stored.get(item.document.id) != item.version]
        work = await _chunked(changed, collection, outcomes)
        await self._foresee_quota(sees.tenant, [item for item, _ in work if item.document.id not in stored], outcomes)
        fitting = {item.position for item, _ in work if item.position not in outcomes}
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

    async def _prepared(
        self,
        sees: Scope,
        collection: Collection,
        sealer: TenantSealer | None,
        documents: Sequence[Document],
        outcomes: dict[int, Outcome],
    ) -> list[Prepared]:
        """Those that may be stored; the others get their outcome."""
        found: Sequence[Whole | DocumentRejected] = [Whole(document, NO_MARK) for document in documents]
        if sealer is not None:
            found = await self._sealed_fields.with_kept(sealer, sees, collection, documents)
        # Off the event loop: a hundred long documents take a while to check, render and hash.
        return await asyncio.to_thread(_prepare_all, documents, found, collection, sealer, outcomes)

    async def _versions(
        self, sees: Scope, collection: Collection, prepared: Sequence[Prepared], outcomes: dict[int, Outcome]
    ) -> dict[str, bytes]:
        """What is there of what the caller sees; what the caller may not write gets its outcome."""
        if not prepared:
            return {}
        request = retriever_pb2.GetVersionsRequest(
            scope=sees, collection=collection.name, document_ids=[item.document.id for item in prepared]
        )
        with errors_of("retriever"):
            response = await self._retriever.GetVersions(request)
        _reject_hidden(sees, prepared, frozenset(response.hidden_ids), outcomes)
        return dict(response.versions)

    async def _foresee_quota(self, tenant: str, new: list[Prepared], outcomes: dict[int, Outcome]) -> None:
        limit = self._quotas.documents(call())
        if limit is not None and new:
            _reject_beyond(new[max(0, limit - await self._catalogue.count(tenant)) :], limit, outcomes)

    async def _store(self, into: _Into, changed: list[Prepared], outcomes: dict[int, Outcome]) -> None:
        sees, collection = into.scope, into.collection
        work = await _chunked(changed, collection, outcomes)
        limit = self._quotas.documents(call())
        if limit is None or not work:
            await self._store_all(into, work, outcomes)
            return
        new: list[Prepared] = []

        async def count_new() -> int:
            there = await self._versions(sees, collection, [item for item, _ in work], outcomes)
            new[:] = [item for item, _ in work if item.document.id not in there and item.position not in outcomes]
            return len(new)

        async def counted() -> int:
            return await self._catalogue.count(sees.tenant)

        async with self._document_quota.room(sees.tenant, limit, count_new, counted) as granted:
            _reject_beyond(new[granted:], limit, outcomes)
            count_refused(DOCUMENTS, len(new) - granted)
            left = [(item, pieces) for item, pieces in work if item.position not in outcomes]
            await self._store_all(into, left, outcomes)

    async def _store_all(self, into: _Into, work: list[tuple[Prepared, list[str]]], outcomes: dict[int, Outcome]) -> None:
        if not work:
            return
        vectors = await self._embed(into.collection, work, outcomes)
        batch: list[tuple[Prepared, retriever_pb2.ChunkedDocument]] = []
        size = 0
        for item, pieces in work:
            if item.position in outcomes:
                continue
            packed = b"".join(vectors[item.position])
            chunked = retriever_pb2.ChunkedDocument(
                document=self._sealed_fields.sealed(into.sealer, into.collection, item.document),
                version=item.version,
                chunks=pieces,
                vectors=Vectors(dimension=into.collection.space.dimension, float32_le=packed),
            )
            if batch and size + chunked.ByteSize() > _PUT_BYTES:
                await self._put(into, batch, outcomes)
                batch, size = [], 0
            batch.append((item, chunked))
            size += chunked.ByteSize()
        if batch:
            await self._put(into, batch, outcomes)

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
        self, into: _Into, batch: list[tuple[Prepared, retriever_pb2.ChunkedDocument]], outcomes: dict[int, Outcome]
    ) -> None:
        collection = into.collection
        space = EmbeddingSpace(
            model=collection.space.model, digest=collection.space.digest, dimension=collection.space.dimension
        )
        request = retriever_pb2.PutDocumentsRequest(
            scope=into.scope,
            collection=collection.name,
            collection_revision=collection.revision,
            space=space,
            record_digest=into.record_digest,
            documents=[chunked for _, chunked in batch],
        )
        with errors_of("retriever"):
            response = await self._retriever.PutDocuments(request)
        for (item, _), outcome in zip(batch, response.outcomes, strict=True):
            outcome.position = item.position
            outcomes[item.position] = outcome


def _reject_hidden(sees: Scope, prepared: Sequence[Prepared], hidden_ids: frozenset[str], outcomes: dict[int, Outcome]) -> None:
    """What the caller would not see afterwards, and what would replace a document that the caller does not see."""
    for item in prepared:
        groups = item.document.groups
        if not sees.every_document and groups and not set(groups) & set(sees.groups.names):
            message = "Nobody writes what they cannot see: give the document one of your own groups, or none."
        elif item.document.id in hidden_ids:
            message = "The id is taken by a document that you do not see: choose another id."
        else:
            continue
        outcomes[item.position] = _rejected(item.position, item.document.id, "DOCUMENT_HIDDEN", message)


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


def _prepare_all(
    documents: Sequence[Document],
    found: Sequence[Whole | DocumentRejected],
    collection: Collection,
    sealer: TenantSealer | None,
    outcomes: dict[int, Outcome],
) -> list[Prepared]:
    """Those that may be stored, each id once; the others get their outcome."""
    first: dict[str, Prepared] = {}
    for position, (document, one) in enumerate(zip(documents, found, strict=True)):
        try:
            if isinstance(one, DocumentRejected):
                raise one
            item = prepare(position, one.document, collection, sealer, one.mark)
        except DocumentRejected as error:
            outcomes[position] = _rejected(position, document.id, error.reason, error.message)
            continue
        twin = first.setdefault(document.id, item)
        # Marks differ, though what was sent is the same.
        if twin is not item and twin.version != item.version and documents[twin.position] != document:
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


def _reject_beyond(items: Sequence[Prepared], limit: int, outcomes: dict[int, Outcome]) -> None:
    """The outcome of those that would go over the quota."""
    for item in items:
        message = f"The tenant may have {limit} documents, and has no room for another one."
        outcomes[item.position] = _rejected(item.position, item.document.id, "QUOTA_EXCEEDED", message)


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
