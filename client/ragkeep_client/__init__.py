"""The typed client for services that ask ragkeep, and the `ragkeep` command."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ragkeep_client.client import Client
    from ragkeep_client.events import (
        Change,
        Citation,
        Collection,
        Delta,
        Done,
        Event,
        Outcome,
        Scores,
        Source,
        Sources,
        Status,
        StoredDocument,
        Usage,
    )
    from ragkeep_client.schema import Field, Schema
    from ragkeep_client.values import AllOf, AnyOf, Document, Equals, FieldValue, Filter, Keyword, NoneOf, OneOf, Range
    from ragkeep_runtime.errors import RagkeepError
    from ragkeep_runtime.tls import Identity

__all__ = [
    "AllOf",
    "AnyOf",
    "Change",
    "Citation",
    "Client",
    "Collection",
    "Delta",
    "Document",
    "Done",
    "Equals",
    "Event",
    "Field",
    "FieldValue",
    "Filter",
    "Identity",
    "Keyword",
    "NoneOf",
    "OneOf",
    "Outcome",
    "RagkeepError",
    "Range",
    "Schema",
    "Scores",
    "Source",
    "Sources",
    "Status",
    "StoredDocument",
    "Usage",
]

_HOMES = {
    "Client": "ragkeep_client.client",
    "RagkeepError": "ragkeep_runtime.errors",
    "Identity": "ragkeep_runtime.tls",
    "Field": "ragkeep_client.schema",
    "Schema": "ragkeep_client.schema",
} | dict.fromkeys(
    ("AllOf", "AnyOf", "Document", "Equals", "FieldValue", "Filter", "Keyword", "NoneOf", "OneOf", "Range"),
    "ragkeep_client.values",
)


def __getattr__(name: str) -> Any:
    # On first use: the command must not wait for gRPC to say its version.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "ragkeep_client.events")), name)


def __dir__() -> list[str]:
    return __all__
