"""Quotas of tenants and callers: questions a minute, streams at once, tokens a day, documents. Each replica keeps its share.

Counted in memory. A gateway that starts anew takes up the day's tokens from its audit log (`spending.py`), and has counted no
questions and streams. Documents are counted in the store.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from opentelemetry import metrics

from ragkeep_runtime.call import Call
from ragkeep_runtime.errors import QuotaExceeded
from ragkeep_runtime.policy import Policy, Quotas

QUESTIONS, STREAMS, TOKENS, DOCUMENTS = "questions_per_minute", "concurrent_streams", "tokens_per_day", "documents"
_MINUTE_S, _DAY_S = 60.0, 86_400.0
# Holders are tenants and callers; those that count nothing now are let go beyond so many.
_MOST_KEPT = 10_000
_WHO = {"tenant": "The tenant", "caller": "The caller"}
_refused = metrics.get_meter("ragkeep").create_counter(
    "ragkeep_quota_exceeded", description="Calls and documents refused for a quota, by the quota's name."
)


@dataclass(slots=True)
class Use:
    """What one holder has used of its share."""

    questions: deque[float] = field(default_factory=deque)  # moments of the last minute
    streams: int = 0
    day: int = 0  # of `tokens`, in days since 1970
    tokens: int = 0

    def forget_before(self, now: float) -> None:
        """What is over. A clock that was set back does not hold anybody up for longer than it has to."""
        while self.questions and not now - _MINUTE_S < self.questions[0] <= now:
            self.questions.popleft()
        if self.day != int(now // _DAY_S):
            self.day, self.tokens = int(now // _DAY_S), 0

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to remember."""
        return not self.questions and not self.streams and not self.tokens


class QuotaKeeper:
    """Counts for this replica. No method waits, so what it checks and what it counts is one step."""

    def __init__(self, policy: Callable[[], Policy], *, replicas: int = 1, clock: Callable[[], float] = time.time) -> None:
        self._policy = policy
        self._replicas = replicas
        self._clock = clock
        self._uses: dict[tuple[str, str], Use] = {}

    def ask(self, call: Call, count: int = 1) -> None:
        """Counts questions. Raises QuotaExceeded, and then counts none."""
        now, found = self._clock(), self._holders(call)
        for who, quotas, use in found:
            share = self._share(quotas.questions_per_minute)
            if share is None or len(use.questions) + count <= share:
                continue
            # Free once so many of the oldest are a minute ago; never where the share is smaller than what is asked.
            late = len(use.questions) + count - share - 1
            until = use.questions[late] + _MINUTE_S if count <= share else None
            raise exceeded(QUESTIONS, f"{_WHO[who]} may ask {share} questions a minute here.", now, until)
        for _, _, use in found:
            use.questions.extend([now] * count)

    @contextlib.contextmanager
    def stream(self, call: Call) -> Iterator[None]:
        """A stream while the block runs. Raises QuotaExceeded, also where the day's tokens are used up."""
        now, found = self._clock(), self._holders(call)
        for who, quotas, use in found:
            tokens = self._share(quotas.tokens_per_day)
            if tokens is not None and use.tokens >= tokens:
                midnight = (use.day + 1) * _DAY_S
                raise exceeded(TOKENS, f"{_WHO[who]} may use {tokens} tokens a day here, and has.", now, midnight)
            streams = self._share(quotas.concurrent_streams)
            if streams is not None and use.streams >= streams:
                raise exceeded(STREAMS, f"{_WHO[who]} may have {streams} answers streamed at once here.", now, None, 1.0)
        for _, _, use in found:
            use.streams += 1
        try:
            yield
        finally:
            for _, _, use in found:
                use.streams -= 1

    def spend(self, call: Call, tokens: int) -> None:
        """Counts tokens of an answer that has been given: the last one of a day may go beyond."""
        for _, _, use in self._holders(call):
            use.tokens += tokens

    def take_up(self, tenant: str, peer: str, tokens: int) -> None:
        """Counts what was spent today before this process began."""
        for who, name in (("tenant", tenant), ("caller", peer)):
            if name:
                self._use(who, name).tokens += tokens

    def documents(self, call: Call) -> int | None:
        """How many documents the tenant may have, all replicas together; None: any number."""
        limits = [quotas.documents for _, quotas, _ in self._holders(call) if quotas.documents is not None]
        return min(limits, default=None)

    def _share(self, quota: int | None) -> int | None:
        if quota is None:
            return None
        return max(1, quota // self._replicas) if quota else 0

    def _holders(self, call: Call) -> list[tuple[str, Quotas, Use]]:
        """The tenant, and the caller where it has quotas of its own."""
        policy = self._policy()
        grant = policy.callers.get(call.peer)
        named = [("tenant", call.tenant, policy.quotas_of(call.tenant))]
        if grant is not None and grant.quotas != Quotas():
            named.append(("caller", call.peer, grant.quotas))
        return [(who, quotas, self._use(who, name)) for who, name, quotas in named if quotas != Quotas()]

    def _use(self, who: str, name: str) -> Use:
        now = self._clock()
        if (who, name) not in self._uses and len(self._uses) >= _MOST_KEPT:
            for use in self._uses.values():
                use.forget_before(now)
            self._uses = {key: use for key, use in self._uses.items() if not use.nothing}
        use = self._uses.setdefault((who, name), Use())
        use.forget_before(now)
        return use


def count_refused(quota: str, count: int = 1) -> None:
    """For the metric."""
    _refused.add(count, {"quota": quota})


def exceeded(quota: str, message: str, now: float, until: float | None, retry_after_s: float | None = None) -> QuotaExceeded:
    """The error, with the quota's name, and when it is free again where time frees it."""
    count_refused(quota)
    metadata = {"quota": quota}
    if until is not None:
        moment = datetime.fromtimestamp(until, UTC)
        metadata["resets_at"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        retry_after_s = max(0.0, until - now)
        message = f"{message} It is free again at {moment.isoformat(timespec='seconds').replace('+00:00', 'Z')}."
    return QuotaExceeded(message, retry_after_s=retry_after_s, metadata=metadata)
