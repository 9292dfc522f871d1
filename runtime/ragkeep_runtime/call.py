"""The call that is being served: who makes it, for which tenant, until when. Set by the server's edge, read anywhere below."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as the edge admitted it."""

    peer: str  # the path of the caller's SPIFFE id, e.g. "gateway"
    tenant: str  # empty where the method is for named peers: they bring a Scope
    roles: frozenset[str]
    request_id: str
    deadline: float  # on the event loop's clock
    metadata: dict[str, str] = field(default_factory=dict)


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
