"""The call that is being served: who makes it, for which tenant, until when. Set by the server's edge, read anywhere below."""

from __future__ import annotations

import asyncio
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragkeep_runtime.errors import RagkeepError


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as the edge admitted it."""

    method: str  # the RPC's path; that whose rule a route of HTTP has
    peer: str  # the path of the caller's SPIFFE id, e.g. "gateway"; empty where a person came over HTTPS
    tenant: str  # empty where the method is for named peers: they bring a Scope
    roles: frozenset[str]
    request_id: str
    deadline: float  # on the event loop's clock
    metadata: dict[str, str] = field(default_factory=dict)
    subject: str = ""  # the person's `sub`; empty: the peer acts for itself
    token: str = ""  # the id of the person's token, its `jti`; empty: it has none
    groups: frozenset[str] | None = frozenset()  # of documents that are seen beside open ones; None: every document
    operator: bool = False  # it acts for the operator, see Access.operator
    id: str = field(default_factory=lambda: uuid.uuid4().hex)  # ours; the request id is the caller's to choose
    on_record: set[str] = field(default_factory=set, compare=False)  # kinds of lines that the audit log was given of it
    cut_off: list[RagkeepError] = field(default_factory=list, compare=False)  # the refusal that it was ended for while it ran


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)


def call() -> Call:
    """The call being served. Raises RuntimeError outside one."""
    found = current_call.get()
    if found is None:
        raise RuntimeError("there is no call here")
    return found


def seconds_left() -> float | None:
    """Seconds until the call's deadline; None outside a call."""
    found = current_call.get()
    return None if found is None else found.deadline - asyncio.get_running_loop().time()
