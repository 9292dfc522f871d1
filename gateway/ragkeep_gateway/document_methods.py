"""RagService's RPCs for documents as they are stored: the retriever does the work, for the tenant of the admitted call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.retriever.v1 import retriever_pb2
from ragkeep_gateway.audit.record import Audit
from ragkeep_gateway.presets import SERVICE_TICKETS
from ragkeep_gateway.scope import scope
from ragkeep_gateway.sealing.fields import SealedFields
from ragkeep_runtime.channel import errors_of
from ragkeep_runtime.errors import InvalidRequest
from ragkeep_runtime.logs import get_logger

if TYPE_CHECKING:
    from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub

log = get_logger()
MAX_DELETED = 1000  # that the retriever deletes at once


class DocumentMethods:
    """Part of RagService."""

    _audit: Audit
    _retriever: RetrieverServiceAsyncStub
    _sealed_fields: SealedFields

    async def GetDocument(self, request: gateway_pb2.GetDocumentRequest, context: Any) -> gateway_pb2.GetDocumentResponse:
        """One of the tenant's."""
        wanted = retriever_pb2.GetDocumentRequest(
            scope=scope(), collection=request.collection or SERVICE_TICKETS, document_id=request.document_id
        )
        requested = [request.document_id] if request.document_id else []
        async with self._audit.asking(collection=wanted.collection, requested=requested) as record:
            with errors_of("retriever"):
                found = await self._retriever.GetDocument(wanted)
            document = found.document.document
            await self._sealed_fields.show(wanted.collection, [(document.id, document.fields)], strict=True)
            await record.shown([document.id])
            return gateway_pb2.GetDocumentResponse(document=found.document)

    async def ListDocuments(self, request: gateway_pb2.ListDocumentsRequest, context: Any) -> gateway_pb2.ListDocumentsResponse:
        """A page of the tenant's."""
        wanted = retriever_pb2.ListDocumentsRequest(
            scope=scope(),
            collection=request.collection or SERVICE_TICKETS,
            filter=request.filter if request.HasField("filter") else None,
            page_size=request.page_size if request.HasField("page_size") else None,
            page_token=request.page_token,
        )
        async with self._audit.asking(collection=wanted.collection) as record:
            with errors_of("retriever"):
                found = await self._retriever.ListDocuments(wanted)
            listed = [(one.document.id, one.document.fields) for one in found.documents]
            await self._sealed_fields.show(wanted.collection, listed)
            await record.shown(one.document.id for one in found.documents)
            return gateway_pb2.ListDocumentsResponse(documents=found.documents, next_page_token=found.next_page_token)

    async def DeleteDocuments(
        self, request: gateway_pb2.DeleteDocumentsRequest, context: Any
    ) -> gateway_pb2.DeleteDocumentsResponse:
        """Some of the tenant's."""
        which = request.WhichOneof("which") or ""
        ids = list(request.ids.ids[:MAX_DELETED])
        if request.dry_run:
            # It changes nothing, and shows which documents there are.
            asking = self._audit.asking(collection=request.collection, which=which, dry_run=True, requested=ids)
            async with asking as asked:
                response = await self._delete(request)
                await asked.shown(response.document_ids)
                return response
        async with self._audit.acting(collection=request.collection, which=which, documents=ids) as record:
            response = await self._delete(request)
            # By a filter nobody knew before which they would be.
            await record.done(documents=list(response.document_ids))
            return response

    async def _delete(self, request: gateway_pb2.DeleteDocumentsRequest) -> gateway_pb2.DeleteDocumentsResponse:
        if not request.collection:
            raise InvalidRequest("The request must name the collection.", field="collection")
        wanted = retriever_pb2.DeleteDocumentsRequest(
            scope=scope(), collection=request.collection, dry_run=request.dry_run, page_token=request.page_token
        )
        match request.WhichOneof("which"):
            case "ids":
                wanted.ids.CopyFrom(request.ids)
            case "filter":
                wanted.filter.CopyFrom(request.filter)
            case "every_document":
                wanted.every_document = request.every_document
        with errors_of("retriever"):
            found = await self._retriever.DeleteDocuments(wanted)
        log.info("documents_deleted", collection=request.collection, count=len(found.document_ids), dry_run=request.dry_run)
        return gateway_pb2.DeleteDocumentsResponse(document_ids=found.document_ids, next_page_token=found.next_page_token)
