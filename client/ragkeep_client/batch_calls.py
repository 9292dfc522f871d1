"""The gateway's RPCs for programs that bring many texts at once, typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ragkeep.embedder.v1 import embedder_pb2
from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_client.calls import Calls, writable
from ragkeep_client.events import Source, source_from
from ragkeep_client.models import Embeddings, embeddings_from
from ragkeep_client.values import Search, filter_message
from ragkeep_runtime.errors import RagkeepError, error_of

MODES = {
    "hybrid": gateway_pb2.SEARCH_MODE_HYBRID,
    "vector": gateway_pb2.SEARCH_MODE_VECTOR,
    "keyword": gateway_pb2.SEARCH_MODE_KEYWORD,
}
_PURPOSES = {"query": embedder_pb2.PURPOSE_QUERY, "document": embedder_pb2.PURPOSE_DOCUMENT}


class BatchCalls(Calls):
    """Part of `Client`."""

    async def search_batch(self, searches: Sequence[Search], *, timeout_s: float = 30.0) -> list[list[Source] | RagkeepError]:
        """The result of each of 1 to 32 searches, in order: passages, or the error that this search alone met."""
        with writable():
            request = gateway_pb2.SearchBatchRequest(searches=[search_message(search) for search in searches])
        with self._errors():
            response = await self._stub.SearchBatch(request, timeout=timeout_s, metadata=self._metadata)
        return [
            error_of(one.refused.reason, one.refused.message, field=one.refused.field)
            if one.HasField("refused")
            else [source_from(source) for source in one.found.sources]
            for one in response.results
        ]

    async def embed(
        self, texts: Sequence[str], *, purpose: Literal["query", "document"] = "query", timeout_s: float = 30.0
    ) -> Embeddings:
        """A vector of unit length for each of 1 to 64 texts, by the installation's embedding model."""
        with writable():
            request = gateway_pb2.EmbedRequest(texts=texts, purpose=_PURPOSES[purpose])
        with self._errors():
            response = await self._stub.Embed(request, timeout=timeout_s, metadata=self._metadata)
        return embeddings_from(response)


def search_message(search: Search) -> gateway_pb2.SearchRequest:
    """The contract's search."""
    return gateway_pb2.SearchRequest(
        collection=search.collection,
        query=search.query,
        filter=None if search.filter is None else filter_message(search.filter),
        limit=search.limit,
        mode=MODES[search.mode],
        alpha=search.alpha,
        minimum_cosine=search.minimum_cosine,
        passages_per_document=search.passages_per_document,
        explain=search.explain,
    )
