"""Marks in a streamed answer: only those that name a passage, wherever the stream was cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragkeep_generator.citations import CitationFinder
from ragkeep_generator.language_model import Passage
from ragkeep_generator.prompt import assemble
from ragkeep_runtime.errors import ContextTooSmall

ANSWER = "重启打印服务 [2]。See also [1], [10] and [999]; not [x], not [0] 😀[1][2]"


@given(st.lists(st.integers(0, len(ANSWER)), max_size=12))
def test_citations_are_the_same_however_the_answer_was_cut(cuts: list[int]) -> None:
    """Positions are code points of the whole answer; numbers that were not given do not count."""
    places = sorted({0, len(ANSWER), *cuts})
    finder = CitationFinder({1, 2, 10})
    found = [c for a, b in itertools.pairwise(places) for c in finder.feed(ANSWER[a:b])]
    assert [c.number for c in found] == [2, 1, 10, 1, 2]
    assert all(ANSWER[c.start : c.end] == f"[{c.number}]" for c in found)


def test_the_prompt_is_in_the_questions_language_and_holds_passages_as_data() -> None:
    """Numbered, titled, before the question; citing and honesty are asked for."""
    passages = [Passage(1, "忘记密码", "用自助门户。"), Passage(2, "VPN", "Restart it.")]
    chinese = assemble("VPN 怎么办？", passages, 4000)
    assert "用中文回答" in chinese.system
    assert "[1]" in chinese.system
    assert chinese.user.index("[1] 忘记密码") < chinese.user.index("[2] VPN") < chinese.user.index("VPN 怎么办？")
    english = assemble("What now?", passages, 4000)
    assert "Answer in English" in english.system
    assert "not in the documents" in english.system
    assert english.used == (1, 2)


def test_passages_are_whole_or_left_out() -> None:
    """The window decides how many; the first ones go first; none is an error."""
    passages = [Passage(n, "", "字" * 300) for n in range(1, 10)]
    prompt = assemble("问题", passages, 1500)
    assert 1 < len(prompt.used) < 9
    assert prompt.user.count("字" * 300) == len(prompt.used)
    with pytest.raises(ContextTooSmall):
        assemble("问题", passages, 400)
