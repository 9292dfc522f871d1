"""The RPCs of the audit log, typed, for auditors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from ragkeep.gateway.v1 import audit_pb2
from ragkeep_client.audit import (
    AuditEntry,
    AuditHead,
    AuditKind,
    AuditProgress,
    AuditVerdict,
    ReplicaUnreachable,
    entry_from,
    unreachable_from,
    verdict_from,
)
from ragkeep_client.calls import Calls, writable
from ragkeep_runtime.errors import DeadlineExceeded

if TYPE_CHECKING:
    from ragkeep.gateway.v1.audit_pb2_grpc import AuditServiceAsyncStub

# As long as a gateway lets one call take; those of a follower are shorter, and repeated.
_LONGEST_S = 300.0


def _timestamp(time: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(time.astimezone(UTC))
    return found


class AuditCalls(Calls):
    """Part of `Client`."""

    _audit_stub: AuditServiceAsyncStub

    async def read_audit(
        self,
        *,
        since: datetime | None = None,
        before: datetime | None = None,
        subject: str = "",
        tenant: str = "",
        request_id: str = "",
        kinds: Sequence[AuditKind] = (),
        document_id: str = "",
        rpc: str = "",
        outcome: str = "",
        last: int = 0,
        follow: bool = False,
    ) -> AsyncGenerator[AuditEntry | ReplicaUnreachable]:
        """Lines that fit all of these, of every gateway, by time; with `last` the last so many of them, with `follow` for ever.

        `since` and `before` need a time zone. An auditor sees his own tenant's lines, the operator's auditor all.
        """
        with writable():
            request = audit_pb2.ReadEntriesRequest(
                since=None if since is None else _timestamp(since),
                before=None if before is None else _timestamp(before),
                subject=subject,
                tenant=tenant,
                request_id=request_id,
                kinds=[audit_pb2.AuditKind.Value(f"AUDIT_KIND_{kind.upper()}") for kind in kinds],
                document_id=document_id,
                rpc=rpc,
                outcome=outcome,
                last=last,
                follow=follow,
            )
        seen: dict[str, int] = {}
        while True:
            call = self._audit_stub.ReadEntries(request, timeout=_LONGEST_S, metadata=self._metadata)
            try:
                with self._errors():
                    async for response in call:
                        if response.WhichOneof("result") == "unreachable":
                            yield unreachable_from(response.unreachable)
                            continue
                        entry = response.entry
                        if not follow:
                            yield entry_from(entry)
                        elif entry.sequence > seen.get(entry.replica, 0):
                            seen[entry.replica] = entry.sequence
                            request.since.CopyFrom(entry.time)
                            yield entry_from(entry)
                return
            except DeadlineExceeded:
                if not follow:
                    raise
                request.last = 0
            finally:
                call.cancel()

    async def verify_audit(self) -> AsyncGenerator[AuditProgress | AuditVerdict | ReplicaUnreachable]:
        """Has every gateway prove its log: how far each is, then a verdict each, whose `fault` is None where all is well."""
        request = audit_pb2.VerifyLogRequest()
        call = self._audit_stub.VerifyLog(request, timeout=_LONGEST_S, metadata=self._metadata)
        try:
            with self._errors():
                async for response in call:
                    match response.WhichOneof("result"):
                        case "progress":
                            yield AuditProgress(response.progress.replica, response.progress.lines)
                        case "verdict":
                            yield verdict_from(response.verdict)
                        case "unreachable":
                            yield unreachable_from(response.unreachable)
        finally:
            call.cancel()

    async def audit_heads(self, *, timeout_s: float = 60.0) -> AsyncGenerator[AuditHead | ReplicaUnreachable]:
        """The signed heads of every gateway's log, oldest first."""
        call = self._audit_stub.ListHeads(audit_pb2.ListHeadsRequest(), timeout=timeout_s, metadata=self._metadata)
        try:
            with self._errors():
                async for response in call:
                    if response.WhichOneof("result") == "unreachable":
                        yield unreachable_from(response.unreachable)
                    else:
                        head = response.head
                        yield AuditHead(head.replica, head.sequence, head.time.ToDatetime(UTC), head.line, head.public_key)
        finally:
            call.cancel()
