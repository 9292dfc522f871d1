"""What holds over gRPC holds over HTTPS, as the same methods answer: groups, sealed fields, quotas, tenants that are not active."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1 import tenants_pb2
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.gateway.v1.tenants_pb2_grpc import TenantServiceStub
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.keyring import dump_keyring, new_keyring
from tests.https import Person, Site, connections
from tests.sealing import GRANTS, PLANTED, person, staff
from tests.tickets import SAMPLE

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
ASKED = {"model": "service-tickets", "messages": [{"role": "user", "content": "VPN error 809"}]}
STAFF = {"model": "staff", "messages": [{"role": "user", "content": "Ada Lovelace"}]}


async def filled(site: Site) -> None:
    """Open tickets and one for the group `network`; somebody of the staff with sealed fields; tenants with quotas."""
    async with open_channel(site.stack.target("gateway"), "gateway", site.stack.cli) as channel:
        rag = RagServiceStub(channel)
        hidden = pb.ImportDocumentsRequest(documents=[*SAMPLE])
        for document in hidden.documents:
            if document.id == "T-1042":
                document.groups.append("network")
        for tenant in ("demo", "asks", "asleep"):
            await rag.ImportDocuments(hidden, metadata=(("ragkeep-tenant", tenant),), timeout=300)
        demo = (("ragkeep-tenant", "demo"),)
        await rag.CreateCollection(pb.CreateCollectionRequest(collection=staff()), metadata=demo)
        await rag.ImportDocuments(pb.ImportDocumentsRequest(collection="staff", documents=[person("p-1")]), metadata=demo)
        sleeping = tenants_pb2.SetTenantActiveRequest(name="asleep", active=False)
        await TenantServiceStub(channel).SetTenantActive(sleeping, metadata=demo)


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An installation with all of it."""
    folder = tmp_path_factory.mktemp("rules")
    keyring = Path(folder) / "keyring.json"
    keyring.write_bytes(dump_keyring(new_keyring("k1")))
    found = Site(folder, RAGKEEP_KEYRING=str(keyring))
    quotas = {"asks": {"quotas": {"questions_per_minute": 2}}}
    found.stack.policy.write_text(json.dumps({"operator_tenant": "ops", "callers": GRANTS, "tenants": quotas}))
    try:
        found.stack.start()
        asyncio.run(filled(found))
        yield found
    finally:
        found.stack.stop()


@pytest.fixture
async def ruled_session(ruled: Site) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections of one test."""
    async with connections(ruled.tls) as found:
        yield found


def shown(answer: Any) -> set[str]:
    """The documents whose passages an answer of either shape brought."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        sources = next(data for name, data in answer.events if name == "sources")["sources"]
    else:
        sources = answer.json["ragkeep"]["sources"]
    return {source["passage"]["documentId"] for source in sources}


async def test_who_is_outside_a_documents_groups_gets_nothing_of_it(ruled: Site, ruled_session: aiohttp.ClientSession) -> None:
    """In either shape: no source, no word, no count; with the group it is the first source."""
    outside = Person(ruled, ruled_session, ruled.token(groups=["printers"]))
    inside = Person(ruled, ruled_session, ruled.token(groups=["network"]))
    for path, body in (("/chat/stream", {"question": "VPN error 809"}), ("/v1/chat/completions", ASKED)):
        found = await outside("POST", path, body)
        assert found.status == 200
        assert "T-1042" not in shown(found)
        assert "AssumeUDPEncapsulation" not in found.text
        found = await inside("POST", path, body)
        assert "T-1042" in shown(found)
    # A request cannot say whose groups count.
    for more in ({"groups": ["network"]}, {"scope": {"everyDocument": True}}):
        assert (await outside("POST", "/chat/stream", {"question": "VPN error 809", **more})).status == 422
    counts = []
    for asking in (outside, inside):
        models = (await asking("GET", "/v1/models")).json["data"]
        counts.append(next(int(one["ragkeep"]["documents"]) for one in models if one["id"] == "service-tickets"))
    assert counts == [len(SAMPLE) - 1, len(SAMPLE)]


async def test_sealed_fields_are_opened_for_unsealers_alone(ruled: Site, ruled_session: aiohttp.ClientSession) -> None:
    """A reader sees that a field is sealed, and nothing of what it holds."""
    reader = await Person(ruled, ruled_session, ruled.token())("POST", "/v1/chat/completions", STAFF)
    assert shown(reader) == {"p-1"}
    assert not [planted for planted in PLANTED if planted in reader.text]
    fields = reader.json["ragkeep"]["sources"][0]["passage"]["fields"]
    assert fields["diagnosis"] == {"sealed": {}}
    token = ruled.token(roles=["reader", "unsealer"])
    unsealer = await Person(ruled, ruled_session, token)(
        "POST", "/chat/stream", {"question": "Ada Lovelace", "collection": "staff"}
    )
    assert "planted-diagnosis-8731" in unsealer.text


async def test_over_a_quota_is_429_with_its_name_and_when_it_is_free_again(
    ruled: Site, ruled_session: aiohttp.ClientSession
) -> None:
    """Both shapes draw on the same quota."""
    person = Person(ruled, ruled_session, ruled.token(tenant="asks", groups=["network"]))
    assert (await person("POST", "/chat/stream", {"question": "VPN error 809"})).status == 200
    assert (await person("POST", "/v1/chat/completions", ASKED)).status == 200
    for path, body in (("/chat/stream", {"question": "VPN error 809"}), ("/v1/chat/completions", ASKED | {"stream": True})):
        over = await person("POST", path, body)
        assert (over.status, over.reason) == (429, "QUOTA_EXCEEDED"), over.text
        assert 1 <= int(over.headers["retry-after"]) <= 60
        assert over.json["error"]["metadata"]["quota"] == "questions_per_minute"
        assert over.json["error"]["metadata"]["resets_at"]


async def test_a_tenant_that_is_not_active_is_refused(ruled: Site, ruled_session: aiohttp.ClientSession) -> None:
    """On every route, before anything is read."""
    person = Person(ruled, ruled_session, ruled.token(tenant="asleep"))
    for verb, path, body in (
        ("POST", "/chat/stream", {"question": "a"}),
        ("POST", "/v1/chat/completions", ASKED),
        ("GET", "/v1/models", None),
        ("POST", "/v1/embeddings", {"model": "multilingual-e5-small", "input": "a"}),
    ):
        found = await person(verb, path, body)
        assert (found.status, found.reason) == (403, "TENANT_INACTIVE"), path
