"""Refused calls on record. Who knocks without end gets a count, so that nobody fills the disk from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NamedTuple

from ragkeep_gateway.audit.log import AuditLog
from ragkeep_runtime.edge import Refusal

# Lines of one caller in a window, and the window in seconds; callers that are told apart in it; characters of a method's name.
EACH, WINDOW_S, CALLERS, _METHOD = 60, 60.0, 1000, 200


class Caller(NamedTuple):
    """Whose refusals are counted together. An auditor of the tenant sees their number too."""

    peer: str
    tenant: str
    subject: str


@dataclass(slots=True)
class _Window:
    began: float
    seen: int = 0
    left_out: dict[str, int] = field(default_factory=dict)  # by reason


class Refusals:
    """The edge's hook."""

    def __init__(self, audit_log: AuditLog, clock: Callable[[], float] = monotonic) -> None:
        self._log, self._clock = audit_log, clock
        self._windows: dict[Caller, _Window] = {}

    async def __call__(self, refusal: Refusal) -> None:
        """Records it. Nothing was shown, so nobody waits for the disk."""
        now = self._clock()
        caller = Caller(refusal.peer, refusal.tenant, refusal.subject)
        if caller not in self._windows and len(self._windows) >= CALLERS:
            self.settle()
            caller = caller if len(self._windows) < CALLERS else Caller("", "", "")
        window = self._windows.setdefault(caller, _Window(now))
        if now - window.began >= WINDOW_S:
            self._say(caller, window)
            window = self._windows[caller] = _Window(now)
        window.seen += 1
        if window.seen > EACH:
            window.left_out[refusal.reason] = window.left_out.get(refusal.reason, 0) + 1
            return
        facts = {
            "subject": refusal.subject,
            "token": refusal.token,
            "tenant": refusal.tenant,
            "peer": refusal.peer,
            "method": refusal.method[:_METHOD],
            "call": refusal.call,
            "request_id": refusal.request_id,
            "outcome": refusal.reason,
        }
        self._log.note("refused", {key: value for key, value in facts.items() if value})

    async def settle_always(self) -> None:
        """Until it is cancelled: counts are written when their window is over."""
        try:
            while True:
                await asyncio.sleep(WINDOW_S)
                self.settle()
        finally:
            self.settle(at_once=True)

    def settle(self, *, at_once: bool = False) -> None:
        """Writes the counts of windows that are over, or of all."""
        now = self._clock()
        for caller, window in list(self._windows.items()):
            if at_once or now - window.began >= WINDOW_S:
                self._say(caller, window)
                del self._windows[caller]

    def _say(self, caller: Caller, window: _Window) -> None:
        for reason, times in window.left_out.items():
            facts: dict[str, Any] = caller._asdict() | {"outcome": reason, "times": times}
            self._log.note("refused", {key: value for key, value in facts.items() if value})
