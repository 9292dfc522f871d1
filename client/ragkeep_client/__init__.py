"""The typed client for services that ask ragkeep, and the `ragkeep` command."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ragkeep_client.audit import (
        AuditEntry,
        AuditFault,
        AuditHead,
        AuditProgress,
        AuditVerdict,
        ReplicaUnreachable,
    )
    from ragkeep_client.client import Client
    from ragkeep_client.events import (
        Change,
        Citation,
        Collection,
        Delta,
        Done,
        Event,
        Evidence,
        Outcome,
        Rewritten,
        Scores,
        Source,
        Sources,
        Status,
        StoredDocument,
        Usage,
    )
    from ragkeep_client.filter_expression import parse_filter, write_filter
    from ragkeep_client.filter_syntax import FilterSyntaxError
    from ragkeep_client.key_calls import Rotation
    from ragkeep_client.models import Embeddings, InstalledModel, LoadedModel, PullProgress, ServiceModels
    from ragkeep_client.schema import Field, Schema
    from ragkeep_client.tenants import DeletedTenant, Quotas, Tenant, TenantList
    from ragkeep_client.values import (
        AllOf,
        AnyOf,
        Document,
        Equals,
        FieldValue,
        Filter,
        Keyword,
        NoneOf,
        OneOf,
        Range,
        Sealed,
        Search,
        Turn,
    )
    from ragkeep_runtime.errors import RagkeepError
    from ragkeep_runtime.tls import Identity

__all__ = [
    "AllOf",
    "AnyOf",
    "AuditEntry",
    "AuditFault",
    "AuditHead",
    "AuditProgress",
    "AuditVerdict",
    "Change",
    "Citation",
    "Client",
    "Collection",
    "DeletedTenant",
    "Delta",
    "Document",
    "Done",
    "Embeddings",
    "Equals",
    "Event",
    "Evidence",
    "Field",
    "FieldValue",
    "Filter",
    "FilterSyntaxError",
    "Identity",
    "InstalledModel",
    "Keyword",
    "LoadedModel",
    "NoneOf",
    "OneOf",
    "Outcome",
    "PullProgress",
    "Quotas",
    "RagkeepError",
    "Range",
    "ReplicaUnreachable",
    "Rewritten",
    "Rotation",
    "Schema",
    "Scores",
    "Sealed",
    "Search",
    "ServiceModels",
    "Source",
    "Sources",
    "Status",
    "StoredDocument",
    "Tenant",
    "TenantList",
    "Turn",
    "Usage",
    "parse_filter",
    "write_filter",
]

_HOMES = (
    {
        "Client": "ragkeep_client.client",
        "Rotation": "ragkeep_client.key_calls",
        "RagkeepError": "ragkeep_runtime.errors",
        "Identity": "ragkeep_runtime.tls",
    }
    | dict.fromkeys(
        ("AuditEntry", "AuditFault", "AuditHead", "AuditProgress", "AuditVerdict", "ReplicaUnreachable"), "ragkeep_client.audit"
    )
    | dict.fromkeys(("Field", "Schema"), "ragkeep_client.schema")
    | dict.fromkeys(("DeletedTenant", "Quotas", "Tenant", "TenantList"), "ragkeep_client.tenants")
    | dict.fromkeys(
        (
            "AllOf",
            "AnyOf",
            "Document",
            "Equals",
            "FieldValue",
            "Filter",
            "Keyword",
            "NoneOf",
            "OneOf",
            "Range",
            "Sealed",
            "Search",
            "Turn",
        ),
        "ragkeep_client.values",
    )
    | dict.fromkeys(("Embeddings", "InstalledModel", "LoadedModel", "PullProgress", "ServiceModels"), "ragkeep_client.models")
    | {"FilterSyntaxError": "ragkeep_client.filter_syntax"}
    | dict.fromkeys(("parse_filter", "write_filter"), "ragkeep_client.filter_expression")
)


def __getattr__(name: str) -> Any:
    # On first use: the command must not wait for gRPC to say its version.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "ragkeep_client.events")), name)


def __dir__() -> list[str]:
    return __all__
