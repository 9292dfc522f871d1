"""A filter held against a document's fields in this process, for where an engine cannot do it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ragkeep_retriever.values import AllOf, AnyOf, Equals, FieldValue, Filter, InRange, Not


def matches(found: Filter | None, fields: Mapping[str, FieldValue]) -> bool:
    """Whether the filter holds; an absent field fulfils no comparison, and so fulfils a negation."""
    match found:
        case None:
            return True
        case Equals(field, values):
            return field in fields and fields[field] in values
        case InRange(field, low, high):
            # Of one type: the service has checked it.
            value: Any = fields.get(field)
            return value is not None and (low is None or value >= low) and (high is None or value < high)
        case AllOf(filters):
            return all(matches(one, fields) for one in filters)
        case AnyOf(filters):
            return any(matches(one, fields) for one in filters)
        case Not(inner):
            return not matches(inner, fields)
