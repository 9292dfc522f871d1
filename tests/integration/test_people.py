"""People at the gateway, through real processes: a service hands a token on, and both must be allowed."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.errors import NotAllowed, RagkeepError, TenantNotAllowed, TokenExpired, TokenInvalid, from_rpc_error
from tests.integration.test_audit import until
from tests.stack import Stack
from tests.tokens import Issuer, settings_for

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]

PORTAL, KIOSK = "caller/local/portal", "caller/local/kiosk"
ISSUER = Issuer("ES256")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An installation that takes tokens; a portal that may act for itself, and a kiosk that may not."""
    folder = tmp_path_factory.mktemp("people")
    ISSUER.write(folder / "jwks.json")
    stack = Stack(folder, {"gateway": settings_for(folder / "jwks.json", ISSUER)})
    policy = json.loads(stack.policy.read_text())
    policy["callers"][PORTAL] = {"tenants": ["demo", "other"], "roles": ["reader", "admin"]}
    policy["callers"][KIOSK] = {"tenants": ["demo"], "roles": ["reader"], "people_only": True}
    stack.policy.write_text(json.dumps(policy | {"operator_tenant": "ops"}))
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
async def portal(site: Stack) -> AsyncIterator[RagServiceStub]:
    """The portal's own connection."""
    async with open_channel(site.target("gateway"), "gateway", site.authority.caller(PORTAL)) as channel:
        yield RagServiceStub(channel)


def _bearer(token: str, tenant: str = "") -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"), *((("ragkeep-tenant", tenant),) if tenant else ()))


async def _refused(call: Any) -> RagkeepError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return from_rpc_error(error.value)


async def test_a_service_acts_for_a_person(portal: RagServiceStub) -> None:
    """In the person's tenant, without being asked for it."""
    listed = await portal.ListCollections(pb.ListCollectionsRequest(), metadata=_bearer(ISSUER.token()))
    assert isinstance(listed, pb.ListCollectionsResponse)


@pytest.mark.parametrize(
    ("claims", "tenant", "error"),
    [
        ({"exp": int(time.time()) - 60}, "", TokenExpired),
        ({"aud": "payroll"}, "", TokenInvalid),
        ({"tenant": "third"}, "", TenantNotAllowed),
        ({}, "other", TenantNotAllowed),
        ({"roles": ["editor"]}, "", NotAllowed),
        ({"roles": []}, "", NotAllowed),
    ],
)
async def test_a_wrong_person_is_refused(
    portal: RagServiceStub, claims: dict[str, Any], tenant: str, error: type[RagkeepError]
) -> None:
    """Expired, for somebody else, of another tenant, or without the role that both need."""
    call = portal.ListCollections(pb.ListCollectionsRequest(), metadata=_bearer(ISSUER.token(**claims), tenant))
    assert type(await _refused(call)) is error


async def test_a_person_who_is_refused_is_on_record_by_name(site: Stack, portal: RagServiceStub) -> None:
    """For a role, for the operator's, for a tenant that the service is not bound to: with the person's own tenant."""
    editors, operators = pb.ImportDocumentsRequest(), pb.DeleteCollectionRequest(name="service-tickets")
    for rpc, request, claims, reason in (
        (portal.ImportDocuments, editors, {"roles": ["reader"]}, "NOT_ALLOWED"),  # of the portal's own roles none may
        (portal.ListCollections, pb.ListCollectionsRequest(), {"roles": ["editor"]}, "NOT_ALLOWED"),
        (portal.DeleteCollection, operators, {"roles": ["admin"]}, "NOT_ALLOWED"),
        (portal.ListCollections, pb.ListCollectionsRequest(), {"tenant": "third"}, "TENANT_NOT_ALLOWED"),
    ):
        request_id = uuid.uuid4().hex
        metadata = (*_bearer(ISSUER.token(**claims)), ("x-request-id", request_id))
        await _refused(rpc(request, metadata=metadata))  # type: ignore[operator]
        (line,) = await until(site, request_id, 1)
        assert (line["kind"], line["outcome"], line["peer"]) == ("refused", reason, PORTAL)
        # The portal's rights come first: before its person's token is looked at.
        named = None if request is editors else "li.wei"
        assert (line.get("subject"), line.get("tenant")) == (named, claims.get("tenant", "demo" if named else None))


async def test_a_call_is_told_apart_by_our_own_number(site: Stack, portal: RagServiceStub) -> None:
    """A request id is the caller's, so two may have the same; the lines of one call have a number that nobody else's have."""
    request_id = uuid.uuid4().hex
    for sub in ("li.wei", "mallory"):
        metadata = (*_bearer(ISSUER.token(sub=sub)), ("x-request-id", request_id))
        await portal.ListCollections(pb.ListCollectionsRequest(), metadata=metadata)
    found = await until(site, request_id, 4)
    calls = {line["call"]: line["subject"] for line in found}
    assert sorted(calls.values()) == ["li.wei", "mallory"]
    assert sorted((line["subject"], line["kind"]) for line in found if calls[line["call"]] == line["subject"]) == [
        (sub, kind) for sub in ("li.wei", "mallory") for kind in ("asked", "finished")
    ]


async def test_two_tokens_are_none(portal: RagServiceStub) -> None:
    """Neither the first nor the last counts; nor of two tenants."""
    right, wrong = _bearer(ISSUER.token()), _bearer(ISSUER.token(sub="mallory"))
    for metadata in ((*right, *wrong), (*wrong, *right), (*right, *right)):
        error = await _refused(portal.ListCollections(pb.ListCollectionsRequest(), metadata=metadata))
        assert type(error) is TokenInvalid
    tenants = (("ragkeep-tenant", "demo"), ("ragkeep-tenant", "other"))
    assert type(await _refused(portal.ListCollections(pb.ListCollectionsRequest(), metadata=tenants))) is TenantNotAllowed


async def test_an_admin_of_a_tenant_is_not_the_operator(portal: RagServiceStub) -> None:
    """What is for all tenants is the operator's alone."""
    request = pb.DeleteCollectionRequest(name="service-tickets")
    for metadata in (_bearer(ISSUER.token(roles=["admin"])), (("ragkeep-tenant", "demo"),)):
        assert "operator" in (await _refused(portal.DeleteCollection(request, metadata=metadata))).message


async def test_a_kiosk_does_nothing_by_itself(site: Stack) -> None:
    """It hands tokens on, and one that is forgotten is no way to more."""
    async with open_channel(site.target("gateway"), "gateway", site.authority.caller(KIOSK)) as channel:
        kiosk = RagServiceStub(channel)
        assert await kiosk.ListCollections(pb.ListCollectionsRequest(), metadata=_bearer(ISSUER.token()))
        assert type(await _refused(kiosk.ListCollections(pb.ListCollectionsRequest()))) is TokenInvalid


async def test_the_token_stays_at_the_gateway(site: Stack, portal: RagServiceStub) -> None:
    """Not in a log of any process, not on to another hop."""
    token = ISSUER.token(roles=["reader"])
    request = pb.SearchRequest(query="printer")
    await _refused(portal.Search(request, metadata=_bearer(token + "x")))
    await _refused(portal.Search(request, metadata=_bearer(token)))  # no collection yet
    for name in site.processes:
        assert token.split(".")[1] not in site.log(name)
