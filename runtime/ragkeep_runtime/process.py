"""One way to run a process: settings → logs, telemetry → credentials, access → handlers → serve → drain.

A first SIGTERM or SIGINT drains: health says so, no new calls, those in flight end. A second one leaves at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import resource
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import uvloop
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2_grpc

from ragkeep_runtime.access import AccessTable, Person, Rule, rules_of
from ragkeep_runtime.call import Call
from ragkeep_runtime.channel import MAX_MESSAGE_BYTES
from ragkeep_runtime.edge import Edge, Refusal
from ragkeep_runtime.expiry import ExpiryWatch
from ragkeep_runtime.following import FollowedFile, look_always
from ragkeep_runtime.health import Check, Health
from ragkeep_runtime.logs import configure_logs, get_logger
from ragkeep_runtime.metrics import configure_metrics
from ragkeep_runtime.policy import Policy
from ragkeep_runtime.settings import ProcessSettings, read_settings
from ragkeep_runtime.telemetry import configure_telemetry
from ragkeep_runtime.tls import server_credentials

log = get_logger()
# Between saying "not serving" and refusing: time for balancers to hear it.
_LAG_S = 0.2
# New pods are found, and old identities end, when connections do; the grace is longer than the longest stream.
CONNECTION_AGE_S, CONNECTION_GRACE_S = 30 * 60, 330
# gRPC's own is two minutes, and none for a connection on which no call comes. Of ours each has a call, health's watch.
HANDSHAKE_S, CONNECTION_IDLE_S = 10, 5 * 60
# A token of a person in many groups has to fit. Between the two gRPC refuses by chance; by default from 8 KiB on.
METADATA_BYTES, MOST_METADATA_BYTES = 24 * 1024, 32 * 1024

S = TypeVar("S", bound=ProcessSettings)


class Server:
    """Collects what a process serves; `run` starts it."""

    def __init__(self) -> None:
        self.services: list[tuple[ServiceDescriptor, Callable[[Any, grpc.aio.Server], None], object]] = []
        self.checks: list[Check] = []
        self.closers: list[Callable[[], Awaitable[object]]] = []
        self.starters: list[Callable[[Edge], Awaitable[object]]] = []
        self.drainers: list[Callable[[], Awaitable[object]]] = []
        self.call_checks: list[Callable[[Call], Awaitable[None]]] = []
        self.refusal_hooks: list[Callable[[Refusal], Awaitable[None]]] = []
        self.looks: list[Callable[[], object]] = []
        self.verify_token: Callable[[str], Person] | None = None
        self.certificates: dict[str, Path] = {}  # further ones of its own whose end is warned of, by what they are for
        self.policy: Policy | FollowedFile[Policy] = Policy()  # set before anything is built

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

    def check_calls(self, check: Callable[[Call], Awaitable[None]]) -> None:
        """`check` is awaited for every admitted call, before its handler; it raises a RagkeepError to refuse the call."""
        self.call_checks.append(check)

    def on_refusal(self, hook: Callable[[Refusal], Awaitable[None]]) -> None:
        """`hook` is awaited for every call that is refused for who makes it (after the handshake)."""
        self.refusal_hooks.append(hook)

    def start_with(self, start: Callable[[Edge], Awaitable[object]]) -> None:
        """`start` is awaited once gRPC serves, with the edge: for a server of another protocol."""
        self.starters.append(start)

    def on_drain(self, drain: Callable[[], Awaitable[object]]) -> None:
        """`drain` is awaited when the process is to stop, beside gRPC's own; it ends within `drain_s`."""
        self.drainers.append(drain)

    def rules(self) -> dict[str, Rule]:
        """The access rules of all that is served, by method path; whole once everything is built."""
        return rules_of(descriptor for descriptor, _, _ in self.services)

    def current_policy(self) -> Policy:
        """The policy in force."""
        return self.policy if isinstance(self.policy, Policy) else self.policy.current()

    def follow(self, look: Callable[[], object]) -> None:
        """`look` is called each second: it reads a file that changed, and says so itself where that is broken."""
        self.looks.append(look)

    def on_close(self, close: Callable[[], Awaitable[object]]) -> None:
        """Runs after the drain, last added first."""
        self.closers.append(close)


def run(name: str, settings_class: type[S], build: Callable[[S, Server], Awaitable[None]]) -> None:
    """Runs a process until a signal ends it. Exits with 2 for wrong settings, with 1 where it cannot start.

    What it writes is its user's alone.
    """
    os.umask(0o077)
    _take_descriptors()
    settings = read_settings(settings_class)
    configure_logs(name, settings.log_level)
    try:
        end_telemetry = configure_telemetry(name, settings.otlp_endpoint, settings.identity_to_collector)
    except (OSError, ValueError) as error:
        _give_up(str(error))
    try:
        uvloop.run(_serve(settings, build, configure_metrics(name)))
    except (OSError, ssl.SSLError, ValueError) as error:
        _give_up(f"{name}: {error}")
    finally:
        # Closed channels sit in reference cycles; left to the interpreter's end, gRPC waits two seconds for each.
        gc.collect()
        end_telemetry()


def _take_descriptors() -> None:
    """As many as the system lets it have: each connection takes one. The soft limit is low for programs that use select."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS has a lower one, which it does not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _give_up(message: str) -> None:
    print(message, file=sys.stderr)
    raise SystemExit(1)


async def _serve(settings: S, build: Callable[[S, Server], Awaitable[None]], metrics: Callable[[], bytes]) -> None:
    stopping = _stop_on_signals()
    server = Server()
    if settings.policy_file is not None:
        server.policy = FollowedFile(settings.policy_file, Policy.parse, what="policy")
        server.follow(server.policy.look)
    await build(settings, server)
    table = AccessTable(server.rules(), server.policy, server.verify_token)
    engine = getattr(settings, "engine", "")
    edge = Edge(table, settings.trust_domain, checks=server.call_checks, on_refusal=server.refusal_hooks, engine=engine)
    server.follow(edge.running.judge)  # the last: in the same second a changed policy is in force for what runs too
    grpc_server, grpc_health = _grpc_server(settings, edge, server)
    http = Health(server.checks, metrics)
    host, _, port = settings.health_listen.rpartition(":")
    await http.start(host, int(port))
    await grpc_server.start()
    for start in server.starters:
        await start(edge)
    bundles = {"authorities": settings.tls_ca}
    if settings.otlp_ca is not None:
        bundles["collector_authorities"] = settings.otlp_ca
    expiry = ExpiryWatch({"own": settings.tls_cert, **server.certificates}, bundles)
    expiry.show()
    always = (expiry.run(), look_always(server.looks), edge.running.check_always())
    watching = [asyncio.create_task(one) for one in always]
    log.info("serving", listen=settings.listen, health=settings.health_listen)

    await stopping.wait()
    log.info("draining", active=edge.active)
    http.draining = edge.draining = True
    await grpc_health.enter_graceful_shutdown()
    await asyncio.sleep(_LAG_S)
    drains = [asyncio.ensure_future(drain()) for drain in server.drainers]
    # stop() waits for health's watchers too, for all of its grace: count our own calls, then end it.
    stop = asyncio.create_task(grpc_server.stop(settings.drain_s))
    while edge.active and not stop.done():  # noqa: ASYNC110 - once in a process's life
        await asyncio.sleep(0.05)
    await grpc_server.stop(None)
    await stop
    await asyncio.gather(*drains)
    await http.close()
    for task in watching:
        task.cancel()
    for close in reversed(server.closers):
        await close()
    log.info("stopped")


def _grpc_server(settings: ProcessSettings, edge: Edge, server: Server) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    grpc_server = grpc.aio.server(interceptors=[edge], options=grpc_options())
    grpc_health = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(grpc_health, grpc_server)
    for _, register, servicer in server.services:
        register(servicer, grpc_server)
    try:
        grpc_server.add_secure_port(settings.listen, server_credentials(settings.identity))
    except RuntimeError:
        raise OSError(f"cannot listen on {settings.listen}: the address is in use or not of this machine") from None
    return grpc_server, grpc_health


def grpc_options(handshake_s: float = HANDSHAKE_S, idle_s: float = CONNECTION_IDLE_S) -> list[tuple[str, int]]:
    """What a gRPC port allows. The handshake ends with the client's HTTP/2 settings; idle is a connection without a call."""
    return [
        ("grpc.so_reuseport", 0),  # else a second process on the same port silently shares it
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MOST_METADATA_BYTES),
        ("grpc.server_handshake_timeout_ms", round(handshake_s * 1000)),
        ("grpc.max_connection_idle_ms", round(idle_s * 1000)),
        ("grpc.max_connection_age_ms", CONNECTION_AGE_S * 1000),
        ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_S * 1000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


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
