"""The gateway's RPCs for tenants, typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragkeep.gateway.v1 import tenants_pb2
from ragkeep_client.calls import Calls, writable
from ragkeep_client.tenants import DeletedTenant, Tenant, TenantList, tenant_from

if TYPE_CHECKING:
    from ragkeep.gateway.v1.tenants_pb2_grpc import TenantServiceAsyncStub


class TenantCalls(Calls):
    """Part of `Client`. All need the role admin, for the operator."""

    _tenants: TenantServiceAsyncStub

    async def list_tenants(self, *, timeout_s: float = 60.0) -> TenantList:
        """Every tenant with its documents and quotas."""
        with self._errors():
            response = await self._tenants.ListTenants(
                tenants_pb2.ListTenantsRequest(), timeout=timeout_s, metadata=self._metadata
            )
        return TenantList([tenant_from(one) for one in response.tenants], response.unnamed)

    async def create_tenant(self, name: str, *, timeout_s: float = 30.0) -> Tenant:
        """Makes it. Raises TenantExists."""
        with writable():
            request = tenants_pb2.CreateTenantRequest(name=name)
        with self._errors():
            response = await self._tenants.CreateTenant(request, timeout=timeout_s, metadata=self._metadata)
        return tenant_from(response.tenant)

    async def set_tenant_active(self, name: str, active: bool, *, timeout_s: float = 10.0) -> Tenant:
        """Activates or deactivates it; every gateway knows within two seconds. Raises TenantUnknown."""
        with writable():
            request = tenants_pb2.SetTenantActiveRequest(name=name, active=active)
        with self._errors():
            response = await self._tenants.SetTenantActive(request, timeout=timeout_s, metadata=self._metadata)
        return tenant_from(response.tenant)

    async def delete_tenant(self, name: str, *, timeout_s: float = 120.0) -> DeletedTenant:
        """Deletes one that is not active, with all that it has. Raises TenantActive, TenantUnknown."""
        with writable():
            request = tenants_pb2.DeleteTenantRequest(name=name)
        with self._errors():
            response = await self._tenants.DeleteTenant(request, timeout=timeout_s, metadata=self._metadata)
        return DeletedTenant(dict(sorted(response.documents.items())), response.left)
