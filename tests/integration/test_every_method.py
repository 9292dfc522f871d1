"""Nobody gets in: every RPC of every process by raw bytes, and whoever should not be let in.

A refusal has the right status and reason and the request's id; no handler was entered and nothing was parsed; the process
counted it. What fails in the handshake has no reason, and shows as a connection that was never used.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from prometheus_client.parser import text_string_to_metric_families

from ragkeep_runtime.audit.verify import day_files
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.edge import has_reason
from ragkeep_runtime.errors import ERRORS, from_rpc_error
from ragkeep_runtime.policy import ROLES
from ragkeep_runtime.tls import Identity
from tests.counted import COUNTED
from tests.marked import ENTERED
from tests.pki import Authority
from tests.stack import CLI, SERVICES, Stack
from tests.tokens import Issuer, settings_for, wrong_tokens
from tests.walk import GARBAGE, Method, every_method, raw_channel

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]

METHODS = every_method()
EVERY_ROLE = sorted(ROLES.values())
PORTAL, KIOSK, BOUND, DENIED = "caller/local/portal", "caller/local/kiosk", "caller/local/bound", "caller/local/denied"
UNKNOWN, DENIED_PERSON = "caller/local/unheard-of", "mallory"
TENANT_KEY, TOKEN_KEY = "ragkeep-tenant", "authorization"
ISSUER = Issuer("ES256")


def only(role: str) -> str:
    """The caller that has this role alone."""
    return f"caller/local/only-{role}"


class World:
    """The processes, which say when a handler is entered, and everybody's certificate."""

    def __init__(self, folder: Path) -> None:
        ISSUER.write(folder / "jwks.json")
        self.jwks = (folder / "jwks.json").read_bytes()
        env = {"gateway": settings_for(folder / "jwks.json", ISSUER)}
        self.stack = Stack(folder, env, {name: f"tests.marked {name}" for name in SERVICES})
        policy = json.loads(self.stack.policy.read_text())
        callers = {
            PORTAL: {"tenants": ["demo", "other"], "roles": EVERY_ROLE},
            KIOSK: {"tenants": ["demo"], "roles": EVERY_ROLE, "people_only": True},
            BOUND: {"tenants": ["demo"], "roles": EVERY_ROLE},
            DENIED: {"tenants": ["*"], "roles": EVERY_ROLE},
            CLI: {"tenants": ["*"], "roles": EVERY_ROLE, "groups": ["*"]},
            **{only(role): {"tenants": ["demo"], "roles": [role]} for role in EVERY_ROLE},
        }
        policy["callers"] |= callers
        self.stack.policy.write_text(
            json.dumps(policy | {"operator_tenant": "ops", "denied": [DENIED], "denied_people": [DENIED_PERSON]})
        )
        authority = self.stack.authority
        self.identities: dict[str, Identity] = {
            **{name: authority.caller(name) for name in (*callers, UNKNOWN)},
            **self.stack.identities,
            "no URI": authority.issue("none", dns=["gateway.ragkeep.internal"], common_name=f"spiffe://ragkeep.internal/{CLI}"),
            "two URIs": authority.issue("two", uris=[f"spiffe://ragkeep.internal/{name}" for name in (CLI, "gateway")]),
            "another trust domain": authority.issue("domain", uris=[f"spiffe://elsewhere.internal/{CLI}"]),
            "no path": authority.issue("path", uris=["spiffe://ragkeep.internal/"]),
            "another scheme": authority.issue("scheme", uris=[f"https://ragkeep.internal/{CLI}"]),
        }
        self._read: dict[str, int] = dict.fromkeys(SERVICES, 0)
        self.refused_by_gateway: Counter[tuple[str, str]] = Counter()  # (peer, reason)
        self.ids: set[str] = set()  # of those requests

    def was_refused(self, service: str, identity: str, reason: str, request_id: str = "") -> None:
        """Keeps it, for the audit log to be compared with."""
        if service == "gateway":
            self.refused_by_gateway["" if reason == "PEER_UNKNOWN" else identity, reason] += 1
            self.ids |= {request_id} - {""}

    def entered(self) -> list[str]:
        """Paths of handlers that were entered since the last time."""
        found = []
        for name in SERVICES:
            with (self.stack.folder / f"{name}.log").open("rb") as log:
                log.seek(self._read[name])
                lines = log.read().splitlines()
                self._read[name] = log.tell()
            found += [json.loads(line)["method"] for line in lines if ENTERED.encode() in line]
        return found

    async def counted(self, service: str, metric: str) -> float:
        """The sum of a metric of the gRPC edge."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.stack.health_ports[service])
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        page = (await reader.read()).partition(b"\r\n\r\n")[2].decode()
        writer.close()
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        return sum(sample.value for sample in samples if sample.name == metric and sample.labels.get("edge", "grpc") == "grpc")

    async def all_counted(self, metric: str) -> dict[str, float]:
        """By service."""
        return {name: await self.counted(name, metric) for name in SERVICES}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for all."""
    found = World(tmp_path_factory.mktemp("walk"))
    try:
        found.stack.start()
        yield found
    finally:
        found.stack.stop()


@dataclass(frozen=True)
class Attack:
    """Who comes, with what, and for which reason each method refuses it; None: this one may have the method."""

    identity: str
    reason: Callable[[Method], str | None]
    metadata: tuple[tuple[str, str], ...] = ()


def _always(reason: str) -> Callable[[Method], str]:
    return lambda method: reason


def _if_open(reason: str) -> Callable[[Method], str]:
    """The reason where callers are let in at all; between services only names count."""
    return lambda method: reason if method.open else "NOT_ALLOWED"


def _with_role(role: str) -> Callable[[Method], str | None]:
    """In the tenant demo, which is not the operator's."""
    return lambda method: None if method.open and role in method.rule.roles and not method.rule.operator else "NOT_ALLOWED"


def _as_service(name: str) -> Callable[[Method], str | None]:
    return lambda method: None if name in method.rule.peers else "NOT_ALLOWED"


def _bearer(token: str, tenant: str = "") -> tuple[tuple[str, str], ...]:
    return ((TOKEN_KEY, f"Bearer {token}"), *(((TENANT_KEY, tenant),) if tenant else ()))


def _person(**claims: Any) -> tuple[tuple[str, str], ...]:
    return _bearer(ISSUER.token(**{"roles": EVERY_ROLE} | claims))


def _signed_with(secret: bytes) -> str:
    """Key confusion: HS256 with what everybody can read."""

    def coded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    _, body, _ = ISSUER.token(roles=EVERY_ROLE).split(".")
    signed = f"{coded(json.dumps({'alg': 'HS256', 'typ': 'JWT', 'kid': ISSUER.kid}).encode())}.{body}"
    return f"{signed}.{coded(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def _public_pem() -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return bytes(ISSUER.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _attacks() -> dict[str, Attack]:
    found: dict[str, Attack] = {}
    for name in ("no URI", "two URIs", "another trust domain", "no path", "another scheme"):
        found[f"certificate with {name}"] = Attack(name, _always("PEER_UNKNOWN"))
        found[f"person by a certificate with {name}"] = Attack(name, _always("PEER_UNKNOWN"), _person())
    for name in SERVICES:
        found[f"certificate of the {name}"] = Attack(name, _as_service(name))
        found[f"person by the {name}"] = Attack(name, _as_service(name), _person())
    for name, which in (("unknown caller", UNKNOWN), ("denied caller", DENIED)):
        found[name] = Attack(which, _always("NOT_ALLOWED"), ((TENANT_KEY, "demo"),))
        found[f"person by an {name}"] = Attack(which, _always("NOT_ALLOWED"), _person())
    for which in (PORTAL, KIOSK, CLI):
        found[f"denied person by {which}"] = Attack(which, _always("NOT_ALLOWED"), _person(sub=DENIED_PERSON))
    for role in EVERY_ROLE:
        found[f"caller with the role {role} alone"] = Attack(only(role), _with_role(role))
        found[f"person with the role {role} alone"] = Attack(PORTAL, _with_role(role), _person(roles=[role]))
        found[f"person by a caller with the role {role} alone"] = Attack(only(role), _with_role(role), _person())
    found["person without a role"] = Attack(PORTAL, _always("NOT_ALLOWED"), _person(roles=[]))
    found["person with roles of another system"] = Attack(
        PORTAL, _always("NOT_ALLOWED"), _person(roles=["root", "Reader", "*"])
    )
    tenant = _if_open("TENANT_NOT_ALLOWED")
    found["caller in another's tenant"] = Attack(BOUND, tenant, ((TENANT_KEY, "other"),))
    found["caller in the operator's tenant"] = Attack(BOUND, tenant, ((TENANT_KEY, "ops"),))
    found["caller in every tenant"] = Attack(BOUND, tenant, ((TENANT_KEY, "*"),))
    found["caller of several tenants that names none"] = Attack(PORTAL, tenant)
    found["caller of every tenant that names none"] = Attack(CLI, tenant)
    found["caller of every tenant with an endless name"] = Attack(CLI, tenant, ((TENANT_KEY, "t" * 129),))
    found["person of a tenant that is not the caller's"] = Attack(PORTAL, tenant, _person(tenant="third"))
    found["person of the operator by a caller of others"] = Attack(PORTAL, tenant, _person(tenant="ops"))
    found["person in another tenant of the caller's"] = Attack(PORTAL, tenant, (*_person(), (TENANT_KEY, "other")))
    invalid = _if_open("TOKEN_INVALID")
    found["kiosk for itself"] = Attack(KIOSK, invalid)
    for what, token in wrong_tokens(ISSUER, roles=EVERY_ROLE).items():
        late = what in ("expired", "not yet valid")
        found[f"token: {what}"] = Attack(PORTAL, _if_open("TOKEN_EXPIRED") if late else invalid, _bearer(token, "demo"))
    good = ISSUER.token(roles=EVERY_ROLE)
    for what, header in {
        "signed with the public key": f"Bearer {_signed_with(_public_pem())}",
        "signed with the JWKS": f"Bearer {_signed_with(json.dumps({'keys': [ISSUER.jwk()]}).encode())}",
        "signed with nothing": f"Bearer {_signed_with(b'')}",
        "of a key with an unknown kid": f"Bearer {ISSUER.token(roles=EVERY_ROLE, headers={'kid': 'k9'})}",
        "with an extension": f"Bearer {ISSUER.token(roles=EVERY_ROLE, headers={'crit': ['exp']})}",
        "in another scheme": f"Basic {good}",
        "without a scheme": good,
        "that is empty": "Bearer ",
        "twice": f"Bearer {good} {good}",
        "that is endless": "Bearer " + "x" * 20_000,
        "with a tenant for all": f"Bearer {ISSUER.token(roles=EVERY_ROLE, tenant='*')}",
    }.items():
        # Beside a tenant that the caller itself might have had.
        found[f"token {what}"] = Attack(PORTAL, invalid, ((TOKEN_KEY, header), (TENANT_KEY, "demo")))
    return found


ATTACKS = _attacks()


def test_the_walk_finds_every_service_and_there_is_something_to_refuse() -> None:
    """A service that is added is walked too; each attack is refused by some method."""
    assert {method.service for method in METHODS} == set(SERVICES)
    assert len(METHODS) >= 47
    assert [name for name, attack in ATTACKS.items() if not any(attack.reason(method) for method in METHODS)] == []


async def _refused(world: World, method: Method, channel: grpc.aio.Channel, attack: Attack, raw: bytes, reason: str) -> str:
    request_id = uuid.uuid4().hex
    error = await method.failure(channel, raw, (*attack.metadata, ("x-request-id", request_id)))
    assert error is not None, f"{method.path} was not refused"
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what such an error has too
    assert status is not None, f"{method.path}: {error}"
    found = from_rpc_error(error)
    assert (found.reason, error.code()) == (reason, ERRORS[reason].code), f"{method.path}: {found.reason}: {found.message}"
    info = error_details_pb2.RequestInfo()
    assert any(detail.Unpack(info) for detail in status.details if detail.Is(info.DESCRIPTOR))
    assert info.request_id == request_id
    world.was_refused(method.service, attack.identity, reason, request_id)
    return request_id


@pytest.fixture
async def channels(world: World) -> AsyncIterator[Callable[[str, str], grpc.aio.Channel]]:
    """One for each service and identity of a test."""
    opened: dict[tuple[str, str], grpc.aio.Channel] = {}

    def channel(service: str, identity: str) -> grpc.aio.Channel:
        if (service, identity) not in opened:
            authorities = world.stack.authority.ca.read_bytes()
            target = world.stack.target(service)
            opened[service, identity] = raw_channel(target, service, world.identities[identity], authorities)
        return opened[service, identity]

    yield channel
    await asyncio.gather(*(one.close() for one in opened.values()))


@pytest.mark.parametrize("name", ATTACKS)
async def test_who_should_not_is_not_let_in(world: World, channels: Callable[[str, str], grpc.aio.Channel], name: str) -> None:
    """With bytes that are no message and with a message that is one; the handler is not entered, and it is counted."""
    attack = ATTACKS[name]
    refused = [(method, reason) for method in METHODS if (reason := attack.reason(method)) is not None]
    world.entered()
    before = await world.all_counted("ragkeep_calls_refused_total")
    ids = await asyncio.gather(
        *(
            _refused(world, method, channels(method.service, attack.identity), attack, raw, reason)
            for method, reason in refused
            for raw in (GARBAGE, b"")
        )
    )
    after = await world.all_counted("ragkeep_calls_refused_total")
    assert world.entered() == []
    by_service = {service: 2 * sum(method.service == service for method, _ in refused) for service in SERVICES}
    assert {service: after[service] - before[service] for service in SERVICES} == by_service
    COUNTED["walk: calls of methods × attacks that were refused"] += len(ids)
    COUNTED["walk: pairs of method and attack"] += len(refused)


async def test_who_may_is_let_in(world: World, channels: Callable[[str, str], grpc.aio.Channel]) -> None:
    """The walk's other half: by the same way the handler of every method is entered, and only with bytes that are a message."""
    world.entered()
    for raw in (GARBAGE, b""):
        for method in METHODS:
            identity = CLI if method.open else sorted(method.rule.peers)[0]
            metadata = ((TENANT_KEY, "ops"),) if method.open else ()
            error = await method.failure(channels(method.service, identity), raw, metadata)
            assert error is None or has_reason(error), f"{method.path}: {error}"
            reason = "OK" if error is None else from_rpc_error(error).reason
            assert reason not in ("NOT_ALLOWED", "PEER_UNKNOWN", "TENANT_NOT_ALLOWED"), method.path
            assert raw != GARBAGE or reason == "INVALID_REQUEST", f"{method.path}: {reason}"
            if raw == GARBAGE:
                world.was_refused(method.service, identity, reason)
        if raw == GARBAGE:
            # The gateway asks whether an admitted caller's tenant is active; nobody's bytes get any further.
            assert set(world.entered()) <= {"/ragkeep.retriever.v1.RetrieverService/GetTenant"}
    assert set(world.entered()) == {method.path for method in METHODS}


async def test_people_are_let_in(world: World, channels: Callable[[str, str], grpc.aio.Channel]) -> None:
    """A right person by a right service enters what is for callers, but for the operator's, which is for its own people."""
    world.entered()
    wanted = set()
    for method in METHODS:
        if not method.open or method.rule.operator:
            continue
        wanted.add(method.path)
        error = await method.failure(channels("gateway", PORTAL), b"", _person())
        assert error is None or from_rpc_error(error).reason not in ("NOT_ALLOWED", "TOKEN_INVALID"), method.path
    assert len(wanted) >= 9
    assert wanted <= set(world.entered())


async def test_a_large_token_is_no_matter_of_chance(channels: Callable[[str, str], grpc.aio.Channel]) -> None:
    """gRPC refuses some of the calls with more than 8 KiB of metadata unless it is told otherwise; a person may have 16."""
    large = _person(groups=[f"group-{number:03}-{'x' * 30}" for number in range(250)])
    assert 12_000 < len(large[0][1]) < 16 * 1024
    (method,) = [one for one in METHODS if one.path.endswith("RagService/ListCollections")]
    channel = channels("gateway", PORTAL)
    assert {await method.failure(channel, b"", large) for _ in range(50)} == {None}


HANDSHAKES = ("plaintext", "no certificate", "another authority", "self-made", "expired", "not yet valid")


@pytest.mark.parametrize("name", HANDSHAKES)
async def test_the_handshake_keeps_out_who_has_no_certificate_of_ours(world: World, tmp_path: Path, name: str) -> None:
    """On a connection of its own for every method: no reason, since there was no call; begun, and never used."""
    authority = world.stack.authority
    ours = authority.ca.read_bytes()

    def identity(method: Method) -> Identity | None:
        peer = CLI if method.open else sorted(method.rule.peers)[0]
        uris = [f"spiffe://ragkeep.internal/{peer}"]
        if name == "another authority":
            return Authority(tmp_path / "other").issue("foreign", uris=uris)
        if name == "self-made":
            return Authority(tmp_path / "own").issue("ca-named", uris=uris)
        if name in ("expired", "not yet valid"):
            return authority.issue("late", uris=uris, **({"days": -0.5} if name == "expired" else {"age_days": -0.5}))
        return None

    async def fails(method: Method) -> None:
        target = world.stack.target(method.service)
        plain = name == "plaintext"
        channel = (
            grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])
            if plain
            else raw_channel(target, method.service, identity(method), ours)
        )
        async with channel:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await method.call(channel, b"", ((TENANT_KEY, "demo"),))
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE, method.path
        assert not has_reason(failed.value)

    world.entered()
    begun, used = [await world.all_counted(f"ragkeep_connections{part}_total") for part in ("", "_used")]
    for start in range(0, len(METHODS), 16):
        await asyncio.gather(*(fails(method) for method in METHODS[start : start + 16]))
    assert world.entered() == []
    assert await world.all_counted("ragkeep_connections_used_total") == used
    now = await world.all_counted("ragkeep_connections_total")
    for service in SERVICES:
        assert now[service] - begun[service] >= sum(method.service == service for method in METHODS)
    COUNTED["walk: methods × handshakes that failed"] += len(METHODS)


@pytest.mark.parametrize("method", ["Check", "Watch"])
@pytest.mark.parametrize("service", SERVICES)
async def test_health_is_for_peers_alone(
    world: World, channels: Callable[[str, str], grpc.aio.Channel], service: str, method: str
) -> None:
    """It says nothing but "serving", and not to a certificate without a name."""
    for identity, admitted in (("no URI", False), ("two URIs", False), ("another trust domain", False), (UNKNOWN, True)):
        channel = channels(service, identity)
        kind = channel.unary_stream if method == "Watch" else channel.unary_unary
        call: Any = kind(f"/grpc.health.v1.Health/{method}")(b"", timeout=60)
        answer = call.read() if method == "Watch" else call
        if admitted:
            assert await answer == b"\x08\x01"
            call.cancel()
            continue
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await answer
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        world.was_refused(service, identity, "PEER_UNKNOWN")


async def test_what_is_not_in_the_contract_is_not_there(world: World, channels: Callable[[str, str], grpc.aio.Channel]) -> None:
    """Reflection, channelz, a method of another process, paths that are none: to everybody the same, also to a service."""
    paths = [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.channelz.v1.Channelz/GetServers",
        "/",
        "/a",
        "//",
    ]
    paths += ["/ragkeep.gateway.v1.RagService/ask", "/ragkeep.gateway.v1.RagService/", "/ragkeep.gateway.v1.RagService/Ask/"]
    for service in SERVICES:
        others = [method.path for method in METHODS if method.service != service]
        for path in (*paths, *others):
            for identity in (CLI, "gateway"):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await channels(service, identity).unary_unary(path)(b"", metadata=((TENANT_KEY, "demo"),), timeout=60)
                assert from_rpc_error(refused.value).reason == "NOT_ALLOWED", path
                world.was_refused(service, identity, "NOT_ALLOWED")


async def test_our_own_client_hears_the_reason(world: World) -> None:
    """Over its retries and interceptors, as by raw bytes."""
    async with open_channel(world.stack.target("gateway"), "gateway", world.identities[DENIED]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await METHODS[0].call(channel, b"")
    assert from_rpc_error(refused.value).reason == "NOT_ALLOWED"
    world.was_refused("gateway", DENIED, "NOT_ALLOWED")


def test_every_refusal_is_on_record(world: World) -> None:
    """The last here: the gateway goes, with which it writes how often those knocked whose lines would be too many. Each line is of
    one of the requests above, and lines and counts together are what was refused. (What failed in the handshake cannot be there.)"""
    gateway = world.stack.processes["gateway"]
    gateway.send_signal(signal.SIGTERM)
    gateway.wait(300)
    records = [
        json.loads(line) for file in day_files(world.stack.audit / "gateway-0") for line in file.read_text().splitlines()
    ]
    refused = [one for one in records if one["kind"] == "refused"]
    found: Counter[tuple[str, str]] = Counter()
    for one in refused:
        found[one.get("peer", ""), one["outcome"]] += one.get("times", 1)
    assert found == world.refused_by_gateway
    ids = {one["request_id"] for one in refused if "request_id" in one}
    assert len(ids & world.ids) >= 0.1 * len(world.ids)
    COUNTED["walk: refused calls of the gateway that are on record"] += found.total()
