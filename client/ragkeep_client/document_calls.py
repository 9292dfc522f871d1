"""The gateway's RPCs for documents as they are stored, typed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from itertools import islice

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_client.calls import SERVICE_TICKETS, Calls, writable
from ragkeep_client.events import StoredDocument, stored_document_from
from ragkeep_client.values import Filter, filter_message
from ragkeep_runtime.errors import InvalidRequest

# Ids that one call deletes.
_IDS = 1000


class DocumentCalls(Calls):
    """Part of `Client`."""

    async def get_document(
        self, document_id: str, *, collection: str = SERVICE_TICKETS, timeout_s: float = 10.0
    ) -> StoredDocument:
        """One document. Raises DocumentUnknown."""
        with writable():
            request = gateway_pb2.GetDocumentRequest(collection=collection, document_id=document_id)
        with self._errors():
            response = await self._stub.GetDocument(request, timeout=timeout_s, metadata=self._metadata)
        return stored_document_from(response.document)

    async def list_documents(
        self,
        *,
        collection: str = SERVICE_TICKETS,
        filter: Filter | None = None,
        page_size: int = 100,
        timeout_s: float = 30.0,
    ) -> AsyncGenerator[StoredDocument]:
        """Every document, page by page as they are taken; `timeout_s` is for a page. In an order of the store's own."""
        token = ""
        while True:
            with writable():
                request = gateway_pb2.ListDocumentsRequest(
                    collection=collection,
                    filter=None if filter is None else filter_message(filter),
                    page_size=page_size,
                    page_token=token,
                )
            with self._errors():
                response = await self._stub.ListDocuments(request, timeout=timeout_s, metadata=self._metadata)
            for document in response.documents:
                yield stored_document_from(document)
            token = response.next_page_token
            if not token:
                return

    async def delete_documents(
        self,
        collection: str,
        *,
        ids: Iterable[str] | None = None,
        filter: Filter | None = None,
        every_document: bool = False,
        dry_run: bool = False,
        progress: Callable[[int], None] | None = None,
        timeout_s: float = 60.0,
    ) -> list[str]:
        """Deletes those with these ids, or those for which the filter holds, or every one; returns the ids of those that
        were there. `dry_run` deletes nothing. `progress` hears how many there are so far, `timeout_s` is for a call of up to
        1,000. One that broke is ended by running it again.
        """
        if (ids is not None) + (filter is not None) + every_document != 1:
            raise InvalidRequest("Exactly one of ids, filter and every_document says which documents to delete.", field="which")
        deleted: list[str] = []
        for request in _requests(collection, ids, filter, dry_run):
            while True:
                with self._errors():
                    response = await self._stub.DeleteDocuments(request, timeout=timeout_s, metadata=self._metadata)
                deleted += response.document_ids
                if progress is not None:
                    progress(len(deleted))
                if not response.next_page_token:
                    break
                request.page_token = response.next_page_token
        return deleted


def _requests(
    collection: str, ids: Iterable[str] | None, filter: Filter | None, dry_run: bool
) -> Iterator[gateway_pb2.DeleteDocumentsRequest]:
    if ids is None:
        request = gateway_pb2.DeleteDocumentsRequest(collection=collection, dry_run=dry_run)
        if filter is None:
            request.every_document = True
        else:
            with writable():
                request.filter.CopyFrom(filter_message(filter))
        yield request
        return
    left = iter(dict.fromkeys(ids))
    while some := list(islice(left, _IDS)):
        with writable():
            request = gateway_pb2.DeleteDocumentsRequest(collection=collection, dry_run=dry_run)
            request.ids.ids.extend(some)
        yield request
