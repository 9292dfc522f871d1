"""Bounded queues and shrinking deadlines."""

import asyncio

import pytest

from ragkeep_runtime.call import Call, current_call
from ragkeep_runtime.deadline import default_for, remaining
from ragkeep_runtime.errors import DeadlineExceeded, Overloaded
from ragkeep_runtime.gate import Gate


async def test_a_full_queue_refuses_at_once() -> None:
    """One inside, one waiting; the third is told when to come again."""
    gate = Gate("engine", concurrent=1, waiting=1)
    release, order = asyncio.Event(), []

    async def work(name: str) -> None:
        async with gate:
            order.append(name)
            await release.wait()

    tasks = [asyncio.create_task(work(name)) for name in "ab"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        async with gate:
            pass
    assert refused.value.retry_after_s
    assert (order, gate.depth) == (["a"], 2)
    release.set()
    await asyncio.gather(*tasks)
    assert (order, gate.depth) == (["a", "b"], 0)


async def test_a_waiter_that_leaves_gives_its_place_back() -> None:
    """Cancelled while waiting, nothing is leaked."""
    gate = Gate("engine", concurrent=1, waiting=1)
    async with gate:

        async def wait() -> None:
            async with gate:
                pass

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert gate.depth == 1
    assert gate.depth == 0


async def test_the_next_hop_gets_a_little_less_time() -> None:
    """So that the inner call reports first; and never more than its method's default."""
    now = asyncio.get_running_loop().time()
    token = current_call.set(Call("/x.Y/Z", "gateway", "", frozenset(), "r", now + 10))
    try:
        assert 9.4 < remaining(60) < 9.49
        assert remaining(5) == 5
    finally:
        current_call.reset(token)
    assert remaining(7) == 7


async def test_work_that_cannot_end_in_time_is_not_begun() -> None:
    """The caller's time is over: say so instead of starting the engine."""
    now = asyncio.get_running_loop().time()
    token = current_call.set(Call("/x.Y/Z", "gateway", "", frozenset(), "r", now + 0.01))
    try:
        with pytest.raises(DeadlineExceeded):
            remaining(60)
    finally:
        current_call.reset(token)


def test_every_method_has_a_default() -> None:
    """A call without a deadline does not hang for ever."""
    assert default_for("/ragkeep.gateway.v1.RagService/Search") == 10
    assert default_for("/a.B/Whatever") == 30
