"""Streams documents into ImportDocuments: batches sized towards ten seconds, a few in flight, never more read than is sent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ragkeep.types.v1 import types_pb2
from ragkeep_client.events import Outcome, outcome_from
from ragkeep_client.values import Document, document_message
from ragkeep_runtime.errors import DeadlineExceeded, EngineUnreachable, NotReady, Overloaded, RagkeepError

MAX_DOCUMENTS, MAX_BYTES, MAX_DOCUMENT_BYTES = 100, 4 * 1024 * 1024, 1024 * 1024
# Tag and length around a document, the collection's name and the like.
_AROUND_BYTES, _MARGIN_BYTES = 8, 1024
FIRST_BATCH, BATCH_S = 8, 10.0
# Seconds that a batch is tried again while the other side is away or full.
PATIENCE_S = 60.0
_BACKOFF_S, _LONGEST_BACKOFF_S = 0.5, 8.0

# The contract's own message is sent as it is: it may hold what Python's values cannot, e.g. nanoseconds.
AnyDocument = Document | types_pb2.Document
Send = Callable[[Sequence[types_pb2.Document]], Awaitable[Sequence[types_pb2.Outcome]]]


@dataclass(slots=True)
class _Batch:
    messages: list[types_pb2.Document] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    size: int = 0

    def add(self, message: types_pb2.Document, position: int, size: int) -> None:
        self.messages.append(message)
        self.positions.append(position)
        self.size += size

    @property
    def ids(self) -> set[str]:
        return {message.id for message in self.messages}


# (batch, rejected here, what did not fit any more, whether there may be more)
_Read = tuple[_Batch, list[Outcome], tuple[int, AnyDocument] | None, bool]


class Importer:
    """Imports documents through `send`, which makes one call for 1 to 100 of them.

    `sleep` and `clock` (seconds) can be replaced, so that tests need not wait.
    """

    def __init__(
        self,
        send: Send,
        *,
        in_flight: int = 3,
        patience_s: float = PATIENCE_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._send = send
        self._in_flight = in_flight
        self._patience_s = patience_s
        self._sleep = sleep
        self._clock = clock or asyncio.get_running_loop().time
        self._batch_documents = FIRST_BATCH
        # The first success shows that the way is right; before it, waiting for a peer that is away helps nobody.
        self._arrived = False

    async def run(self, documents: Iterable[AnyDocument] | AsyncIterable[AnyDocument]) -> AsyncGenerator[Outcome]:
        """An outcome for each document, batch by batch as they come back. Raises the RagkeepError that no retry helped."""
        source = _positions(documents)
        running: dict[asyncio.Task[list[Outcome]], set[str]] = {}
        # At most one batch is read beside those in flight, and only while another may fly.
        reading: asyncio.Task[_Read] | None = None
        held: tuple[int, AnyDocument] | None = None
        more = True
        try:
            while more or running:
                if more and reading is None and len(running) < self._in_flight:
                    reading = asyncio.create_task(self._next_batch(source, held))
                await asyncio.wait([*running, *([reading] if reading else [])], return_when=asyncio.FIRST_COMPLETED)
                for outcome in _finished(running):
                    yield outcome
                if reading is None or not reading.done():
                    continue
                batch, rejected, held, more = reading.result()
                reading = None
                for outcome in rejected:
                    yield outcome
                if not batch.messages:
                    continue
                # One document must not be in two calls in flight: the later one would race the earlier.
                while any(batch.ids & ids for ids in running.values()):
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for outcome in _finished(running):
                        yield outcome
                running[asyncio.create_task(self._deliver(batch))] = batch.ids
        finally:
            unfinished = [*running, *([reading] if reading else [])]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
            await source.aclose()

    async def _next_batch(self, source: AsyncIterator[tuple[int, AnyDocument]], held: tuple[int, AnyDocument] | None) -> _Read:
        batch = _Batch()
        rejected: list[Outcome] = []
        while len(batch.messages) < self._batch_documents:
            found = held or await anext(source, None)
            held = None
            if found is None:
                return batch, rejected, None, False
            position, document = found
            try:
                message = document if isinstance(document, types_pb2.Document) else document_message(document)
            except (TypeError, ValueError):
                why = "A field's value is of no type that a document may have, or holds a lone surrogate."
                rejected.append(Outcome(position, str(document.id), "rejected", "TEXT_INVALID", why))
                continue
            size = message.ByteSize()
            if size > MAX_DOCUMENT_BYTES:
                why = f"The document is larger than {MAX_DOCUMENT_BYTES} bytes."
                rejected.append(Outcome(position, document.id, "rejected", "DOCUMENT_TOO_LARGE", why))
                continue
            if batch.size + size + _AROUND_BYTES > MAX_BYTES - _MARGIN_BYTES:
                return batch, rejected, found, True
            batch.add(message, position, size + _AROUND_BYTES)
        return batch, rejected, None, True

    async def _deliver(self, batch: _Batch) -> list[Outcome]:
        give_up = self._clock() + self._patience_s
        backoff = _BACKOFF_S
        while True:
            began = self._clock()
            try:
                outcomes = await self._send(batch.messages)
            except DeadlineExceeded:
                if len(batch.messages) == 1:
                    raise
                # Too much for one call: half of it each. What the call did nevertheless is unchanged then.
                self._batch_documents = max(1, min(self._batch_documents, len(batch.messages) // 2))
                return [outcome for half in _halves(batch) for outcome in await self._deliver(half)]
            except (NotReady, EngineUnreachable, Overloaded) as error:
                pause = _pause(error, backoff)
                may_wait = self._arrived or isinstance(error, Overloaded)
                if not may_wait or self._clock() + pause > give_up:
                    raise
                await self._sleep(pause)
                backoff = min(2 * backoff, _LONGEST_BACKOFF_S)
                continue
            self._arrived = True
            self._resize(len(batch.messages), self._clock() - began)
            return [outcome_from(message, batch.positions[message.position]) for message in outcomes]

    def _resize(self, documents: int, seconds: float) -> None:
        if documents < self._batch_documents // 2:
            return  # a short last batch says little
        fitting = int(documents * BATCH_S / max(seconds, 0.001))
        # At most doubled: the next documents may be longer.
        self._batch_documents = max(1, min(fitting, 2 * documents, MAX_DOCUMENTS))


def _pause(error: RagkeepError, backoff: float) -> float:
    # Spread out, so that many importers do not come back together.
    return max(error.retry_after_s or 0.0, backoff) * random.uniform(1.0, 1.3)  # noqa: S311 - no secret


def _halves(batch: _Batch) -> tuple[_Batch, _Batch]:
    middle = len(batch.messages) // 2
    return (
        _Batch(batch.messages[:middle], batch.positions[:middle]),
        _Batch(batch.messages[middle:], batch.positions[middle:]),
    )


def _finished(running: dict[asyncio.Task[list[Outcome]], set[str]]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    # Failed ones stay in `running` until here, so that nobody forgets to look at them.
    for task in [task for task in running if task.done()]:
        del running[task]
        outcomes += task.result()
    return outcomes


async def _positions(
    documents: Iterable[AnyDocument] | AsyncIterable[AnyDocument],
) -> AsyncGenerator[tuple[int, AnyDocument]]:
    position = 0
    if isinstance(documents, AsyncIterable):
        async for document in documents:
            yield position, document
            position += 1
    else:
        for document in documents:
            yield position, document
            position += 1
