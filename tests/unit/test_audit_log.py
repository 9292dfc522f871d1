"""The audit log inside the process: who waits shares a sync, who fails is refused, who knocks without end is counted."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ragkeep.gateway.v1 import audit_pb2 as pb
from ragkeep_client.audit import verdict_from
from ragkeep_client.audit_view import tell_verdict
from ragkeep_client.output import Output
from ragkeep_gateway.audit.files import AuditFiles
from ragkeep_gateway.audit.log import AuditLog
from ragkeep_gateway.audit.record import Audit
from ragkeep_gateway.audit.refusals import EACH, WINDOW_S, Refusals
from ragkeep_gateway.audit.replicas import Replicas
from ragkeep_gateway.audit.service import AuditService, withheld
from ragkeep_runtime.audit.chain import MAX_LINE_BYTES
from ragkeep_runtime.audit.verify import day_files, verify
from ragkeep_runtime.call import Call, call, current_call
from ragkeep_runtime.edge import Refusal
from ragkeep_runtime.errors import AuditUnavailable, CollectionUnknown, Internal
from tests.pki import Authority
from tests.unit.test_audit_chain import KEYS
from tests.waiting import until_true


class Counted(AuditFiles):
    """Counts its syncs; fails where it is told to."""

    batches: list[int]
    full = False

    def append(self, events: Sequence[Any]) -> None:
        """As it is, or as on a full disk."""
        self.batches = [*getattr(self, "batches", []), len(events)]
        if self.full:
            raise OSError(28, "No space left on device")
        super().append(events)


@pytest.fixture
async def audit_log(tmp_path: Path) -> AsyncIterator[AuditLog]:
    """A log, open."""
    files = Counted(tmp_path, "gateway-0", KEYS.lines, Ed25519PrivateKey.from_private_bytes(KEYS.signing))
    found = AuditLog(files, KEYS)
    await found.start()
    current_call.set(Call("/x/Search", "caller/a/b", "acme", frozenset({"reader"}), "r1", 0.0, {}, "anna"))
    yield found
    await found.close()
    assert verify(tmp_path / "gateway-0", keys={KEYS.name: KEYS.lines}).fault is None


def lines(folder: Path) -> list[dict[str, Any]]:
    """What stands there."""
    return [json.loads(line) for path in day_files(folder / "gateway-0") for line in path.read_text().splitlines()]


async def test_those_who_wait_at_once_share_a_sync(audit_log: AuditLog, tmp_path: Path) -> None:
    """A thousand questions at once take a few, and each has its line when it returns."""
    await asyncio.gather(*(audit_log.write("asked", {"number": number}) for number in range(1000)))
    assert sum(line["kind"] == "asked" for line in lines(tmp_path)) == 1000
    assert len(audit_log.files.batches) < 10  # type: ignore[attr-defined]


async def test_what_cannot_be_written_is_refused_and_the_gap_is_on_record(audit_log: AuditLog, tmp_path: Path) -> None:
    """The line that nobody waited for comes later; the refused one never."""
    audit_log.files.full = True  # type: ignore[attr-defined]
    audit_log.note("finished", {"number": 1})
    with pytest.raises(AuditUnavailable):
        await audit_log.write("asked", {"number": 2})
    with pytest.raises(AuditUnavailable):
        await audit_log.check()
    audit_log.files.full = False  # type: ignore[attr-defined]
    await audit_log.check()
    found = lines(tmp_path)
    assert [(line["kind"], line.get("number"), line.get("late")) for line in found[1:]] == [
        ("repaired", None, None),
        ("finished", 1, True),
    ]
    assert found[1]["refused"] == 2
    await audit_log.check()
    assert len(lines(tmp_path)) == 3  # all is well: readiness writes nothing


async def test_an_event_that_cannot_be_written_refuses_its_own_call_alone(audit_log: AuditLog, tmp_path: Path) -> None:
    """A defect of a handler does not end the log: the next line has the next number."""
    with pytest.raises(AuditUnavailable):
        await audit_log.write("asked", {"number": object()})
    audit_log.note("finished", {"number": {1, 2}})
    await asyncio.sleep(0.05)
    await audit_log.write("asked", {"number": 2})
    assert [line["seq"] for line in lines(tmp_path)] == [1, 2, 3]
    assert lines(tmp_path)[-1]["number"] == 2


async def test_a_bad_event_takes_none_of_the_others_with_it(audit_log: AuditLog, tmp_path: Path) -> None:
    """Of one sync: who waits for a good line has it, notes and lines of before too; the bad ones are counted."""
    audit_log.files.full = True  # type: ignore[attr-defined]
    batches = len(audit_log.files.batches)  # type: ignore[attr-defined]
    audit_log.note("finished", {"number": 1})
    await until_true(lambda: len(audit_log.files.batches) > batches)  # type: ignore[attr-defined]
    audit_log.files.full = False  # type: ignore[attr-defined]
    audit_log.note("finished", {"number": 2})
    audit_log.note("finished", {"number": object()})
    written = await asyncio.gather(
        audit_log.write("asked", {"number": 3}),
        audit_log.write("asked", {"number": "x" * (MAX_LINE_BYTES + 1)}),
        audit_log.write("asked", {"number": 4}),
        return_exceptions=True,
    )
    assert [type(one) for one in written] == [type(None), AuditUnavailable, type(None)]
    gap, *rest = lines(tmp_path)[1:]
    assert (gap["what"], gap["refused"], gap["lost"]) == ("unavailable", 1, 1)
    assert [(line["number"], line.get("late")) for line in rest] == [(1, True), (2, None), (3, None), (4, None)]
    await audit_log.write("asked", {})
    assert len(lines(tmp_path)) == 7  # the gap is told once


async def test_lines_that_are_lost_are_counted(audit_log: AuditLog, tmp_path: Path) -> None:
    """While the disk is full more end than are kept for later: how many lines are missing is on record."""
    audit_log.files.full = True  # type: ignore[attr-defined]
    for number in range(1200):
        audit_log.note("finished", {"number": number})
    with pytest.raises(AuditUnavailable):
        await audit_log.write("asked", {})
    audit_log.files.full = False  # type: ignore[attr-defined]
    await audit_log.write("asked", {})
    gap, *rest, _ = lines(tmp_path)[1:]
    assert (gap["lost"], gap["refused"]) == (200, 1)
    assert [line["number"] for line in rest] == list(range(200, 1200))


async def test_lines_for_which_there_is_no_room_are_counted(audit_log: AuditLog, tmp_path: Path) -> None:
    """More than may wait, though the disk is well."""
    for number in range(20_005):
        audit_log.note("finished", {"number": number})
    await asyncio.sleep(0)
    await audit_log.check()
    while audit_log._pending:
        await asyncio.sleep(0.05)
    await audit_log.write("asked", {})
    found = lines(tmp_path)
    assert [line["lost"] for line in found if line["kind"] == "repaired"] == [5]
    assert sum(line["kind"] == "finished" for line in found) == 20_000


async def test_whose_call_it_is_stands_in_the_line(audit_log: AuditLog, tmp_path: Path) -> None:
    """Subject, tenant, peer, roles, RPC, request id; no question where none was asked."""
    async with Audit(audit_log).asking(collection="c", question="x" * 60) as record:
        await record.shown(["a", "b", "a"])
    line = lines(tmp_path)[1]
    del line["mac"], line["time"]
    assert line == {
        "call": call().id,
        "seq": 2,
        "replica": "gateway-0",
        "kind": "asked",
        "subject": "anna",
        "tenant": "acme",
        "peer": "caller/a/b",
        "roles": ["reader"],
        "method": "/x/Search",
        "request_id": "r1",
        "collection": "c",
        "question": "x" * 50,
        "documents": ["a", "b"],
    }


async def test_nobody_writes_text_of_any_length_into_a_line(audit_log: AuditLog, tmp_path: Path) -> None:
    """Whatever a caller may name, in a list or an object too, is cut; the documents that were shown are all there."""
    long = "x" * 100_000
    ids = [f"{number:04}" + "文" * 252 for number in range(1000)]
    facts = {"collections": [long] * 1000, "reading": {"subject": long} | {str(number): long for number in range(1000)}}
    async with Audit(audit_log).asking(collection=long, model=long, questions=[long] * 1000, **facts) as record:
        await record.shown(ids, **facts)
        record.did(model=long)
    async with Audit(audit_log).acting(documents=[long], preset=long, **facts):
        pass
    await audit_log.write("asked", {})
    asked, *rest = lines(tmp_path)[1:]
    assert asked.pop("documents") == ids
    for line in (asked, *rest):
        assert len(json.dumps(line)) < 64 * 1024
        assert "x" * 257 not in json.dumps(line)


async def test_a_line_without_end_is_refused(audit_log: AuditLog) -> None:
    """Nothing of it is written, and nothing is shown."""
    with pytest.raises(AuditUnavailable):
        async with Audit(audit_log).asking() as record:
            await record.shown(f"{number}" + "x" * 250 for number in range(20_000))


async def test_a_question_can_be_an_hmac_alone(tmp_path: Path) -> None:
    """The same question is recognised by it; nothing of its text is there."""
    files = AuditFiles(tmp_path, "gateway-0", KEYS.lines, Ed25519PrivateKey.generate())
    audit_log = AuditLog(files, KEYS, question="hmac")
    await audit_log.start()
    current_call.set(Call("/x/Search", "caller/a/b", "acme", frozenset(), "r1", 0.0))
    for _ in range(2):
        async with Audit(audit_log).asking(question="the secret project", questions=["the secret project"]) as record:
            await record.shown()
    await audit_log.close()
    asked = [line for line in lines(tmp_path) if line["kind"] == "asked"]
    assert (
        asked[0]["question_hmac"]
        == asked[1]["question_hmac"]
        == asked[0]["questions"][0]
        == KEYS.question("the secret project")
    )
    assert "secret" not in day_files(tmp_path / "gateway-0")[0].read_text()


async def test_a_handler_that_forgets_to_record_shows_nothing(audit_log: AuditLog) -> None:
    """It ends in an error instead of an answer that is not on record."""
    with pytest.raises(Internal):
        async with Audit(audit_log).asking():
            pass


async def test_how_a_call_ended_is_on_record(audit_log: AuditLog, tmp_path: Path) -> None:
    """By its reason; what failed before it showed anything says what was asked."""
    with pytest.raises(CollectionUnknown):
        async with Audit(audit_log).asking(collection="none"):
            raise CollectionUnknown("no")
    with pytest.raises(CollectionUnknown):
        async with Audit(audit_log).acting(collection="none"):
            raise CollectionUnknown("no")
    await audit_log.write("asked", {})
    found = [(line["kind"], line.get("outcome"), line.get("collection")) for line in lines(tmp_path)[1:4]]
    assert found == [
        ("finished", "COLLECTION_UNKNOWN", "none"),
        ("acted", "attempted", "none"),
        ("acted", "COLLECTION_UNKNOWN", "none"),
    ]


async def test_what_was_changed_is_on_disk_before_the_caller_hears_of_it(audit_log: AuditLog, tmp_path: Path) -> None:
    """Where only the end says what; where the disk is full just then, the caller is refused and the line comes later."""
    async with Audit(audit_log).acting(which="filter") as record:
        await record.done(documents=["a", "b"])
        assert [(line["outcome"], line.get("documents")) for line in lines(tmp_path)[1:]] == [
            ("attempted", None),
            ("OK", ["a", "b"]),
        ]

    async def on_a_full_disk() -> None:
        async with Audit(audit_log).acting(which="filter") as record:
            audit_log.files.full = True  # type: ignore[attr-defined]
            await record.done(documents=["c"])

    with pytest.raises(AuditUnavailable):
        await on_a_full_disk()
    audit_log.files.full = False  # type: ignore[attr-defined]
    await audit_log.write("asked", {})
    acted = [line for line in lines(tmp_path) if line["kind"] == "acted"]
    assert [(line["outcome"], line.get("documents")) for line in acted[2:]] == [
        ("attempted", None),
        ("AUDIT_UNAVAILABLE", ["c"]),
    ]


async def test_who_knocks_without_end_is_counted(audit_log: AuditLog, tmp_path: Path) -> None:
    """A minute of a caller's refusals has so many lines, and one with the number of the rest; others have theirs."""
    now = [0.0]
    refusals = Refusals(audit_log, clock=lambda: now[0])
    for number in range(EACH + 40):
        await refusals(Refusal("/x/" + "y" * 9000, "caller/a/b", "acme", "", f"r{number}", "NOT_ALLOWED"))
    for peer, tenant, subject in (("caller/a/c", "acme", ""), ("caller/a/b", "other", ""), ("caller/a/b", "acme", "anna")):
        await refusals(Refusal("/x/Ask", peer, tenant, subject, "other", "NOT_ALLOWED"))
    now[0] = WINDOW_S + 1
    refusals.settle()
    await audit_log.write("asked", {})
    refused = [line for line in lines(tmp_path) if line["kind"] == "refused"]
    assert len(refused) == EACH + 4
    assert max(len(line.get("method", "")) for line in refused) == 200
    assert [(line["peer"], line["tenant"], line["times"]) for line in refused if "times" in line] == [
        ("caller/a/b", "acme", 40)
    ]


async def verdicts(service: AuditService, audit_log: AuditLog, *, operator: bool = True) -> list[pb.Verdict]:
    """Of one who asks."""
    found = [one async for one in service._verify_own(audit_log, pb.OnBehalf(operator=operator))]
    return [one.verdict for one in found if one.WhichOneof("result") == "verdict"]


async def test_a_log_is_proven_once_at_a_time(audit_log: AuditLog, tmp_path: Path) -> None:
    """Whoever asks meanwhile gets that proof, though the one who began it has gone; who asks afterwards gets a new one."""
    replicas = Replicas("", Authority(tmp_path / "pki").service("gateway"), "ragkeep.internal")
    service = AuditService(Audit(audit_log), "gateway-0", replicas)
    goes_on = threading.Event()
    audit_log._thread.submit(goes_on.wait)
    first = asyncio.create_task(verdicts(service, audit_log))
    await until_true(lambda: service._proving)
    under_way = service._proving
    second = asyncio.create_task(verdicts(service, audit_log, operator=False))
    await asyncio.sleep(0.05)
    first.cancel()
    goes_on.set()
    assert await second == [pb.Verdict(replica="gateway-0", withheld=True)]
    assert service._proving is under_way
    await audit_log.write("asked", {})
    (verdict,) = await verdicts(service, audit_log)
    assert (verdict.lines, verdict.withheld) == (2, False)


def test_a_fault_is_told_without_its_place_to_a_tenants_auditor() -> None:
    """What it is, and that there is one."""
    fault = pb.Fault(what="changed", sequence=7, file="2026-11-25.jsonl", line=7, why="Line 7 is not line 8.")
    found = withheld(pb.Verdict(replica="gateway-0", lines=6, first=1, last=6, heads=2, head_sequence=5, fault=fault))
    assert found.fault.what == "changed"
    assert "7" not in str(found)
    assert tell_verdict(Output(True), verdict_from(found)) is False


async def test_a_line_that_is_about_to_be_written_survives_the_end(tmp_path: Path) -> None:
    """The log is closed while its disk is busy and the writer has taken the line already."""
    files = AuditFiles(tmp_path, "gateway-0", KEYS.lines, Ed25519PrivateKey.from_private_bytes(KEYS.signing))
    found = AuditLog(files, KEYS)
    await found.start()
    await asyncio.sleep(0.05)
    found._thread.submit(time.sleep, 0.3)
    found.note("refused", {"number": 1})
    await asyncio.sleep(0.05)
    await found.close()
    assert [line["number"] for line in lines(tmp_path) if line["kind"] == "refused"] == [1]
