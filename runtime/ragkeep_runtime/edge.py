"""The server's edge, one interceptor for every method: trace, admit, time, translate errors, count, log.

It fails closed: a method without an access rule, or a caller without a right to it, never reaches the handler, and the
refused caller's bytes are never parsed.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog
from grpc_status import rpc_status

from ragkeep_runtime.access import AccessTable, peer_name
from ragkeep_runtime.call import Call, current_call
from ragkeep_runtime.deadline import LONGEST, default_for
from ragkeep_runtime.errors import (
    DeadlineExceeded,
    Internal,
    NotAllowed,
    NotReady,
    PeerUnknown,
    RagkeepError,
    from_rpc_error,
    to_status,
)
from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.telemetry import server_span

REQUEST_ID_KEY = "x-request-id"
log = get_logger()


class Edge(grpc.aio.ServerInterceptor):
    """Wraps each handler. `active` is the number of calls being served (health's watchers aside)."""

    def __init__(self, table: AccessTable, trust_domain: str) -> None:
        self.active = 0
        self.draining = False
        self._table = table
        self._trust_domain = trust_domain

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        method = handler_call_details.method
        metadata = {k: v for k, v in handler_call_details.invocation_metadata or () if isinstance(v, str)}
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            # Unknown here. Nothing of ours streams from the client; such a handler refuses any shape of call.
            async def refuse(_requests: Any, context: Any) -> None:
                async with self._edge(method, metadata, context):
                    raise NotAllowed("The method is not known to this server.")

            return grpc.stream_stream_rpc_method_handler(refuse)
        parse = handler.request_deserializer or (lambda raw: raw)

        if handler.response_streaming:
            stream: Any = handler.unary_stream

            # A coroutine that writes, never an async generator: gRPC does not close those when the caller leaves.
            async def run_stream(raw: bytes, context: Any) -> None:
                async with self._edge(method, metadata, context):
                    if not inspect.isasyncgenfunction(stream):
                        await stream(parse(raw), context)
                        return
                    async with contextlib.aclosing(stream(parse(raw), context)) as messages:
                        async for message in messages:
                            await context.write(message)

            return grpc.unary_stream_rpc_method_handler(run_stream, None, handler.response_serializer)

        unary: Any = handler.unary_unary

        async def run_unary(raw: bytes, context: Any) -> Any:
            async with self._edge(method, metadata, context):
                return await unary(parse(raw), context)

        return grpc.unary_unary_rpc_method_handler(run_unary, None, handler.response_serializer)

    @contextlib.asynccontextmanager
    async def _edge(self, method: str, metadata: dict[str, str], context: Any) -> AsyncIterator[None]:
        counted = not self._table.admits_every_peer(method)
        request_id = _request_id(metadata)
        loop = asyncio.get_running_loop()
        began, outcome = loop.time(), "OK"
        structlog.contextvars.bind_contextvars(request_id=request_id)
        with server_span(method, metadata, context) if counted else contextlib.nullcontext():
            self.active += counted
            try:
                peer = peer_name(context, self._trust_domain)
                structlog.contextvars.bind_contextvars(peer=peer)
                admitted = self._table.admit(method, peer, metadata)
                if self.draining and counted:
                    raise NotReady("This server is shutting down.", retry_after_s=0.1)
                if not counted:
                    yield
                    return
                limit = _limit(method, context)
                current_call.set(
                    Call(admitted.peer, admitted.tenant, admitted.roles, request_id, began + limit, metadata),
                )
                async with asyncio.timeout(limit):
                    yield
            except grpc.aio.AbortError:
                outcome = "ABORTED"
                raise
            except asyncio.CancelledError:
                outcome = "CANCELLED"
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise  # the caller left, or the server stops
                # Otherwise gRPC would end the call without any status and the caller would hang.
                await _abort(context, Internal("The call was cancelled inside ragkeep."), request_id)
            except grpc.aio.InternalError:
                outcome = "CANCELLED"
                raise asyncio.CancelledError from None  # a write failed: the caller left
            except Exception as error:
                translated = _translate(error)
                outcome = translated.reason
                if isinstance(translated, Internal):
                    log.exception("call_failed", method=method)
                await _abort(context, translated, request_id)
            finally:
                self.active -= counted
                if counted:
                    log.info(
                        "call_finished", method=method, outcome=outcome, duration_ms=round((loop.time() - began) * 1000, 1)
                    )
                structlog.contextvars.unbind_contextvars("request_id", "peer")


def _request_id(metadata: dict[str, str]) -> str:
    given = metadata.get(REQUEST_ID_KEY, "")
    # It goes into logs: only what cannot break them.
    return given if 0 < len(given) <= 64 and given.replace("-", "").isalnum() and given.isascii() else uuid.uuid4().hex


def _limit(method: str, context: Any) -> float:
    left = context.time_remaining()
    wanted = default_for(method) if left is None or left > 1e8 else float(left)
    return min(wanted, LONGEST)


def _translate(error: Exception) -> RagkeepError:
    if isinstance(error, grpc.aio.AioRpcError):
        error = from_rpc_error(error)
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("The time for this call ran out.")
    return (
        error
        if isinstance(error, RagkeepError)
        else Internal("Something went wrong inside ragkeep; the log knows it by its request id.")
    )


def hop_error(service: str, error: grpc.aio.AioRpcError) -> RagkeepError:
    """What a failed call to one of our own services means to our caller. A refusal of ourselves is a fault of the
    installation, not of the caller."""
    found = from_rpc_error(error)
    if isinstance(found, (PeerUnknown, NotAllowed)):
        return Internal(f"The {service} does not admit this process: its certificate or the access rule is wrong.")
    if type(found) is NotReady and not has_reason(error):
        return NotReady(f"The {service} cannot be reached. Is its process running?", metadata={"service": service})
    if type(found) is DeadlineExceeded and not has_reason(error):
        return DeadlineExceeded(f"The {service} did not answer in time.", metadata={"service": service})
    return found


def has_reason(error: grpc.aio.AioRpcError) -> bool:
    """Whether the status came with details of ours, or from gRPC itself."""
    return any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())


async def _abort(context: Any, error: RagkeepError, request_id: str) -> None:
    await context.abort_with_status(rpc_status.to_status(to_status(error, request_id)))
