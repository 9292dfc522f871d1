"""`examples/collector.py`: what somebody who tries traces out sees."""

from __future__ import annotations

import signal
import subprocess
import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor


def test_a_trace_is_shown_as_a_tree() -> None:
    """Each span below its parent, with who made it and our own attributes; what failed says so."""
    command = [sys.executable, "examples/collector.py", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as collector:
        try:
            assert collector.stdout is not None
            assert collector.stderr is not None
            endpoint = collector.stderr.readline().strip().removeprefix("RAGKEEP_OTLP_ENDPOINT=")
            provider = TracerProvider(resource=Resource({"service.name": "ragkeep-retriever"}))
            provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=True)))
            tracer = provider.get_tracer("test")
            with tracer.start_as_current_span(
                "R/Search", kind=trace.SpanKind.SERVER, attributes={"rpc.method": "Search"}
            ) as served:
                served.set_attribute("rpc.grpc.status_code", 14)
                served.set_status(trace.StatusCode.ERROR)
                with tracer.start_as_current_span("store.search", kind=trace.SpanKind.CLIENT, attributes={"ragkeep.limit": 5}):
                    pass
            provider.shutdown()
            lines = [collector.stdout.readline() for _ in range(3)]
        finally:
            collector.send_signal(signal.SIGINT)
    assert lines[0] == f"trace {served.get_span_context().trace_id:032x}\n"
    assert lines[1].endswith(" ms  retriever serves R/Search  FAILED (14)\n")
    assert lines[2].endswith(" ms    retriever calls store.search  limit=5\n")
