"""Calls that run when their caller is let go: they end with the refusal, and no other does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_runtime.access import AccessTable, Person, rules_of
from ragkeep_runtime.call import Call
from ragkeep_runtime.edge import Edge, Refusal
from ragkeep_runtime.errors import EngineUnreachable, NotAllowed, RagkeepError, TenantInactive, TenantNotAllowed, TokenInvalid
from ragkeep_runtime.following import FollowedFile
from ragkeep_runtime.policy import Policy

ASK = "/ragkeep.gateway.v1.RagService/Ask"
CREATE = "/ragkeep.gateway.v1.RagService/CreateCollection"
BOT, PORTAL = "caller/x/bot", "caller/x/portal"
BEARER = {"authorization": "Bearer x"}
POLICY: dict[str, Any] = {
    "operator_tenant": "ops",
    "callers": {
        BOT: {"tenants": ["demo"], "roles": ["reader", "unsealer"], "groups": ["a", "b"]},
        PORTAL: {"tenants": ["demo", "ops"], "roles": ["reader", "admin"]},
    },
}


class World:
    """An edge that follows a policy file."""

    def __init__(self, folder: Path, *checks: Callable[[Call], Awaitable[None]]) -> None:
        self._path = folder / "policy.json"
        self._path.write_text(json.dumps(POLICY))
        self.file = FollowedFile(self._path, Policy.parse, what="policy")
        self.refused: list[Refusal] = []

        async def record(refusal: Refusal) -> None:
            self.refused.append(refusal)

        self.tenant = "demo"
        rules = rules_of([gateway_pb2.DESCRIPTOR.services_by_name["RagService"]])
        table = AccessTable(rules, self.file, self._verify)
        self.edge = Edge(table, "ragkeep.internal", checks=checks, on_refusal=[record])

    def _verify(self, _token: str) -> Person:
        return Person("li.wei", self.tenant, frozenset({"reader", "admin"}), frozenset({"g"}))

    def change(self, **changed: Any) -> None:
        """Another policy, in force."""
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(POLICY | changed))
        new.replace(self._path)
        self.file.look()
        self.edge.running.judge()

    async def begin(
        self, peer: str | None = BOT, metadata: dict[str, str] | None = None, method: str = ASK
    ) -> tuple[asyncio.Task[str], asyncio.Event]:
        """A call that runs until it is told to end, or ends otherwise; what it was answered."""
        running, end = asyncio.Event(), asyncio.Event()

        async def handler() -> str:
            named = None if peer is None else lambda: peer
            async with self.edge.admitted(method, metadata or {}, peer=named):
                running.set()
                await end.wait()
            return "answered"

        task = asyncio.create_task(handler())
        await running.wait()
        return task, end


def _callers(**of_bot: Any) -> dict[str, Any]:
    return {"callers": POLICY["callers"] | {BOT: POLICY["callers"][BOT] | of_bot}}


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"denied": [BOT]}, NotAllowed),
        ({"callers": {}}, NotAllowed),
        (_callers(roles=["editor"]), NotAllowed),
        (_callers(roles=["reader"]), NotAllowed),  # what was sealed would be shown on
        (_callers(groups=["a"]), NotAllowed),
        (_callers(tenants=["other"]), TenantNotAllowed),
        (_callers(people_only=True), TokenInvalid),
    ],
)
async def test_a_call_ends_when_its_caller_may_less(tmp_path: Path, changed: dict[str, Any], error: type[RagkeepError]) -> None:
    """With the reason that the next call would be refused for, on record as refused where nothing else of it is."""
    world = World(tmp_path)
    asked, _ = await world.begin()
    world.change(**changed)
    with pytest.raises(error):
        await asked
    assert asked.cancelling() == 0
    assert [(one.reason, one.peer, one.tenant, one.call != "") for one in world.refused] == [(error.reason, BOT, "demo", True)]
    assert world.edge.active == 0


async def test_other_changes_end_nobody(tmp_path: Path) -> None:
    """More rights, others denied, another quota; and a broken file, by which nobody is judged."""
    world = World(tmp_path)
    calls = [await world.begin(), await world.begin(None, BEARER), await world.begin(PORTAL, BEARER)]
    world.change(**_callers(roles=["reader", "unsealer", "editor"], groups=["*"], quotas={"documents": 1}))
    world.change(denied=["caller/x/other"], denied_people=["mallory"], tenants={"demo": {"quotas": {"documents": 1}}})
    (tmp_path / "policy.json").write_text("{")
    world.file.look()
    world.edge.running.judge()
    for task, end in calls:
        end.set()
        assert await task == "answered"


async def test_a_denied_persons_calls_end_wherever_they_come_from(tmp_path: Path) -> None:
    """Alone and by a service; the service's own calls and other services go on. Its token is not looked at again."""
    world = World(tmp_path)
    alone, _ = await world.begin(None, BEARER)
    by_portal, _ = await world.begin(PORTAL, BEARER)
    own, end = await world.begin(PORTAL, {"ragkeep-tenant": "demo"})
    world.tenant = "elsewhere"  # what the token would say now
    world.change()
    world.change(denied_people=["li.wei"])
    for task in (alone, by_portal):
        with pytest.raises(NotAllowed, match="person is denied"):
            await task
    end.set()
    assert await own == "answered"


async def test_who_is_no_operator_any_more_does_nothing_on_as_one(tmp_path: Path) -> None:
    """By the policy's operator_tenant."""
    world = World(tmp_path)
    world.tenant = "ops"
    managing, _ = await world.begin(PORTAL, BEARER, CREATE)
    world.change(operator_tenant="others")
    with pytest.raises(NotAllowed):
        await managing


async def test_a_call_that_a_replaced_policy_let_in_is_judged_by_the_new_one(tmp_path: Path) -> None:
    """It was replaced while the call's tenant was looked up."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_call: Call) -> None:
        reached.set()
        await go_on.wait()

    world = World(tmp_path, slow)
    beginning = asyncio.create_task(world.begin())
    await reached.wait()
    world.change(denied=[BOT])
    go_on.set()
    task, _ = await beginning
    world.edge.running.judge()
    with pytest.raises(NotAllowed):
        await task


async def test_a_check_that_refuses_later_ends_the_call(tmp_path: Path) -> None:
    """A tenant that is deactivated. A check that cannot say just now ends nothing."""
    answers: list[RagkeepError] = []

    async def check(_call: Call) -> None:
        if answers:
            raise answers[-1]

    world = World(tmp_path, check)
    task, _ = await world.begin()
    await world.edge.running.check()
    answers.append(EngineUnreachable("away"))
    await world.edge.running.check()
    answers.append(TenantInactive("paused"))
    always = asyncio.create_task(world.edge.running.check_always())
    with pytest.raises(TenantInactive):
        await task
    always.cancel()


async def test_a_caller_who_leaves_at_the_same_time_has_left(tmp_path: Path) -> None:
    """What is cancelled from outside stays cancelled: a server that stops must not be told otherwise."""
    world = World(tmp_path)
    task, _ = await world.begin()
    world.change(denied=[BOT])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_call_that_is_over_is_not_touched(tmp_path: Path) -> None:
    """Its task may do something else when the check of it, that was begun before, refuses."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    begun: list[Call] = []

    async def check(found: Call) -> None:
        if begun:
            reached.set()
            await go_on.wait()
            raise TenantInactive("paused")
        begun.append(found)

    world = World(tmp_path, check)

    async def handler() -> str:
        async with world.edge.admitted(ASK, {}, peer=lambda: BOT):
            checking = asyncio.create_task(world.edge.running.check())
            await reached.wait()
        go_on.set()
        await checking
        await asyncio.sleep(0)
        return "something else"

    assert await asyncio.create_task(handler()) == "something else"
    assert begun[0].cut_off == []
