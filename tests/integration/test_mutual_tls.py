"""No plaintext, no strangers: every RPC of the contract, found by walking the descriptors."""

from __future__ import annotations

import socket
import ssl

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from ragkeep.embedder.v1 import embedder_pb2
from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.generator.v1 import generator_pb2
from ragkeep.retriever.v1 import retriever_pb2
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.errors import NotAllowed, PeerUnknown, from_rpc_error
from tests.stack import SERVICES, Stack

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]

METHODS: list[tuple[str, MethodDescriptor]] = [
    (file.package.split(".")[1], method)
    for file in (embedder_pb2.DESCRIPTOR, retriever_pb2.DESCRIPTOR, generator_pb2.DESCRIPTOR, gateway_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
]
IDS = [method.full_name for _, method in METHODS]


def test_the_walk_finds_every_service() -> None:
    """A service that is added is walked too."""
    assert {name for name, _ in METHODS} == set(SERVICES)
    assert len(METHODS) >= 14


async def _call(channel: grpc.aio.Channel, method: MethodDescriptor, timeout: float = 60) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    request = GetMessageClass(method.input_type)()
    response = GetMessageClass(method.output_type).FromString
    if method.server_streaming:
        async for _ in channel.unary_stream(path, type(request).SerializeToString, response)(request, timeout=timeout):
            pass
    else:
        await channel.unary_unary(path, type(request).SerializeToString, response)(request, timeout=timeout)


async def _refusal(channel: grpc.aio.Channel, method: MethodDescriptor) -> grpc.aio.AioRpcError:
    async with channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await _call(channel, method)
    return refused.value


def _channel(stack: Stack, service: str, credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
    authority = [("grpc.default_authority", f"{service}.ragkeep.internal")]
    return grpc.aio.secure_channel(stack.target(service), credentials, options=authority)


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["spiffe://ragkeep.internal/caller/local/cli", "spiffe://ragkeep.internal/gateway"],
        ["spiffe://elsewhere.internal/caller/local/cli"],
        ["spiffe://ragkeep.internal/"],
        ["https://ragkeep.internal/caller/local/cli"],
        ["spiffe://ragkeep.internal/caller/local/cli?x=1"],
        ["SPIFFE://ragkeep.internal/caller/local/cli"],
    ],
    ids=["none", "two", "domain", "empty", "scheme", "query", "case"],
)
async def test_a_certificate_without_exactly_one_fitting_uri_is_nobody(stack: Stack, uris: list[str]) -> None:
    """Of the right authority, and yet not admitted; a common name never stands in."""
    identity = stack.authority.issue("odd", uris=uris, common_name="" if uris else "spiffe://ragkeep.internal/caller/local/cli")
    key, cert, ca = identity.read()
    channel = _channel(stack, "gateway", grpc.ssl_channel_credentials(ca, key, cert))
    method = next(m for name, m in METHODS if name == "gateway" and m.name == "ListCollections")
    assert isinstance(from_rpc_error(await _refusal(channel, method)), (PeerUnknown, NotAllowed))


@pytest.mark.parametrize("service", SERVICES)
async def test_one_services_certificate_at_anothers_address_is_refused_by_the_client(stack: Stack, service: str) -> None:
    """Who dials the embedder does not talk to the retriever, whatever the address says."""
    for other in SERVICES:
        if other == service:
            continue
        async with open_channel(stack.target(service), other, stack.identities["gateway"]) as channel:
            method = next(m for name, m in METHODS if name == other)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await _call(channel, method, timeout=2)
        assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.mark.parametrize("service", SERVICES)
def test_the_handshake_is_tls_1_3_with_http2(stack: Stack, service: str) -> None:
    """Read off a real connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(stack.authority.ca)
    context.load_cert_chain(stack.cli.cert, stack.cli.key)
    context.set_alpn_protocols(["h2"])
    port = stack.ports[service]
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=f"{service}.ragkeep.internal") as secured,
    ):
        assert secured.version() == "TLSv1.3"
        assert secured.selected_alpn_protocol() == "h2"


@pytest.mark.parametrize("service", SERVICES)
def test_an_older_tls_is_refused(stack: Stack, service: str) -> None:
    """Whatever certificate is shown: in TLS 1.2 a caller's would cross the wire in the open."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(stack.authority.ca)
    context.load_cert_chain(stack.cli.cert, stack.cli.key)
    context.set_alpn_protocols(["h2"])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", stack.ports[service]), timeout=60) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname=f"{service}.ragkeep.internal")
