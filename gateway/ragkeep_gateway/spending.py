"""What an answer costs its tenant: a question, a stream while it runs, and the tokens that it took."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from ragkeep.gateway.v1 import gateway_pb2
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
async def spending(quotas: QuotaKeeper, request: gateway_pb2.AskRequest) -> AsyncIterator[Spend]:
    """Around an answer. Raises QuotaExceeded before it begins."""
    current, spend = call(), Spend(request)
    with quotas.stream(current):
        quotas.ask(current)
        try:
            yield spend
        finally:
            quotas.spend(current, spend.tokens)
