"""One way to run a process: settings → logs, telemetry → credentials, access → handlers → serve → drain.

A first SIGTERM or SIGINT drains: health says so, no new calls, those in flight end. A second one leaves at once.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import uvloop
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2_grpc

from ragkeep_runtime.access import AccessTable, Policy, rules_of
from ragkeep_runtime.channel import MAX_MESSAGE_BYTES
from ragkeep_runtime.edge import Edge
from ragkeep_runtime.health import Check, Health
from ragkeep_runtime.logs import configure_logs, get_logger
from ragkeep_runtime.settings import ProcessSettings, read_settings
from ragkeep_runtime.telemetry import configure_telemetry
from ragkeep_runtime.tls import server_credentials

log = get_logger()
# Between saying "not serving" and refusing: time for balancers to hear it.
_LAG_S = 0.2
# New pods are found, and old identities end, when connections do; the grace is longer than the longest stream.
CONNECTION_AGE_S, CONNECTION_GRACE_S = 30 * 60, 330

S = TypeVar("S", bound=ProcessSettings)


class Server:
    """Collects what a process serves; `run` starts it."""

    def __init__(self) -> None:
        self.services: list[tuple[ServiceDescriptor, Callable[[Any, grpc.aio.Server], None], object]] = []
        self.checks: list[Check] = []
        self.closers: list[Callable[[], Awaitable[object]]] = []

    def add(self, descriptor: ServiceDescriptor, register: Callable[[Any, Any], None], servicer: object) -> None:
        """Serves a service of the contract. Raises TypeError where a method has no async handler of its own."""
        for method in descriptor.methods:
            handler = getattr(type(servicer), method.name, None)
            if not (inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler)):
                raise TypeError(f"{method.full_name} has no async handler")
        self.services.append((descriptor, register, servicer))

    def ready_when(self, check: Check) -> None:
        """Readiness asks `check`, which raises a RagkeepError where something is missing."""
        self.checks.append(check)

    def on_close(self, close: Callable[[], Awaitable[object]]) -> None:
        """Runs after the drain, last added first."""
        self.closers.append(close)


def run(name: str, settings_class: type[S], build: Callable[[S, Server], Awaitable[None]]) -> None:
    """Runs a process until a signal ends it. Exits with 2 for wrong settings, with 1 where it cannot start."""
    settings = read_settings(settings_class)
    configure_logs(name, settings.log_level)
    try:
        end_telemetry = configure_telemetry(name, settings.otlp_endpoint, settings.identity_to_collector)
    except (OSError, ValueError) as error:
        _give_up(str(error))
    try:
        uvloop.run(_serve(name, settings, build))
    except (OSError, ssl.SSLError, ValueError) as error:
        _give_up(f"{name}: {error}")
    finally:
        # Closed channels sit in reference cycles; left to the interpreter's end, gRPC waits two seconds for each.
        gc.collect()
        end_telemetry()


def _give_up(message: str) -> None:
    print(message, file=sys.stderr)
    raise SystemExit(1)


async def _serve(name: str, settings: S, build: Callable[[S, Server], Awaitable[None]]) -> None:
    stopping = _stop_on_signals()
    server = Server()
    await build(settings, server)
    table = AccessTable(rules_of(descriptor for descriptor, _, _ in server.services), Policy.read(settings.policy_file))
    edge = Edge(table, settings.trust_domain)
    grpc_server, grpc_health = _grpc_server(settings, edge, server)
    http = Health(server.checks)
    host, _, port = settings.health_listen.rpartition(":")
    await http.start(host, int(port))
    await grpc_server.start()
    log.info("serving", listen=settings.listen, health=settings.health_listen)

    await stopping.wait()
    log.info("draining", active=edge.active)
    http.draining = edge.draining = True
    await grpc_health.enter_graceful_shutdown()
    await asyncio.sleep(_LAG_S)
    # stop() waits for health's watchers too, for all of its grace: count our own calls, then end it.
    stop = asyncio.create_task(grpc_server.stop(settings.drain_s))
    while edge.active and not stop.done():  # noqa: ASYNC110 - once in a process's life
        await asyncio.sleep(0.05)
    await grpc_server.stop(None)
    await stop
    await http.close()
    for close in reversed(server.closers):
        await close()
    log.info("stopped")


def _grpc_server(settings: ProcessSettings, edge: Edge, server: Server) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    grpc_server = grpc.aio.server(
        interceptors=[edge],
        options=[
            ("grpc.so_reuseport", 0),  # else a second process on the same port silently shares it
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_connection_age_ms", CONNECTION_AGE_S * 1000),
            ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_S * 1000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
    grpc_health = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(grpc_health, grpc_server)
    for _, register, servicer in server.services:
        register(servicer, grpc_server)
    try:
        grpc_server.add_secure_port(settings.listen, server_credentials(settings.identity))
    except RuntimeError:
        raise OSError(f"cannot listen on {settings.listen}: the address is in use or not of this machine") from None
    return grpc_server, grpc_health


def _stop_on_signals() -> asyncio.Event:
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            os._exit(130)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return stopping
