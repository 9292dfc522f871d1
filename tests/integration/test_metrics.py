"""What a process tells on its health port: counts of what happened, and nothing of whom or what."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep_runtime.channel import open_channel
from tests.https import Site
from tests.pki import Authority
from tests.stack import READER, SERVICES, Stack
from tests.tickets import SAMPLE
from tests.waiting import events_of, until

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
TENANT = "metrics-tenant"
QUESTION = "VPN error 809 after an update"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An installation whose counters nobody else moves."""
    stack = Stack(tmp_path_factory.mktemp("metrics"))
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway with its HTTPS edge."""
    site = Site(tmp_path_factory.mktemp("https"))
    try:
        site.stack.start("gateway")
        yield site
    finally:
        site.stack.stop()


def _page(site: Stack, service: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{site.health_ports[service]}/metrics", timeout=60) as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return str(response.read().decode())


def _value(site: Stack, service: str, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(_page(site, service))
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def test_calls_are_counted_by_method_and_outcome_and_nobody_is_named(site: Stack) -> None:
    """Answers, refusals and methods that there are not; no tenant, caller, address, question or document on any page."""
    path = "/ragkeep.gateway.v1.RagService/Search"
    async with open_channel(site.target("gateway"), "gateway", site.cli) as channel:
        rag = RagServiceStub(channel)
        metadata = (("ragkeep-tenant", TENANT),)
        await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=metadata)
        for _ in range(3):
            await rag.Search(pb.SearchRequest(query=QUESTION), metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError):
            await rag.Search(pb.SearchRequest(), metadata=metadata)
        for made_up in ("Made-Up-Tenant-7", "Another"):
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(f"/ragkeep.gateway.v1.RagService/{made_up}")(b"")
    async with open_channel(site.target("gateway"), "gateway", site.reader) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await RagServiceStub(channel).ImportDocuments(pb.ImportDocumentsRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await RagServiceStub(channel).Search(pb.SearchRequest(query=QUESTION), metadata=(("ragkeep-tenant", "other-one"),))
    calls = "ragkeep_calls_total"
    assert _value(site, "gateway", calls, method=path, outcome="OK") == 3
    assert _value(site, "gateway", calls, method=path, outcome="QUESTION_EMPTY") == 1
    assert _value(site, "gateway", calls, method="unknown", outcome="NOT_ALLOWED") == 2
    assert _value(site, "gateway", "ragkeep_calls_refused_total", reason="NOT_ALLOWED") == 3
    assert _value(site, "gateway", "ragkeep_calls_refused_total", reason="TENANT_NOT_ALLOWED") == 1
    assert _value(site, "gateway", "ragkeep_call_duration_seconds_count", method=path) == 5
    assert _value(site, "retriever", calls, outcome="OK") >= 3
    secret = [
        TENANT,
        "other-one",
        "made-up",
        READER,
        "caller",
        "127.0.0.1",
        QUESTION,
        "vpn",
        "t-1042",
        "service-tickets",
        str(site.folder),
    ]
    for service in SERVICES:
        page = _page(site, service).lower()
        assert [word for word in secret if word.lower() in page] == []


async def test_connections_that_are_not_let_in_show_as_those_never_used(site: Stack, tmp_path: Path) -> None:
    """Without a certificate, with another authority's, or not TLS at all: begun, and no call ever came."""

    def counts() -> tuple[float, float]:
        return tuple(_value(site, "embedder", f"ragkeep_connections{part}_total", edge="grpc") for part in ("", "_used"))  # type: ignore[return-value]

    begun, used = await asyncio.to_thread(counts)
    foreign = Authority(tmp_path).service("gateway")
    for pair in (None, foreign):
        context = ssl.create_default_context(cafile=site.authority.ca)
        context.set_alpn_protocols(["h2"])
        if pair is not None:
            context.load_cert_chain(pair.cert, pair.key)
        with (
            socket.create_connection(("127.0.0.1", site.ports["embedder"]), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="embedder.ragkeep.internal") as secured,
            contextlib.suppress(ssl.SSLError, ConnectionError),  # TLS 1.3: the client hears of it when it reads
        ):
            assert secured.recv(65536) == b""
    with socket.create_connection(("127.0.0.1", site.ports["embedder"]), timeout=60) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert plain.recv(100) == b""
    async with open_channel(site.target("embedder"), "embedder", site.cli) as channel:
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary("/ragkeep.embedder.v1.EmbedderService/Describe")(b"")
    assert await asyncio.to_thread(counts) == (begun + 4, used + 1)


def test_handshakes_with_the_https_edge_are_counted_too(https: Site) -> None:
    """One that does not trust the certificate, and one that does; its end is watched."""

    def counts() -> tuple[float, ...]:
        return tuple(_value(https.stack, "gateway", f"ragkeep_connections{part}_total", edge="https") for part in ("", "_used"))

    begun, used = counts()
    for context in (ssl.create_default_context(), https.tls):
        with (
            contextlib.suppress(ssl.SSLError),
            socket.create_connection(("127.0.0.1", https.port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert secured.recv(100).startswith(b"HTTP/1.1 4")
    assert counts() == (begun + 2, used + 1)
    assert 0 < _value(https.stack, "gateway", "ragkeep_certificate_expiry_seconds", which="https") <= 86400


@pytest.mark.parametrize("what", ["policy", "jwt_jwks", "http_cert"])
def test_a_broken_file_is_told_and_counted_though_nobody_calls(https: Site, what: str) -> None:
    """And a right one is taken over: operators look there after a change, at whatever hour."""
    file = {"policy": https.stack.policy, "jwt_jwks": https.keys, "http_cert": https.identity.cert}[what]
    good = file.read_bytes()

    def written(content: bytes) -> None:
        new = file.with_suffix(".new")
        new.write_bytes(content)
        new.replace(file)

    calls = _value(https.stack, "gateway", "ragkeep_connections_total")
    written(b"{")
    until(lambda: _value(https.stack, "gateway", "ragkeep_file_not_taken_over_total", what=what))
    (told, *_) = until(lambda: events_of(https.stack.log("gateway"), "file_not_taken_over", what=what))
    assert told["level"] == "error"
    written(good)
    until(lambda: events_of(https.stack.log("gateway"), "file_taken_over", what=what))
    assert _value(https.stack, "gateway", "ragkeep_connections_total") == calls


def test_what_the_processes_show_is_on_the_page(site: Stack) -> None:
    """docs/metrics.md; that every row has its metric is seen in the code, by tests/unit/test_docs.py."""
    rows = set(re.findall(r"^\| `(ragkeep_\w+)`", Path("docs/metrics.md").read_text(), re.MULTILINE))
    shown = {
        sample.name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
        for service in SERVICES
        for family in text_string_to_metric_families(_page(site, service))
        for sample in family.samples
    }
    assert {name for name in shown if not name.startswith(("process_", "target_info"))} - rows == set()
    assert {"process_resident_memory_bytes", "ragkeep_engine_queue_depth", "ragkeep_certificate_expiry_seconds"} <= shown


def test_a_certificate_near_its_end_is_in_the_metric_and_the_log(tmp_path: Path) -> None:
    """And once it is renewed the metric follows; each authority of the bundle has its own."""
    stack = Stack(tmp_path)
    identity = stack.identities["embedder"]
    stack.authority.issue("embedder", uris=["spiffe://ragkeep.internal/embedder"], dns=["embedder.ragkeep.internal"], days=0.05)
    second = Authority(tmp_path / "second", days=400)
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes(identity.ca.read_bytes() + second.ca.read_bytes())
    stack.env["embedder"] = {"RAGKEEP_TLS_CA": str(bundle)}
    name = "ragkeep_certificate_expiry_seconds"
    try:
        stack.start("embedder")
        assert 0 < _value(stack, "embedder", name, which="own") < 0.06 * 86400
        found = re.findall(name + r'\{fingerprint="(\w{16})",which="authorities"\}', _page(stack, "embedder"))
        assert len(set(found)) == 2
        (line,) = [line for line in stack.log("embedder").splitlines() if "certificate_expires" in line]
        assert '"level": "warning"' in line
        assert str(tmp_path) not in line
        stack.authority.renew("embedder", identity)
        until(lambda: _value(stack, "embedder", name, which="own") > 0.9 * 86400)
    finally:
        stack.stop()
