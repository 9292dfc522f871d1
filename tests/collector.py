"""A collector of traces on loopback, that keeps what it gets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from google.protobuf import text_format
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Receives OTLP as a collector does, and keeps it: in memory, and in a file that the search for leaks reads."""

    def __init__(self, folder: Path) -> None:
        self.spans: list[tuple[str, object]] = []
        self.lock = threading.Lock()
        self.file = folder / "exported.spans"

    def Export(self, request: object, context: object) -> object:
        """Keeps (service, span)."""
        with self.lock:
            with self.file.open("a") as file:
                file.write(text_format.MessageToString(request, as_utf8=True))  # type: ignore[arg-type]
            for resource in request.resource_spans:  # type: ignore[attr-defined]
                service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
                self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[tuple[Receiver, str]]:
    """A receiver on a free loopback port."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    found = Receiver(tmp_path)
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(found, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield found, f"http://127.0.0.1:{port}"
    server.stop(0)
