"""One builder for every channel: mutual TLS that follows its files, the service's own name verified, deadlines, request id,
tracing, retries."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import grpc

from ragkeep_runtime.call import current_call
from ragkeep_runtime.deadline import default_for, remaining
from ragkeep_runtime.edge import REQUEST_ID_KEY, hop_error
from ragkeep_runtime.rotation import FollowingChannel, InFlight
from ragkeep_runtime.telemetry import client_span, end_client_span
from ragkeep_runtime.tls import Identity

MAX_MESSAGE_BYTES = 40 * 1024 * 1024
# Every unary method of the contract may be sent again; streams are not retried after their first message.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # Needs round_robin; moves traffic off a draining server.
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}


def open_channel(target: str, name: str, identity: Identity, trust_domain: str = "ragkeep.internal") -> FollowingChannel:
    """A channel to the service `name` at `target` (host:port, or dns:///host:port for every replica behind a name).

    Whatever address it dials, the server must show a certificate for `<name>.<trust_domain>`. Every call gets a deadline:
    the method's default, less where the call being served has less left. Changed certificate files are taken over.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.default_authority", f"{name}.{trust_domain}"),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # A service that came back is found within a second; by default the wait grows to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # No proxy of the environment comes between two processes of ours.
        ("grpc.enable_http_proxy", 0),
    ]

    def open_with(credentials: grpc.ChannelCredentials, in_flight: InFlight) -> grpc.aio.Channel:
        interceptors: list[grpc.aio.ClientInterceptor] = [_Unary(in_flight), _Stream(in_flight)]
        return grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)

    return FollowingChannel(name, identity, open_with)


class _Outgoing:
    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight

    async def _send(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        serving = current_call.get()
        carrier: dict[str, str] = {}
        current = client_span(method, carrier)
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        if metadata.get(REQUEST_ID_KEY) is None:
            metadata.add(REQUEST_ID_KEY, serving.request_id if serving else uuid.uuid4().hex)
        for key, value in carrier.items():
            metadata.add(key, value)
        self._in_flight.begin()
        try:
            timeout = remaining(details.timeout if details.timeout is not None else default_for(method))
            call = await continuation(details._replace(timeout=timeout, metadata=metadata), request)
        except BaseException:
            self._in_flight.end()
            end_client_span(current, grpc.StatusCode.CANCELLED)
            raise

        def done(finished: Any) -> None:
            self._in_flight.end()
            # A callback: nothing to detach, streams included. The code is there already, so reading it does not wait.
            end_client_span(current, _code_of(finished))

        call.add_done_callback(done)
        return call


def _code_of(call: Any) -> grpc.StatusCode | None:
    reading = call.code()
    try:
        reading.send(None)
    except StopIteration as result:
        return result.value if isinstance(result.value, grpc.StatusCode) else None
    except Exception:
        return None
    reading.close()
    return None


class _Unary(_Outgoing, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._send(continuation, client_call_details, request)


class _Stream(_Outgoing, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._send(continuation, client_call_details, request)


@contextlib.contextmanager
def errors_of(service: str) -> Iterator[None]:
    """Raises the domain error that a failed call to `service` stands for."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise hop_error(service, error) from error


async def stream(call: Any, service: str) -> AsyncGenerator[Any]:
    """The messages of a streaming call. Closing it cancels the call: leaving `async for` alone would not."""
    try:
        with errors_of(service):
            async for message in call:
                yield message
    finally:
        call.cancel()


async def wait_until_connected(channel: grpc.aio.Channel, timeout_s: float) -> bool:
    """Whether the channel connects in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await channel.channel_ready()
            return True
    return False
