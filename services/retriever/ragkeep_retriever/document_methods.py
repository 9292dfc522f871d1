"""RetrieverService's RPCs for documents as they are stored: get, list, delete, re-seal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ragkeep.retriever.v1 import retriever_pb2
from ragkeep_retriever.convert import document_message, scope_of, sealed_of
from ragkeep_retriever.filters import filter_of
from ragkeep_retriever.paging import place, token
from ragkeep_retriever.store import PassageStore
from ragkeep_retriever.values import SealedUpdate
from ragkeep_runtime.errors import DocumentUnknown, InvalidRequest, LimitOutOfRange, RequestTooLarge
from ragkeep_runtime.telemetry import span

MAX_PAGE, DEFAULT_PAGE, MAX_DELETED, MAX_UPDATED = 1000, 100, 1000, 100


class DocumentMethods:
    """Part of RetrieverService."""

    _store: PassageStore

    async def GetDocument(self, request: retriever_pb2.GetDocumentRequest, context: Any) -> retriever_pb2.GetDocumentResponse:
        """One document."""
        scope = scope_of(request.scope)
        if not 1 <= len(request.document_id) <= 256:
            raise InvalidRequest("A document's id has 1 to 256 characters.", field="document_id")
        collection = await self._store.collection(request.collection, any_analyzer=True)
        found = await self._store.document(scope, collection, request.document_id)
        if found is None:
            raise DocumentUnknown(
                f"There is no document {request.document_id[:64]!r} in {collection.name}.", field="document_id"
            )
        return retriever_pb2.GetDocumentResponse(document=document_message(found, collection))

    async def ListDocuments(
        self, request: retriever_pb2.ListDocumentsRequest, context: Any
    ) -> retriever_pb2.ListDocumentsResponse:
        """A page of them."""
        scope = scope_of(request.scope)
        size = request.page_size if request.HasField("page_size") else DEFAULT_PAGE
        if not 1 <= size <= MAX_PAGE:
            raise LimitOutOfRange(f"The page size is {size}; it must be 1 to {MAX_PAGE}.", field="page_size")
        collection = await self._store.collection(request.collection, any_analyzer=True)
        wanted = filter_of(request.filter, collection) if request.HasField("filter") else None
        listed = (request.collection.encode(), request.filter.SerializeToString(deterministic=True))
        after = place(request.page_token, *listed)
        with span("store.list", {"ragkeep.limit": size}):
            page = await self._store.documents(scope, collection, filter=wanted, after=after, limit=size)
        return retriever_pb2.ListDocumentsResponse(
            documents=[document_message(document, collection) for document in page.documents],
            next_page_token=token(page.after, *listed),
        )

    async def DeleteDocuments(
        self, request: retriever_pb2.DeleteDocumentsRequest, context: Any
    ) -> retriever_pb2.DeleteDocumentsResponse:
        """Those named, or the next of those that match."""
        scope = scope_of(request.scope)
        which = request.WhichOneof("which")
        if which is None or (which == "every_document" and not request.every_document):
            raise InvalidRequest("The request must say which documents to delete.", field="which")
        if which == "ids" and not 1 <= len(request.ids.ids) <= MAX_DELETED:
            raise RequestTooLarge(f"A request deletes 1 to {MAX_DELETED} documents by id.", field="ids")
        collection = await self._store.collection(request.collection, any_analyzer=True)
        listed = (request.collection.encode(), request.filter.SerializeToString(deterministic=True), str(which).encode())
        after = place(request.page_token, *listed)
        wanted: Mapping[str, bytes | None]
        if which == "ids":
            wanted, after = dict.fromkeys(request.ids.ids), ""
        else:
            found = filter_of(request.filter, collection) if which == "filter" else None
            page = await self._store.documents(scope, collection, filter=found, after=after, limit=MAX_DELETED)
            # In the version that was seen to match: what became another one meanwhile is left alone.
            wanted, after = {document.id: document.version for document in page.documents}, page.after
        with span("store.delete", {"ragkeep.documents": len(wanted), "ragkeep.dry_run": request.dry_run}):
            deleted = await self._store.delete(scope, collection, wanted, dry_run=request.dry_run)
        return retriever_pb2.DeleteDocumentsResponse(document_ids=deleted, next_page_token=token(after, *listed))

    async def UpdateFields(
        self, request: retriever_pb2.UpdateFieldsRequest, context: Any
    ) -> retriever_pb2.UpdateFieldsResponse:
        """Other sealed values for documents that stay what they are."""
        scope = scope_of(request.scope)
        if not 1 <= len(request.documents) <= MAX_UPDATED:
            raise RequestTooLarge(f"A request re-seals 1 to {MAX_UPDATED} documents.", field="documents")
        collection = await self._store.collection(request.collection, any_analyzer=True)
        sealed = {field.name for field in collection.fields if field.sealed}
        for one in request.documents:
            if (
                not 1 <= len(one.document_id) <= 256
                or len(one.version) != 32
                or not one.sealed
                or not set(one.sealed) <= sealed
            ):
                raise InvalidRequest(
                    "A document to re-seal has an id, a version of 32 bytes and values of sealed fields.", field="documents"
                )
        if len({one.document_id for one in request.documents}) != len(request.documents):
            raise InvalidRequest("Each document id may stand in a request once.", field="documents")
        updates = [
            SealedUpdate(one.document_id, one.version, {name: sealed_of(value) for name, value in one.sealed.items()})
            for one in request.documents
        ]
        with span("store.update", {"ragkeep.documents": len(updates)}):
            done = await self._store.update_sealed(scope, collection, updates)
        return retriever_pb2.UpdateFieldsResponse(document_ids=done)
