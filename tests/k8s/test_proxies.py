"""The mTLS proxies beside Weaviate and the retriever: a real Envoy takes the rendered configuration, and a real Weaviate is reached
through both, by the retriever's certificate and no other."""

from __future__ import annotations

import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragkeep_retriever.values import Scope
from ragkeep_retriever.weaviate import WeaviateStore
from ragkeep_runtime.tls import Identity
from tests.engines.process import EngineProcess
from tests.engines.weaviate import WeaviateProcess
from tests.k8s.envoy import ENVOY, configured, mount
from tests.k8s.manifests import OVERLAYS, overlay
from tests.pki import Authority
from tests.ports import free_port
from tests.waiting import until

pytestmark = [pytest.mark.engine("envoy")]


@pytest.mark.parametrize("name", OVERLAYS)
@pytest.mark.parametrize("proxy", ["weaviate", "retriever"])
def test_envoy_takes_the_configuration(name: str, proxy: str, tmp_path: Path) -> None:
    """Envoy's own check of what is rendered."""
    identity = Authority(tmp_path / "pki").service(proxy)
    config = configured(overlay(name), proxy, tmp_path, identity, {})
    checked = subprocess.run(
        [ENVOY, "--mode", "validate", "--config-path", config], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


class Proxies:
    """Weaviate with both proxies around it, each on free loopback ports."""

    def __init__(self, folder: Path, weaviate: WeaviateProcess) -> None:
        self.authority = Authority(folder / "pki")
        self.folder = folder
        self.rest, self.grpc, self.health, self.local_rest, self.local_grpc, self.local_health = (free_port() for _ in range(6))
        beside_weaviate = {
            "port_value: 8443": f"port_value: {self.rest}",
            "port_value: 8444": f"port_value: {self.grpc}",
            "port_value: 9166": f"port_value: {self.health}",
            "address: 127.0.0.1, port_value: 8080": f"address: 127.0.0.1, port_value: {weaviate.http_port}",
            "address: 127.0.0.1, port_value: 50051": f"address: 127.0.0.1, port_value: {weaviate.grpc_port}",
            "address: 0.0.0.0": "address: 127.0.0.1",
        }
        beside_retriever = {
            "address: weaviate, port_value: 8443": f"address: 127.0.0.1, port_value: {self.rest}",
            "address: weaviate, port_value: 8444": f"address: 127.0.0.1, port_value: {self.grpc}",
            "address: 127.0.0.1, port_value: 8080": f"address: 127.0.0.1, port_value: {self.local_rest}",
            "address: 127.0.0.1, port_value: 50051": f"address: 127.0.0.1, port_value: {self.local_grpc}",
            "port_value: 9166": f"port_value: {self.local_health}",
            "address: 0.0.0.0": "address: 127.0.0.1",
        }
        objects = overlay("dev")
        self.processes = []
        for name, changes, health in (
            ("weaviate", beside_weaviate, self.health),
            ("retriever", beside_retriever, self.local_health),
        ):
            config = configured(objects, name, folder / name, self.authority.service(name), changes)
            command = [str(ENVOY), "--config-path", str(config), "--log-level", "warning", "--disable-hot-restart"]
            url = f"http://127.0.0.1:{health}"
            self.processes.append(EngineProcess(command, {}, url, "/ready", folder / f"{name}-envoy.log"))

    def handshake(self, identity: Identity | None, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> str:
        """Asks Weaviate's proxy as this peer would; the first line of the answer. Raises ssl.SSLError or OSError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.authority.ca)
        context.maximum_version = newest
        if identity:
            context.load_cert_chain(identity.cert, identity.key)
        with (
            socket.create_connection(("127.0.0.1", self.rest), 60) as plain,
            context.wrap_socket(plain, server_hostname="weaviate.ragkeep.internal") as wrapped,
        ):
            wrapped.sendall(b"GET /v1/.well-known/live HTTP/1.1\r\nHost: weaviate\r\nConnection: close\r\n\r\n")
            return wrapped.recv(100).split(b"\r\n")[0].decode()


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory, weaviate_server: WeaviateProcess) -> Iterator[Proxies]:
    """Both proxies, running."""
    found = Proxies(tmp_path_factory.mktemp("proxies"), weaviate_server)
    try:
        for process in found.processes:
            process.start()
        yield found
    finally:
        for process in found.processes:
            process.stop()


@pytest.mark.engine("weaviate")
async def test_the_retriever_reaches_weaviate_through_both_proxies(proxies: Proxies) -> None:
    """REST and gRPC, each from a loopback port through mutual TLS to Weaviate's own loopback port."""
    store = WeaviateStore(f"http://127.0.0.1:{proxies.local_rest}", proxies.local_grpc)
    try:
        await store.ready()
        assert isinstance(await store.collections(Scope("nobody", None)), list)
    finally:
        await store.close()


@pytest.mark.engine("weaviate")
def test_only_the_retrievers_certificate_is_let_in(proxies: Proxies) -> None:
    """The retriever's is answered; none, the gateway's, a caller's, another authority's and TLS 1.2 are refused."""
    assert proxies.handshake(proxies.authority.service("retriever")) == "HTTP/1.1 200 OK"
    elsewhere = Authority(proxies.folder / "elsewhere")
    refused: list[Identity | None] = [
        None,
        proxies.authority.service("gateway"),
        proxies.authority.caller("caller/local/cli"),
        elsewhere.service("retriever"),
    ]
    for identity in refused:
        with pytest.raises(OSError):  # noqa: PT011 - an alert, or a reset connection: both are the refusal
            assert proxies.handshake(identity) == "no answer at all"
    with pytest.raises(OSError):  # noqa: PT011
        proxies.handshake(proxies.authority.service("retriever"), ssl.TLSVersion.TLSv1_2)


@pytest.mark.engine("weaviate")
@pytest.mark.parametrize("path", ["/v1/schema", "/v1/objects", "/v1/meta", "/v1/.well-known/../schema", "//v1/schema", "/"])
def test_the_plain_health_port_shows_weaviates_health_and_nothing_else(proxies: Proxies, path: str) -> None:
    """The two paths that the kubelet asks for; everything else is not there, whatever way it is written."""
    for probe in ("/v1/.well-known/live", "/v1/.well-known/ready"):
        with urllib.request.urlopen(f"http://127.0.0.1:{proxies.health}{probe}", timeout=60) as response:
            assert response.status == 200
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{proxies.health}{path}", timeout=60)
    with refused.value as answer:
        assert answer.code in (400, 404)


@pytest.mark.engine("weaviate")
def test_a_renewed_certificate_is_taken_over_without_a_restart(proxies: Proxies) -> None:
    """As the kubelet does it: the folder behind the link is swapped, and the next handshake shows the new certificate."""
    before = _serial(proxies)
    renewed = proxies.authority.service("weaviate")
    mount(proxies.folder / "weaviate" / "tls", {"tls.crt": renewed.cert.read_bytes(), "tls.key": renewed.key.read_bytes()})
    until(lambda: _serial(proxies) != before)


def _serial(proxies: Proxies) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(proxies.authority.ca)
    mine = proxies.authority.service("retriever")
    context.load_cert_chain(mine.cert, mine.key)
    with (
        socket.create_connection(("127.0.0.1", proxies.rest), 60) as plain,
        context.wrap_socket(plain, server_hostname="weaviate.ragkeep.internal") as wrapped,
    ):
        return str((wrapped.getpeercert() or {})["serialNumber"])
