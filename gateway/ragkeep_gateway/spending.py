"""What an answer costs its tenant: a question, a stream while it runs, and the tokens that it took."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, timedelta

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_gateway.audit.files import now
from ragkeep_gateway.audit.log import AuditLog
from ragkeep_gateway.audit.reading import Wanted, past
from ragkeep_gateway.audit.record import Asking
from ragkeep_gateway.quotas import QuotaKeeper
from ragkeep_runtime.call import call

# An answer that its reader left has told no usage: then characters count, so many a token.
_CHARACTERS_A_TOKEN = 4


class Spend:
    """What one answer took so far."""

    def __init__(self, request: gateway_pb2.AskRequest) -> None:
        self._prompt = len(request.question) + sum(len(turn.question) + len(turn.answer) for turn in request.history)
        self._characters = 0
        self._usage: int | None = None

    def see(self, event: gateway_pb2.AskResponse) -> None:
        """An event that leaves."""
        kind = event.WhichOneof("event")
        if kind == "sources":
            self._prompt += sum(len(source.passage.text) for source in event.sources.sources)
        elif kind == "status" and event.status.stage == gateway_pb2.STAGE_GENERATING:
            self._characters += self._prompt
        elif kind == "delta":
            self._characters += len(event.delta.text)
        elif kind == "usage":
            self._usage = event.usage.prompt_tokens + event.usage.completion_tokens

    @property
    def tokens(self) -> int:
        """As the generator counted them; by characters where it did not come to that."""
        return self._characters // _CHARACTERS_A_TOKEN if self._usage is None else self._usage


@contextlib.asynccontextmanager
async def spending(quotas: QuotaKeeper, request: gateway_pb2.AskRequest, record: Asking) -> AsyncIterator[Spend]:
    """Around an answer, whose last line tells what it took. Raises QuotaExceeded before it begins."""
    current, spend = call(), Spend(request)
    with quotas.stream(current):
        quotas.ask(current)
        try:
            yield spend
        finally:
            quotas.spend(current, spend.tokens)
            record.did(tokens=spend.tokens)


async def take_up(quotas: QuotaKeeper, log: AuditLog | None) -> None:
    """Counts what this replica's answers took today before it started, as its audit log tells. Raises OSError."""
    if log is None:
        return
    until = await log.until()
    today = now().astimezone(UTC).date()
    wanted = Wanted(
        since=today.isoformat(),
        before=(today + timedelta(days=1)).isoformat(),
        kinds=frozenset({"finished"}),
        rpc="Ask",
    )

    def spent() -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for entry in past(log.files.folder, wanted, until):
            tenant, peer, tokens = (entry.facts.get(name) for name in ("tenant", "peer", "tokens"))
            # Lines of earlier versions have no tokens; nobody has proven these lines.
            if type(tokens) is int and tokens > 0:
                found[tenant if isinstance(tenant, str) else "", peer if isinstance(peer, str) else ""] += tokens
        return found

    for (tenant, peer), tokens in (await asyncio.to_thread(spent)).items():
        quotas.take_up(tenant, peer, tokens)
