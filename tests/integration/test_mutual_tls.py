"""No plaintext, no strangers: every RPC of the contract, found by walking the descriptors."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from ragkeep.access.v1 import access_pb2
from ragkeep.embedder.v1 import embedder_pb2
from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.generator.v1 import generator_pb2
from ragkeep.retriever.v1 import retriever_pb2
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.errors import NotAllowed, PeerUnknown, from_rpc_error
from ragkeep_runtime.tls import Identity
from tests.pki import Authority
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


async def _call(channel: grpc.aio.Channel, method: MethodDescriptor, timeout: float = 5) -> None:
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


@pytest.mark.parametrize(("service", "method"), METHODS, ids=IDS)
async def test_plaintext_is_refused(stack: Stack, service: str, method: MethodDescriptor) -> None:
    """Nothing answers without TLS."""
    error = await _refusal(grpc.aio.insecure_channel(stack.target(service)), method)
    assert error.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(("service", "method"), METHODS, ids=IDS)
async def test_no_certificate_fails_in_the_handshake(stack: Stack, service: str, method: MethodDescriptor) -> None:
    """Trusting the server is not enough."""
    credentials = grpc.ssl_channel_credentials(stack.authority.ca.read_bytes())
    error = await _refusal(_channel(stack, service, credentials), method)
    assert error.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(("service", "method"), METHODS, ids=IDS)
async def test_another_authoritys_certificate_fails_in_the_handshake(
    stack: Stack, service: str, method: MethodDescriptor, tmp_path: Path
) -> None:
    """The right name from the wrong authority is nobody."""
    foreign = Authority(tmp_path).service("gateway")
    mixed = Identity(foreign.cert, foreign.key, stack.authority.ca)
    key, cert, ca = mixed.read()
    error = await _refusal(_channel(stack, service, grpc.ssl_channel_credentials(ca, key, cert)), method)
    assert error.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(("service", "method"), METHODS, ids=IDS)
async def test_a_valid_peer_that_the_rule_does_not_name_never_reaches_the_handler(
    stack: Stack, service: str, method: MethodDescriptor
) -> None:
    """An unknown caller, and every service that is not named, gets NOT_ALLOWED before anything is parsed."""
    rule = method.GetOptions().Extensions[access_pb2.access]
    strangers = [stack.authority.caller("caller/other/app")]
    strangers += [stack.identities[name] for name in SERVICES if name not in rule.peers]
    path = f"/{method.containing_service.full_name}/{method.name}"
    for identity in strangers:
        async with open_channel(stack.target(service), service, identity) as channel:
            # Bytes that are no message: a handler, or its parser, would fail in another way.
            call = channel.unary_stream if method.server_streaming else channel.unary_unary
            answer = call(path)(b"\xff\xff\xff", timeout=5)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await (answer.read() if method.server_streaming else answer)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert type(from_rpc_error(refused.value)) is NotAllowed


@pytest.mark.parametrize("method", [m for name, m in METHODS if name == "gateway"], ids=lambda m: m.name)
async def test_a_role_opens_what_it_names_and_nothing_else(stack: Stack, method: MethodDescriptor) -> None:
    """The reader reads; importing is for editors."""
    rule = method.GetOptions().Extensions[access_pb2.access]
    async with open_channel(stack.target("gateway"), "gateway", stack.reader) as channel:
        refused = False
        try:
            await _call(channel, method)
        except grpc.aio.AioRpcError as error:
            refused = type(from_rpc_error(error)) is NotAllowed
    assert refused is (access_pb2.ROLE_READER not in rule.roles)


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
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=f"{service}.ragkeep.internal") as secured,
    ):
        assert secured.version() == "TLSv1.3"
        assert secured.selected_alpn_protocol() == "h2"
