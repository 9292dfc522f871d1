"""A bounded queue in front of an engine: full means refused at once, never a growing wait."""

from __future__ import annotations

import asyncio
from types import TracebackType

from ragkeep_runtime.errors import Overloaded
from ragkeep_runtime.metrics import watch_queue


class Gate:
    """Lets `concurrent` callers in and `waiting` more queue; anyone beyond gets Overloaded at once."""

    def __init__(self, name: str, *, concurrent: int, waiting: int) -> None:
        self.name = name
        self._slots = asyncio.Semaphore(concurrent)
        self._concurrent = concurrent
        self._bound = concurrent + waiting
        self._inside = 0
        watch_queue(self)

    @property
    def depth(self) -> int:
        """Callers inside or waiting."""
        return self._inside

    @property
    def waiting(self) -> int:
        """Callers waiting."""
        return max(0, self._inside - self._concurrent)

    async def __aenter__(self) -> None:
        if self._inside >= self._bound:
            raise Overloaded(
                f"The {self.name} has {self._inside} requests in its queue; come again shortly.", retry_after_s=1.0
            )
        self._inside += 1
        try:
            await self._slots.acquire()
        except BaseException:
            self._inside -= 1
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside -= 1
        self._slots.release()
