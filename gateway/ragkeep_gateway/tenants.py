"""The tenants as the gateway knows them: the retriever's records, kept for a moment, and whether a call's tenant is active."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from ragkeep.retriever.v1 import retriever_pb2
from ragkeep.retriever.v1.retriever_pb2 import TenantRecord
from ragkeep_runtime.access import Rule
from ragkeep_runtime.call import Call
from ragkeep_runtime.channel import errors_of
from ragkeep_runtime.errors import DeadlineExceeded, EngineUnreachable, NotReady, TenantInactive, TenantUnknown

if TYPE_CHECKING:
    from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub

# A deactivation is known to every gateway within two seconds; and a bound, since callers of any tenant may name anything.
_FRESH_S, _MOST_KEPT = 1.5, 10_000
# While the retriever cannot say, what it said last stays true for a while.
_STALE_S = 60.0


class Tenants:
    """Knows tenants. Its `check` is asked for every call."""

    def __init__(self, retriever: RetrieverServiceAsyncStub, rules: Callable[[], Mapping[str, Rule]]) -> None:
        self._retriever = retriever
        self._rules = rules
        self._kept: dict[str, tuple[float, TenantRecord | None]] = {}
        self._asking: dict[str, asyncio.Task[TenantRecord | None]] = {}

    @cached_property
    def _operators_methods(self) -> frozenset[str]:
        # They act on the installation, not in a tenant: else who deactivates the operator's own tenant is locked out.
        return frozenset(method for method, rule in self._rules().items() if rule.operator)

    async def check(self, call: Call) -> None:
        """Raises TenantInactive where the call acts in a tenant that is not active."""
        if not call.tenant or call.method in self._operators_methods:
            return
        record = await self.get(call.tenant)
        if record is not None and not record.active:
            raise TenantInactive("The tenant is not active. Its operator can say why, and activate it again.")

    async def get(self, name: str) -> TenantRecord | None:
        """The tenant's record, at most 1.5 s old; None where there is none. Older where the retriever cannot be reached."""
        now = asyncio.get_running_loop().time()
        kept = self._kept.get(name)
        if kept is not None and now - kept[0] < _FRESH_S:
            return kept[1]
        # One question for all that wait, and it goes on where one of them leaves.
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = asyncio.create_task(self._ask(name))
            asking.add_done_callback(lambda _done: self._asking.pop(name, None))
        try:
            return await asyncio.shield(asking)
        except (NotReady, EngineUnreachable, DeadlineExceeded):
            if kept is not None and now - kept[0] < _STALE_S:
                return kept[1]
            raise

    async def now(self, name: str) -> TenantRecord | None:
        """The tenant's record as the retriever has it now: for what is stored under it."""
        return await self._ask(name)

    async def make(self, name: str) -> tuple[TenantRecord, bool]:
        """The tenant's record, and whether it was made now."""
        with errors_of("retriever"):
            response = await self._retriever.EnsureTenant(retriever_pb2.EnsureTenantRequest(name=name))
        self.forget(name)
        return response.tenant, response.made

    async def all(self) -> retriever_pb2.ListTenantsResponse:
        """Every tenant with its documents."""
        with errors_of("retriever"):
            return await self._retriever.ListTenants(retriever_pb2.ListTenantsRequest())

    async def set_active(self, name: str, active: bool) -> TenantRecord:
        """Raises TenantUnknown, TenantInactive."""
        request = retriever_pb2.SetTenantActiveRequest(name=name, active=active)
        with errors_of("retriever"):
            response = await self._retriever.SetTenantActive(request)
        self.forget(name)
        return response.tenant

    async def delete(self, name: str) -> dict[str, int]:
        """How many documents went, by collection. Raises TenantUnknown."""
        try:
            with errors_of("retriever"):
                response = await self._retriever.DeleteTenant(retriever_pb2.DeleteTenantRequest(name=name))
        finally:
            self.forget(name)
        return dict(response.documents)

    def forget(self, name: str) -> None:
        """The next `get` asks the retriever."""
        self._kept.pop(name, None)
        self._asking.pop(name, None)

    async def _ask(self, name: str) -> TenantRecord | None:
        now = asyncio.get_running_loop().time()
        record: TenantRecord | None = None
        try:
            with errors_of("retriever"):
                record = (await self._retriever.GetTenant(retriever_pb2.GetTenantRequest(name=name))).tenant
        except TenantUnknown:
            pass
        if len(self._kept) >= _MOST_KEPT:
            self._kept = {other: kept for other, kept in self._kept.items() if now - kept[0] < _FRESH_S}
        if len(self._kept) < _MOST_KEPT:
            self._kept[name] = (now, record)
        return record
