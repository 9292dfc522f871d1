"""Tracing: a span per RPC on both sides and per engine call, W3C context in and out. Exported only where a setting says so.

gRPC's stock instrumentation loses cancelled streams, so the interceptors are our own and thin.
"""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import grpc
from opentelemetry import propagate, trace
from opentelemetry.propagators.textmap import CarrierT
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from ragkeep_runtime.errors import RagkeepError
from ragkeep_runtime.tls import Identity, channel_credentials

_tracer = trace.get_tracer("ragkeep")


def configure_telemetry(service: str, endpoint: str, identity: Identity | None) -> Callable[[], None]:
    """Sets tracing up for a process; returns what flushes and ends it, within two seconds.

    Without an endpoint spans are made (logs carry their ids) and go nowhere. Only a collector on loopback is spoken to
    without TLS. Raises ValueError for an endpoint that is neither.
    """
    provider = TracerProvider(resource=Resource({"service.name": f"ragkeep-{service}"}))
    trace.set_tracer_provider(provider)
    if not endpoint:
        return provider.shutdown
    # Imported only where a collector is named: it costs 100 ms.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    exporter: SpanExporter
    url = urlsplit(endpoint)
    if url.scheme == "http" and _is_loopback(url.hostname or ""):
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True, timeout=2)
    elif url.scheme == "https" and identity is not None:

        def open_exporter() -> SpanExporter:
            return OTLPSpanExporter(endpoint=endpoint, credentials=channel_credentials(identity), timeout=2)

        exporter = _Following(identity, open_exporter)
    else:
        raise ValueError("RAGKEEP_OTLP_ENDPOINT must be https://host:port, or http:// on loopback")
    processor = BatchSpanProcessor(exporter, schedule_delay_millis=500)
    provider.add_span_processor(processor)

    def end() -> None:
        # A collector that is down must not hold a shutdown up.
        processor.force_flush(2000)
        exporter.shutdown()

    return end


class _Following(SpanExporter):
    """Exports with the certificates that are in force: an exporter is made anew when the files change. Runs on the
    processor's own thread."""

    def __init__(self, identity: Identity, open_exporter: Callable[[], SpanExporter]) -> None:
        self._identity = identity
        self._open = open_exporter
        self._seen = identity.stamp()
        self._exporter = open_exporter()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See SpanExporter."""
        with contextlib.suppress(OSError, ssl.SSLError):  # half written: at the next export
            stamp = self._identity.stamp()
            if stamp != self._seen:
                renewed = self._open()
                self._exporter.shutdown()
                self._exporter, self._seen = renewed, stamp
        return self._exporter.export(spans)

    def shutdown(self) -> None:
        """See SpanExporter."""
        self._exporter.shutdown()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def span(name: str, attributes: Mapping[str, AttributeValue] | None = None) -> Iterator[Span]:
    """A span around one call of an engine; an error's class is recorded, never its text."""
    with _tracer.start_as_current_span(
        name, kind=SpanKind.CLIENT, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_attribute("error.type", type(error).__name__)
            current.set_status(Status(StatusCode.ERROR))
            raise


@contextlib.contextmanager
def server_span(method: str, metadata: Mapping[str, str]) -> Iterator[Span]:
    """The span of one RPC on the server, a child of the caller's where it sent its context."""
    service, _, name = method.removeprefix("/").partition("/")
    with _tracer.start_as_current_span(
        f"{service}/{name}",
        context=propagate.extract(dict(metadata)),
        kind=SpanKind.SERVER,
        attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            code = grpc.StatusCode.UNKNOWN if isinstance(error, Exception) else grpc.StatusCode.CANCELLED
            current.set_attribute("rpc.grpc.status_code", _number(error.code if isinstance(error, RagkeepError) else code))
            current.set_status(Status(StatusCode.ERROR))
            raise
        current.set_attribute("rpc.grpc.status_code", _number(grpc.StatusCode.OK))


def _number(code: Any) -> int:
    return int(code.value[0]) if isinstance(code, grpc.StatusCode) else int(code)


def client_span(method: str, carrier: CarrierT) -> Span:
    """Begins the span of one RPC on the client and writes its context into the carrier; the caller ends it."""
    service, _, name = method.removeprefix("/").partition("/")
    current = _tracer.start_span(
        f"{service}/{name}",
        kind=SpanKind.CLIENT,
        attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
    )
    propagate.inject(carrier, trace.set_span_in_context(current))
    return current


def end_client_span(current: Span, code: grpc.StatusCode | None) -> None:
    """Ends a client's span with the call's status."""
    if code is not None:
        current.set_attribute("rpc.grpc.status_code", _number(code))
        if code is not grpc.StatusCode.OK:
            current.set_status(Status(StatusCode.ERROR))
    current.end()
