"""RetrieverService's RPCs for tenants' records."""

from __future__ import annotations

from typing import Any

from ragkeep.retriever.v1 import retriever_pb2
from ragkeep_retriever.store import PassageStore
from ragkeep_retriever.values import TenantRecord
from ragkeep_runtime.errors import InvalidRequest
from ragkeep_runtime.telemetry import span


class TenantMethods:
    """Part of RetrieverService."""

    _store: PassageStore

    async def EnsureTenant(
        self, request: retriever_pb2.EnsureTenantRequest, context: Any
    ) -> retriever_pb2.EnsureTenantResponse:
        """With its salt."""
        record, made = await self._store.ensure_tenant(_name(request.name))
        return retriever_pb2.EnsureTenantResponse(tenant=_message(record, salt=True), made=made)

    async def GetTenant(self, request: retriever_pb2.GetTenantRequest, context: Any) -> retriever_pb2.GetTenantResponse:
        """With its salt."""
        record = await self._store.tenant(_name(request.name))
        return retriever_pb2.GetTenantResponse(tenant=_message(record, salt=True))

    async def ListTenants(self, request: retriever_pb2.ListTenantsRequest, context: Any) -> retriever_pb2.ListTenantsResponse:
        """All of them."""
        with span("store.tenants"):
            found = await self._store.tenants(count=not request.without_documents)
        return retriever_pb2.ListTenantsResponse(
            tenants=[
                retriever_pb2.TenantSummary(tenant=_message(record), documents=documents) for record, documents in found.tenants
            ],
            unnamed=found.unnamed,
        )

    async def SetTenantActive(
        self, request: retriever_pb2.SetTenantActiveRequest, context: Any
    ) -> retriever_pb2.SetTenantActiveResponse:
        """What the gateway then holds every call of the tenant to."""
        record = await self._store.set_tenant_active(_name(request.name), request.active)
        return retriever_pb2.SetTenantActiveResponse(tenant=_message(record))

    async def DeleteTenant(
        self, request: retriever_pb2.DeleteTenantRequest, context: Any
    ) -> retriever_pb2.DeleteTenantResponse:
        """All of it."""
        with span("store.delete_tenant"):
            documents = await self._store.delete_tenant(_name(request.name))
        return retriever_pb2.DeleteTenantResponse(documents=documents)


def _name(name: str) -> str:
    if not 1 <= len(name) <= 128:
        raise InvalidRequest("A tenant's name has 1 to 128 characters.", field="name")
    return name


def _message(record: TenantRecord, *, salt: bool = False) -> retriever_pb2.TenantRecord:
    message = retriever_pb2.TenantRecord(
        name=record.name,
        active=record.active,
        salt=record.salt if salt else b"",
        deleting=record.deleting is not None,
    )
    message.created.FromDatetime(record.created)
    return message
