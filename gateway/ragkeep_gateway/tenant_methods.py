"""TenantService: what the operator does with tenants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ragkeep.gateway.v1 import tenants_pb2, tenants_pb2_grpc
from ragkeep.retriever.v1.retriever_pb2 import TenantRecord
from ragkeep_gateway.audit.record import Audit
from ragkeep_gateway.tenants import Tenants
from ragkeep_runtime.errors import InvalidRequest, TenantActive, TenantExists, TenantUnknown
from ragkeep_runtime.policy import Policy

LEFT = (
    "Backups of the store that were made before still hold the tenant's documents and its record: delete them too, or let them "
    "expire. Sealed fields open from such a backup only with the keyring of then and the record beside them. The audit log "
    "keeps its lines about the tenant until they are old enough, and the policy file what it says of it."
)


class TenantService(tenants_pb2_grpc.TenantServiceServicer):
    """Callers are admins who act for the operator: the edge saw to it."""

    def __init__(self, tenants: Tenants, policy: Callable[[], Policy], audit: Audit) -> None:
        self._tenants = tenants
        self._policy = policy
        self._audit = audit

    async def CreateTenant(self, request: tenants_pb2.CreateTenantRequest, context: Any) -> tenants_pb2.CreateTenantResponse:
        """Once."""
        async with self._audit.acting(about=request.name[:128]):
            name = _name(request.name)
            record, made = await self._tenants.make(name)
            if not made:
                raise TenantExists(f"There is a tenant {name[:64]!r} already.", field="name")
            return tenants_pb2.CreateTenantResponse(tenant=self._message(record))

    async def ListTenants(self, request: tenants_pb2.ListTenantsRequest, context: Any) -> tenants_pb2.ListTenantsResponse:
        """With their documents."""
        async with self._audit.asking() as asked:
            found = await self._tenants.all()
            await asked.shown()
            tenants = [self._message(one.tenant, one.documents) for one in found.tenants]
            return tenants_pb2.ListTenantsResponse(tenants=tenants, unnamed=found.unnamed)

    async def SetTenantActive(
        self, request: tenants_pb2.SetTenantActiveRequest, context: Any
    ) -> tenants_pb2.SetTenantActiveResponse:
        """Every gateway knows within two seconds."""
        async with self._audit.acting(about=request.name[:128]) as acted:
            record = await self._tenants.set_active(_name(request.name), request.active)
            acted.did(active=record.active)
            return tenants_pb2.SetTenantActiveResponse(tenant=self._message(record))

    async def DeleteTenant(self, request: tenants_pb2.DeleteTenantRequest, context: Any) -> tenants_pb2.DeleteTenantResponse:
        """Only one that is not active."""
        async with self._audit.acting(about=request.name[:128]) as acted:
            name = _name(request.name)
            self._tenants.forget(name)
            record = await self._tenants.get(name)
            if record is None:
                raise TenantUnknown(
                    f"There is no tenant {name[:64]!r}. `ragkeep tenants list` lists those that are.", field="name"
                )
            if record.active:
                raise TenantActive(f"The tenant {name[:64]!r} is active: deactivate it first.", field="name")
            documents = await self._tenants.delete(name)
            acted.did(deleted=sum(documents.values()))
            return tenants_pb2.DeleteTenantResponse(documents=documents, left=LEFT)

    def _message(self, record: TenantRecord, documents: Mapping[str, int] | None = None) -> tenants_pb2.Tenant:
        quotas = self._policy().quotas_of(record.name)
        return tenants_pb2.Tenant(
            name=record.name,
            active=record.active,
            created=record.created,
            deleting=record.deleting,
            documents=documents,
            quotas=tenants_pb2.Quotas(
                documents=quotas.documents,
                questions_per_minute=quotas.questions_per_minute,
                concurrent_streams=quotas.concurrent_streams,
                tokens_per_day=quotas.tokens_per_day,
            ),
        )


def _name(name: str) -> str:
    if not 1 <= len(name) <= 128 or not name.isprintable() or name != name.strip() or name == "*":
        raise InvalidRequest("A tenant's name has 1 to 128 printable characters, and is not *.", field="name")
    return name
