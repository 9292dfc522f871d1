"""What callers send: documents and filters, and their translation into the contract's messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ragkeep.types.v1 import types_pb2
from ragkeep_client.calls import SERVICE_TICKETS


class Keyword(str):
    """A word that is compared as a whole, e.g. a category. Plain `str` is text."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value that is there and not shown. Imported again it keeps what is stored."""

    unreadable: str = ""  # for an unsealer: SEALING_KEY_MISSING or SEALED_VALUE_DAMAGED; else empty
    key_id: str = ""  # the key that is missing

    def __str__(self) -> str:
        return f"«sealed{f': {self.unreadable} {self.key_id}'.rstrip() if self.unreadable else ''}»"


FieldValue = str | Keyword | float | bool | datetime | Sealed


@dataclass(frozen=True, slots=True)
class Document:
    """What a tenant puts into a collection."""

    id: str  # 1 to 256 printable characters, unique in the tenant's part of the collection
    fields: Mapping[str, FieldValue]  # as the collection declares them
    groups: tuple[str, ...] = ()  # that may see it; none: open to its tenant


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier question of a conversation and what was answered."""

    question: str
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Equals:
    """The field has this value."""

    field: str
    value: FieldValue


@dataclass(frozen=True, slots=True)
class OneOf:
    """The field has one of these values, 1 to 1,000."""

    field: str
    values: tuple[FieldValue, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """A number or timestamp field lies in [at_least, less_than); one bound may be absent."""

    field: str
    at_least: FieldValue | None = None
    less_than: FieldValue | None = None


@dataclass(frozen=True, slots=True)
class AllOf:
    """All hold, 1 to 100."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one holds, 1 to 100."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class NoneOf:
    """It does not hold."""

    filter: Filter


Filter = Equals | OneOf | Range | AllOf | AnyOf | NoneOf
Mode = Literal["hybrid", "vector", "keyword"]


@dataclass(frozen=True, slots=True)
class Search:
    """One search of a batch; None is the gateway's default."""

    query: str  # 1 to 8,000 characters
    collection: str = SERVICE_TICKETS
    limit: int | None = None  # passages at most, 1 to 1,000
    mode: Mode = "hybrid"
    filter: Filter | None = None
    alpha: float | None = None  # weight of the vector half, 0 to 1
    minimum_cosine: float | None = None  # drops what only the vector half found, below it
    passages_per_document: int = 0  # 0: any number
    explain: bool = False  # scores bring the ranks in both halves


def value_message(value: FieldValue) -> types_pb2.Value:
    """The contract's value. A timestamp without a zone is taken as UTC."""
    if isinstance(value, Sealed):
        return types_pb2.Value(sealed=types_pb2.SealedValue())
    # bool before float: a bool is an int.
    if isinstance(value, bool):
        return types_pb2.Value(boolean=value)
    if isinstance(value, (int, float)):
        return types_pb2.Value(number=value)
    if isinstance(value, datetime):
        message = types_pb2.Value()
        message.timestamp.FromDatetime(value if value.tzinfo else value.replace(tzinfo=UTC))
        return message
    if isinstance(value, Keyword):
        return types_pb2.Value(keyword=value)
    return types_pb2.Value(text=value)


def plain_value(message: types_pb2.Value) -> FieldValue:
    """The value as Python knows it. One of a kind that is not known is an empty text."""
    kind = message.WhichOneof("kind")
    if kind == "sealed":
        return Sealed(message.sealed.unreadable, message.sealed.key_id)
    if kind == "keyword":
        return Keyword(message.keyword)
    if kind == "number":
        return message.number
    if kind == "boolean":
        return message.boolean
    if kind == "timestamp":
        return message.timestamp.ToDatetime(UTC)
    return message.text


def document_message(document: Document) -> types_pb2.Document:
    """The contract's document."""
    fields = {name: value_message(value) for name, value in document.fields.items()}
    return types_pb2.Document(id=document.id, fields=fields, groups=document.groups)


def filter_message(wanted: Filter) -> types_pb2.Filter:
    """The contract's filter."""
    match wanted:
        case Equals():
            return types_pb2.Filter(equals=types_pb2.Comparison(field=wanted.field, value=value_message(wanted.value)))
        case OneOf():
            values = [value_message(value) for value in wanted.values]
            return types_pb2.Filter(one_of=types_pb2.Members(field=wanted.field, values=values))
        case Range():
            return types_pb2.Filter(
                range=types_pb2.Range(
                    field=wanted.field,
                    at_least=None if wanted.at_least is None else value_message(wanted.at_least),
                    less_than=None if wanted.less_than is None else value_message(wanted.less_than),
                )
            )
        case AllOf():
            return types_pb2.Filter(all_of=_all(wanted.filters))
        case AnyOf():
            return types_pb2.Filter(any_of=_all(wanted.filters))
        case NoneOf():
            return types_pb2.Filter(none_of=filter_message(wanted.filter))


def _all(filters: tuple[Filter, ...]) -> types_pb2.Filters:
    return types_pb2.Filters(filters=[filter_message(one) for one in filters])
