"""`--filter EXPRESSION` → a filter of the contract, its values typed as the collection declares the fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ragkeep_client.client import Client
    from ragkeep_client.values import Filter


def _checked(arguments: list[str] | None) -> list[str]:
    from ragkeep_client.filter_syntax import FilterSyntaxError, parse

    for argument in arguments or []:
        try:
            parse(argument)
        except FilterSyntaxError as error:
            raise typer.BadParameter(error.shown()) from None
    return arguments or []


FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="EXPRESSION",
        callback=_checked,
        help="Only such documents, e.g. 'category=VPN', 'severity>=2 and not (category in (a, \"b c\"))', "
        "'created in [2026-01-01, 2026-07-01)'; several options: all must hold.",
    ),
]


def make_filter(arguments: Sequence[str], types: Mapping[str, str]) -> Filter | None:
    """The filter; None for no argument. `types` are the fields' types by name. A field that is not there is left for the
    gateway to refuse. Raises FilterSyntaxError or FilterTypeWrong."""
    from ragkeep_client.filter_expression import filter_of
    from ragkeep_client.filter_syntax import parse
    from ragkeep_client.values import AllOf

    filters = tuple(filter_of(parse(argument), types) for argument in arguments)
    if not filters:
        return None
    return filters[0] if len(filters) == 1 else AllOf(filters)


async def filter_for(client: Client, collection: str, arguments: Sequence[str]) -> Filter | None:
    """The filter for a collection of the gateway; asks for its fields only where there is something to filter by."""
    if not arguments:
        return None
    types = {
        field.name: field.type for one in await client.list_collections() if one.name == collection for field in one.fields
    }
    return make_filter(arguments, types)
