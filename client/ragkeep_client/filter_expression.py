"""Filters as text, e.g. `category in (a, b) and not severity >= 3`: parsed, typed by the collection's fields, and written back.

    expression  = all { "or" all }
    all         = one { "and" one }
    one         = "not" one | "(" expression ")" | condition
    condition   = field ("=" | "!=") value
                | field ("<" | "<=" | ">" | ">=") value           numbers and timestamps
                | field ["not"] "in" "(" value { "," value } ")"   one of these
                | field ["not"] "in" "[" value "," value (")" | "]")  from … to before …, or up to …
    field       = a name, in quotes where it is a word of the syntax
    value       = text in "…" or '…' with \\" \\' \\\\ \\n \\t, or bare text up to and, or, ")" (in lists also ",")

A timestamp without a time is its whole day, UTC; one with a time has a zone, as in an import.
Parsing knows no types; `filter_of` gives them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragkeep_client.values import FieldValue, Filter

MAX_CHARACTERS, MAX_PARENTHESES = 16_000, 32
_WORDS = ("and", "or", "not", "in")
_FIELD = re.compile(r"[^\s=!<>()\[\],\"']+")
_PLAIN_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r"!=|<=|>=|=|<|>")
_ESCAPES = {"n": "\n", "t": "\t"}


class FilterSyntaxError(ValueError):
    """What is wrong, and where: `position` counts characters from 0."""

    def __init__(self, text: str, position: int, message: str) -> None:
        super().__init__(message)
        self.text = text
        self.position = position
        self.message = message

    def shown(self) -> str:
        """The message over the text with a mark under the place."""
        from ragkeep_client.output import plain

        begin, end = max(0, self.position - 60), self.position + 20
        head, tail = plain(self.text[begin : self.position]), plain(self.text[self.position : end])
        line = (head + tail).replace("\n", " ").replace("\t", " ")
        return f"at character {self.position + 1}: {self.message}\n  {line}\n  {' ' * _width(head)}^"


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


@dataclass(frozen=True, slots=True)
class Word:
    """A value as it was written."""

    text: str
    position: int


@dataclass(frozen=True, slots=True)
class Condition:
    """A field, what is asked of it, and the values."""

    field: str
    operator: str  # = != < <= > >= in [) []
    values: tuple[Word, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Joined:
    """Several that all hold ("and"), or of which one does ("or")."""

    word: str
    parts: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Negated:
    """One that does not hold."""

    part: Tree


Tree = Condition | Joined | Negated


def parse(text: str) -> Tree:
    """The expression's tree. Raises FilterSyntaxError."""
    if len(text) > MAX_CHARACTERS:
        raise FilterSyntaxError(text, MAX_CHARACTERS, f"a filter has at most {MAX_CHARACTERS} characters.")
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def whole(self) -> Tree:
        tree = self.joined("or", lambda: self.joined("and", self.one))
        self.blanks()
        if self.at < len(self.text):
            raise self.error("“and”, “or” or the end was expected here; a value with such characters goes in quotes.")
        return tree

    def joined(self, word: str, part: Callable[[], Tree]) -> Tree:
        parts = [part()]
        while self.takes_word(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Joined(word, tuple(parts))

    def one(self) -> Tree:
        self.depth += 1
        if self.depth > MAX_PARENTHESES:
            raise self.error(f"more than {MAX_PARENTHESES} parentheses and negations inside each other.")
        try:
            if self.takes_word("not"):
                return Negated(self.one())
            if self.takes("("):
                tree = self.joined("or", lambda: self.joined("and", self.one))
                self.expects(")")
                return tree
            return self.condition()
        finally:
            self.depth -= 1

    def condition(self) -> Tree:
        self.blanks()
        position = self.at
        field = self.field()
        self.blanks()
        if self.takes_word("not"):
            if not self.takes_word("in"):
                raise self.error("“in” was expected after “not”.")
            return Negated(self.members(field, position))
        if self.takes_word("in"):
            return self.members(field, position)
        operator = _OPERATOR.match(self.text, self.at)
        if operator is None:
            raise self.error("=, !=, <, <=, >, >= or “in” was expected after the field, e.g. category=VPN.")
        self.at = operator.end()
        return Condition(field, operator[0], (self.value(in_list=False),), position)

    def members(self, field: str, position: int) -> Condition:
        if self.takes("["):
            low = self.value(in_list=True)
            self.expects(",")
            high = self.value(in_list=True)
            if self.takes(")"):
                return Condition(field, "[)", (low, high), position)
            self.expects("]", "“)” (before this) or “]” (up to this) was expected.")
            return Condition(field, "[]", (low, high), position)
        self.expects("(", "“(” was expected, e.g. category in (a, b), or “[” for a range.")
        values = [self.value(in_list=True)]
        while self.takes(","):
            values.append(self.value(in_list=True))
        self.expects(")", "“,” or “)” was expected.")
        return Condition(field, "in", tuple(values), position)

    def field(self) -> str:
        if self.at < len(self.text) and self.text[self.at] in "\"'":
            return self.quoted()
        found = _FIELD.match(self.text, self.at)
        if found is None or found[0].lower() in _WORDS:
            raise self.error("a field was expected here, as in field=value.")
        self.at = found.end()
        return found[0]

    def value(self, *, in_list: bool) -> Word:
        self.blanks()
        position = self.at
        if self.at < len(self.text) and self.text[self.at] in "\"'":
            return Word(self.quoted(), position)
        opened = 0
        while self.at < len(self.text):
            character = self.text[self.at]
            if opened == 0 and (character == ")" or (in_list and character in ",]")):
                break
            if opened == 0 and character.isspace() and not in_list and self.word_follows():
                break
            opened += (character == "(") - (character == ")")
            self.at += 1
        found = self.text[position : self.at].rstrip()
        if not found:
            self.at = position
            raise self.error('a value was expected here; an empty one is written "".')
        return Word(found, position)

    def word_follows(self) -> bool:
        """Whether the blanks here lead to and, or."""
        return re.compile(r"\s+(?:and|or)(?=[\s(]|$)", re.IGNORECASE).match(self.text, self.at) is not None

    def quoted(self) -> str:
        quote, begin = self.text[self.at], self.at
        parts: list[str] = []
        at = begin + 1
        while at < len(self.text):
            character = self.text[at]
            if character == quote:
                self.at = at + 1
                return "".join(parts)
            if character == "\\" and at + 1 < len(self.text):
                at += 1
                character = _ESCAPES.get(self.text[at], self.text[at])
            parts.append(character)
            at += 1
        self.at = begin
        raise self.error("this quote does not end.")

    def blanks(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def takes(self, mark: str) -> bool:
        self.blanks()
        if self.text.startswith(mark, self.at):
            self.at += len(mark)
            return True
        return False

    def takes_word(self, word: str) -> bool:
        """The word, standing alone: `not=1` is a condition on a field of that name only in quotes."""
        self.blanks()
        after = self.at + len(word)
        if self.text[self.at : after].lower() != word:
            return False
        if after < len(self.text) and not (self.text[after].isspace() or self.text[after] in "([\"'"):
            return False
        self.at = after
        return True

    def expects(self, mark: str, message: str = "") -> None:
        if not self.takes(mark):
            raise self.error(message or f"“{mark}” was expected here.")

    def error(self, message: str) -> FilterSyntaxError:
        return FilterSyntaxError(self.text, self.at, message)


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
    return name if _PLAIN_FIELD.fullmatch(name) and name.lower() not in _WORDS else _quoted(name)


def _value(value: FieldValue | None) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return _quoted(value) if isinstance(value, str) else repr(float(value or 0))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
