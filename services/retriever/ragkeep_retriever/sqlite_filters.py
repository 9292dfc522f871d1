"""Filters as SQL conditions on the table `documents d`. Values are always parameters."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from ragkeep_retriever.values import AllOf, AnyOf, Equals, FieldValue, Filter, InRange, Not

Condition = tuple[str, list[Any]]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def groups_condition(groups: frozenset[str] | None) -> Condition:
    """Documents that are open to the tenant or to one of the groups; None: every one."""
    if groups is None:
        return "1", []
    sql = "EXISTS (SELECT 1 FROM json_each(d.groups) AS g WHERE g.value IN (SELECT value FROM json_each(?)))"
    return sql, [json.dumps(["*", *sorted(groups)])]


def where(found: Filter | None) -> Condition:
    """The condition of a filter. Field names were checked against the collection: [a-z0-9_] only."""
    match found:
        case None:
            return "1", []
        case Equals(field, values):
            marks = ", ".join("?" * len(values))
            return f"{_field(field)} IN ({marks})", [_parameter(value) for value in values]
        case InRange(field, low, high):
            parts, parameters = [], []
            for operator, bound in ((">=", low), ("<", high)):
                if bound is not None:
                    parts.append(f"{_field(field)} {operator} ?")
                    parameters.append(_parameter(bound))
            return f"({' AND '.join(parts)})", parameters
        case AllOf(filters):
            return _joined(filters, " AND ")
        case AnyOf(filters):
            return _joined(filters, " OR ")
        case Not(inner):
            condition, parameters = where(inner)
            # An absent field makes the inner condition NULL; that document satisfies the negation.
            return f"NOT coalesce({condition}, 0)", parameters


def _joined(filters: tuple[Filter, ...], word: str) -> Condition:
    conditions = [where(one) for one in filters]
    return f"({word.join(c for c, _ in conditions)})", [p for _, parameters in conditions for p in parameters]


def _field(name: str) -> str:
    return f"json_extract(d.fields, '$.{name}')"


def _parameter(value: FieldValue) -> Any:
    if isinstance(value, datetime):
        return (value - _EPOCH) // timedelta(microseconds=1)
    return int(value) if isinstance(value, bool) else value
