"""AuditService: the log of this replica, and of the others, for auditors. What is read is on record too."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from datetime import UTC
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.timestamp_pb2 import Timestamp

from ragkeep.gateway.v1 import audit_pb2 as pb
from ragkeep.gateway.v1 import audit_pb2_grpc
from ragkeep_gateway.audit.files import stamp
from ragkeep_gateway.audit.log import AuditLog
from ragkeep_gateway.audit.reading import Entry, Wanted, beginning, newer, past
from ragkeep_gateway.audit.record import Audit
from ragkeep_gateway.audit.replicas import Replicas
from ragkeep_runtime.audit import verify as proof
from ragkeep_runtime.audit.heads import CUTS, Head, public_hex, read_heads
from ragkeep_runtime.call import call
from ragkeep_runtime.errors import AuditUnavailable, InvalidRequest, TenantNotAllowed

MAX_LAST = 100_000
# Lines that one look into the files brings; seconds between a follower's looks.
_BLOCK, _LOOK_S = 500, 0.3
_KINDS: dict[int, str] = {number: name.removeprefix("AUDIT_KIND_").lower() for name, number in pb.AuditKind.items() if number}
_NUMBERS = {name.removeprefix("AUDIT_KIND_").lower(): number for name, number in pb.AuditKind.items() if number}


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    """Reads and proves."""

    def __init__(self, audit: Audit, replica: str, replicas: Replicas) -> None:
        self._audit, self._replica, self._replicas = audit, replica, replicas
        self._proving: _Proving | None = None

    async def ReadEntries(self, request: pb.ReadEntriesRequest, context: Any) -> AsyncGenerator[pb.ReadEntriesResponse]:
        """All replicas merged by time, or each as it comes."""
        if self._is_itself(request.on_behalf):
            return
        wanted = {field.name: value for field, value in request.ListFields() if field.name not in _INTERNAL}
        async with self._audit.asking(reading={name: _plain(value) for name, value in wanted.items()}) as record:
            viewer = self._viewer(request.on_behalf)
            if request.tenant and not viewer.operator and request.tenant != viewer.tenant:
                raise TenantNotAllowed("An auditor reads the lines of the tenant that he acts for; all are the operator's.")
            if request.last > MAX_LAST:
                raise InvalidRequest(f"last is at most {MAX_LAST}.", field="last")
            audit_log = self._log()
            filter_ = _wanted(request, viewer)
            until = await audit_log.until()
            await record.shown()
            sources = [self._own(audit_log, filter_, until, request.last, follow=request.follow)]
            if not request.only_this_replica:
                theirs = pb.ReadEntriesRequest()
                theirs.CopyFrom(request)
                theirs.only_this_replica = True
                theirs.on_behalf.CopyFrom(viewer)
                sources += [_of_others(one) for one in await self._replicas.ask(lambda stub: stub.ReadEntries(theirs))]
            merged = _as_they_come(sources) if request.follow else _by_time(sources, request.last)
            async with aclosing(merged) as responses:
                async for response in responses:
                    yield response

    async def VerifyLog(self, request: pb.VerifyLogRequest, context: Any) -> AsyncGenerator[pb.VerifyLogResponse]:
        """Every replica at once."""
        if self._is_itself(request.on_behalf):
            return
        async with self._audit.asking() as record:
            audit_log = self._log()
            viewer = self._viewer(request.on_behalf)
            await record.shown()
            sources: list[AsyncGenerator[Any]] = [self._verify_own(audit_log, viewer)]
            if not request.only_this_replica:
                theirs = pb.VerifyLogRequest(only_this_replica=True, on_behalf=viewer)
                others = await self._replicas.ask(lambda stub: stub.VerifyLog(theirs))
                sources += [_or_unreachable(one, pb.VerifyLogResponse) for one in others]
            faults = 0
            async with aclosing(_as_they_come(sources)) as responses:
                async for response in responses:
                    faults += response.WhichOneof("result") != "progress" and not _is_well(response)
                    yield response
            record.did(faults=faults)

    async def ListHeads(self, request: pb.ListHeadsRequest, context: Any) -> AsyncGenerator[pb.ListHeadsResponse]:
        """Own ones first."""
        if self._is_itself(request.on_behalf):
            return
        async with self._audit.asking() as record:
            audit_log = self._log()
            viewer = self._viewer(request.on_behalf)
            await record.shown()
            if not viewer.operator:
                return
            await audit_log.say_head()
            for head, public in await _reading(lambda: _signed_heads(audit_log)):
                line = head.line().decode().rstrip("\n")
                found = pb.AuditHead(replica=head.replica, sequence=head.sequence, line=line, public_key=public)
                found.time.FromJsonString(head.time)
                yield pb.ListHeadsResponse(head=found)
            if not request.only_this_replica:
                theirs = pb.ListHeadsRequest(only_this_replica=True, on_behalf=viewer)
                for source in await self._replicas.ask(lambda stub: stub.ListHeads(theirs)):
                    async with aclosing(_or_unreachable(source, pb.ListHeadsResponse)) as responses:
                        async for response in responses:
                            yield response

    def _log(self) -> AuditLog:
        if self._audit.log is None:
            raise AuditUnavailable("The audit log is off: RAGKEEP_AUDIT_FOLDER is not set.")
        return self._audit.log

    def _is_itself(self, on_behalf: pb.OnBehalf) -> bool:
        """Whether this replica asked all addresses, and this is its own: it has nothing to add."""
        return call().peer == "gateway" and on_behalf.replica == self._replica

    def _viewer(self, on_behalf: pb.OnBehalf) -> pb.OnBehalf:
        """Who may see what: from the verified identity, or from a gateway that looked at it."""
        current = call()
        if current.peer == "gateway" and not current.subject:
            return pb.OnBehalf(tenant=on_behalf.tenant, operator=on_behalf.operator, replica=self._replica)
        return pb.OnBehalf(tenant=current.tenant, operator=current.operator, replica=self._replica)

    async def _own(
        self, audit_log: AuditLog, wanted: Wanted, until: proof.Until, last: int, *, follow: bool
    ) -> AsyncGenerator[pb.ReadEntriesResponse]:
        folder = audit_log.files.folder
        place = beginning(until)
        async with aclosing(_in_blocks(past(folder, wanted, until, last))) as entries:
            async for entry in entries:
                yield _response(entry)
        while follow:
            await asyncio.sleep(_LOOK_S)
            until = await audit_log.until()
            async with aclosing(_in_blocks(newer(folder, wanted, place, until))) as entries:
                async for entry in entries:
                    yield _response(entry)

    async def _verify_own(self, audit_log: AuditLog, viewer: pb.OnBehalf) -> AsyncGenerator[pb.VerifyLogResponse]:
        # A pass over all files takes a core: one at a time, whoever asks how often.
        if self._proving is None or self._proving.task.done():
            self._proving = _Proving(audit_log)
        proving = self._proving
        while not (await asyncio.wait([proving.task], timeout=1.0))[0]:
            lines = proving.lines if viewer.operator else 0
            yield pb.VerifyLogResponse(progress=pb.VerifyProgress(replica=self._replica, lines=lines))
        verdict = verdict_message(proving.task.result())
        yield pb.VerifyLogResponse(verdict=verdict if viewer.operator else withheld(verdict))


class _Proving:
    """A proof of this replica's log under way: it goes on when the one who asked for it goes."""

    def __init__(self, audit_log: AuditLog) -> None:
        self.lines = 0
        self.task = asyncio.create_task(self._prove(audit_log))
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _count(self, number: int) -> None:
        self.lines = number

    async def _prove(self, audit_log: AuditLog) -> proof.Verdict:
        files = audit_log.files
        await audit_log.say_head()
        heads = await _reading(lambda: proof.heads_in(files.heads))
        until = await audit_log.until()

        def prove() -> proof.Verdict:
            return proof.verify(
                files.folder,
                keys=audit_log.line_keys,
                signers=audit_log.signers,
                heads=heads,
                until=until,
                progress=self._count,
            )

        found: proof.Verdict = await _reading(prove)
        return found


_INTERNAL = frozenset({"on_behalf", "only_this_replica"})


def _signed_heads(audit_log: AuditLog) -> list[tuple[Head, str]]:
    """The last cut and heads, each with the public key that verifies it, today's where none does."""
    today, *earlier = audit_log.signers

    def signer_of(head: Head) -> Ed25519PublicKey:
        return next((key for key in earlier if not head.is_signed_by([today]) and head.is_signed_by([key])), today)

    cuts = audit_log.files.folder / CUTS
    found = [*(read_heads(cuts)[-1:] if cuts.exists() else []), *proof.heads_in(audit_log.files.heads)]
    return [(head, public_hex(signer_of(head))) for head in found]


def verdict_message(found: proof.Verdict) -> pb.Verdict:
    """As it travels."""
    message = pb.Verdict(
        replica=found.replica,
        lines=found.lines,
        first=found.first,
        last=found.last,
        heads=found.heads,
        head_sequence=found.head_sequence,
        repaired=found.repaired,
    )
    if found.fault is not None:
        fault = found.fault
        message.fault.CopyFrom(
            pb.Fault(what=fault.what.value, sequence=fault.sequence, file=fault.file, line=fault.line, why=fault.why)
        )
    return message


def withheld(verdict: pb.Verdict) -> pb.Verdict:
    """For a tenant's own auditor: whether all is well. Numbers are of all tenants' lines together."""
    found = pb.Verdict(replica=verdict.replica, withheld=True)
    if verdict.HasField("fault"):
        found.fault.CopyFrom(pb.Fault(what=verdict.fault.what, why="Who acts for the operator sees where."))
    return found


def _is_well(response: pb.VerifyLogResponse) -> bool:
    return response.WhichOneof("result") == "verdict" and not response.verdict.HasField("fault")


def _plain(value: Any) -> Any:
    """A filter as it is recorded."""
    if isinstance(value, Timestamp):
        try:
            return value.ToJsonString()
        except ValueError:
            return "no time"  # which is refused in a moment
    if isinstance(value, str):
        return value[:256]
    return value if isinstance(value, (int, bool)) else [_KINDS.get(one, "") for one in value]


def _wanted(request: pb.ReadEntriesRequest, viewer: pb.OnBehalf) -> Wanted:
    unknown = [kind for kind in request.kinds if kind not in _KINDS]
    if unknown:
        raise InvalidRequest("kinds must be asked, finished, refused, acted, repaired or started.", field="kinds")
    try:
        since = stamp(request.since.ToDatetime(UTC)) if request.HasField("since") else ""
        before = stamp(request.before.ToDatetime(UTC)) if request.HasField("before") else ""
    except (ValueError, OverflowError):
        raise InvalidRequest("since and before must be times of the years 1 to 9999.", field="since") from None
    return Wanted(
        since=since,
        before=before,
        subject=request.subject,
        tenant=(request.tenant or None) if viewer.operator else viewer.tenant,
        request_id=request.request_id,
        kinds=frozenset(_KINDS[kind] for kind in request.kinds),
        document_id=request.document_id,
        rpc=request.rpc,
        outcome=request.outcome,
    )


def _response(entry: Entry) -> pb.ReadEntriesResponse:
    facts = entry.facts
    kind = _NUMBERS.get(facts["kind"], pb.AUDIT_KIND_UNSPECIFIED)
    found = pb.AuditEntry(replica=facts["replica"], sequence=facts["seq"], kind=kind, line=entry.line)
    with contextlib.suppress(ValueError):
        found.time.FromJsonString(facts["time"])
    return pb.ReadEntriesResponse(entry=found)


async def _reading(work: Callable[[], Any]) -> Any:
    """In a thread. Raises AuditUnavailable where the files cannot be read."""
    try:
        return await asyncio.to_thread(work)
    except (OSError, ValueError):
        raise AuditUnavailable("The audit log, or its heads, cannot be read. The gateway's log says why.") from None


async def _in_blocks(entries: Iterator[Entry]) -> AsyncGenerator[Entry]:
    while block := await _reading(lambda: list(itertools.islice(entries, _BLOCK))):
        for entry in block:
            yield entry


async def _of_others(source: AsyncGenerator[Any]) -> AsyncGenerator[pb.ReadEntriesResponse]:
    async with aclosing(_or_unreachable(source, pb.ReadEntriesResponse)) as responses:
        async for response in responses:
            yield response


async def _or_unreachable(source: AsyncGenerator[Any], kind: Any) -> AsyncGenerator[Any]:
    async with aclosing(source) as messages:
        async for message in messages:
            yield kind(unreachable=message) if isinstance(message, pb.ReplicaUnreachable) else message


async def _by_time(sources: list[AsyncGenerator[pb.ReadEntriesResponse]], last: int) -> AsyncGenerator[pb.ReadEntriesResponse]:
    """Each source is in its order; what was not reached is said first."""
    kept: deque[pb.ReadEntriesResponse] = deque(maxlen=last or None)
    async with contextlib.AsyncExitStack() as stack:
        for source in sources:
            await stack.enter_async_context(aclosing(source))
        heap: list[tuple[tuple[int, int, str, int], int, pb.ReadEntriesResponse]] = []

        async def take(place: int) -> pb.ReplicaUnreachable | None:
            """The next of a source into the heap."""
            response = await anext(sources[place], None)
            if response is None:
                return None
            if response.WhichOneof("result") == "unreachable":
                return response.unreachable
            entry = response.entry
            heapq.heappush(heap, ((entry.time.seconds, entry.time.nanos, entry.replica, entry.sequence), place, response))
            return None

        for lost in await asyncio.gather(*(take(place) for place in range(len(sources)))):
            if lost is not None:
                yield pb.ReadEntriesResponse(unreachable=lost)
        while heap:
            _, place, response = heapq.heappop(heap)
            if last:
                kept.append(response)
            else:
                yield response
            lost = await take(place)
            if lost is not None:
                yield pb.ReadEntriesResponse(unreachable=lost)
        for response in kept:
            yield response


async def _as_they_come(sources: list[AsyncGenerator[Any]]) -> AsyncGenerator[Any]:
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=100)
    ended = object()

    async def pump(source: AsyncGenerator[Any]) -> None:
        try:
            async with aclosing(source) as messages:
                async for message in messages:
                    await queue.put(message)
        except Exception as error:
            await queue.put(error)
        await queue.put(ended)

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    left = len(tasks)
    try:
        while left:
            message = await queue.get()
            if message is ended:
                left -= 1
            elif isinstance(message, Exception):
                raise message
            else:
                yield message
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
