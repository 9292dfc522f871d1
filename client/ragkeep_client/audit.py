"""What auditors get back: lines of the audit log, verdicts on it, its signed heads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from ragkeep.gateway.v1 import audit_pb2

AuditKind = Literal["asked", "finished", "refused", "acted", "repaired", "started"]
KINDS: tuple[str, ...] = get_args(AuditKind)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the log."""

    replica: str
    sequence: int  # in its replica, from 1, without a gap
    time: datetime
    kind: str  # an AuditKind, or a newer one
    facts: Mapping[str, Any]  # what the line says, its HMAC too
    line: str  # as it stands


@dataclass(frozen=True, slots=True)
class AuditFault:
    """The first line that is not as it was written."""

    what: str  # changed, removed, reordered, duplicated, torn, key missing, head false
    sequence: int  # as it has to be
    file: str
    line: int  # its place in the file, from 1
    why: str


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """What is proven of one replica's log."""

    replica: str
    lines: int
    first: int  # number of the first line that is kept
    last: int
    heads: int  # signed heads that agree
    head_sequence: int  # up to which line they prove it
    repaired: tuple[int, ...]  # numbers of lines that record a repair
    fault: AuditFault | None  # None: every line is as it was written
    withheld: bool = False  # numbers are the operator's to see: they are 0 here


@dataclass(frozen=True, slots=True)
class AuditProgress:
    """How far the proof of one replica is."""

    replica: str
    lines: int


@dataclass(frozen=True, slots=True)
class AuditHead:
    """A signed statement that the log was this long."""

    replica: str
    sequence: int
    time: datetime
    line: str  # JSON, with its signature
    public_key: str  # Ed25519, hex


@dataclass(frozen=True, slots=True)
class ReplicaUnreachable:
    """A gateway that could not be asked: its lines are missing."""

    address: str
    reason: str


def entry_from(message: audit_pb2.AuditEntry) -> AuditEntry:
    """As it came."""
    kind = audit_pb2.AuditKind.Name(message.kind).removeprefix("AUDIT_KIND_").lower() if message.kind else ""
    facts = json.loads(message.line)
    return AuditEntry(
        message.replica, message.sequence, message.time.ToDatetime(UTC), kind or str(facts.get("kind")), facts, message.line
    )


def verdict_from(message: audit_pb2.Verdict) -> AuditVerdict:
    """As it came."""
    fault = None
    if message.HasField("fault"):
        found = message.fault
        fault = AuditFault(found.what, found.sequence, found.file, found.line, found.why)
    return AuditVerdict(
        message.replica,
        message.lines,
        message.first,
        message.last,
        message.heads,
        message.head_sequence,
        tuple(message.repaired),
        fault,
        message.withheld,
    )


def unreachable_from(message: audit_pb2.ReplicaUnreachable) -> ReplicaUnreachable:
    """As it came."""
    return ReplicaUnreachable(message.address, message.reason)
