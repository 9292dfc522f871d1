"""Connections to a gRPC port that never bring a call: they end by themselves, at every step of their beginning."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.process import grpc_options
from ragkeep_runtime.tls import Identity, server_credentials
from tests.pki import Authority
from tests.stack import CLI, Stack

# Half of a ClientHello: it says that more is to come.
BEGUN = bytes([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3])
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, ACKNOWLEDGED = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), bytes([0, 0, 0, 4, 1, 0, 0, 0, 0])
# What is said before the silence, in the open and then through TLS; None: no TLS.
HANDSHAKES: dict[str, tuple[bytes, bytes | None]] = {
    "nothing": (b"", None),
    "half a ClientHello": (BEGUN, None),
    "TLS and nothing": (b"", b""),
    "half of HTTP/2's preface": (b"", PREFACE[:10]),
    "a preface without settings": (b"", PREFACE),
}
# Far beyond ours and below gRPC's own times: who is still there then is kept.
_PATIENCE_S = 45


def fall_silent(stack: contextlib.ExitStack, port: int, who: Identity, plain: bytes, secured: bytes | None) -> socket.socket:
    """A connection that says this much."""
    found = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S))
    found.sendall(plain)
    if secured is None:
        return found
    context = ssl.create_default_context(cafile=str(who.ca))
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(who.cert, who.key)
    shown = stack.enter_context(context.wrap_socket(found, server_hostname="gateway.ragkeep.internal"))
    shown.sendall(secured)
    return shown


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Of HTTP/2."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def half_a_call(path: str) -> bytes:
    """The headers of a call on stream 1, and the first bytes of a longer message."""
    given = {
        ":method": "POST",
        ":scheme": "https",
        ":path": path,
        ":authority": "gateway.ragkeep.internal",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    parts = [(name.encode(), value.encode()) for name, value in given.items()]
    # Literal fields without indexing, of less than 127 bytes each.
    block = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in parts)
    return frame(1, 4, 1, block) + frame(0, 0, 1, b"\0" + (1000).to_bytes(4) + b"abc")


def wait_for_end(connection: socket.socket) -> None:
    """Raises TimeoutError where it is still there after a long while."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while connection.recv(65536):
            pass


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Stack]:
    """A process as it is."""
    stack = Stack(tmp_path)
    try:
        stack.start("gateway")
        yield stack
    finally:
        stack.stop()


async def test_a_handshake_that_does_not_end_is_over(gateway: Stack) -> None:
    """With a certificate and without; a caller who is in stays in."""
    async with open_channel(gateway.target("gateway"), "gateway", gateway.cli) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=300)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        with contextlib.ExitStack() as stack:
            port = gateway.ports["gateway"]
            held = [fall_silent(stack, port, gateway.cli, *said) for said in HANDSHAKES.values()]
            for connection in held:
                await asyncio.to_thread(wait_for_end, connection)
        assert not watch.done()
        watch.cancel()


@pytest.mark.parametrize("last", [b"", frame(3, 0, 1, (8).to_bytes(4))], ids=["leaves", "resets"])
async def test_a_call_whose_message_never_comes_whole_is_counted(gateway: Stack, last: bytes) -> None:
    """gRPC does not tell whose it is, so it is on no record; the metrics say that there was one, and the log its request id."""
    page = f"http://127.0.0.1:{gateway.health_ports['gateway']}/metrics"
    line = 'ragkeep_calls_total{method="/ragkeep.gateway.v1.RagService/Search",outcome="CANCELLED"} 1.0'
    with contextlib.ExitStack() as stack:
        said = PREFACE + SETTINGS + ACKNOWLEDGED + half_a_call("/ragkeep.gateway.v1.RagService/Search")
        caller = fall_silent(stack, gateway.ports["gateway"], gateway.cli, b"", said + last)
        while line not in (await asyncio.to_thread(lambda: urllib.request.urlopen(page, timeout=30).read().decode())):
            if not last:
                caller.close()
            await asyncio.sleep(0.02)
    assert '"outcome": "CANCELLED"' in gateway.log("gateway")


async def test_a_connection_without_a_call_is_over(tmp_path: Path) -> None:
    """As a process has it, in a shorter time: one that said all that HTTP/2 wants and then nothing; not one with a call."""
    authority = Authority(tmp_path)
    server = grpc.aio.server(options=grpc_options(idle_s=3))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(authority.service("gateway")))
    await server.start()
    caller = authority.caller(CLI)
    async with open_channel(f"127.0.0.1:{port}", "gateway", caller) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=300)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        with contextlib.ExitStack() as stack:
            silent = fall_silent(stack, port, caller, b"", PREFACE + SETTINGS + ACKNOWLEDGED)
            await asyncio.to_thread(wait_for_end, silent)
        assert not watch.done()
        watch.cancel()
    await server.stop(0)
