"""The calls that run, and an end to those that would not be let in any more: nobody who was let go has an answer to its end.

Nothing is verified anew: a token that expires, or whose key goes, lets a call that it let in end as it began.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ragkeep_runtime.access import AccessTable
from ragkeep_runtime.call import Call
from ragkeep_runtime.errors import REFUSALS, RagkeepError
from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.metrics import call_refused
from ragkeep_runtime.policy import Policy

log = get_logger()
# How often the checks of a call are repeated while it runs, in seconds.
EVERY_S = 0.5


@dataclass(slots=True)
class _Running:
    call: Call
    task: asyncio.Task[Any]
    judged_by: Policy


class Running:
    """Of one server. A call is in it while its handler runs."""

    def __init__(self, table: AccessTable, checks: Sequence[Callable[[Call], Awaitable[None]]]) -> None:
        self._table = table
        self._checks = tuple(checks)
        self._calls: dict[str, _Running] = {}

    @contextlib.contextmanager
    def kept(self, call: Call, judged_by: Policy) -> Iterator[None]:
        """The block is the handler, let in by this policy. Raises the refusal where the call is ended for it."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        before = task.cancelling()
        self._calls[call.id] = _Running(call, task, judged_by)
        try:
            yield
        except asyncio.CancelledError:
            # Cancelled more often than by us: the caller left as well, or its time is over, or the server stops.
            if not call.cut_off or task.uncancel() > before:
                raise
            raise call.cut_off[0] from None
        finally:
            del self._calls[call.id]

    def judge(self) -> None:
        """Ends the calls that another policy let in, and that in force would not have let in as they are."""
        policy = self._table.policy
        for one in list(self._calls.values()):
            if one.judged_by is not policy:
                one.judged_by = policy
                try:
                    self._table.readmit(one.call)
                except REFUSALS as error:
                    self._end(one, error)

    async def check(self) -> None:
        """Ends the calls that one of the checks refuses now."""
        for one in list(self._calls.values()):
            for check in self._checks:
                try:
                    await check(one.call)
                except REFUSALS as error:
                    self._end(one, error)
                except RagkeepError:
                    pass  # it cannot say: that is for the next call to hear, not for one that was let in

    async def check_always(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.check()
            except Exception:  # whatever it is, the next call must not be missed for it
                log.exception("calls_not_checked")

    def _end(self, one: _Running, error: RagkeepError) -> None:
        if one.call.id not in self._calls or one.call.cut_off:
            return  # it ended meanwhile, or is about to
        one.call.cut_off.append(error)
        call_refused(error.reason)
        log.info("call_cut_off", method=one.call.method, reason=error.reason, request_id=one.call.request_id)
        one.task.cancel()
