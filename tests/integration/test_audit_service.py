"""AuditService over mutual TLS: what an auditor reads, from every replica, of his own tenant alone; and the proof."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ragkeep.gateway.v1 import audit_pb2 as pb
from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.gateway.v1.audit_pb2_grpc import AuditServiceStub
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep_gateway.audit.files import AuditFiles
from ragkeep_runtime.audit.chain import Keys
from ragkeep_runtime.audit.heads import head_of, public_key
from ragkeep_runtime.audit.verify import day_files
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.edge import REQUEST_ID_KEY
from ragkeep_runtime.errors import from_rpc_error
from tests.integration.test_audit import calling, mark, until
from tests.ports import free_ports
from tests.stack import SECOND, Stack
from tests.tickets import SAMPLE
from tests.waiting import until_comes

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
AUDITOR, READER_TOO = "caller/local/auditor", "caller/local/both"


class Two(Stack):
    """Two gateways in front of the same services, each with a log of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        policy = json.loads(self.policy.read_text())
        policy["callers"][AUDITOR] = {"tenants": ["acme"], "roles": ["auditor"]}
        policy["callers"][READER_TOO] = {"tenants": ["acme", "other"], "roles": ["reader", "editor"], "groups": ["*"]}
        self.policy.write_text(json.dumps(policy))
        self.auditor = self.authority.caller(AUDITOR)
        self.both = self.authority.caller(READER_TOO)
        self.second = self.target(SECOND)
        at = f"{self.target('gateway')}, {self.second}"
        self.env["gateway"] = {"RAGKEEP_GATEWAY_REPLICAS_AT": at, "RAGKEEP_AUDIT_HEAD_S": "0.2"}
        self.start()
        self.start(SECOND)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Two]:  # type: ignore[misc]
    """Both, started."""
    found = Two(tmp_path_factory.mktemp("two"))
    yield found  # type: ignore[misc]
    found.stop()


async def read(
    two: Two, identity: object = None, acting_in: str = "", target: str = "", **fields: object
) -> list[pb.AuditEntry]:
    """The entries that fit, as the auditor unless another is named; nothing may be unreachable."""
    metadata = (("ragkeep-tenant", acting_in),) if acting_in else ()
    async with open_channel(target or two.target("gateway"), "gateway", identity or two.auditor) as channel:  # type: ignore[arg-type]
        call = AuditServiceStub(channel).ReadEntries(pb.ReadEntriesRequest(**fields), metadata=metadata)  # type: ignore[arg-type]
        found = [response async for response in call]
    assert [one.unreachable for one in found if one.WhichOneof("result") != "entry"] == []
    return [one.entry for one in found]


async def ask_both(two: Two, tenant: str) -> tuple[str, str]:
    """A search at each gateway; their request ids."""
    ids = []
    for target in (two.target("gateway"), two.second):
        request_id, _ = mark()
        async with open_channel(target, "gateway", two.both) as channel:
            metadata = (("ragkeep-tenant", tenant), (REQUEST_ID_KEY, request_id))
            request = gateway_pb2.ImportDocumentsRequest(documents=SAMPLE)
            await RagServiceStub(channel).ImportDocuments(request, metadata=metadata[:1])
            await RagServiceStub(channel).Search(gateway_pb2.SearchRequest(query=f"VPN of {tenant}"), metadata=metadata)
        ids.append(request_id)
    return ids[0], ids[1]


async def test_any_gateway_answers_for_all(two: Two) -> None:
    """Each of them tells both replicas' lines, in the order of their time."""
    first, second = await ask_both(two, "acme")
    for target in (two.target("gateway"), two.second):
        found = await read(two, target=target, kinds=[pb.AUDIT_KIND_ASKED], rpc="Search")
        assert {entry.replica for entry in found} == {"gateway-0", "gateway-1"}
        ids = [json.loads(entry.line)["request_id"] for entry in found]
        assert ids.index(first) < ids.index(second)
        times = [(entry.time.seconds, entry.time.nanos) for entry in found]
        assert times == sorted(times)
        assert len({(entry.replica, entry.sequence) for entry in found}) == len(found)
    (only,) = {entry.replica for entry in await read(two, target=two.second, only_this_replica=True)}
    assert only == "gateway-1"


async def test_an_auditor_sees_his_own_tenants_lines_alone(two: Two) -> None:
    """Of both replicas; another tenant's name is refused, and lines without a tenant are the operator's."""
    await ask_both(two, "acme")
    theirs = await ask_both(two, "other")
    found = [json.loads(entry.line) for entry in await read(two)]
    assert {line["tenant"] for line in found} == {"acme"}
    assert not {line.get("request_id") for line in found} & set(theirs)
    assert "VPN of other" not in json.dumps(found)
    assert await read(two, request_id=theirs[0]) == []
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await read(two, kinds=[99])
    assert from_rpc_error(failed.value).reason == "INVALID_REQUEST"
    async with open_channel(two.target("gateway"), "gateway", two.auditor) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            [one async for one in AuditServiceStub(channel).ReadEntries(pb.ReadEntriesRequest(tenant="other"))]
    assert from_rpc_error(failed.value).reason == "TENANT_NOT_ALLOWED"


async def test_what_only_gateways_may_say_is_ignored_of_others(two: Two) -> None:
    """An auditor who claims to be asked on behalf of the operator sees what he saw before."""
    await ask_both(two, "other")
    found = await read(two, on_behalf=pb.OnBehalf(operator=True, tenant="other", replica="gateway-0"))
    assert found
    assert {json.loads(entry.line)["tenant"] for entry in found} == {"acme"}


async def test_the_operator_sees_all(two: Two) -> None:
    """Every tenant, and what belongs to none: starts."""
    await ask_both(two, "other")
    found = await read(two, two.cli, "ops")
    assert {"acme", "other"} <= {json.loads(entry.line).get("tenant") for entry in found}
    assert [entry.kind for entry in found if entry.sequence == 1] == [pb.AUDIT_KIND_STARTED] * 2
    assert {json.loads(entry.line)["tenant"] for entry in await read(two, two.cli, "ops", tenant="other")} == {"other"}


async def test_filters_leave_what_fits(two: Two) -> None:
    """By time, person or peer, request, kind, document, RPC, outcome; and the last so many."""
    first, _ = await ask_both(two, "acme")
    (asked,) = [entry for entry in await read(two, request_id=first) if entry.kind == pb.AUDIT_KIND_ASKED]
    document = json.loads(asked.line)["documents"][0]
    assert asked in await read(two, document_id=document, rpc="Search")
    assert asked in await read(two, since=asked.time)
    assert asked not in await read(two, before=asked.time)
    assert asked in await read(two, subject=READER_TOO)
    assert await read(two, subject="nobody") == []
    assert {entry.kind for entry in await read(two, kinds=[pb.AUDIT_KIND_ACTED])} == {pb.AUDIT_KIND_ACTED}
    assert {json.loads(entry.line)["outcome"] for entry in await read(two, outcome="attempted")} == {"attempted"}
    assert await read(two, outcome="NOT_READY") == []
    request_id, _ = mark()
    metadata = (("ragkeep-tenant", "acme"), (REQUEST_ID_KEY, request_id))
    async with open_channel(two.target("gateway"), "gateway", two.both) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await RagServiceStub(channel).GetDocument(gateway_pb2.GetDocumentRequest(document_id="none-1"), metadata=metadata)
    await until(two, request_id, 1)
    (missed,) = await read(two, document_id="none-1", outcome="DOCUMENT_UNKNOWN")  # named, and not shown
    assert json.loads(missed.line)["requested"] == ["none-1"]
    everything = await read(two, kinds=[pb.AUDIT_KIND_ASKED], rpc="Search")
    assert await read(two, kinds=[pb.AUDIT_KIND_ASKED], rpc="Search", last=3) == everything[-3:]


async def test_a_follower_hears_of_new_lines_of_every_replica(two: Two) -> None:
    """As they are written."""
    await ask_both(two, "acme")
    request = pb.ReadEntriesRequest(follow=True, last=1, kinds=[pb.AUDIT_KIND_ASKED], rpc="Search")
    async with open_channel(two.target("gateway"), "gateway", two.auditor) as channel:
        call = AuditServiceStub(channel).ReadEntries(request, timeout=300)
        assert (await call.read()).entry.kind == pb.AUDIT_KIND_ASKED
        missing = set(await ask_both(two, "acme"))
        while missing:
            missing.discard(json.loads((await call.read()).entry.line)["request_id"])
        call.cancel()


async def test_reading_is_on_record(two: Two) -> None:
    """What an auditor asked for, and how it ended."""
    request_id, _ = mark()
    async with open_channel(two.target("gateway"), "gateway", two.auditor) as channel:
        call = AuditServiceStub(channel).ReadEntries(
            pb.ReadEntriesRequest(subject="anna", kinds=[pb.AUDIT_KIND_ASKED]), metadata=((REQUEST_ID_KEY, request_id),)
        )
        [one async for one in call]
    asked, finished = await until(two, request_id, 2)
    assert asked["reading"] == {"subject": "anna", "kinds": ["asked"]}
    assert (asked["peer"], finished["outcome"]) == (AUDITOR, "OK")


async def test_who_is_no_auditor_reads_nothing(two: Two) -> None:
    """Neither a reader and editor, nor the other services; nor an auditor anything but the log."""
    for rpc, request in (
        ("ReadEntries", pb.ReadEntriesRequest()),
        ("VerifyLog", pb.VerifyLogRequest()),
        ("ListHeads", pb.ListHeadsRequest()),
    ):
        for identity in (two.both, two.reader, two.identities["retriever"]):
            async with open_channel(two.target("gateway"), "gateway", identity) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    [one async for one in getattr(AuditServiceStub(channel), rpc)(request)]
            assert from_rpc_error(failed.value).reason == "NOT_ALLOWED"
    async with open_channel(two.target("gateway"), "gateway", two.auditor) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await RagServiceStub(channel).Search(gateway_pb2.SearchRequest(query="VPN"))
    assert from_rpc_error(failed.value).reason == "NOT_ALLOWED"


async def test_every_replica_is_proven_and_heads_are_listed(two: Two) -> None:
    """One verdict each; the heads' signatures hold by the public key that comes with them."""
    await ask_both(two, "acme")
    metadata = (("ragkeep-tenant", "ops"),)
    async with open_channel(two.second, "gateway", two.cli) as channel:
        stub = AuditServiceStub(channel)

        async def both_have_heads() -> bool:
            listed = [one.head.replica async for one in stub.ListHeads(pb.ListHeadsRequest(), metadata=metadata)]
            return set(listed) == {"gateway-0", "gateway-1"}

        await until_comes(both_have_heads)
        answers = stub.VerifyLog(pb.VerifyLogRequest(), metadata=metadata)
        verdicts = [one.verdict async for one in answers if one.HasField("verdict")]
        heads = [one.head async for one in stub.ListHeads(pb.ListHeadsRequest(), metadata=metadata)]
    assert {verdict.replica for verdict in verdicts} == {"gateway-0", "gateway-1"}
    assert not [verdict.fault for verdict in verdicts if verdict.HasField("fault")]
    assert all(verdict.heads and verdict.head_sequence for verdict in verdicts)
    assert {head.replica for head in heads} == {"gateway-0", "gateway-1"}
    assert all(head_of(json.loads(head.line)).is_signed_by([public_key(head.public_key)]) for head in heads)


async def test_a_tenants_auditor_hears_whether_all_is_well_and_no_number(two: Two) -> None:
    """Numbers, sizes and heads are of all tenants' lines together; whatever he says of the operator."""
    await ask_both(two, "other")
    claimed = pb.OnBehalf(operator=True, tenant="other", replica="gateway-9")
    async with open_channel(two.second, "gateway", two.auditor) as channel:
        stub = AuditServiceStub(channel)
        answers = [one async for one in stub.VerifyLog(pb.VerifyLogRequest(on_behalf=claimed))]
        heads = [one async for one in stub.ListHeads(pb.ListHeadsRequest(on_behalf=claimed))]
    verdicts = {one.verdict.replica: one.verdict for one in answers if one.WhichOneof("result") == "verdict"}
    assert verdicts == {name: pb.Verdict(replica=name, withheld=True) for name in ("gateway-0", "gateway-1")}
    assert {one.progress.lines for one in answers if one.WhichOneof("result") == "progress"} <= {0}
    assert heads == []


async def test_a_changed_line_is_named_and_a_replica_that_is_gone_is_said(tmp_path: Path) -> None:
    """On a running service: the line by its number; and what could not be asked is not passed over."""
    own = Stack(tmp_path)
    own.env["gateway"] = {"RAGKEEP_GATEWAY_REPLICAS_AT": f"127.0.0.1:{free_ports(1)}"}
    try:
        own.start()
        async with calling(own) as rag:
            for _ in range(5):
                await rag.ListCollections(gateway_pb2.ListCollectionsRequest(), metadata=(("ragkeep-tenant", "a"),))
        path = day_files(own.audit / "gateway-0")[-1]
        lines = path.read_text().splitlines(keepends=True)
        lines[3] = lines[3].replace("caller/local/cli", "caller/local/cLi")
        path.write_text("".join(lines))
        async with open_channel(own.target("gateway"), "gateway", own.cli) as channel:
            stub, metadata = AuditServiceStub(channel), (("ragkeep-tenant", "a"),)
            answers = [one async for one in stub.VerifyLog(pb.VerifyLogRequest(), metadata=metadata)]
            entries = [one async for one in stub.ReadEntries(pb.ReadEntriesRequest(last=5), metadata=metadata)]
        (verdict,) = [one.verdict for one in answers if one.WhichOneof("result") == "verdict"]
        assert (verdict.fault.what, verdict.fault.sequence, verdict.fault.line) == ("changed", 4, 4)
        assert [one.unreachable.reason for one in answers if one.WhichOneof("result") == "unreachable"] == ["NOT_READY"]
        assert [one.unreachable.reason for one in entries if one.WhichOneof("result") == "unreachable"] == ["NOT_READY"]
    finally:
        own.stop()


async def test_what_age_took_is_told_before_the_heads(tmp_path: Path) -> None:
    """By the signed cut, with which an export is proven elsewhere."""
    own = Stack(tmp_path)
    keys = Keys.read(own.audit_key)
    signing = Ed25519PrivateKey.from_private_bytes(keys.signing)
    old = dt.datetime.now(dt.UTC) - dt.timedelta(days=3)
    files = AuditFiles(own.audit, "gateway-0", keys.lines, signing, clock=lambda: old)
    files.open()
    files.append([{"kind": "started", "key": keys.name}, {"kind": "asked"}])
    files.head()
    files.close()
    own.env["gateway"] = {"RAGKEEP_AUDIT_DAYS": "1"}
    try:
        own.start()
        async with open_channel(own.target("gateway"), "gateway", own.cli) as channel:
            answers = AuditServiceStub(channel).ListHeads(pb.ListHeadsRequest(), metadata=(("ragkeep-tenant", "a"),))
            cut, *heads = [head_of(json.loads(one.head.line)) async for one in answers]
    finally:
        own.stop()
    assert (cut.cut, cut.sequence, cut.is_signed_by([signing.public_key()])) == (True, 2, True)
    assert heads
    assert not [head for head in heads if head.cut or head.sequence <= 2]


async def test_a_log_that_is_off_says_so(tmp_path: Path) -> None:
    """AUDIT_UNAVAILABLE, with the setting that turns it on."""
    own = Stack(tmp_path)
    own.env["gateway"] = {"RAGKEEP_AUDIT_FOLDER": ""}
    try:
        own.start()
        async with open_channel(own.target("gateway"), "gateway", own.cli) as channel:
            metadata = (("ragkeep-tenant", "a"),)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                [one async for one in AuditServiceStub(channel).VerifyLog(pb.VerifyLogRequest(), metadata=metadata)]
        error = from_rpc_error(failed.value)
        assert error.reason == "AUDIT_UNAVAILABLE"
        assert "RAGKEEP_AUDIT_FOLDER" in error.message
    finally:
        own.stop()
