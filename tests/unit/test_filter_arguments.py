"""`--filter` expressions and what they become: typed filters, or an error that points at its place."""

from __future__ import annotations

import math
import re
import string
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ragkeep_client import (
    AllOf,
    AnyOf,
    Equals,
    FilterSyntaxError,
    Keyword,
    NoneOf,
    OneOf,
    Range,
    parse_filter,
    write_filter,
)
from ragkeep_client.command import app
from ragkeep_client.filter_expression import typed
from ragkeep_client.filter_syntax import parse
from ragkeep_client.filters import make_filter
from ragkeep_client.values import Filter, filter_message
from ragkeep_runtime.errors import FilterTypeWrong

TYPES = {
    "category": "keyword",
    "title": "text",
    "floor": "number",
    "open": "boolean",
    "created": "timestamp",
    "not": "keyword",
}
DAY = datetime(2026, 1, 31, tzinfo=UTC)


def category(value: str) -> Equals:
    """The condition that most expressions here are made of."""
    return Equals("category", Keyword(value))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("category=账号管理", category("账号管理")),
        ("category=a=b", category("a=b")),
        (" category = two words ", category("two words")),
        ("category=a,b", category("a,b")),
        ("category=Printer (label)", category("Printer (label)")),
        ("category=5\" disk", category('5" disk')),
        ('category="a and (b"', category("a and (b")),
        (r"category='it\'s \\ \n'", category("it's \\ \n")),
        ('category=""', category("")),
        ("category!=a", NoneOf(category("a"))),
        ("not category=a", NoneOf(category("a"))),
        ("NOT (category=a)", NoneOf(category("a"))),
        ('"not"=a', Equals("not", Keyword("a"))),
        ("category in (a, b c ,\"d,)\")", OneOf("category", (Keyword("a"), Keyword("b c"), Keyword("d,)")))),
        ("category not in (a)", NoneOf(OneOf("category", (Keyword("a"),)))),
        ("category=sand or category=land", AnyOf((category("sand"), category("land")))),
        (
            "category=a and floor=2 or not open=true",
            AnyOf((AllOf((category("a"), Equals("floor", 2.0))), NoneOf(Equals("open", True)))),
        ),
        ("category=a and (floor=2 or open=true)", AllOf((category("a"), AnyOf((Equals("floor", 2.0), Equals("open", True)))))),
        ("floor>=2", Range("floor", at_least=2.0)),
        ("floor<2", Range("floor", less_than=2.0)),
        ("floor>2", Range("floor", at_least=math.nextafter(2.0, 3))),
        ("floor<=2", Range("floor", less_than=math.nextafter(2.0, 3))),
        ("floor in [1, 2)", Range("floor", 1.0, 2.0)),
        ("floor in [1, 2]", Range("floor", 1.0, math.nextafter(2.0, 3))),
        ("created=2026-01-31", Range("created", DAY, DAY + timedelta(days=1))),
        ("created<=2026-01-31", Range("created", less_than=DAY + timedelta(days=1))),
        ("created>2026-01-31", Range("created", at_least=DAY + timedelta(days=1))),
        ("created>=2026-01-31 and created<2026-02-01", AllOf((Range("created", DAY), Range("created", None, DAY + timedelta(1))))),
        ("created>2026-01-31T00:00Z", Range("created", at_least=DAY + timedelta(microseconds=1))),
        ("created in (2026-01-31)", Range("created", DAY, DAY + timedelta(days=1))),
        ("created in (2026-01-31T01:00+01:00)", OneOf("created", (DAY,))),
    ],
)  # fmt: skip
def test_an_expression_means_what_its_reader_expects(text: str, wanted: Filter) -> None:
    """Values of the field's type; `and` binds closer than `or`; a day without a time is the whole day."""
    assert parse_filter(text, TYPES) == wanted
    assert filter_message(wanted).IsInitialized()


def test_several_arguments_must_all_hold() -> None:
    """None is no filter."""
    assert make_filter([], {}) is None
    assert make_filter(["category=a"], TYPES) == category("a")
    assert make_filter(["category=a", "floor=2"], TYPES) == AllOf((category("a"), Equals("floor", 2.0)))


@pytest.mark.parametrize(
    ("kind", "text", "value", "member"),
    [
        ("keyword", "账号", Keyword("账号"), "keyword"),
        ("text", "x", "x", "text"),
        ("number", "-1.5", -1.5, "number"),
        ("boolean", "True", True, "boolean"),
        ("timestamp", "2026-01-31", datetime(2026, 1, 31, tzinfo=UTC), "timestamp"),
        ("timestamp", "2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC), "timestamp"),
    ],
)
def test_a_value_has_the_fields_type(kind: str, text: str, value: object, member: str) -> None:
    """As the collection declares it, down to the contract's message."""
    found = typed("field", text, kind)
    assert found == value
    assert type(found) is type(value)
    assert filter_message(Equals("field", found)).equals.value.WhichOneof("kind") == member


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("floor=two", "character 7 .*floor is a number, e.g. floor=12.5"),
        ("floor=nan", "number"),
        ("category=a and open=1", "character 21 .*open is a boolean, e.g. open=true"),
        (
            "created>=yesterday",
            "created is a timestamp .a whole day, or a time with its zone., e.g. created=2026-01-31T12:00:00Z",
        ),
        ("created>=2026-01-31T12:00", "created is a timestamp .a whole day, or a time with its zone"),
        ("created in [2026-01-31, 2026-02-01 12:00)", "character 25 .*a time with its zone"),
        ("created>9999-12-31", "nothing is later"),
        ("title>=a", "character 1 .*title is a text.*for numbers and timestamps"),
        ("open in [false, true)", "boolean"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(text: str, words: str) -> None:
    """The error names the field and shows how its values are written."""
    with pytest.raises(FilterTypeWrong, match=words):
        parse_filter(text, TYPES)


def test_a_field_that_is_not_there_is_left_for_the_gateway_to_refuse() -> None:
    """It knows the collection's fields best."""
    assert parse_filter("nothing=x", TYPES) == Equals("nothing", Keyword("x"))
    assert parse_filter("nothing in [x, y]", TYPES) == Range("nothing", Keyword("x"), Keyword("y"))


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", 0, "a field was expected"),
        ("category", 8, "expected after the field"),
        ("category=", 9, 'an empty one is written ""'),
        ("=x", 0, "a field was expected"),
        ("category=a and", 14, "a field was expected"),
        ("category=a) b", 10, "the end was expected"),
        ("(category=a", 11, "“)” was expected"),
        ("category in a", 12, "“(” was expected"),
        ("category in (a", 14, "“,” or “)”"),
        ("category in ()", 13, "a value was expected"),
        ("category in [1, 2", 17, "“]”"),
        ("category not a", 13, "“in” was expected"),
        ('category="a', 9, "does not end"),
        ('category="a" b', 13, "the end was expected"),
        ("not " * 40 + "a=1", 127, "inside each other"),
        ("a=" + "x" * 16_000, 16_000, "at most 16000"),
    ],
)
def test_a_mistake_is_pointed_at(text: str, position: int, words: str) -> None:
    """By the place of its character; the last line shown has a mark under it."""
    with pytest.raises(FilterSyntaxError, match=re.escape(words)) as failed:
        parse(text)
    assert failed.value.position == position
    *_, line, mark = failed.value.shown().split("\n")
    assert mark.strip() == "^"
    assert line[mark.index("^") : mark.index("^") + 1].strip() == text[position : position + 1].strip()


def test_the_mark_stands_under_wide_characters_too() -> None:
    """A Chinese character takes two columns."""
    with pytest.raises(FilterSyntaxError) as failed:
        parse("类别=a) b")
    assert failed.value.shown().split("\n")[-1] == "  " + " " * 6 + "^"


@pytest.mark.parametrize("argument", ["category", "=x", " =x", "", "a=1 or"])
@pytest.mark.parametrize("command", ["ask", "search"])
def test_an_argument_that_is_no_expression_is_wrong_usage(command: str, argument: str) -> None:
    """Exit code 2, before anything is called."""
    result = CliRunner().invoke(app, [command, "x", "--filter", argument])
    assert result.exit_code == 2
    assert "at character" in result.output


@pytest.mark.parametrize("arguments", [["ask"], ["ask", "x", "--limit", "0"], ["search", "x", "--mode", "magic"], ["nothing"]])
def test_wrong_usage_exits_with_two(arguments: list[str]) -> None:
    """Typer's own checks."""
    assert CliRunner().invoke(app, arguments).exit_code == 2


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(["and", "a or b", '"', "\\", "(", "]"])
MOMENTS = st.datetimes(datetime(1000, 1, 1), datetime(9000, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = {
    "category": TEXTS.map(Keyword),
    "not": TEXTS.map(Keyword),
    "title": TEXTS,
    "floor": NUMBERS,
    "open": st.booleans(),
    "created": MOMENTS,
}


def _conditions() -> st.SearchStrategy[Filter]:
    fields = st.sampled_from(sorted(TYPES))
    equal = fields.flatmap(lambda name: VALUES[name].map(lambda value: Equals(name, value)))
    members = fields.flatmap(
        lambda name: st.lists(VALUES[name], min_size=1, max_size=3).map(lambda values: OneOf(name, tuple(values)))
    )
    bounds = st.sampled_from(["floor", "created"]).flatmap(
        lambda name: st.tuples(st.none() | VALUES[name], VALUES[name], st.booleans()).map(
            lambda two: Range(name, two[0], two[1]) if two[0] is not None or two[2] else Range(name, two[1], None)
        )
    )
    return st.one_of(equal, members, bounds)


def _several(filters: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    some = st.lists(filters, min_size=2, max_size=3).map(tuple)
    return st.one_of(some.map(AllOf), some.map(AnyOf), filters.map(NoneOf))


@settings(max_examples=100, deadline=None)
@given(st.recursive(_conditions(), _several, max_leaves=8))
def test_a_filter_that_is_written_parses_to_itself(wanted: Filter) -> None:
    """Whatever stands in its values."""
    assert parse_filter(write_filter(wanted), TYPES) == wanted


SYNTAX = st.lists(
    st.sampled_from(
        [
            *"category floor created = != < <= > in not and or ( ) [ ] , \" ' \\ 1 2026-01-31 账号 😀 \u202e".split(),
            " ",
            "\x00",
            "a b",
        ]
    ),
    max_size=24,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(st.text(string.printable + "账号\0", max_size=40) | SYNTAX)
@example("floor>=1e999")
@example("(" * 200)
@example("not " * 5000)
def test_any_text_is_a_filter_or_one_clear_error(text: str) -> None:
    """Never anything else; what was understood can be written and understood again."""
    failed: FilterTypeWrong | FilterSyntaxError | None = None
    try:
        found = parse_filter(text, TYPES)
    except (FilterTypeWrong, FilterSyntaxError) as error:
        failed = error
    if isinstance(failed, FilterSyntaxError):
        assert 0 <= failed.position <= len(text)
        assert failed.shown().startswith("at character ")
    elif failed is not None:
        assert failed.message.endswith(".")
    else:
        assert parse_filter(write_filter(found), TYPES) == found
