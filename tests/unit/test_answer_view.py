"""An answer on the terminal and as JSON lines, from the events of a stream."""

from __future__ import annotations

import json

import pytest

from ragkeep_client import Citation, Delta, Done, Event, Evidence, Rewritten, Scores, Source, Sources, Status, Usage
from ragkeep_client.answer import AnswerView, whole_words
from ragkeep_client.output import Output

EVIDENCE = Evidence(True, 0.25, 0.9, 0.8, 0.5, 0.04, ("vpn", "断", "断开"), ("断开",))
NOTHING = Evidence(False, 0.25, 0.81, 0.8, 0.5, 0.04, ("vpn", "断", "断开"), ("断开",))


def source(number: int, *, vector_rank: int | None = None, keyword_rank: int | None = None) -> Source:
    """A source that both, one or neither half found."""
    bm25 = None if keyword_rank is None else 4.2
    return Source(number, "VPN", f"T-{number}", 0, "text", {}, Scores(0.9, bm25, 0.5, vector_rank, keyword_rank), b"")


ANSWER: tuple[Event, ...] = (
    Status("rewriting"),
    Rewritten("VPN drops. And at home?", ""),
    Status("retrieving"),
    Sources((source(1, vector_rank=2), source(2, keyword_rank=1), source(3, vector_rank=1, keyword_rank=2)), EVIDENCE),
    Status("generating"),
    Delta("Restart it [1]"),
    Citation(1, 11, 14),
    Delta(" and\x1b[2J wait."),
    Usage(700, 20, 2048, (1, 2), (3,), 512, 1),
    Done("stop", "some-model", False),
)


def shown(capsys: pytest.CaptureFixture[str], *events: Event, explain: bool = False, as_json: bool = False) -> str:
    """What stands on stdout after these events."""
    view = AnswerView(Output(as_json), "And at home?", explain=explain)
    for event in events:
        view.take(event)
    view.end_line()
    return capsys.readouterr().out


def test_an_answer_tells_what_was_searched_cited_and_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of its events; a document cannot move the cursor."""
    text = shown(capsys, *ANSWER)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    assert lines[0] == "Searched for: VPN drops. And at home?"
    assert lines[1].startswith("[1] T-1 VPN")
    assert "Restart it [1] and[2J wait." in lines
    assert any(line.startswith("Not read, as the model's window of 2048 tokens was full: [3].") for line in lines)
    assert lines[-2:] == ["[1] T-1 VPN", "Written by some-model."]
    assert "by meaning" not in text


def test_an_explanation_adds_ranks_evidence_and_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    """What did not find a passage is said, not left out."""
    text = shown(capsys, *ANSWER, explain=True)
    assert "by meaning #2 (cosine 0.900), by words not found, fused 0.500" in text
    assert "by meaning not found (cosine 0.900), by words #1 (bm25 4.20), fused 0.500" in text
    assert "Evidence: 0.25 of the question's words in one passage (least 0.50)" in text
    assert "+0.100 from unrelated questions (least +0.040): enough." in text
    assert (
        "Window: 700 tokens of prompt and 20 of answer (at most 512) of 2048; passages read: [1], [2], 1 earlier turns." in text
    )


def test_an_honest_no_tells_what_was_looked_for_and_is_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    """Without the single characters that stand in longer tokens; where a model said no itself, the scores had nothing against it."""
    text = shown(capsys, Sources((), NOTHING), Delta("No."), Done("no_evidence", "quote", True))
    assert "Looked for: vpn, 断开" in text
    assert "In no passage found: 断开" in text
    by_model = shown(capsys, Sources((source(1),), EVIDENCE), Delta("No."), Done("no_evidence", "some-model", False))
    assert "not in the documents" not in by_model  # the answer says so itself
    assert "The answer is not in the documents." in shown(capsys, Sources((), NOTHING), Done("no_evidence", "quote", True))
    assert "Looked for" not in by_model


@pytest.mark.parametrize(
    ("text", "tokens", "words"),
    [
        ("巧克力蛋糕怎么烤？", ["巧克", "克力", "力蛋", "蛋糕"], ["巧克力蛋糕"]),
        ("VPN断开，重置密码", ["vpn", "断开", "重置", "密码"], ["VPN", "断开", "重置", "密码"]),
        ("How do I bake cakes? Bake!", ["bake", "cake", "peopl"], ["bake", "cakes", "peopl"]),
        (
            "Nearby companies having Jaguars",
            ["nearbi", "compani", "have", "jaguar"],
            ["Nearby", "companies", "having", "Jaguars"],
        ),
        ("A cat or a cake, in Cases", ["cat", "cake", "case"], ["cat", "cake", "Cases"]),
        ("Wie heißen die Flüsse?", ["heissen", "flüsse"], ["heißen", "Flüsse"]),
        ("Ticket T-1042", ["ticket", "t-1042", "t", "1042"], ["Ticket", "T-1042"]),
        ("Is nothing there: no", ["no", "there"], ["there", "no"]),
    ],
)
def test_what_was_looked_for_is_shown_in_whole_words(text: str, tokens: list[str], words: list[str]) -> None:
    """Pairs of characters that overlap are one word, a stem is the word that was typed, and none is found inside another word."""
    assert whole_words(text, tokens) == words


def test_machines_get_every_event_as_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Text as it came; the sources' evidence is a line of its own."""
    lines = [json.loads(line) for line in shown(capsys, *ANSWER, as_json=True).splitlines()]
    kinds = [next(iter(line)) for line in lines]
    assert kinds == [
        "status",
        "rewritten",
        "status",
        "sources",
        "evidence",
        "status",
        "delta",
        "citation",
        "delta",
        "usage",
        "done",
    ]
    assert lines[3]["sources"][0]["scores"] == {
        "cosine": 0.9,
        "bm25": None,
        "fused": 0.5,
        "vector_rank": 2,
        "keyword_rank": None,
    }
    assert lines[4]["evidence"]["missing"] == ["断开"]
    assert lines[8]["delta"]["text"] == " and\x1b[2J wait."
    assert lines[9]["usage"]["left_out"] == [3]
