"""A filter message to the port's tree, checked against the collection."""

from __future__ import annotations

from ragkeep.types.v1 import types_pb2 as pb
from ragkeep_retriever.convert import kind_of, value_of
from ragkeep_retriever.values import AllOf, AnyOf, Collection, Equals, FieldType, FieldValue, Filter, InRange, Not
from ragkeep_runtime.errors import FieldSealed, FilterFieldUnknown, FilterTypeWrong, InvalidRequest

MAX_DEPTH, MAX_FILTERS, MAX_VALUES = 8, 100, 1000
# Of a whole filter: a hundred in each of eight levels would be more than any engine takes.
MAX_CONDITIONS, MAX_ALL_VALUES = 1000, 10_000


def filter_of(message: pb.Filter, collection: Collection) -> Filter:
    """The filter. Raises FieldSealed, FilterFieldUnknown, FilterTypeWrong or InvalidRequest."""
    _check_size(message)
    return _filter(message, collection, 1)


def _check_size(message: pb.Filter) -> None:
    conditions = values = 0
    left = [message]
    while left:
        one = left.pop()
        conditions += 1
        values += len(one.one_of.values) or 1
        if conditions > MAX_CONDITIONS or values > MAX_ALL_VALUES:
            raise InvalidRequest(
                f"A filter has at most {MAX_CONDITIONS} conditions and {MAX_ALL_VALUES} values in all.", field="filter"
            )
        left += one.all_of.filters
        left += one.any_of.filters
        if one.HasField("none_of"):
            left.append(one.none_of)


def _filter(message: pb.Filter, collection: Collection, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"A filter is at most {MAX_DEPTH} deep.", field="filter")
    match message.WhichOneof("node"):
        case "equals":
            field = _field(message.equals.field, collection)
            return Equals(message.equals.field, (_value(message.equals.value, message.equals.field, field),))
        case "one_of":
            values = message.one_of.values
            if not 1 <= len(values) <= MAX_VALUES:
                raise InvalidRequest(f"one_of holds 1 to {MAX_VALUES} values.", field="filter.one_of.values")
            field = _field(message.one_of.field, collection)
            return Equals(message.one_of.field, tuple(_value(value, message.one_of.field, field) for value in values))
        case "range":
            return _range(message.range, collection)
        case "all_of":
            return AllOf(_several(message.all_of, collection, depth))
        case "any_of":
            return AnyOf(_several(message.any_of, collection, depth))
        case "none_of":
            return Not(_filter(message.none_of, collection, depth + 1))
    raise InvalidRequest("A filter is empty.", field="filter")


def _several(message: pb.Filters, collection: Collection, depth: int) -> tuple[Filter, ...]:
    if not 1 <= len(message.filters) <= MAX_FILTERS:
        raise InvalidRequest(f"all_of and any_of hold 1 to {MAX_FILTERS} filters.", field="filter")
    return tuple(_filter(one, collection, depth + 1) for one in message.filters)


def _range(message: pb.Range, collection: Collection) -> Filter:
    kind = _field(message.field, collection)
    if kind not in (FieldType.NUMBER, FieldType.TIMESTAMP):
        raise FilterTypeWrong(
            f"The field {message.field} is a {kind.value}; ranges are for numbers and timestamps.", field="filter"
        )
    low = _value(message.at_least, message.field, kind) if message.HasField("at_least") else None
    high = _value(message.less_than, message.field, kind) if message.HasField("less_than") else None
    if low is None and high is None:
        raise InvalidRequest("A range needs at_least, less_than, or both.", field="filter.range")
    return InRange(message.field, low, high)


def _field(name: str, collection: Collection) -> FieldType:
    filterable = {field.name: field.type for field in collection.fields if field.filterable}
    if any(field.sealed and field.name == name for field in collection.fields):
        raise FieldSealed(
            f"The field {name} is sealed: its values are encrypted, and no filter can look into them. Filter by another field.",
            field="filter",
        )
    if name not in filterable:
        offered = ", ".join(filterable) or "none"
        raise FilterFieldUnknown(
            f"The collection {collection.name} has no filterable field {name[:64]!r}; filterable are: {offered}.",
            field="filter",
        )
    return filterable[name]


def _value(message: pb.Value, name: str, wanted: FieldType) -> FieldValue:
    got = kind_of(message)
    if got is not wanted:
        said = got.value if got else "nothing"
        raise FilterTypeWrong(
            f"The field {name} is a {wanted.value}, and the filter's value is {said}.",
            field="filter",
            metadata={"wanted": wanted.value, "given": said},
        )
    return value_of(message)
