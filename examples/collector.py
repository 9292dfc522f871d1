"""Shows traces in a terminal: a collector for trying things out, on loopback, that keeps nothing. docs/tracing.md tells how."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

# Seconds after its last span that a trace is taken to be whole: processes export twice a second.
QUIET_S = 2.0
# SpanKind of OTLP.
_SIDES = {2: "serves ", 3: "calls "}


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    """Gathers spans by trace."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[bytes, tuple[float, list[tuple[str, Any]]]] = {}

    def Export(self, request: Any, context: Any) -> Any:
        """What a process sends."""
        with self._lock:
            for resource in request.resource_spans:
                service = next(
                    (one.value.string_value for one in resource.resource.attributes if one.key == "service.name"), "?"
                )
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        _, spans = self._open.get(span.trace_id, (0.0, []))
                        self._open[span.trace_id] = time.monotonic(), [*spans, (service, span)]
        return trace_service_pb2.ExportTraceServiceResponse()

    def whole(self) -> list[list[tuple[str, Any]]]:
        """Those to which nothing came for a while; they are forgotten here."""
        with self._lock:
            ready = [trace for trace, (last, _) in self._open.items() if time.monotonic() - last > QUIET_S]
            return [self._open.pop(trace)[1] for trace in ready]


def tree(spans: list[tuple[str, Any]]) -> Iterator[str]:
    """A line a span: milliseconds, who, what; below its parent."""
    ids = {span.span_id for _, span in spans}
    waiting = sorted(spans, key=lambda one: one[1].start_time_unix_nano)

    def below(parent: bytes | None, depth: int) -> Iterator[str]:
        for service, span in waiting:
            if span.parent_span_id == parent or (parent is None and span.parent_span_id not in ids):
                found = {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}
                status = found.get("rpc.grpc.status_code") or found.get("error.type")
                told = [f"{key.removeprefix('ragkeep.')}={value}" for key, value in found.items() if key.startswith("ragkeep.")]
                told += [f"FAILED ({status or 'no status'})"] if span.status.code == 2 else []
                milliseconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
                who = f"{'  ' * depth}{service.removeprefix('ragkeep-')} {_SIDES.get(span.kind, '')}{span.name}"
                yield f"{milliseconds:9.1f} ms  {who}  {', '.join(told)}".rstrip()
                yield from below(span.span_id, depth + 1)

    yield f"trace {spans[0][1].trace_id.hex()}"
    yield from below(None, 0)


def main() -> None:
    """Listens until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4317, help="of loopback; 0: any that is free")
    traces, server = Traces(), grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(traces, server)
    port = server.add_insecure_port(f"127.0.0.1:{parser.parse_args().port}")
    server.start()
    print(f"RAGKEEP_OTLP_ENDPOINT=http://127.0.0.1:{port}", file=sys.stderr, flush=True)
    try:
        while True:
            time.sleep(0.2)
            for spans in traces.whole():
                print("\n".join(tree(spans)), flush=True)
    except KeyboardInterrupt:
        server.stop(0)


if __name__ == "__main__":
    main()
