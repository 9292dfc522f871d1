"""The gRPC channel to Weaviate: it looks for a lost Weaviate every second, and says at once that it is lost.

Left alone, the client asks again after 1, 2, 4, … 32 s, longer than a caller waits, and its channel waits ever longer before it
looks for a Weaviate that went away: one that was away for a minute was found again half a minute after its return.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import grpc

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from weaviate.connect import ConnectionParams

# What a failed call's words begin with where Weaviate did not answer on gRPC.
LOST = "UNAVAILABLE: "
# What Weaviate takes and sends at most, in bytes; the client cuts its batches to it.
_MAX_MESSAGE = 104_858_000
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    # No proxy of the environment comes between the retriever and its store.
    ("grpc.enable_http_proxy", 0),
]


class WeaviateAddress(ConnectionParams):
    """Where Weaviate is, and the channel to it."""

    def _grpc_channel(self, *_: Any, **__: Any) -> grpc.aio.Channel:
        """The client's own hook: it calls this once when it connects."""
        options = [*_OPTIONS, ("grpc.default_authority", self.grpc.host)]
        if self.grpc.secure:
            credentials = grpc.ssl_channel_credentials()
            return grpc.aio.secure_channel(self._grpc_target, credentials, options, interceptors=[_LostAtOnce()])
        return grpc.aio.insecure_channel(self._grpc_target, options, interceptors=[_LostAtOnce()])


class _LostAtOnce(grpc.aio.UnaryUnaryClientInterceptor):
    """The client asks again where a call fails with UNAVAILABLE, and only there: so it fails with UNKNOWN."""

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        call = await continuation(client_call_details, request)
        try:
            await call
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            before, after = error.initial_metadata(), error.trailing_metadata()
            words = f"{LOST}{error.details()}"
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNKNOWN, before, after, details=words) from None
        return call
