"""Metrics: the instruments of every process, and their text for Prometheus. docs/metrics.md tells each.

They stand on the plain health port, so a label is a method of the contract, a reason or a queue's name: never a tenant, a
caller, an address or a text. What a caller could make up is counted as "unknown".
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

_meter = metrics.get_meter("ragkeep")
# From a health check to the longest answer, in seconds.
_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
# Of so many callers' addresses it is remembered that they were counted.
_REMEMBERED = 8192

UNKNOWN = "unknown"

_calls = _meter.create_counter("ragkeep_calls", description="Calls that ended, by method and outcome: OK or a reason.")
_durations = _meter.create_histogram(
    "ragkeep_call_duration_seconds",
    description="Seconds from a call's arrival to its end, by method.",
    explicit_bucket_boundaries_advisory=_DURATIONS,
)
_refused = _meter.create_counter("ragkeep_calls_refused", description="Calls refused for who makes them, by reason.")
_begun = _meter.create_counter("ragkeep_connections", description="Connections that began a TLS handshake, by edge.")
_used = _meter.create_counter(
    "ragkeep_connections_used", description="Connections whose handshake ended well, as their use showed, by edge."
)
_dropped = _meter.create_counter(
    "ragkeep_handshakes_dropped", description="Handshakes at the HTTPS edge that were dropped for newcomers."
)
_not_taken_over = _meter.create_counter(
    "ragkeep_file_not_taken_over", description="Times that a changed file was found broken and the old one kept."
)


def call_ended(method: str, outcome: str, seconds: float) -> None:
    """Counts a call. `method` is a path of the contract, or UNKNOWN."""
    _calls.add(1, {"method": method, "outcome": outcome})
    _durations.record(seconds, {"method": method})


def call_refused(reason: str) -> None:
    """Counts a call that was not let in."""
    _refused.add(1, {"reason": reason})


def connection_began(edge: str) -> None:
    """Counts a connection before its handshake; `edge` is grpc or https."""
    _begun.add(1, {"edge": edge})


def connection_used(edge: str) -> None:
    """Counts a connection whose handshake is known to have ended well."""
    _used.add(1, {"edge": edge})


def handshake_dropped() -> None:
    """Counts a handshake that was dropped, as there were too many that had not ended."""
    _dropped.add(1)


def file_not_taken_over(what: str) -> None:
    """Counts a broken file; `what` says what it is for."""
    _not_taken_over.add(1, {"what": what})


class Connections:
    """Tells the first call of a connection of gRPC from later ones: nothing else tells that its handshake ended well."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, None] = OrderedDict()

    def used(self, address: str) -> None:
        """A call came from this address and port."""
        if address in self._seen:
            self._seen.move_to_end(address)
            return
        self._seen[address] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        connection_used("grpc")


class Queue(Protocol):
    """What has a depth."""

    name: str

    @property
    def waiting(self) -> int:
        """How many wait."""
        ...


_queues: weakref.WeakSet[Queue] = weakref.WeakSet()


def watch_queue(queue: Queue) -> None:
    """Shows its depth, for as long as it is there."""
    _queues.add(queue)


def _depths(_options: CallbackOptions) -> Iterable[Observation]:
    waiting: dict[str, int] = {}
    for queue in list(_queues):
        waiting[queue.name] = waiting.get(queue.name, 0) + queue.waiting
    return [Observation(count, {"queue": name}) for name, count in waiting.items()]


_meter.create_observable_gauge(
    "ragkeep_engine_queue_depth", [_depths], description="Requests that wait for the engine, those it works on aside."
)


def configure_metrics(service: str) -> Callable[[], bytes]:
    """Sets metrics up for a process; returns what gives them as Prometheus' text. No port is opened."""
    # Imported here: a command, a test of a part and the image's other programs do without.
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    reader = PrometheusMetricReader(registry=registry, scope_info_enabled=False)
    metrics.set_meter_provider(
        MeterProvider([reader], resource=Resource({"service.name": f"ragkeep-{service}"}), shutdown_on_exit=False)
    )
    return lambda: generate_latest(registry)
