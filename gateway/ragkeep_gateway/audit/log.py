"""The audit log of this process: events in, lines on disk. Whoever waits shares a sync with all others who wait just then."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from opentelemetry.metrics import get_meter

from ragkeep_gateway.audit.files import AuditFiles, now, stamp
from ragkeep_runtime.audit.chain import BEGINNING, Keys, write_line
from ragkeep_runtime.audit.logged_heads import EVENT, event_of
from ragkeep_runtime.audit.verify import Until
from ragkeep_runtime.errors import AuditUnavailable
from ragkeep_runtime.logs import get_logger

log = get_logger()
QuestionAs = Literal["text", "hmac"]
# Characters of a question; events of one sync; events that wait at most; lines kept for a disk that comes back.
QUESTION_CHARACTERS, _BATCH, _WAITING, _LATE = 50, 2000, 20_000, 1000
_failures = get_meter("ragkeep").create_counter(
    "ragkeep_audit_write_failures", description="Writes of the audit log that failed; every call that waited was refused."
)


@dataclass(frozen=True, slots=True)
class Earlier:
    """Keys that were replaced: what they wrote is proven with them, and nothing is written."""

    lines: Mapping[str, bytes] = field(default_factory=dict)  # by the key's name
    signers: Sequence[Ed25519PublicKey] = ()


# An event, and who waits for its line.
_Waiting = tuple[dict[str, Any], asyncio.Future[None] | None]


class AuditLog:
    """Opened by `start`, closed by `close`. Its files are touched by one thread alone, never by the event loop."""

    def __init__(
        self,
        files: AuditFiles,
        keys: Keys,
        *,
        earlier: Earlier = Earlier(),
        question: QuestionAs = "text",
        days: int = 30,
        head_s: float = 60.0,
    ) -> None:
        self.files = files
        self._earlier = earlier
        self._keys, self._question, self._days, self._head_s = keys, question, days, head_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._pending: deque[_Waiting] = deque()
        self._late: deque[dict[str, Any]] = deque()
        self._wake = asyncio.Event()
        self._failing_since = self._losing_since = ""
        self._refused = self._lost = 0
        self._closing = False
        self._writing: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self, **facts: Any) -> None:
        """Takes the folder over, repairs and records what a crash left. Raises OSError or ValueError."""
        repaired = await self._in_thread(self.files.open)
        events = [*repaired, {"kind": "started", "key": self._keys.name, **facts}]
        await self._in_thread(self.files.append, events)
        for one in repaired:
            log.warning("audit_repaired", what=one["what"], file=one["file"])
            if "head" in one:
                log.error("audit_lines_gone", what=one["what"], head=one["head"], way_out="ragkeep audit verify names the line")
        self._writing = asyncio.create_task(self._write_all())
        self._keeping = asyncio.create_task(self._keep_house())

    async def close(self) -> None:
        """Writes what is left, and a head."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._writing is not None:
            # Never cancelled: the lines that it has taken and not written yet would be lost.
            self._closing = True
            self._wake.set()
            await self._writing
        while self._pending or self._late or self._lost:
            if not await self._write_some():
                break
        await self.say_head()
        await self._in_thread(self.files.close)
        self._thread.shutdown()

    def question(self, text: str) -> dict[str, str]:
        """What is written of a question: its beginning, or an HMAC by which the same one is recognised."""
        if self._question == "hmac":
            return {"question_hmac": self._keys.question(text)}
        return {"question": text[:QUESTION_CHARACTERS]}

    async def write(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Returns when the line is on disk. Raises AuditUnavailable."""
        if len(self._pending) >= _WAITING:
            raise unavailable()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append(({"kind": kind, **facts}, waiter))
        self._wake.set()
        await waiter

    def note(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Writes the line soon; nobody waits for it. One that a full disk keeps out is written when there is room again; where
        too many wait for that, how many were lost is on record."""
        if len(self._pending) >= _WAITING:
            self._lose(kind)
            return
        self._pending.append(({"kind": kind, **facts}, None))
        self._wake.set()

    @property
    def line_keys(self) -> dict[str, bytes]:
        """What lines are proven with, by the key's name."""
        return {self._keys.name: self._keys.lines, **self._earlier.lines}

    @property
    def signers(self) -> list[Ed25519PublicKey]:
        """Whose signature under a head is believed, today's first."""
        return [self.files.signing.public_key(), *self._earlier.signers]

    async def until(self) -> Until:
        """How far the log is on disk now."""
        found: Until = await self._in_thread(lambda: self.files.until)
        return found

    async def check(self) -> None:
        """For readiness: raises AuditUnavailable where lines cannot be written; tries, where they could not."""
        if self._failing_since:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._pending.append(({}, waiter))
            self._wake.set()
            await waiter

    async def _write_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                await self._write_some()
            if self._closing:
                return

    def _lose(self, kind: str) -> None:
        self._lost += 1
        self._losing_since = self._losing_since or stamp(now())
        log.error("audit_line_lost", kind=kind)

    async def _write_some(self) -> bool:
        """Whether it went on: all is written, or what can never be written was taken out."""
        batch = [self._pending.popleft() for _ in range(min(_BATCH, len(self._pending)))]
        late, self._late = self._late, deque()
        events = [event | {"late": True} for event in late] + [event for event, _ in batch if event]
        since, refused, lost = self._failing_since or self._losing_since, self._refused, self._lost
        if since:
            gap = {"kind": "repaired", "what": "unavailable", "since": since, "refused": refused}
            events.insert(0, gap | ({"lost": lost} if lost else {}))
        try:
            await self._in_thread(self.files.append, events)
        except OSError as error:
            self._fails(error.strerror or "", len(batch))
            self._late.extend(late)
            for event, waiter in batch:
                self._put_off(event, waiter)
            return False
        except Exception:
            # A defect: an event that is no JSON, or without end. Kept for later it would refuse every call to come.
            log.exception("audit_event_unwritable", waiting=len(batch))
            return await self._without_bad(late, batch)
        if since:
            log.info("audit_writes_again", since=since, refused=refused, lost=lost)
            self._failing_since, self._refused = "", 0
            self._lost -= lost  # some may have been lost while that was written
            self._losing_since = self._losing_since if self._lost else ""
        for _, waiter in batch:
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        return True

    def _fails(self, error: str, waiting: int) -> None:
        _failures.add(1)
        self._failing_since = self._failing_since or stamp(now())
        log.error("audit_write_failed", error=error, waiting=waiting)

    def _put_off(self, event: dict[str, Any], waiter: asyncio.Future[None] | None) -> None:
        """One that is not on disk: its call is refused, or it is kept for later."""
        if waiter is None:
            self._late.append(event)
            if len(self._late) > _LATE:
                self._lose(str(self._late.popleft().get("kind")))
        elif not waiter.done():
            self._refused += 1
            waiter.set_exception(unavailable())

    async def _without_bad(self, late: deque[dict[str, Any]], batch: list[_Waiting]) -> bool:
        """The batch again without those that can never be written; whether there were any."""
        self._fails("an event cannot be written", len(batch))
        waiting: list[_Waiting] = [*((event | {"late": True}, None) for event in late), *batch]
        good = await self._in_thread(lambda: [_writable(event) for event, _ in waiting])
        found = not all(good)
        for fine, (event, waiter) in reversed(list(zip(good, waiting, strict=True))):
            if fine and found:
                self._pending.appendleft((event, waiter))
            elif waiter is None:
                self._lose(str(event.get("kind")))
            else:
                self._put_off(event, waiter)
        return found

    async def _keep_house(self) -> None:
        """Heads at their interval; old days go."""
        while True:
            try:
                removed = await self._in_thread(self.files.remove_old, self._days)
            except OSError as error:
                log.error("audit_files_not_removed", error=error.strerror)
            else:
                if removed:
                    self.note("acted", {"action": "retention", "outcome": "OK", "files": removed})
            await self.say_head()
            await asyncio.sleep(self._head_s)

    async def say_head(self) -> None:
        """Signs and keeps what stands there now, where something is new."""
        try:
            head = await self._in_thread(self.files.head)
        except OSError as error:
            log.error("audit_head_failed", error=error.strerror)
            return
        if head is not None:
            log.info(EVENT, **event_of(head))

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def _writable(event: Mapping[str, Any]) -> bool:
    try:
        write_line(b"", BEGINNING, event)
    except Exception:
        return False
    return True


def unavailable() -> AuditUnavailable:
    """What a caller hears."""
    return AuditUnavailable(
        "The audit log cannot be written, and nothing is shown or changed without it. The gateway's log says why.",
        retry_after_s=5.0,
    )
