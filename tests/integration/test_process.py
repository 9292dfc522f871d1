"""How a process leaves, what it traces, and how its credentials change."""

from __future__ import annotations

import asyncio
import os
import signal
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from ragkeep.embedder.v1 import embedder_pb2
from ragkeep.embedder.v1.embedder_pb2_grpc import EmbedderServiceStub
from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.tls import Identity
from tests.collector import Receiver
from tests.pki import Authority
from tests.stack import SERVICES, Stack
from tests.tickets import SAMPLE
from tests.waiting import events_of, until_true

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
TENANT = (("ragkeep-tenant", "process"),)


async def test_one_question_is_one_trace_over_all_four_processes(tmp_path: Path, receiver: tuple[Receiver, str]) -> None:
    """The caller's W3C context is the root; each RPC has a span on both sides; each engine call has one below its RPC."""
    collector, endpoint = receiver
    stack = Stack(tmp_path, {name: {"RAGKEEP_OTLP_ENDPOINT": endpoint} for name in SERVICES})
    trace_id, root = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    try:
        stack.start()
        async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
            rag = RagServiceStub(channel)
            await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE[:2]), metadata=TENANT)
            # The raw channel's method: our own client interceptor would begin a trace of its own.
        key, cert, ca = stack.cli.read()
        options = [("grpc.default_authority", "gateway.ragkeep.internal")]
        async with grpc.aio.secure_channel(
            stack.target("gateway"), grpc.ssl_channel_credentials(ca, key, cert), options=options
        ) as raw:
            parent = ("traceparent", f"00-{trace_id}-{root}-01")
            [event async for event in RagServiceStub(raw).Ask(pb.AskRequest(question="忘记密码"), metadata=(*TENANT, parent))]
    finally:
        stack.stop()
    spans = {
        span.span_id: (service, span)  # type: ignore[attr-defined]
        for service, span in collector.spans
        if span.trace_id.hex() == trace_id  # type: ignore[attr-defined]
    }

    def path(span_id: bytes) -> list[str]:
        service, span = spans[span_id]
        parent_id = span.parent_span_id  # type: ignore[attr-defined]
        above = [] if parent_id.hex() == root else path(parent_id)
        return [*above, f"{service.removeprefix('ragkeep-')}:{span.name.rpartition('/')[2]}"]  # type: ignore[attr-defined]

    paths = {" > ".join(path(span_id)) for span_id in spans}
    for expected in (
        "gateway:Ask",
        "gateway:Ask > gateway:Embed > embedder:Embed > embedder:e5.embed",
        "gateway:Ask > gateway:Search > retriever:Search > retriever:store.search",
        "gateway:Ask > gateway:Generate > generator:Generate",
    ):
        assert expected in paths, paths
    assert {service for service, _ in spans.values()} == {f"ragkeep-{name}" for name in SERVICES}
    written = collector.file.read_text()
    assert "gateway.v1.RagService/Ask" in written
    assert "密码" not in written


async def test_a_collector_of_another_authority_is_trusted_for_traces_alone(tmp_path: Path) -> None:
    """RAGKEEP_OTLP_CA: traces go to the site's collector over mutual TLS; a peer with a certificate of that authority stays a stranger."""
    site = Authority(tmp_path / "site")
    stack = Stack(tmp_path)
    shown = site.issue("collector", uris=["spiffe://ragkeep.internal/gateway"], dns=["localhost"])
    key, cert, _ = shown.read()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    found = Receiver(tmp_path)
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(found, server)
    asks_for_ours = grpc.ssl_server_credentials([(key, cert)], stack.authority.ca.read_bytes(), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", asks_for_ours)
    server.start()
    stack.env["embedder"] = {"RAGKEEP_OTLP_ENDPOINT": f"https://localhost:{port}", "RAGKEEP_OTLP_CA": str(site.ca)}
    try:
        stack.start("embedder")
        request = embedder_pb2.EmbedRequest(texts=["a"], purpose=embedder_pb2.PURPOSE_QUERY)
        async with open_channel(stack.target("embedder"), "embedder", stack.identities["gateway"]) as channel:
            await EmbedderServiceStub(channel).Embed(request)
        stranger = Identity(shown.cert, shown.key, stack.authority.ca)
        async with open_channel(stack.target("embedder"), "embedder", stranger) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await EmbedderServiceStub(channel).Embed(request, timeout=60)
    finally:
        stack.stop()
        server.stop(0)
    assert "ragkeep-embedder" in {service for service, _ in found.spans}


async def test_a_stop_signal_lets_calls_in_flight_end_and_refuses_new_ones(tmp_path: Path) -> None:
    """Drain: the import that runs completes, the process leaves with 0."""
    stack = Stack(tmp_path)
    try:
        stack.start()
        async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
            rag = RagServiceStub(channel)
            await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE[:1]), metadata=TENANT)
            embedder = stack.processes["embedder"]
            embedder.send_signal(signal.SIGSTOP)
            call = asyncio.ensure_future(rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=TENANT))
            await until_true(lambda: stack.log("retriever").count("/GetVersions") == 2)
            stack.processes["gateway"].send_signal(signal.SIGTERM)
            await until_true(lambda: events_of(stack.log("gateway"), "draining"))
            assert events_of(stack.log("gateway"), "draining")[0]["active"] == 1
            embedder.send_signal(signal.SIGCONT)
            assert len((await call).outcomes) == len(SAMPLE)
        assert await asyncio.to_thread(stack.processes["gateway"].wait, 300) == 0
        assert "draining" in stack.log("gateway")
        assert "stopped" in stack.log("gateway")
    finally:
        stack.stop()


async def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    """Without waiting for the call in flight."""
    stack = Stack(tmp_path)
    try:
        stack.start()
        async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
            rag = RagServiceStub(channel)
            await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE[:1]), metadata=TENANT)
            embedder, gateway = stack.processes["embedder"], stack.processes["gateway"]
            # The call cannot end before the second signal.
            embedder.send_signal(signal.SIGSTOP)
            call = asyncio.ensure_future(rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=TENANT))
            await until_true(lambda: stack.log("retriever").count("/GetVersions") == 2)
            gateway.send_signal(signal.SIGTERM)
            await until_true(lambda: events_of(stack.log("gateway"), "draining"))
            gateway.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(gateway.wait, 300) == 130
            with pytest.raises(grpc.aio.AioRpcError):
                await call
            embedder.send_signal(signal.SIGCONT)
    finally:
        stack.stop()


async def test_certificates_are_followed_when_the_files_change(tmp_path: Path) -> None:
    """New connections meet the new certificate; no restart."""
    stack = Stack(tmp_path)
    try:
        stack.start("embedder", "retriever", "generator", "gateway")
        identity = stack.identities["gateway"]
        serial = _serial(stack)
        renewed = stack.authority.issue(
            "gateway-new", uris=["spiffe://ragkeep.internal/gateway"], dns=["gateway.ragkeep.internal"]
        )
        renewed.key.replace(identity.key)
        renewed.cert.replace(identity.cert)
        assert _serial(stack) != serial
    finally:
        stack.stop()


def _serial(stack: Stack) -> int:
    import socket
    import ssl

    from cryptography import x509

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(stack.authority.ca)
    context.load_cert_chain(stack.cli.cert, stack.cli.key)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", stack.ports["gateway"]), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="gateway.ragkeep.internal") as secured,
    ):
        der = secured.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


async def test_what_a_process_writes_is_its_users_alone(tmp_path: Path) -> None:
    """Whatever umask it was started with: the catalogue holds the tenants' salts."""
    stack = Stack(tmp_path)
    store = tmp_path / "store"
    store.mkdir(mode=0o755)
    before = os.umask(0o022)
    try:
        stack.start()
        async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
            await RagServiceStub(channel).ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE[:1]), metadata=TENANT)
        written = [store, *store.iterdir(), *(path for path in stack.audit.rglob("*") if path.is_file())]
        others = {path.name for path in written if path.stat().st_mode & 0o077}
    finally:
        os.umask(before)
        stack.stop()
    assert "catalogue.db" in {path.name for path in written}
    assert not others


def test_a_port_in_use_is_said_and_nothing_starts(stack: Stack, tmp_path: Path) -> None:
    """A second process on the same address does not silently share it."""
    second = Stack(tmp_path)
    second.ports["embedder"] = stack.ports["embedder"]
    try:
        second.start("embedder", wait=False)
        assert second.processes["embedder"].wait(300) == 1
        assert f"cannot listen on {stack.target('embedder')}" in second.log("embedder")
    finally:
        second.stop()
