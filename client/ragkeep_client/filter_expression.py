"""Filters as text: an expression's tree typed by the collection's fields, and a filter written back as an expression.

A timestamp without a time is its whole day, UTC; one with a time has a zone, as in an import. The syntax: `filter_syntax`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from ragkeep_client.filter_syntax import WORDS, Condition, Joined, Negated, Tree, Word, parse

if TYPE_CHECKING:
    from ragkeep_client.values import FieldValue, Filter

_PLAIN_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse_filter(text: str, types: Mapping[str, str]) -> Filter:
    """The filter of an expression; `types` are the fields' types by name (`Collection.fields`).

    Raises FilterSyntaxError, or FilterTypeWrong for a value that is not of its field's type.
    """
    return filter_of(parse(text), types)


def filter_of(tree: Tree, types: Mapping[str, str]) -> Filter:
    """The filter, its values of the types that `types` gives the fields. A field that is not there is left for the gateway to
    refuse. Raises FilterTypeWrong."""
    from ragkeep_client.values import AllOf, AnyOf, NoneOf

    match tree:
        case Negated():
            return NoneOf(filter_of(tree.part, types))
        case Joined():
            parts = tuple(filter_of(part, types) for part in tree.parts)
            return AllOf(parts) if tree.word == "and" else AnyOf(parts)
        case Condition():
            return _Typed(tree, types.get(tree.field, "")).filter()


class _Typed:
    """A condition and its field's type; empty: there is no such field."""

    def __init__(self, condition: Condition, kind: str) -> None:
        self.condition = condition
        self.kind = kind

    def filter(self) -> Filter:
        from ragkeep_client.values import AnyOf, NoneOf, OneOf, Range

        field, values = self.condition.field, self.condition.values
        match self.condition.operator:
            case "=":
                return self.equal(values[0])
            case "!=":
                return NoneOf(self.equal(values[0]))
            case "in":
                if self.kind == "timestamp" and any(_day(word.text) for word in values):
                    days = tuple(self.equal(word) for word in values)
                    return days[0] if len(days) == 1 else AnyOf(days)
                return OneOf(field, tuple(self.value(word) for word in values))
            case ">=":
                return Range(field, at_least=self.begin(values[0]))
            case "<":
                return Range(field, less_than=self.begin(values[0]))
            case ">":
                return Range(field, at_least=self.end(values[0]))
            case "<=":
                return Range(field, less_than=self.end(values[0]))
            case "[)":
                return Range(field, self.begin(values[0]), self.begin(values[1]))
        return Range(field, self.begin(values[0]), self.end(values[1]))

    def equal(self, word: Word) -> Filter:
        from ragkeep_client.values import Equals, Range

        if self.kind == "timestamp" and _day(word.text):
            return Range(self.condition.field, self.begin(word), self.end(word))
        return Equals(self.condition.field, self.value(word))

    def value(self, word: Word) -> FieldValue:
        return typed(self.condition.field, word.text, self.kind, word.position)

    def begin(self, word: Word) -> FieldValue:
        """The bound itself: what is at it lies inside."""
        from ragkeep_runtime.errors import FilterTypeWrong

        if self.kind in ("text", "keyword", "boolean"):
            raise FilterTypeWrong(
                f"At character {self.condition.position + 1} of the filter: the field {self.condition.field[:64]} is a "
                f"{self.kind}; <, <=, >, >= and [ ] are for numbers and timestamps.",
                field="filter",
            )
        return self.value(word)

    def end(self, word: Word) -> FieldValue:
        """The least value after it: what is at it lies outside of what begins there."""
        from ragkeep_runtime.errors import FilterTypeWrong

        value = self.begin(word)
        if isinstance(value, datetime):
            try:
                return value + (timedelta(days=1) if _day(word.text) else timedelta(microseconds=1))
            except OverflowError:
                raise FilterTypeWrong(
                    f"At character {word.position + 1} of the filter: nothing is later than that.", field="filter"
                ) from None
        return math.nextafter(value, math.inf) if isinstance(value, float) else value


def _day(text: str) -> bool:
    """Whether a timestamp has no time."""
    try:
        date.fromisoformat(text.strip())
    except ValueError:
        return False
    return True


def typed(name: str, value: str, kind: str, position: int | None = None) -> FieldValue:
    """The value as the field's type wants it. Raises FilterTypeWrong."""
    from ragkeep_client.values import Keyword
    from ragkeep_runtime.errors import FilterTypeWrong

    try:
        if kind == "number":
            number = float(value)
            if not math.isfinite(number):
                raise ValueError
            return number
        if kind == "boolean":
            return {"true": True, "false": False}[value.strip().lower()]
        if kind == "timestamp":
            moment = datetime.fromisoformat(value.strip())
            if moment.tzinfo:
                return moment.astimezone(UTC)
            if not _day(value):
                raise ValueError("no zone")
            return moment.replace(tzinfo=UTC)
    except (ValueError, KeyError, OverflowError):
        example = {"number": "12.5", "boolean": "true", "timestamp": "2026-01-31T12:00:00Z"}[kind]
        forms = " (a whole day, or a time with its zone)" if kind == "timestamp" else ""
        where = "" if position is None else f"At character {position + 1} of the filter: "
        the = "The" if position is None else "the"
        raise FilterTypeWrong(
            f"{where}{the} field {name[:64]} is a {kind}{forms}, e.g. {name[:64]}={example}.", field="filter"
        ) from None
    return value if kind == "text" else Keyword(value)


def write_filter(wanted: Filter) -> str:
    """The filter as an expression that parses to it."""
    from ragkeep_client.values import AllOf, AnyOf, Equals, NoneOf, OneOf, Range

    match wanted:
        case Equals():
            return f"{_field(wanted.field)} = {_value(wanted.value)}"
        case OneOf():
            return f"{_field(wanted.field)} in ({', '.join(map(_value, wanted.values))})"
        case Range(field, low, None):
            return f"{_field(field)} >= {_value(low)}"
        case Range(field, None, high):
            return f"{_field(field)} < {_value(high)}"
        case Range(field, low, high):
            return f"{_field(field)} in [{_value(low)}, {_value(high)})"
        case AllOf(filters):
            return " and ".join(map(_part, filters))
        case AnyOf(filters):
            return " or ".join(map(_part, filters))
        case NoneOf():
            return f"not ({write_filter(wanted.filter)})"


def _part(wanted: Filter) -> str:
    from ragkeep_client.values import AllOf, AnyOf

    return f"({write_filter(wanted)})" if isinstance(wanted, AllOf | AnyOf) else write_filter(wanted)


def _field(name: str) -> str:
    return name if _PLAIN_FIELD.fullmatch(name) and name.lower() not in WORDS else _quoted(name)


def _value(value: FieldValue | None) -> str:
    from ragkeep_client.values import Sealed

    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, Sealed):
        # No filter can look into one; the gateway says so of the field.
        return _quoted(str(value))
    return _quoted(value) if isinstance(value, str) else repr(float(value or 0))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
