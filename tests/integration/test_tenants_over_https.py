"""Quotas and a tenant's state hold for people over HTTPS as they do over gRPC."""

from __future__ import annotations

import json

import aiohttp
import pytest

from ragkeep.gateway.v1 import tenants_pb2
from ragkeep.gateway.v1.tenants_pb2_grpc import TenantServiceStub
from ragkeep_runtime.channel import open_channel
from tests.https import Answer, Person, Site
from tests.waiting import until_comes

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
ROUTES = {
    "/chat/stream": {"question": "打印机脱机"},
    "/v1/chat/completions": {"model": "service-tickets", "messages": [{"role": "user", "content": "打印机脱机"}]},
}


@pytest.mark.parametrize("path", ROUTES)
async def test_over_a_quota_is_429_with_when_to_come_again(site: Site, session: aiohttp.ClientSession, path: str) -> None:
    """Its name, the moment, and Retry-After in seconds."""
    tenant = f"limited-{path.count('/')}"
    policy = json.loads(site.stack.policy.read_text())
    site.stack.policy.write_text(json.dumps(policy | {"tenants": {tenant: {"quotas": {"questions_per_minute": 1}}}}))
    person = Person(site, session, site.token(tenant=tenant))

    async def refused() -> Answer | None:
        answer = await person("POST", path, ROUTES[path])
        return answer if answer.status == 429 else None

    found = await until_comes(refused)
    assert found is not None
    assert "questions a minute" in found.text
    assert 1 <= int(found.headers["retry-after"]) <= 60
    assert (await Person(site, session, site.token())("POST", path, ROUTES[path])).status == 200


async def test_people_of_a_deactivated_tenant_are_refused(site: Site, session: aiohttp.ClientSession) -> None:
    """403 on every route, and served again afterwards."""
    await site.import_sample(tenant="paused")
    person = Person(site, session, site.token(tenant="paused"))
    async with open_channel(site.stack.target("gateway"), "gateway", site.stack.cli) as channel:
        stub = TenantServiceStub(channel)
        for active, status in ((False, 403), (True, 200)):
            request = tenants_pb2.SetTenantActiveRequest(name="paused", active=active)
            await stub.SetTenantActive(request, metadata=(("ragkeep-tenant", "any"),))
            for path, body in ROUTES.items():
                found = await person("POST", path, body)
                assert found.status == status, found.text
                assert active or "not active" in found.text
            assert (await person("GET", "/v1/models")).status == status
