"""Quotas count what they say: by a clock that the test holds, without waiting."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.generator.v1 import generator_pb2
from ragkeep_gateway.audit.files import AuditFiles
from ragkeep_gateway.audit.log import AuditLog
from ragkeep_gateway.document_quota import DocumentQuota
from ragkeep_gateway.quotas import QuotaKeeper
from ragkeep_gateway.spending import Spend, take_up
from ragkeep_runtime.audit.chain import Keys
from ragkeep_runtime.call import Call
from ragkeep_runtime.errors import QuotaExceeded
from ragkeep_runtime.policy import Grant, Policy, Quotas

NONE = Quotas()
# Midnight of a day, and a while.
BEGAN = datetime(2026, 3, 1, 22, 0, tzinfo=UTC).timestamp()


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        return self.now


def a_call(tenant: str = "clinic", peer: str = "caller/x/app") -> Call:
    """A call of a tenant."""
    return Call("/m", peer, tenant, frozenset(), "r", 0.0)


def keeper(clock: Clock, replicas: int = 1, tenants: dict[str, Quotas] | None = None, caller: Quotas = NONE) -> QuotaKeeper:
    """With these quotas."""
    policy = Policy({"caller/x/app": Grant(frozenset({"*"}), frozenset(), quotas=caller)}, tenants=tenants or {})
    return QuotaKeeper(lambda: policy, replicas=replicas, clock=clock)


def refused(quotas: QuotaKeeper, count: int = 1, call: Call | None = None) -> QuotaExceeded:
    """The refusal of so many questions."""
    with pytest.raises(QuotaExceeded) as found:
        quotas.ask(call or a_call(), count)
    return found.value


async def test_a_days_tokens_are_taken_up_from_the_audit_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of today, of answers, for the tenant and for the caller; lines of an earlier version count nothing."""
    today, keys = datetime.now(UTC), Keys.of(b"k" * 32)
    clock = [today - timedelta(days=1)]
    files = AuditFiles(tmp_path, "gateway-0", keys.lines, Ed25519PrivateKey.generate(), clock=lambda: clock[0])
    files.open()
    answer = {"kind": "finished", "method": "/ragkeep.gateway.v1.RagService/Ask", "tenant": "clinic", "tokens": 30}
    files.append([answer | {"tokens": 500}])
    clock[0] = today
    files.append([answer, answer | {"peer": "caller/x/app", "tenant": "ward"}])
    files.append([answer | {"tokens": odd} for odd in (None, True, -1000, "5", 2.5)])
    files.append([answer | {"tenant": odd, "tokens": 5} for odd in (None, ["clinic"], 7)])
    files.append([answer | {"kind": "asked"}, answer | {"method": "/ragkeep.gateway.v1.RagService/Search"}])
    clock[0] = today + timedelta(days=1)  # a clock that was ahead once
    files.append([answer | {"tokens": 500}])
    monkeypatch.setattr("ragkeep_gateway.spending.now", lambda: today)
    quotas = keeper(Clock(), tenants={"clinic": Quotas(tokens_per_day=31), "ward": Quotas(tokens_per_day=30)})
    quotas._clock = today.timestamp
    await take_up(quotas, AuditLog(files, keys))
    files.close()
    with quotas.stream(a_call()):
        quotas.spend(a_call(), 1)
    for tenant in ("clinic", "ward"):
        with pytest.raises(QuotaExceeded), quotas.stream(a_call(tenant)):
            pass
    own = keeper(Clock(), caller=Quotas(tokens_per_day=30))
    own.take_up("", "caller/x/app", 30)
    with pytest.raises(QuotaExceeded), own.stream(a_call()):
        pass


def test_any_minute_holds_so_many_questions_and_no_more() -> None:
    """A window that moves: what is asked late in one minute counts early in the next; the refusal says when to come again."""
    clock = Clock()
    quotas = keeper(clock, tenants={"clinic": Quotas(questions_per_minute=3)})
    for second in (0, 50, 55):
        clock.now = BEGAN + second
        quotas.ask(a_call())
    error = refused(quotas)
    assert error.metadata == {"quota": "questions_per_minute", "resets_at": "2026-03-01T22:01:00.000Z"}
    assert error.retry_after_s == pytest.approx(5)
    quotas.ask(a_call("another"))
    clock.now = BEGAN + 60
    quotas.ask(a_call())
    assert refused(quotas).metadata["resets_at"] == "2026-03-01T22:01:50.000Z"


def test_a_batch_counts_each_of_its_questions_or_none() -> None:
    """What does not fit whole is refused whole; what never fits says no time."""
    clock = Clock()
    quotas = keeper(clock, tenants={"*": Quotas(questions_per_minute=10)})
    quotas.ask(a_call(), 8)
    clock.now = BEGAN + 1
    assert refused(quotas, 3).metadata["resets_at"] == "2026-03-01T22:01:00.000Z"
    quotas.ask(a_call(), 2)
    never = refused(quotas, 11)
    assert (never.metadata, never.retry_after_s) == ({"quota": "questions_per_minute"}, None)


def test_each_replica_keeps_its_share_and_at_least_one() -> None:
    """Of three replicas each gives a third, rounded down; a quota of nothing gives nothing."""
    for quota, share in ((9, 3), (10, 3), (2, 1), (0, 0)):
        quotas = keeper(Clock(), replicas=3, tenants={"clinic": Quotas(questions_per_minute=quota)})
        for _ in range(share):
            quotas.ask(a_call())
        refused(quotas)
    assert keeper(Clock(), replicas=3, tenants={"clinic": Quotas(documents=9)}).documents(a_call()) == 9


def test_the_callers_quota_stands_beside_the_tenants() -> None:
    """Whichever is used up first; a caller's is one over all tenants, a tenant's one over all callers."""
    quotas = keeper(
        Clock(),
        tenants={"a": Quotas(questions_per_minute=3, documents=7)},
        caller=Quotas(questions_per_minute=4, documents=9),
    )
    for _ in range(3):
        quotas.ask(a_call("a"))
    assert "The tenant" in refused(quotas, call=a_call("a")).message
    quotas.ask(a_call("b"))
    assert "The caller" in refused(quotas, call=a_call("b")).message
    quotas.ask(a_call("b", "caller/x/other"))
    assert quotas.documents(a_call("a")) == 7
    assert quotas.documents(a_call("b")) == 9
    assert quotas.documents(a_call("b", "caller/x/other")) is None


def test_streams_are_counted_while_they_run() -> None:
    """Also those that end with an error; a refused one counts nothing."""
    quotas = keeper(Clock(), tenants={"clinic": Quotas(concurrent_streams=2)})
    with quotas.stream(a_call()), suppress(RuntimeError), ExitStack() as second:
        second.enter_context(quotas.stream(a_call()))
        for _ in range(2):
            with pytest.raises(QuotaExceeded) as error:
                second.enter_context(quotas.stream(a_call()))
            assert error.value.metadata == {"quota": "concurrent_streams"}
            assert error.value.retry_after_s == 1.0
        raise RuntimeError
    with quotas.stream(a_call()), quotas.stream(a_call()):
        pass


def test_tokens_are_free_again_at_midnight() -> None:
    """Of UTC; the answer that goes beyond is given, the next one is not."""
    clock = Clock()
    quotas = keeper(clock, tenants={"clinic": Quotas(tokens_per_day=100)})
    for tokens in (60, 60):
        with quotas.stream(a_call()):
            quotas.spend(a_call(), tokens)
    with pytest.raises(QuotaExceeded) as error, quotas.stream(a_call()):
        pass
    assert error.value.metadata == {"quota": "tokens_per_day", "resets_at": "2026-03-02T00:00:00.000Z"}
    assert error.value.retry_after_s == pytest.approx(7200)
    clock.now += 7200
    with quotas.stream(a_call()):
        pass


def test_a_changed_policy_counts_at_once_and_what_was_used_stays() -> None:
    """The file is followed; a smaller quota finds what a larger one allowed."""
    now = Quotas(questions_per_minute=5)
    quotas = QuotaKeeper(lambda: Policy(tenants={"clinic": now}), clock=Clock())
    quotas.ask(a_call(), 5)
    now = Quotas(questions_per_minute=4)
    assert refused(quotas).metadata["resets_at"] == "2026-03-01T22:01:00.000Z"
    now = Quotas()
    quotas.ask(a_call(), 1000)


def test_a_clock_set_back_holds_nobody_up() -> None:
    """What seems to be asked in the future is forgotten."""
    clock = Clock()
    quotas = keeper(clock, tenants={"clinic": Quotas(questions_per_minute=1)})
    quotas.ask(a_call())
    clock.now -= 3600
    quotas.ask(a_call())


def test_who_counts_nothing_any_more_is_let_go() -> None:
    """Names of tenants do not fill the memory."""
    clock = Clock()
    quotas = keeper(clock, tenants={"*": Quotas(questions_per_minute=1)})
    for name in range(10_001):
        quotas.ask(a_call(f"t{name}"))
        clock.now += 0.1
    assert len(quotas._uses) < 1000


def test_an_answer_that_was_left_counts_by_its_characters() -> None:
    """Else hanging up before the end would cost nothing; one that ended counts as the generator says."""
    request = gateway_pb2.AskRequest(question="q" * 40)
    spend = Spend(request)
    spend.see(gateway_pb2.AskResponse(sources=gateway_pb2.Sources()))
    assert spend.tokens == 0
    spend.see(gateway_pb2.AskResponse(status=gateway_pb2.Status(stage=gateway_pb2.STAGE_GENERATING)))
    spend.see(gateway_pb2.AskResponse(delta=generator_pb2.Delta(text="a" * 20)))
    assert spend.tokens == 15
    spend.see(gateway_pb2.AskResponse(usage=generator_pb2.Usage(prompt_tokens=100, completion_tokens=7)))
    assert spend.tokens == 107


class Store:
    """Counts documents as a store does, each put taking its time."""

    def __init__(self, there: set[str]) -> None:
        self.there = there
        self.most_at_once = self.at_once = 0

    async def take(self, quota: DocumentQuota, limit: int, ids: list[str]) -> list[str]:
        """Those of the ids that had room or were there."""
        new: list[str] = []

        async def count_new() -> int:
            await asyncio.sleep(0)
            new[:] = [one for one in ids if one not in self.there]
            return len(new)

        async def counted() -> int:
            found = len(self.there)
            await asyncio.sleep(0)
            return found

        async with quota.room("clinic", limit, count_new, counted) as granted:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            refused_ids = new[granted:]
            taken = [one for one in ids if one not in refused_ids]
            for one in taken:
                await asyncio.sleep(0)
                self.there.add(one)
            self.at_once -= 1
        return taken


async def test_imports_at_once_fill_the_quota_exactly() -> None:
    """Twenty of five documents each into room for 37: 37 are there, whichever came first; what was there is an update."""
    store, quota = Store({"old"}), DocumentQuota()
    batches = [["old", *(f"d{batch}-{n}" for n in range(5))] for batch in range(20)]
    taken = await asyncio.gather(*(store.take(quota, 38, ids) for ids in batches))
    assert len(store.there) == 38
    assert sum(len(ids) - 1 for ids in taken) == 37
    assert all("old" in ids for ids in taken)
    assert store.most_at_once > 1


async def test_the_same_new_document_in_two_imports_takes_one_place() -> None:
    """The second one finds it there, once it waits for what is promised."""
    store, quota = Store(set()), DocumentQuota()
    assert await asyncio.gather(*(store.take(quota, 1, ["a"]) for _ in range(4))) == [["a"]] * 4
    assert await store.take(quota, 1, ["a", "b"]) == ["a"]


async def test_an_import_that_was_cancelled_gives_its_room_back() -> None:
    """While it stores, and while it waits."""
    store, quota = Store(set()), DocumentQuota()
    first = asyncio.create_task(store.take(quota, 3, ["a", "b", "c"]))
    waiting = asyncio.create_task(store.take(quota, 3, ["x"]))
    while not store.at_once:
        await asyncio.sleep(0)
    for task in (first, waiting):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    store.there.clear()
    assert await store.take(quota, 3, ["d", "e", "f"]) == ["d", "e", "f"]
