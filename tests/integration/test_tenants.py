"""Tenants and their quotas, over the real RPCs: two gateways, one store, mutual TLS."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1 import tenants_pb2
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.gateway.v1.tenants_pb2_grpc import TenantServiceStub
from ragkeep.types.v1.types_pb2 import OutcomeKind
from ragkeep_runtime.access import rules_of
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.errors import RagkeepError, from_rpc_error
from tests.stack import CLI, SECOND, Stack
from tests.tickets import SAMPLE, ticket
from tests.waiting import until_answered, until_comes

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite")]
BOUND, OPERATOR, LIMITED = "caller/x/bound", "caller/x/operator", "caller/x/limited"
RAG, TENANTS = (
    pb.DESCRIPTOR.services_by_name["RagService"],
    tenants_pb2.DESCRIPTOR.services_by_name["TenantService"],
)
ROLES = ["reader", "editor", "admin"]
POLICY = {
    "operator_tenant": "ops",
    "callers": {
        CLI: {"tenants": ["*"], "roles": ROLES, "groups": ["*"]},
        BOUND: {"tenants": ["bound"], "roles": ROLES},
        OPERATOR: {"tenants": ["ops"], "roles": ["admin"]},
        LIMITED: {"tenants": ["*"], "roles": ROLES, "quotas": {"questions_per_minute": 2}},
    },
    "tenants": {
        "asks": {"quotas": {"questions_per_minute": 7}},
        "streams": {"quotas": {"concurrent_streams": 4}},
        "spends": {"quotas": {"tokens_per_day": 50}},
        "keeps": {"quotas": {"documents": 5}},
        "shares": {"quotas": {"documents": 5}},
    },
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All four and a second gateway; the language model takes its time."""
    found = Stack(
        tmp_path_factory.mktemp("tenants"),
        env={"gateway": {"RAGKEEP_REPLICAS": "2"}},
        # An answer that nobody leaves takes a minute: every test here leaves its own.
        modules={"generator": "tests.slow_generator 1200"},
    )
    found.policy.write_text(json.dumps(POLICY))
    try:
        found.start()
        found.start(SECOND)
        yield found
    finally:
        found.stop()


@pytest.fixture
async def channels(two: Stack) -> AsyncIterator[list[Any]]:
    """To both gateways, as the command."""
    async with (
        open_channel(two.target("gateway"), "gateway", two.cli) as one,
        open_channel(two.target(SECOND), "gateway", two.cli) as other,
    ):
        yield [one, other]


@pytest.fixture
def operator(channels: list[Any]) -> TenantServiceStub:
    """What the operator calls."""
    return TenantServiceStub(channels[0])


def of(tenant: str) -> tuple[tuple[str, str], ...]:
    """The metadata that picks a tenant."""
    return (("ragkeep-tenant", tenant),)


# Whose calls the operator makes is nobody's matter here; a tenant is named all the same where several are bound.
ANY = of("any")


async def refused(call: Any) -> RagkeepError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await (call.read() if hasattr(call, "read") else call)
    return from_rpc_error(failed.value)


async def listed(operator: Any, name: str) -> tenants_pb2.Tenant | None:
    """The tenant's place in the list."""
    found = await operator.ListTenants(tenants_pb2.ListTenantsRequest(), metadata=ANY)
    return next((one for one in found.tenants if one.name == name), None)


async def create(operator: Any) -> str:
    """A tenant that nobody else has."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    made = (await operator.CreateTenant(tenants_pb2.CreateTenantRequest(name=name), metadata=ANY)).tenant
    assert (made.name, made.active, made.deleting) == (name, True, False)
    assert datetime.now(UTC) - made.created.ToDatetime(tzinfo=UTC) < timedelta(minutes=1)
    return name


def set_active(operator: Any, name: str, active: bool) -> Any:
    """The call."""
    return operator.SetTenantActive(tenants_pb2.SetTenantActiveRequest(name=name, active=active), metadata=ANY)


async def test_a_tenant_is_made_once_or_by_its_first_import(operator: TenantServiceStub, channels: list[Any]) -> None:
    """Both are in the list, with documents and quotas; what is no name is none."""
    name = await create(operator)
    again = await refused(operator.CreateTenant(tenants_pb2.CreateTenantRequest(name=name), metadata=ANY))
    assert again.reason == "TENANT_EXISTS"
    for wrong in ("", " a", "*", "a\nb", "x" * 129):
        error = await refused(operator.CreateTenant(tenants_pb2.CreateTenantRequest(name=wrong), metadata=ANY))
        assert (error.reason, error.field) == ("INVALID_REQUEST", "name")
    assert (await refused(set_active(operator, "nobody", True))).reason == "TENANT_UNKNOWN"

    await RagServiceStub(channels[0]).ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE[:2]), metadata=of("keeps"))
    found = await listed(operator, "keeps")
    assert found is not None
    assert dict(found.documents) == {"service-tickets": 2}
    assert found.quotas == tenants_pb2.Quotas(documents=5)
    assert await listed(operator, "never-imported") is None
    # A question of a tenant that is not there makes none.
    await RagServiceStub(channels[0]).Search(pb.SearchRequest(query="vpn"), metadata=of("never-imported"))
    assert await listed(operator, "never-imported") is None


async def test_only_the_operators_admins_manage_tenants(two: Stack) -> None:
    """Neither a tenant's own admin nor a reader, and a tenant of their own is no way in."""
    for peer, metadata, allowed in (
        (OPERATOR, (), True),
        (OPERATOR, of("ops"), True),
        (BOUND, (), False),
        (BOUND, of("ops"), False),
        ("caller/x/nobody", of("ops"), False),
    ):
        async with open_channel(two.target("gateway"), "gateway", two.authority.caller(peer)) as channel:
            stub = TenantServiceStub(channel)
            if allowed:
                await stub.ListTenants(tenants_pb2.ListTenantsRequest(), metadata=metadata)
                continue
            for method in TENANTS.methods:
                request = getattr(tenants_pb2, method.input_type.name)()
                error = await refused(getattr(stub, method.name)(request, metadata=metadata))
                assert error.reason in ("NOT_ALLOWED", "TENANT_NOT_ALLOWED"), method.name


async def test_every_call_of_a_deactivated_tenant_is_refused_everywhere(
    operator: TenantServiceStub, channels: list[Any]
) -> None:
    """By both gateways, before the request is looked at; others go on, and so does the tenant once it is active again."""
    name = await create(operator)
    rags = [RagServiceStub(one) for one in channels]
    await rags[0].ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=of(name))
    for rag in rags:
        assert (await rag.Search(pb.SearchRequest(query="vpn"), metadata=of(name))).sources
    assert not (await set_active(operator, name, False)).tenant.active
    for rag in rags:
        await until_refused(rag, name)
        rules = rules_of([RAG])
        own = [method for method in RAG.methods if not rules[f"/{RAG.full_name}/{method.name}"].operator]
        assert len(own) > 8
        for method in own:
            request = getattr(pb, method.input_type.name)()
            assert (await refused(getattr(rag, method.name)(request, metadata=of(name)))).reason == "TENANT_INACTIVE"
        # The operator's own methods act on no tenant: where they come from does not matter.
        await operator.ListTenants(tenants_pb2.ListTenantsRequest(), metadata=of(name))
        await rag.Search(pb.SearchRequest(query="vpn"), metadata=of("another"))
    await set_active(operator, name, True)
    for rag in rags:
        found = await until_served(lambda: rag.Search(pb.SearchRequest(query="vpn"), metadata=of(name)))  # noqa: B023
        assert found.sources


async def until_served(ask: Callable[[], Awaitable[Any]]) -> Any:
    """What it brings, once it is not refused any more."""
    while True:
        try:
            return await ask()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.05)


async def until_refused(rag: Any, name: str) -> None:
    """Searches until the gateway has heard that the tenant is not active."""

    async def ended() -> Any:
        call = rag.Search(pb.SearchRequest(query="vpn"), metadata=of(name))
        return call if await call.code() is not grpc.StatusCode.OK else None

    assert (await refused(await until_comes(ended))).reason == "TENANT_INACTIVE"


async def test_a_deleted_tenant_is_gone_and_says_what_went(operator: TenantServiceStub, channels: list[Any]) -> None:
    """Not while it is active; then all of it, from the disk too; under its name somebody begins with nothing."""
    name = await create(operator)
    rag = RagServiceStub(channels[1])
    await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=of(name))
    request = tenants_pb2.DeleteTenantRequest(name=name)
    assert (await refused(operator.DeleteTenant(request, metadata=ANY))).reason == "TENANT_ACTIVE"
    await set_active(operator, name, False)
    gone = await operator.DeleteTenant(request, metadata=ANY)
    assert dict(gone.documents) == {"service-tickets": len(SAMPLE)}
    assert "Backups" in gone.left
    assert await listed(operator, name) is None
    assert (await refused(operator.DeleteTenant(request, metadata=ANY))).reason == "TENANT_UNKNOWN"
    # The other gateway forgets that it was not active.
    assert not (await until_served(lambda: rag.Search(pb.SearchRequest(query="vpn"), metadata=of(name)))).sources
    again = await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE[:1]), metadata=of(name))
    assert [one.kind for one in again.outcomes] == [OutcomeKind.OUTCOME_KIND_CREATED]


async def test_a_deleted_tenants_text_is_nowhere_on_the_disk(
    two: Stack, operator: TenantServiceStub, channels: list[Any]
) -> None:
    """Neither in its file nor in what lay beside it."""
    name, word = await create(operator), f"Secret{uuid.uuid4().hex}"
    documents = [ticket("T-1", title=word, solution=f"{word} again")]
    await RagServiceStub(channels[0]).ImportDocuments(pb.ImportDocumentsRequest(documents=documents), metadata=of(name))
    store = two.folder / "store"
    assert any(word.encode() in file.read_bytes() for file in store.glob("*"))
    await set_active(operator, name, False)
    await operator.DeleteTenant(tenants_pb2.DeleteTenantRequest(name=name), metadata=ANY)
    assert not any(word.encode() in file.read_bytes() for file in store.glob("*"))


async def test_questions_beyond_the_replicas_share_are_refused(channels: list[Any]) -> None:
    """Of seven a minute each of two replicas gives three: searches, questions and each search of a batch."""
    for channel in channels:
        rag = RagServiceStub(channel)
        batch = pb.SearchBatchRequest(searches=[pb.SearchRequest(query="vpn")] * 2)
        await rag.SearchBatch(batch, metadata=of("asks"))
        await rag.Search(pb.SearchRequest(query="vpn"), metadata=of("asks"))
        for call in (
            rag.Search(pb.SearchRequest(query="vpn"), metadata=of("asks")),
            rag.Ask(pb.AskRequest(question="vpn"), metadata=of("asks")),
            rag.SearchBatch(batch, metadata=of("asks")),
        ):
            error = await refused(call)
            assert error.reason == "QUOTA_EXCEEDED"
            assert error.metadata["quota"] == "questions_per_minute"
            resets = datetime.fromisoformat(error.metadata["resets_at"])
            assert timedelta() < resets - datetime.now(UTC) <= timedelta(minutes=1)
            assert error.retry_after_s is not None
            assert 0 < error.retry_after_s <= 60
        await rag.ListCollections(pb.ListCollectionsRequest(), metadata=of("asks"))


async def test_a_callers_own_quota_holds_in_every_tenant(two: Stack) -> None:
    """Its tenants have none."""
    async with open_channel(two.target("gateway"), "gateway", two.authority.caller(LIMITED)) as channel:
        rag = RagServiceStub(channel)
        await rag.Search(pb.SearchRequest(query="vpn"), metadata=of("one"))
        assert (await refused(rag.Search(pb.SearchRequest(query="vpn"), metadata=of("two")))).reason == "QUOTA_EXCEEDED"


async def test_streams_beyond_the_share_are_refused_until_one_ends(channels: list[Any]) -> None:
    """Two of four here; a reader who hangs up gives the place back."""
    rag = RagServiceStub(channels[0])
    await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=of("streams"))
    question = pb.AskRequest(question="VPN error 809")
    running = [rag.Ask(question, metadata=of("streams")) for _ in range(2)]
    for call in running:
        while (await call.read()).WhichOneof("event") != "delta":
            pass
    error = await refused(rag.Ask(question, metadata=of("streams")))
    assert (error.reason, error.metadata["quota"], error.retry_after_s) == ("QUOTA_EXCEEDED", "concurrent_streams", 1.0)
    running[0].cancel()

    async def begun() -> Any:
        call = rag.Ask(question, metadata=of("streams"))
        await call.read()
        return call

    again = await until_served(begun)
    while (await again.read()).WhichOneof("event") != "delta":
        pass
    for call in (again, running[1]):
        call.cancel()


async def test_tokens_of_a_day_are_used_up_also_by_an_answer_that_was_left(two: Stack, channels: list[Any]) -> None:
    """The next question is refused until midnight; a search is not."""
    rag = RagServiceStub(channels[0])
    await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=of("spends"))
    call = rag.Ask(pb.AskRequest(question="VPN error 809"), metadata=of("spends"))
    while (await call.read()).WhichOneof("event") != "delta":
        pass
    call.cancel()

    async def ended() -> Any:
        call = rag.Ask(pb.AskRequest(question="VPN error 809"), metadata=of("spends"))
        try:
            await call.read()
        except grpc.aio.AioRpcError as failed:
            return from_rpc_error(failed)
        call.cancel()
        return None

    error = await until_comes(ended)
    assert (error.reason, error.metadata["quota"]) == ("QUOTA_EXCEEDED", "tokens_per_day")
    assert error.metadata["resets_at"].endswith("T00:00:00.000Z")
    await rag.Search(pb.SearchRequest(query="vpn"), metadata=of("spends"))
    # Nor does a gateway that starts anew give them again.
    two.processes["gateway"].terminate()
    two.processes["gateway"].wait()
    two.start("gateway")
    again = await refused(
        until_answered(lambda: rag.Ask(pb.AskRequest(question="VPN error 809"), metadata=of("spends")).read())
    )
    assert (again.reason, again.metadata["quota"]) == ("QUOTA_EXCEEDED", "tokens_per_day")


async def test_an_import_takes_exactly_what_has_room(channels: list[Any]) -> None:
    """What is there may be updated and counts nothing; a dry run foretells it; deleting makes room."""
    rag, kinds = RagServiceStub(channels[0]), OutcomeKind
    documents = [ticket(f"T-{n}") for n in range(8)]

    async def run(these: list[Any], **more: Any) -> list[str]:
        response = await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=these, **more), metadata=of("shares"))
        return [one.reason or kinds.Name(one.kind).removeprefix("OUTCOME_KIND_").lower() for one in response.outcomes]

    assert await run(documents[:3]) == ["created"] * 3
    expected = ["unchanged"] * 3 + ["created"] * 2 + ["QUOTA_EXCEEDED"] * 3
    assert await run(documents, dry_run=True) == expected
    assert await run(documents) == expected
    changed = [ticket("T-1", title="printer"), ticket("T-9"), ticket("T-2", title="projector")]
    assert await run(changed) == ["updated", "QUOTA_EXCEEDED", "updated"]
    delete = pb.DeleteDocumentsRequest(collection="service-tickets")
    delete.ids.ids.append("T-0")
    await rag.DeleteDocuments(delete, metadata=of("shares"))
    assert await run([ticket("T-9"), ticket("T-10")]) == ["created", "QUOTA_EXCEEDED"]


async def test_imports_at_once_do_not_exceed_the_quota_together(operator: TenantServiceStub, channels: list[Any]) -> None:
    """Eight batches in flight at one gateway; whichever come first."""
    rag = RagServiceStub(channels[0])
    batches = [[ticket(f"{batch}-{n}") for n in range(2)] for batch in range(8)]
    responses = await asyncio.gather(
        *(rag.ImportDocuments(pb.ImportDocumentsRequest(documents=one), metadata=of("keeps")) for one in batches)
    )
    found = await listed(operator, "keeps")
    assert found is not None
    assert sum(found.documents.values()) == 5
    reasons = [outcome.reason for response in responses for outcome in response.outcomes]
    assert set(reasons) == {"", "QUOTA_EXCEEDED"}


async def test_a_gateway_without_its_retriever_still_refuses_a_tenant_that_it_knows(
    two: Stack, operator: TenantServiceStub, channels: list[Any]
) -> None:
    """What the retriever said last stays true; a tenant that nobody asked about before waits until it can say."""
    active, stopped = await create(operator), await create(operator)
    await set_active(operator, stopped, False)
    rag = RagServiceStub(channels[0])
    await rag.ListModels(pb.ListModelsRequest(), metadata=of(active))
    await until_refused(rag, stopped)
    two.kill("retriever")
    try:
        await asyncio.sleep(2)  # until what is kept is not fresh any more
        await rag.ListModels(pb.ListModelsRequest(), metadata=of(active))
        assert (await refused(rag.ListModels(pb.ListModelsRequest(), metadata=of(stopped)))).reason == "TENANT_INACTIVE"
        assert (await refused(rag.ListModels(pb.ListModelsRequest(), metadata=of("unheard")))).reason == "NOT_READY"
    finally:
        two.start("retriever")
