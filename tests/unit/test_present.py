"""Documents as people read them."""

from __future__ import annotations

import datetime as dt

import pytest

from ragkeep_client.events import StoredDocument
from ragkeep_client.present import document_text, shown
from ragkeep_client.values import FieldValue

MOMENT = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"), (False, "false"), (61000.0, "61000"), (-0.0, "0"), (12.5, "12.5"), (2.0**60, "1.152921504606847e+18"),
        ("x\x1b[2J", "x[2J"), (MOMENT, "2026-01-31T12:00:00+00:00"),
    ],
)  # fmt: skip
def test_a_value_is_shown_as_it_would_be_imported(value: FieldValue, text: str) -> None:
    """Not as Python writes it."""
    assert shown(value) == text


def test_fields_are_in_the_order_of_the_collection() -> None:
    """One that it does not have any more comes last."""
    fields = {"cost": 61000.0, "title": "a\nb", "gone": "x", "body": "c"}
    text = document_text(StoredDocument("1", fields, (), b"", 1), ["title", "body", "cost"]).plain
    assert text.splitlines()[1:] == ["  title: a", "    b", "  body: c", "  cost: 61000", "  gone: x"]
