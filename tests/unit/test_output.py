"""What the command writes acts on no terminal."""

from __future__ import annotations

import json

import pytest

from ragkeep_client.output import Output, plain

ACTING = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u202a", "\u202e", "\u2066", "\u2069", "\U000e0041"]


def test_plain_text_holds_no_control() -> None:
    """But tab and newline; letters of all scripts, emoji and their joiners stay."""
    assert plain("".join(ACTING)) == "\t\n"
    assert plain("\x1b]0;owned\x07\x1b[2J\x9b31mx") == "]0;owned[2J31mx"
    for text in ("打印机 Grüße שלום\u200f عربي", "👩\u200d👧", "a\tb\nc"):
        assert plain(text) == text


def test_json_lines_hold_no_control_and_the_same_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Escaped, as JSON has it, so that machines read every character and a terminal obeys none."""
    text = "".join(ACTING) + "打印机"
    Output(as_json=True).line("text", text)
    written = capsys.readouterr().out
    assert plain(written).replace("\U000e0041", "") == written.replace("\U000e0041", "")
    assert "打印机" in written
    assert json.loads(written) == {"text": text}
