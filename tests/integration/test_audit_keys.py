"""The audit log's key is replaced on real processes: the gateway proves with the earlier one, and writes with the new one alone."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragkeep.gateway.v1 import audit_pb2 as pb
from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.gateway.v1.audit_pb2_grpc import AuditServiceStub
from ragkeep_runtime.audit.chain import Keys
from ragkeep_runtime.audit.heads import head_of, public_key
from ragkeep_runtime.channel import open_channel
from tests.integration.test_audit import TENANT, calling, lines, proven
from tests.stack import Stack

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Stack]:
    """A stack whose key is replaced."""
    found = Stack(tmp_path)
    yield found
    found.stop()


async def _verdict(stack: Stack) -> pb.Verdict:
    async with calling(stack) as rag:
        await rag.ListCollections(gateway_pb2.ListCollectionsRequest(), metadata=(TENANT,))
    async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
        answers = AuditServiceStub(channel).VerifyLog(pb.VerifyLogRequest(), metadata=(TENANT,))
        (found,) = [one.verdict async for one in answers if one.WhichOneof("result") == "verdict"]
    return found


async def test_a_gateway_proves_what_an_earlier_key_wrote(own: Stack) -> None:
    """Without that key it says which is missing; with it every line and every head is proven, and new ones are of the new key."""
    own.start()
    assert not (await _verdict(own)).HasField("fault")
    earlier = own.audit_key.rename(own.folder / "earlier-1.key")
    own.audit_key.write_text(secrets.token_hex(32))
    own.kill("gateway")
    own.start("gateway")
    fault = (await _verdict(own)).fault
    assert (fault.what, fault.sequence) == ("key missing", 1)
    assert "RAGKEEP_AUDIT_EARLIER_KEYS" in fault.why
    own.kill("gateway")
    own.env["gateway"] = {"RAGKEEP_AUDIT_EARLIER_KEYS": str(own.folder / "earlier-*.key")}
    own.start("gateway")
    verdict = await _verdict(own)
    assert not verdict.HasField("fault"), verdict
    assert (verdict.first, verdict.last) == (1, verdict.head_sequence)
    names = [line["key"] for line in lines(own) if line["kind"] == "started"]
    assert names == [Keys.read(earlier).name] + [Keys.read(own.audit_key).name] * 2
    async with open_channel(own.target("gateway"), "gateway", own.cli) as channel:
        answers = AuditServiceStub(channel).ListHeads(pb.ListHeadsRequest(), metadata=(TENANT,))
        heads = [one.head async for one in answers]
    assert len({head.public_key for head in heads}) == 2
    assert all(head_of(json.loads(head.line)).is_signed_by([public_key(head.public_key)]) for head in heads)
    assert proven(own).fault is not None  # with the new key alone


async def test_an_earlier_key_that_is_todays_does_not_start(own: Stack) -> None:
    """Nor one that cannot be read: what is wrong is said."""
    for path, said in ((own.audit_key, "writes no more lines"), (own.folder / "none", "none")):
        own.env["gateway"] = {"RAGKEEP_AUDIT_EARLIER_KEYS": str(path)}
        own.start("gateway", wait=False)
        assert own.processes["gateway"].wait(20) == 1
        assert said in own.log("gateway")
