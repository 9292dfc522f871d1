"""RagService's RPCs for documents as they are stored: the retriever does the work, for the tenant of the admitted call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.retriever.v1 import retriever_pb2
from ragkeep.types.v1.types_pb2 import Scope
from ragkeep_gateway.presets import SERVICE_TICKETS
from ragkeep_runtime.call import call
from ragkeep_runtime.channel import errors_of
from ragkeep_runtime.errors import InvalidRequest
from ragkeep_runtime.logs import get_logger

if TYPE_CHECKING:
    from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub

log = get_logger()


class DocumentMethods:
    """Part of RagService."""

    _retriever: RetrieverServiceAsyncStub

    async def GetDocument(self, request: gateway_pb2.GetDocumentRequest, context: Any) -> gateway_pb2.GetDocumentResponse:
        """One of the tenant's."""
        wanted = retriever_pb2.GetDocumentRequest(
            scope=_scope(), collection=request.collection or SERVICE_TICKETS, document_id=request.document_id
        )
        with errors_of("retriever"):
            found = await self._retriever.GetDocument(wanted)
        return gateway_pb2.GetDocumentResponse(document=found.document)

    async def ListDocuments(self, request: gateway_pb2.ListDocumentsRequest, context: Any) -> gateway_pb2.ListDocumentsResponse:
        """A page of the tenant's."""
        wanted = retriever_pb2.ListDocumentsRequest(
            scope=_scope(),
            collection=request.collection or SERVICE_TICKETS,
            filter=request.filter if request.HasField("filter") else None,
            page_size=request.page_size if request.HasField("page_size") else None,
            page_token=request.page_token,
        )
        with errors_of("retriever"):
            found = await self._retriever.ListDocuments(wanted)
        return gateway_pb2.ListDocumentsResponse(documents=found.documents, next_page_token=found.next_page_token)

    async def DeleteDocuments(
        self, request: gateway_pb2.DeleteDocumentsRequest, context: Any
    ) -> gateway_pb2.DeleteDocumentsResponse:
        """Some of the tenant's."""
        if not request.collection:
            raise InvalidRequest("The request must name the collection.", field="collection")
        wanted = retriever_pb2.DeleteDocumentsRequest(
            scope=_scope(), collection=request.collection, dry_run=request.dry_run, page_token=request.page_token
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


def _scope() -> Scope:
    return Scope(tenant=call().tenant, every_document=True)
