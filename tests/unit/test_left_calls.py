"""Who hangs up early does not stay off the record: the edge tells of every call that ends before anything of it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_runtime.access import AccessTable, rules_of
from ragkeep_runtime.call import Call, call
from ragkeep_runtime.edge import Edge, Refusal
from ragkeep_runtime.errors import PeerUnknown
from ragkeep_runtime.policy import Policy

SEARCH = "/ragkeep.gateway.v1.RagService/Search"
KIOSK = "caller/local/kiosk"
POLICY = Policy.parse(b'{"callers": {"caller/local/kiosk": {"tenants": ["demo"], "roles": ["reader"]}}}')


class Told:
    """An edge, and what it told of refusals."""

    def __init__(self, check: Callable[[Call], Awaitable[None]] | None = None) -> None:
        self.refusals: list[Refusal] = []
        self.inside = asyncio.Event()
        table = AccessTable(rules_of([gateway_pb2.DESCRIPTOR.services_by_name["RagService"]]), POLICY)
        self.edge = Edge(table, "ragkeep.internal", checks=[check] if check else (), on_refusal=[self._tell])

    async def _tell(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    async def serve(self, peer: Callable[[], str], *, on_record: bool = False) -> None:
        """A handler that does not end."""
        async with self.edge.admitted(SEARCH, {}, peer=peer, request_id="r"):
            if on_record:
                call().on_record.add("asked")
            self.inside.set()
            await asyncio.Event().wait()

    async def left(self, serving: Any) -> list[Refusal]:
        """The caller leaves as soon as it is inside."""
        task = asyncio.create_task(serving)
        await self.inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert self.edge.active == 0
        return self.refusals


async def test_who_leaves_before_anything_is_on_record_is_told_of() -> None:
    """By name, tenant and the call's own number."""
    told = Told()
    (refusal,) = await told.left(told.serve(lambda: KIOSK))
    assert (refusal.peer, refusal.tenant, refusal.method, refusal.request_id) == (KIOSK, "demo", SEARCH, "r")
    assert refusal.reason == "CANCELLED"
    assert refusal.call


async def test_what_is_on_record_is_not_told_of_again() -> None:
    """Its last line says how it ended."""
    told = Told()
    assert await told.left(told.serve(lambda: KIOSK, on_record=True)) == []


async def test_who_leaves_while_it_is_looked_at_is_told_of_by_what_is_certain() -> None:
    """A check of the gateway asks another process, and takes its time."""

    async def slow(_call: Call) -> None:
        told.inside.set()
        await asyncio.Event().wait()

    told = Told(slow)
    (refusal,) = await told.left(told.serve(lambda: KIOSK))
    assert (refusal.peer, refusal.tenant, refusal.reason, refusal.call) == (KIOSK, "demo", "CANCELLED", "")


async def test_a_cancellation_inside_is_a_defect_and_told_of() -> None:
    """Nobody left: something of ours was cancelled, and the caller hears of it."""
    told = Told()
    with pytest.raises(Exception, match="cancelled inside ragkeep"):
        async with told.edge.admitted(SEARCH, {}, peer=lambda: KIOSK):
            raise asyncio.CancelledError
    (refusal,) = told.refusals
    assert refusal.reason == "INTERNAL"


async def test_who_is_nobody_is_told_of_once() -> None:
    """As before: refused, without a name."""

    def nobody() -> str:
        raise PeerUnknown("There is no name in the certificate.")

    told = Told()
    with pytest.raises(PeerUnknown):
        await told.serve(nobody)
    (refusal,) = told.refusals
    assert (refusal.peer, refusal.reason) == ("", "PEER_UNKNOWN")
