"""`--filter field=value` → a filter of the contract, the value typed as the collection declares the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ragkeep_client.client import Client
    from ragkeep_client.values import FieldValue, Filter


def _checked(arguments: list[str] | None) -> list[str]:
    for argument in arguments or []:
        name, equals, _ = argument.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"{argument!r} is not field=value.")
    return arguments or []


FilterOption = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="FIELD=VALUE", callback=_checked, help="Only such documents; several: all must hold."),
]


def pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """(field, value) of each argument; a value may hold further equals signs."""
    found = (argument.partition("=") for argument in arguments)
    return [(name.strip(), value) for name, _, value in found]


def make_filter(arguments: Sequence[str], types: Mapping[str, str]) -> Filter | None:
    """The filter; None for no argument. `types` are the fields' types by name. A field that is not there is left for the
    gateway to refuse. Raises FilterTypeWrong."""
    from ragkeep_client.values import AllOf, Equals

    filters = tuple(Equals(name, typed(name, value, types.get(name, "keyword"))) for name, value in pairs(arguments))
    if not filters:
        return None
    return filters[0] if len(filters) == 1 else AllOf(filters)


def typed(name: str, value: str, kind: str) -> FieldValue:
    """The value as the field's type wants it. Raises FilterTypeWrong."""
    from datetime import UTC, datetime

    from ragkeep_client.values import Keyword
    from ragkeep_runtime.errors import FilterTypeWrong

    try:
        if kind == "number":
            return float(value)
        if kind == "boolean":
            return {"true": True, "false": False}[value.strip().lower()]
        if kind == "timestamp":
            moment = datetime.fromisoformat(value.strip())
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, KeyError):
        example = {"number": "12.5", "boolean": "true", "timestamp": "2026-01-31T12:00:00Z"}[kind]
        raise FilterTypeWrong(f"The field {name} is a {kind}, e.g. {name}={example}.", field="filter") from None
    return value if kind == "text" else Keyword(value)


async def filter_for(client: Client, collection: str, arguments: Sequence[str]) -> Filter | None:
    """The filter for a collection of the gateway; asks for its fields only where there is something to filter by."""
    if not arguments:
        return None
    types = {
        field.name: field.type for one in await client.list_collections() if one.name == collection for field in one.fields
    }
    return make_filter(arguments, types)
