"""How a handler puts its call on record: `asked` before anything of a document leaves, `acted` around what changes something.

async with self._audit.asking(collection=..., question=...) as record:
    found = ...
    await record.shown(document_ids)   # on disk when this returns; raises AuditUnavailable
    return found

async with self._audit.acting(collection=...) as record:   # attempted: on disk when the block begins
    ...
    record.did(deleted=3)                                  # goes into the line of the outcome
    await record.done(documents=ids)                       # that line, on disk, where only now is known what was changed
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry import trace

from ragkeep_gateway.audit.log import AuditLog
from ragkeep_runtime.call import call
from ragkeep_runtime.errors import Internal, RagkeepError, from_rpc_error

# Characters of a name as a caller writes it: an id has at most 256. What a list or an object beside the documents' ids holds.
_LONGEST, _MOST = 256, 64
# Ids of documents in a line: those that were shown or changed, those that the caller named, those that an import did not take.
OF_DOCUMENTS = ("documents", "requested", "rejected")


class Audit:
    """What handlers hold. Without a log nothing is recorded: an installation that is only tried."""

    def __init__(self, audit_log: AuditLog | None) -> None:
        self.log = audit_log

    def asking(
        self, *, collection: str = "", question: str = "", questions: Sequence[str] = (), model: str = "", **facts: Any
    ) -> Asking:
        """A call that shows something."""
        said: dict[str, Any] = {"collection": collection, "model": model}
        if self.log is not None:
            said |= self.log.question(question) if question else {}
            said |= {"questions": [next(iter(self.log.question(one).values())) for one in questions]}
        return Asking(self.log, {key: value for key, value in (said | facts).items() if value})

    def acting(self, *, collection: str = "", model: str = "", documents: Iterable[str] = (), **facts: Any) -> Acting:
        """A call that changes something; `documents` are ids."""
        said = {"collection": collection, "model": model, "documents": list(documents)}
        return Acting(self.log, {key: value for key, value in (said | facts).items() if value})


class _Recorded:
    """One call, from its first line to its last."""

    def __init__(self, audit_log: AuditLog | None, facts: dict[str, Any]) -> None:
        self._log, self._facts, self._did = audit_log, short(facts), dict[str, Any]()
        self._began = asyncio.get_running_loop().time()

    def did(self, **facts: Any) -> None:
        """Facts for the last line: counts, tokens, ids; never text."""
        self._did |= short(facts)

    def _begins(self, kind: str) -> None:
        if self._log is not None:
            call().on_record.add(kind)

    def _last(self, kind: str, error: BaseException | None, facts: dict[str, Any]) -> None:
        if self._log is not None:
            self._log.note(kind, self._outcome(error, facts))

    def _outcome(self, error: BaseException | None, facts: dict[str, Any]) -> dict[str, Any]:
        duration = round((asyncio.get_running_loop().time() - self._began) * 1000, 1)
        return who() | facts | {"outcome": outcome_of(error), "duration_ms": duration} | self._did


class Asking(_Recorded):
    """A call that shows something: `asked`, then `finished`."""

    _shown = False

    async def __aenter__(self) -> Self:
        self._begins("asked")
        return self

    async def shown(self, document_ids: Iterable[str] = (), **facts: Any) -> None:
        """Call it before anything of these documents leaves: when it returns, that is on disk. Raises AuditUnavailable."""
        if self._log is not None:
            facts |= {"documents": list(dict.fromkeys(document_ids))}
            await self._log.write("asked", who() | self._facts | short(facts))
        self._shown = True

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is None and not self._shown:
            error = Internal("What this call shows was not put on record, so it is not shown.")
            self._last("finished", error, self._facts)
            raise error
        # A call that failed before it showed anything has this line alone, so it says what was asked.
        self._last("finished", error, {} if self._shown else self._facts)


class Acting(_Recorded):
    """A call that changes something: `acted` before, and after."""

    _done = False

    async def done(self, **facts: Any) -> None:
        """Call it where only now is known what was changed: when it returns, that is on disk. Raises AuditUnavailable."""
        self.did(**facts)
        if self._log is not None:
            await self._log.write("acted", self._outcome(None, self._rest()))
            self._done = True

    async def __aenter__(self) -> Self:
        self._begins("acted")
        if self._log is not None:
            await self._log.write("acted", who() | self._facts | {"outcome": "attempted"})
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is not None or not self._done:
            self._last("acted", error, self._rest())

    def _rest(self) -> dict[str, Any]:
        return {key: value for key, value in self._facts.items() if key != "documents"}


def short(facts: dict[str, Any]) -> dict[str, Any]:
    """What a caller wrote, so that nobody fills the log with it. Every document's id stays: a call has not too many of them."""
    return {key: [_short(one) for one in value] if key in OF_DOCUMENTS and isinstance(value, list) else _short(value)
            for key, value in facts.items()}  # fmt: skip


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value[:_LONGEST]
    if isinstance(value, dict):
        return {str(key)[:_LONGEST]: _short(one) for key, one in itertools.islice(value.items(), _MOST)}
    return [_short(one) for one in value[:_MOST]] if isinstance(value, (list, tuple)) else value


def who() -> dict[str, Any]:
    """Whose call is being served, for a line."""
    current = call()
    facts = {
        "subject": current.subject,
        "token": current.token,
        "tenant": current.tenant,
        "peer": current.peer,
        "roles": sorted(current.roles),
        "method": current.method,
        "call": current.id,
        "request_id": current.request_id,
    }
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        facts["trace_id"] = format(context.trace_id, "032x")
    return {key: value for key, value in facts.items() if value}


def outcome_of(error: BaseException | None) -> str:
    """OK, or the reason by which a call ended."""
    if error is None:
        return "OK"
    if isinstance(error, grpc.aio.AioRpcError):
        return from_rpc_error(error).reason
    if isinstance(error, RagkeepError):
        return error.reason
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        # The caller left, or was let go: then its end is the refusal's.
        return next((refusal.reason for refusal in call().cut_off), "CANCELLED")
    return "DEADLINE_EXCEEDED" if isinstance(error, TimeoutError) else "INTERNAL"
