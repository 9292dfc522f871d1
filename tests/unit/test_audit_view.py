"""How lines of the audit log are shown: one line each, and nothing that a caller wrote looks like more."""

from __future__ import annotations

import contextlib
import io
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from ragkeep_client.audit import AuditEntry
from ragkeep_client.audit_view import COLUMNS, row_of, show_entry, show_header
from ragkeep_client.output import Output

FORGED = "q\n2026-11-25 02:40:00 asked    Ask               caller/hr/boss  tenant=alpha"


def _shown(**facts: object) -> str:
    entry = AuditEntry("gw-0", 1, datetime(2026, 11, 25, tzinfo=UTC), "asked", facts, "{}")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        show_entry(Output(as_json=False), entry)
    return out.getvalue()


@pytest.mark.parametrize("name", ["question", "collection", "model", "peer", "subject", "tenant", "documents"])
def test_no_line_is_forged(name: str) -> None:
    """A line's end in what a caller sent is shown as what it is, between quotes."""
    shown = _shown(**{"peer": "caller/x/y", name: [FORGED] if name == "documents" else FORGED})
    assert len(shown.splitlines()) == 1
    assert '"q\\n2026' in shown


def test_no_fact_is_forged() -> None:
    """What looks like a name and a value inside a text stands between its quotes."""
    shown = _shown(peer="caller/x/y", question='why  documents=H-1 "x')
    assert r'question="why  documents=H-1 \"x"' in shown
    assert "collection=tickets" in _shown(peer="caller/x/y", collection="tickets")


def test_columns_stand_below_their_names_and_times_are_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the reader is, and whatever script a person's name has; what is not known is a dash."""
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        rows = [
            _shown(subject="李伟", method="/x/Ask", outcome="OK", documents=[]),
            _shown(peer="caller/a/b", method="/x/GetDocument"),
        ]
    finally:
        monkeypatch.undo()
        time.tzset()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        show_header(Output(as_json=False))
        show_header(Output(as_json=True))
    (header,) = out.getvalue().splitlines()
    assert header.split() == ["TIME", "(UTC)", "LINE", "KIND", "RPC", "OUTCOME", "WHO"]
    assert {row[:21] for row in rows} == {"2026-11-25 00:00:00Z "}
    for name, texts in {
        "LINE": ("gw-0:1", "gw-0:1"),
        "RPC": ("Ask", "GetDocument"),
        "OUTCOME": ("OK", "–"),
        "WHO": ("李伟", "caller/a/b"),
    }.items():
        assert [row[header.index(name) :].split()[0] for row in rows] == list(texts)
    assert cell_len(rows[0][: rows[0].index("documents=–")]) == header.index("WHO") + 20
    assert rows[0].endswith("documents=–\n")


def test_outcomes_are_told_as_numbers_of_what() -> None:
    """Not as JSON; none is a dash."""
    assert "outcomes=3 created, 1 rejected" in _shown(peer="caller/x/y", outcomes={"created": 3, "rejected": 1})
    assert "outcomes=–" in _shown(peer="caller/x/y", outcomes={})


def test_a_spreadsheet_lacks_no_fact() -> None:
    """What has no column of its own stands in the last one, as JSON: how many refusals were counted, what was repaired."""
    facts = {"kind": "refused", "outcome": "NOT_ALLOWED", "times": 40, "documents": ["a", "b"], "question_hmac": "00"}
    entry = AuditEntry("gw-0", 1, datetime(2026, 11, 25, tzinfo=UTC), "refused", facts, "{}")
    row = dict(zip(COLUMNS, row_of(entry), strict=True))
    assert {name: cell for name, cell in row.items() if cell} == {
        "kind": "refused",
        "outcome": "NOT_ALLOWED",
        "documents": "a; b",
        "question": "00",
        "more": '{"times": 40}',
    }


@given(st.text(max_size=40), st.lists(st.text(max_size=20), max_size=3))
@settings(max_examples=300, deadline=None)
def test_any_text_is_one_line(text: str, documents: list[str]) -> None:
    """Separators of Unicode, controls and bidi characters too."""
    shown = _shown(peer=text, question=text, documents=documents)
    assert len(shown.splitlines()) == 1
    assert shown.rstrip("\n").isprintable()
