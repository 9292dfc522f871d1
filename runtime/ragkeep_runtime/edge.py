"""The server's edge, one chain for every call: trace, admit, time, translate errors, count, log; gRPC's interceptor.

It fails closed: a method without an access rule, or a caller without a right to it, never reaches the handler, and the
refused caller's bytes are never parsed.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from ragkeep_runtime.access import AccessTable, Known, peer_name
from ragkeep_runtime.call import Call, current_call
from ragkeep_runtime.deadline import LONGEST, default_for
from ragkeep_runtime.errors import (
    REFUSALS,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    NotAllowed,
    NotReady,
    PeerUnknown,
    RagkeepError,
    from_rpc_error,
    to_status,
)
from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.metrics import UNKNOWN, Connections, call_ended, call_refused
from ragkeep_runtime.running import Running
from ragkeep_runtime.telemetry import server_span

REQUEST_ID_KEY = "x-request-id"
log = get_logger()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that was not let in, or one that was and ended in an error before it was on record. What is not known is empty."""

    method: str
    peer: str
    tenant: str
    subject: str
    request_id: str
    reason: str
    call: str = ""  # Call.id; empty: it never was one
    token: str = ""  # the id of the person's token


class Edge(grpc.aio.ServerInterceptor):
    """Wraps each handler. `active` is the number of calls being served (health's watchers aside)."""

    def __init__(
        self,
        table: AccessTable,
        trust_domain: str,
        *,
        checks: Sequence[Callable[[Call], Awaitable[None]]] = (),  # asked before the handler; may refuse
        on_refusal: Sequence[Callable[[Refusal], Awaitable[None]]] = (),
        engine: str = "",  # which the process's calls wait for; empty: none
    ) -> None:
        self.active = 0
        self.draining = False
        self._table = table
        self._trust_domain = trust_domain
        self._engine = engine
        self._checks = tuple(checks)
        self._on_refusal = tuple(on_refusal)
        self._connections = Connections()
        self._announced: set[asyncio.Task[Any]] = set()  # calls of gRPC whose message has not come
        self.running = Running(table, checks)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        method = handler_call_details.method
        metadata = _metadata_of(handler_call_details.invocation_metadata or ())
        self._announce(method, metadata)
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            # Unknown here. Nothing of ours streams from the client; such a handler refuses any shape of call.
            async def refuse(_requests: Any, context: Any) -> None:
                async with self._over_grpc(method, metadata, context):
                    raise NotAllowed("The method is not known to this server.")

            return grpc.stream_stream_rpc_method_handler(refuse)
        parse = _parser(handler.request_deserializer)

        if handler.response_streaming:
            stream: Any = handler.unary_stream

            # A coroutine that writes, never an async generator: gRPC does not close those when the caller leaves.
            async def run_stream(raw: bytes, context: Any) -> None:
                async with self._over_grpc(method, metadata, context):
                    if not inspect.isasyncgenfunction(stream):
                        await stream(parse(raw), context)
                        return
                    async with contextlib.aclosing(stream(parse(raw), context)) as messages:
                        async for message in messages:
                            await context.write(message)

            return grpc.unary_stream_rpc_method_handler(run_stream, None, handler.response_serializer)

        unary: Any = handler.unary_unary

        async def run_unary(raw: bytes, context: Any) -> Any:
            async with self._over_grpc(method, metadata, context):
                return await unary(parse(raw), context)

        return grpc.unary_unary_rpc_method_handler(run_unary, None, handler.response_serializer)

    def _announce(self, method: str, metadata: dict[str, str]) -> None:
        """A call's headers are here. gRPC tells who makes it when its message is: one that ends before that is only counted."""
        if self._table.admits_every_peer(method):
            return
        began = asyncio.get_running_loop().time()

        def over(task: asyncio.Task[Any]) -> None:
            if task in self._announced:
                self._announced.discard(task)
                self._ended(method, _LEFT, asyncio.get_running_loop().time() - began, request_id=request_id_of(metadata))

        self._announced.add(_this_task())
        _this_task().add_done_callback(over)

    @contextlib.asynccontextmanager
    async def _over_grpc(self, method: str, metadata: dict[str, str], context: Any) -> AsyncIterator[None]:
        request_id = request_id_of(metadata)
        self._announced.discard(_this_task())
        self._connections.used(context.peer())
        try:
            async with self.admitted(
                method,
                metadata,
                peer=lambda: peer_name(context, self._trust_domain),
                seconds=context.time_remaining(),
                request_id=request_id,
            ):
                yield
        except RagkeepError as error:
            await context.abort_with_status(rpc_status.to_status(to_status(error, request_id)))

    @contextlib.asynccontextmanager
    async def admitted(
        self,
        method: str,
        metadata: Mapping[str, str],
        *,
        peer: Callable[[], str] | None,  # raises PeerUnknown; None: the transport has no certificate, and a token is needed
        seconds: float | None = None,  # that the caller gives; None: the method's default
        request_id: str = "",
    ) -> AsyncIterator[Call | None]:
        """Whatever the transport: the block is the handler, and runs only for who may call `method`, the path of an RPC.

        Raises a RagkeepError for everything that goes wrong in it, CancelledError where the caller left. Yields None for
        health, which is not a call of ours.
        """
        counted = not self._table.admits_every_peer(method)
        request_id = request_id or request_id_of(metadata)
        loop = asyncio.get_running_loop()
        began, outcome = loop.time(), "OK"
        current: Call | None = None
        structlog.contextvars.bind_contextvars(request_id=request_id)
        with server_span(method, metadata) if counted else contextlib.nullcontext():
            self.active += counted
            try:
                if not counted:
                    if peer is not None:
                        await self._look_at(method, peer, request_id)
                    yield None
                    return
                limit = _limit(method, seconds)
                policy = self._table.policy  # taken first: by one that comes meanwhile the call is judged again
                current = await self._admit(method, metadata, peer, request_id, began + limit)
                async with asyncio.timeout(limit):
                    with self.running.kept(current, policy):
                        yield current
            except grpc.aio.AbortError:
                outcome = "ABORTED"
                raise
            except asyncio.CancelledError:
                if _this_task().cancelling():
                    outcome = _LEFT
                    raise  # the caller left, or the server stops
                # Otherwise gRPC would end the call without any status and the caller would hang.
                outcome = Internal.reason
                raise Internal("The call was cancelled inside ragkeep.") from None
            except grpc.aio.InternalError:
                outcome = _LEFT
                raise asyncio.CancelledError from None  # a write failed: the caller left
            except Exception as error:
                translated = _translate(error, self._engine)
                outcome = translated.reason
                if isinstance(translated, Internal):
                    log.exception("call_failed", method=method)
                raise translated from error
            finally:
                self.active -= counted
                if current is not None and outcome != "OK" and not current.on_record:
                    # Who left is there too: a caller that was let in does not stay off the record by hanging up early.
                    who = (current.peer, current.tenant, current.subject)
                    await self._refused(Refusal(method, *who, request_id, outcome, current.id, current.token))
                if counted:
                    self._ended(method, outcome, loop.time() - began)
                structlog.contextvars.unbind_contextvars("request_id", "peer")

    def _ended(self, method: str, outcome: str, seconds: float, **facts: str) -> None:
        log.info("call_finished", method=method, outcome=outcome, duration_ms=round(seconds * 1000, 1), **facts)
        call_ended(method if method in self._table.rules else UNKNOWN, outcome, seconds)

    async def _admit(
        self,
        method: str,
        metadata: Mapping[str, str],
        peer: Callable[[], str] | None,
        request_id: str,
        deadline: float,
    ) -> Call:
        name: str | None = None
        known = Known()
        try:
            if peer is not None:
                name = peer()
                structlog.contextvars.bind_contextvars(peer=name)
            admitted = self._table.admit(method, name, metadata, known)
            if self.draining:
                raise NotReady("This server is shutting down.", retry_after_s=0.1)
            found = Call(
                method=method,
                peer=admitted.peer,
                tenant=admitted.tenant,
                roles=admitted.roles,
                request_id=request_id,
                deadline=deadline,
                metadata=dict(metadata),
                subject=admitted.subject,
                token=admitted.token,
                groups=admitted.groups,
                operator=admitted.operator,
            )
            for check in self._checks:
                await check(found)
        except REFUSALS as error:
            call_refused(error.reason)
            who = (name or "", known.tenant, known.subject)
            await self._refused(Refusal(method, *who, request_id, error.reason, token=known.token))
            raise
        except asyncio.CancelledError:
            if name or known.subject:  # else it is counted, and that is all: nobody knows whose call it was
                who = (name or "", known.tenant, known.subject)
                await self._refused(Refusal(method, *who, request_id, _LEFT, token=known.token))
            raise
        current_call.set(found)
        return found

    async def _look_at(self, method: str, peer: Callable[[], str], request_id: str) -> None:
        """Health's callers need a name, and nothing else."""
        try:
            peer()
        except PeerUnknown as error:
            call_refused(error.reason)
            await self._refused(Refusal(method, "", "", "", request_id, error.reason))
            raise

    async def _refused(self, refusal: Refusal) -> None:
        for record in self._on_refusal:
            await record(refusal)


# The outcome of a call whose caller is gone.
_LEFT = "CANCELLED"


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - coroutines run in tasks
    return task


def _metadata_of(pairs: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """By key. What was sent twice is neither the one nor the other: a second token or tenant must not go unseen."""
    found: dict[str, str] = {}
    for key, value in pairs:
        if isinstance(value, str):
            found[key] = f"{found[key]}, {value}" if key in found else value
    return found


def _parser(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def parse(raw: bytes) -> Any:
        try:
            return raw if deserialize is None else deserialize(raw)
        except DecodeError:
            raise InvalidRequest("The request's bytes are not a message of this method.") from None

    return parse


def request_id_of(metadata: Mapping[str, str]) -> str:
    """The caller's own id of the request where it may be logged, else a new one."""
    given = metadata.get(REQUEST_ID_KEY, "")
    # It goes into logs: only what cannot break them.
    return given if 0 < len(given) <= 64 and given.replace("-", "").isalnum() and given.isascii() else uuid.uuid4().hex


def _limit(method: str, left: float | None) -> float:
    wanted = default_for(method) if left is None or left > 1e8 else float(left)
    return min(wanted, LONGEST)


def _translate(error: Exception, engine: str) -> RagkeepError:
    if isinstance(error, grpc.aio.AioRpcError):
        error = from_rpc_error(error)
    if isinstance(error, TimeoutError):
        if engine:
            return DeadlineExceeded(f"The engine {engine} did not answer in time.", metadata={"engine": engine})
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
        # What it waited for, it did not come to say.
        return DeadlineExceeded(
            f"The {service} did not answer in time: it, or the engine that it waits for, is slow.",
            metadata={"service": service},
        )
    return found


def has_reason(error: grpc.aio.AioRpcError) -> bool:
    """Whether the status came with details of ours, or from gRPC itself."""
    return any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
