"""The importer against a gateway written by hand: batches, back-pressure, patience, and what it never does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing

import pytest

from ragkeep.types.v1 import types_pb2
from ragkeep_client.events import Outcome
from ragkeep_client.importer import MAX_BYTES, Importer
from ragkeep_client.values import Document
from ragkeep_runtime.errors import (
    DeadlineExceeded,
    EngineUnreachable,
    NotReady,
    Overloaded,
    RagkeepError,
    StorageFull,
)


class Gateway:
    """Takes `seconds` a document on a clock of its own, fails with `failures` first, and remembers every call."""

    def __init__(self, seconds: float = 0.0, failures: Sequence[RagkeepError | None] = ()) -> None:
        self.seconds = seconds
        self.failures = list(failures)
        self.batches: list[list[str]] = []
        self.bytes: list[int] = []
        self.now = 0.0
        self.slept: list[float] = []
        self.active: list[list[str]] = []
        self.most_active = 0
        self.cancelled = 0
        self.hold: asyncio.Event | None = None

    async def send(self, documents: Sequence[types_pb2.Document]) -> Sequence[types_pb2.Outcome]:
        ids = [document.id for document in documents]
        assert not set(ids) & {one for batch in self.active for one in batch}, "a document is in two calls"
        self.active.append(ids)
        self.most_active = max(self.most_active, len(self.active))
        try:
            await asyncio.sleep(0)
            if self.hold:
                await self.hold.wait()
            failure = self.failures.pop(0) if self.failures else None
            if failure is not None:
                raise failure
            self.now += self.seconds * len(ids)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.active.remove(ids)
        self.batches.append(ids)
        self.bytes.append(types_pb2.Document.ByteSize(documents[0]) * len(ids))
        kind = types_pb2.OutcomeKind.OUTCOME_KIND_CREATED
        return [types_pb2.Outcome(position=n, document_id=one, kind=kind) for n, one in enumerate(ids)]

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def importer(self, in_flight: int = 1) -> Importer:
        return Importer(self.send, in_flight=in_flight, sleep=self.sleep, clock=lambda: self.now)


def documents(count: int, text: str = "x") -> Iterator[Document]:
    return (Document(f"T-{number}", {"title": text}) for number in range(count))


async def outcomes(importer: Importer, items: Iterator[Document] | AsyncIterator[Document]) -> list[Outcome]:
    return [outcome async for outcome in importer.run(items)]


async def test_batches_begin_with_eight_and_grow_towards_ten_seconds() -> None:
    """At a quarter of a second a document the batches settle at forty."""
    gateway = Gateway(seconds=0.25)
    found = await outcomes(gateway.importer(), documents(300))
    sizes = [len(batch) for batch in gateway.batches]
    assert sizes[:4] == [8, 16, 32, 40]
    assert set(sizes[4:-1]) == {40}
    assert sorted(outcome.position for outcome in found) == list(range(300))
    assert {outcome.document_id for outcome in found} == {f"T-{number}" for number in range(300)}


async def test_a_slow_gateway_gets_small_batches() -> None:
    """At four seconds a document two are sent at once."""
    gateway = Gateway(seconds=4)
    await outcomes(gateway.importer(), documents(20))
    assert [len(batch) for batch in gateway.batches][1:] == [2] * 6


async def test_no_batch_passes_a_hundred_documents_or_four_mib() -> None:
    """A quick gateway gets batches of a hundred; long documents fill the bytes first."""
    gateway = Gateway(seconds=0.001)
    await outcomes(gateway.importer(), documents(500))
    assert max(len(batch) for batch in gateway.batches) == 100
    gateway = Gateway(seconds=0.001)
    found = await outcomes(gateway.importer(), documents(30, "x" * 900_000))
    assert len(found) == 30
    assert max(gateway.bytes) < MAX_BYTES
    assert {len(batch) for batch in gateway.batches} == {4, 2}


async def test_a_few_batches_are_in_flight_and_no_more_is_read() -> None:
    """While three calls hang, only their documents have been read from the source."""
    gateway = Gateway()
    gateway.hold = asyncio.Event()
    read = 0

    def source() -> Iterator[Document]:
        nonlocal read
        for document in documents(1000):
            read += 1
            yield document

    running = asyncio.create_task(outcomes(gateway.importer(in_flight=3), source()))
    for _ in range(50):
        await asyncio.sleep(0)
    assert read == 24
    assert gateway.most_active == 3
    gateway.hold.set()
    assert len(await running) == 1000
    assert gateway.most_active == 3


async def test_an_asynchronous_source_is_read_too() -> None:
    """Documents may come from an async iterator, and none is fine."""

    async def source(count: int) -> AsyncIterator[Document]:
        for document in documents(count):
            yield document

    assert len(await outcomes(Gateway().importer(), source(9))) == 9
    assert await outcomes(Gateway().importer(), source(0)) == []


async def test_one_document_is_never_in_two_calls_at_once() -> None:
    """The same id in neighbouring batches waits for the first one's end; the fake gateway would fail else."""
    twice = [*documents(8), *documents(8), *documents(8)]
    gateway = Gateway()
    assert len(await outcomes(gateway.importer(in_flight=3), iter(twice))) == 24


async def test_overload_is_waited_out_as_long_as_the_gateway_says() -> None:
    """RetryInfo is respected, also at the very beginning, and a little is added by chance."""
    gateway = Gateway(failures=[Overloaded("full", retry_after_s=3.0), Overloaded("full", retry_after_s=3.0)])
    assert len(await outcomes(gateway.importer(), documents(3))) == 3
    assert len(gateway.slept) == 2
    assert all(3.0 <= pause <= 4.0 for pause in gateway.slept)


@pytest.mark.parametrize("error", [NotReady("away"), EngineUnreachable("away")])
async def test_a_peer_that_goes_away_in_the_middle_is_waited_for(error: RagkeepError) -> None:
    """After a first success the batch is sent again, with growing pauses."""
    gateway = Gateway(failures=[None, error, error, error])
    assert len(await outcomes(gateway.importer(), documents(20))) == 20
    assert [round(pause) for pause in gateway.slept] == sorted(round(pause) for pause in gateway.slept)
    assert gateway.slept[-1] >= 2.0


async def test_a_peer_that_was_never_there_is_an_error_at_once() -> None:
    """Nobody waits a minute to learn that nothing runs."""
    gateway = Gateway(failures=[NotReady("away")])
    with pytest.raises(NotReady):
        await outcomes(gateway.importer(), documents(3))
    assert gateway.slept == []


async def test_patience_ends() -> None:
    """A peer that stays away fails the import after a minute."""
    gateway = Gateway(failures=[None] + [NotReady("away")] * 100)
    with pytest.raises(NotReady):
        await outcomes(gateway.importer(), documents(20))
    assert 30 < sum(gateway.slept) <= 60


async def test_what_waiting_does_not_help_is_not_tried_again() -> None:
    """A full disk is RESOURCE_EXHAUSTED as well, and an error at once."""
    gateway = Gateway(failures=[None, StorageFull("full")])
    with pytest.raises(StorageFull):
        await outcomes(gateway.importer(), documents(20))
    assert gateway.slept == []


async def test_a_batch_that_takes_too_long_is_halved() -> None:
    """Positions stay those of the source."""
    gateway = Gateway(failures=[DeadlineExceeded("late")])
    found = await outcomes(gateway.importer(), documents(8))
    assert [outcome.position for outcome in found] == list(range(8))
    assert [len(batch) for batch in gateway.batches] == [4, 4]


async def test_a_document_that_is_too_large_is_not_sent() -> None:
    """It is rejected here with its position; the others go on."""
    large = Document("T-x", {"title": "x" * 1_100_000})
    gateway = Gateway()
    found = await outcomes(gateway.importer(), iter([*documents(1), large, *documents(1)]))
    assert {(one.position, one.kind, one.reason) for one in found} == {
        (0, "created", ""),
        (1, "rejected", "DOCUMENT_TOO_LARGE"),
        (2, "created", ""),
    }


async def test_leaving_the_loop_cancels_the_calls() -> None:
    """Two calls are in flight when the first outcome is seen and the loop is left."""
    gateway = Gateway()
    async with aclosing(gateway.importer(in_flight=3).run(documents(1000))) as found:
        async for _ in found:
            gateway.hold = asyncio.Event()
            break
    assert gateway.active == []


async def test_an_error_of_the_source_ends_the_import_and_its_calls() -> None:
    """A file that breaks while it is read is the caller's error, with nothing left running."""
    gateway = Gateway()
    gateway.hold = asyncio.Event()

    def source() -> Iterator[Document]:
        yield from documents(9)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        await outcomes(gateway.importer(in_flight=3), source())
    assert gateway.active == []


async def test_outcomes_come_while_the_source_has_nothing_yet() -> None:
    """Who waits for more documents learns meanwhile what became of those before."""
    more = asyncio.Event()

    async def source() -> AsyncIterator[Document]:
        for document in documents(9):
            yield document
        await more.wait()

    found = Gateway().importer(in_flight=3).run(source())
    async with aclosing(found):
        first = [await anext(found) for _ in range(8)]
        assert [outcome.position for outcome in first] == list(range(8))
        more.set()
        assert [outcome.position async for outcome in found] == [8]


async def test_the_contracts_own_message_is_sent_as_it_is() -> None:
    """It may hold what Python's values cannot, such as nanoseconds."""
    message = types_pb2.Document(id="T-1", groups=["hr"])
    message.fields["at"].timestamp.nanos = 1
    sent: list[types_pb2.Document] = []

    async def send(batch: Sequence[types_pb2.Document]) -> Sequence[types_pb2.Outcome]:
        sent.extend(batch)
        return [types_pb2.Outcome(document_id="T-1", kind=types_pb2.OutcomeKind.OUTCOME_KIND_CREATED)]

    assert [outcome.kind async for outcome in Importer(send).run([message])] == ["created"]
    assert sent == [message]
