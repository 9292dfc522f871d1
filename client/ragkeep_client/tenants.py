"""Tenants as the operator gets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from ragkeep.gateway.v1 import tenants_pb2


@dataclass(frozen=True, slots=True)
class Quotas:
    """How much the policy file allows; None: any amount."""

    documents: int | None  # in all collections together
    questions_per_minute: int | None
    concurrent_streams: int | None
    tokens_per_day: int | None


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant."""

    name: str
    active: bool  # whether its calls are served
    created: datetime  # in UTC; of one older than records are: when its record was made
    deleting: bool  # its deletion began and did not end: delete it again
    documents: Mapping[str, int]  # by collection; told by `list_tenants` alone
    quotas: Quotas


@dataclass(frozen=True, slots=True)
class TenantList:
    """All of them."""

    tenants: list[Tenant]  # by name
    unnamed: int  # have documents from before there were records, under a hash: named once they call again


@dataclass(frozen=True, slots=True)
class DeletedTenant:
    """What went, and what did not."""

    documents: Mapping[str, int]  # by collection
    left: str  # a sentence on what backups and logs still hold


def tenant_from(message: tenants_pb2.Tenant) -> Tenant:
    """As the gateway tells it."""
    said = {field.name: value for field, value in message.quotas.ListFields()}
    return Tenant(
        name=message.name,
        active=message.active,
        created=message.created.ToDatetime(tzinfo=UTC),
        deleting=message.deleting,
        documents=dict(sorted(message.documents.items())),
        quotas=Quotas(
            said.get("documents"), said.get("questions_per_minute"), said.get("concurrent_streams"), said.get("tokens_per_day")
        ),
    )
