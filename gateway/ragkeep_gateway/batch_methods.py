"""The methods for programs that bring many texts at once: their vectors, and searches for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ragkeep.embedder.v1 import embedder_pb2
from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_gateway.retrieval import wanted_of
from ragkeep_runtime.call import call
from ragkeep_runtime.channel import errors_of
from ragkeep_runtime.errors import InvalidRequest, RagkeepError, RequestTooLarge

if TYPE_CHECKING:
    from ragkeep.embedder.v1.embedder_pb2_grpc import EmbedderServiceAsyncStub
    from ragkeep_gateway.audit.record import Audit
    from ragkeep_gateway.quotas import QuotaKeeper
    from ragkeep_gateway.retrieval import Retrieval
    from ragkeep_runtime.gate import Gate

MAX_SEARCHES = 32


class BatchMethods:
    """A part of RagService."""

    _audit: Audit
    _embedder: EmbedderServiceAsyncStub
    _retrieval: Retrieval
    _ask_gate: Gate
    _quotas: QuotaKeeper

    async def Embed(self, request: gateway_pb2.EmbedRequest, context: Any) -> gateway_pb2.EmbedResponse:
        """The embedder's vectors; it checks the texts."""
        async with self._audit.asking(texts=len(request.texts)) as record:
            async with self._ask_gate:
                with errors_of("embedder"):
                    response = await self._embedder.Embed(
                        embedder_pb2.EmbedRequest(texts=request.texts, purpose=request.purpose)
                    )
            await record.shown()
            return gateway_pb2.EmbedResponse(vectors=response.vectors, space=response.space)

    async def SearchBatch(self, request: gateway_pb2.SearchBatchRequest, context: Any) -> gateway_pb2.SearchBatchResponse:
        """A result for each search, in order."""
        wanted = [wanted_of(search, search.query, "query") for search in request.searches[:MAX_SEARCHES]]
        collections = sorted({one.collection for one in wanted})
        asked = self._audit.asking(collections=collections, questions=[one.text for one in wanted])
        async with asked as record:
            if not request.searches:
                raise InvalidRequest("There is no search in the request.", field="searches")
            if len(request.searches) > MAX_SEARCHES:
                raise RequestTooLarge(f"A request holds at most {MAX_SEARCHES} searches.", field="searches")
            self._quotas.ask(call(), len(wanted))
            async with self._ask_gate:
                found = await self._retrieval.batch(wanted)
            await record.shown(
                source.passage.document_id for one in found if not isinstance(one, RagkeepError) for source in one
            )
            return gateway_pb2.SearchBatchResponse(results=[_result(one) for one in found])


def _result(found: list[gateway_pb2.Source] | RagkeepError) -> gateway_pb2.SearchBatchResult:
    if isinstance(found, RagkeepError):
        refusal = gateway_pb2.Refusal(reason=found.reason, message=found.message, field=found.field)
        return gateway_pb2.SearchBatchResult(refused=refusal)
    return gateway_pb2.SearchBatchResult(found=gateway_pb2.SearchResponse(sources=found))
