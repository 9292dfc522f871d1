"""`--filter field=value` and what it becomes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from ragkeep_client import AllOf, Equals, Keyword
from ragkeep_client.command import app
from ragkeep_client.filters import make_filter, pairs, typed
from ragkeep_client.values import filter_message
from ragkeep_runtime.errors import FilterTypeWrong


def test_a_value_may_hold_equals_signs() -> None:
    """Only the first one separates."""
    assert pairs(["category=a=b", " title =x"]) == [("category", "a=b"), ("title", "x")]


def test_one_filter_stands_alone_and_several_must_all_hold() -> None:
    """None is no filter."""
    one = Equals("category", Keyword("账号管理"))
    assert make_filter([], {}) is None
    assert make_filter(["category=账号管理"], {"category": "keyword"}) == one
    both = make_filter(["category=账号管理", "floor=2"], {"category": "keyword", "floor": "number"})
    assert both == AllOf((one, Equals("floor", 2.0)))


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


@pytest.mark.parametrize(("kind", "text"), [("number", "two"), ("boolean", "1"), ("timestamp", "yesterday")])
def test_a_value_of_another_type_is_refused_with_an_example(kind: str, text: str) -> None:
    """The error names the field and shows how its values are written."""
    with pytest.raises(FilterTypeWrong, match=f"The field floor is a {kind}, e.g. floor="):
        typed("floor", text, kind)


def test_a_field_that_is_not_there_is_left_for_the_gateway_to_refuse() -> None:
    """It knows the collection's fields best."""
    assert make_filter(["nothing=x"], {"category": "keyword"}) == Equals("nothing", Keyword("x"))


@pytest.mark.parametrize("argument", ["category", "=x", " =x", ""])
@pytest.mark.parametrize("command", ["ask", "search"])
def test_an_argument_that_is_no_pair_is_wrong_usage(command: str, argument: str) -> None:
    """Exit code 2, before anything is called."""
    result = CliRunner().invoke(app, [command, "x", "--filter", argument])
    assert result.exit_code == 2
    assert "is not field=value" in result.output


@pytest.mark.parametrize("arguments", [["ask"], ["ask", "x", "--limit", "0"], ["search", "x", "--mode", "magic"], ["nothing"]])
def test_wrong_usage_exits_with_two(arguments: list[str]) -> None:
    """Typer's own checks."""
    assert CliRunner().invoke(app, arguments).exit_code == 2
