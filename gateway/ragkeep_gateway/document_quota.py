"""The quota of documents: how many of an import's new ones still have room. No two imports of a gateway exceed it together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from weakref import WeakValueDictionary


@dataclass(slots=True, weakref_slot=True)
class _Room:
    """Of one tenant."""

    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    promised: int = 0  # to imports under way, which the store may have counted already or not


class DocumentQuota:
    """Gives room to imports, tenant by tenant."""

    def __init__(self) -> None:
        self._rooms: WeakValueDictionary[str, _Room] = WeakValueDictionary()
        self._ending: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def room(
        self,
        tenant: str,
        limit: int,
        new: Callable[[], Awaitable[int]],  # how many of the import's documents are not there yet, as it is now
        counted: Callable[[], Awaitable[int]],  # how many the tenant has, as it is now
    ) -> AsyncIterator[int]:
        """For how many new documents there is room while the block stores them.

        Where all fit whatever others under way do, they go on side by side. Near the limit an import waits until nothing is
        promised: then the store's count is exact.
        """
        room = self._rooms.get(tenant)
        if room is None:
            room = self._rooms[tenant] = _Room()
        async with room.changed:
            while True:
                wanted, there = await new(), await counted()
                if there + room.promised + wanted <= limit:
                    granted = wanted
                    break
                if not room.promised:
                    granted = max(0, min(wanted, limit - there))
                    break
                await room.changed.wait()
            room.promised += granted
        try:
            yield granted
        finally:
            # Under the lock: who counts must not see a promise end between the store's number and its own sum.
            ending = asyncio.create_task(_give_back(room, granted))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            await asyncio.shield(ending)


async def _give_back(room: _Room, granted: int) -> None:
    async with room.changed:
        room.promised -= granted
        room.changed.notify_all()
