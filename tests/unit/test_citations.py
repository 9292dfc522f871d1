"""Marks in a streamed answer: only those that name a passage, wherever the stream was cut."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ragkeep_generator.citations import CitationFinder, has_mark

ANSWER = "重启打印服务 [2]。See also [1], [10] and [999]; not [x], not [0] 😀[1][2]"


@given(st.lists(st.integers(0, len(ANSWER)), max_size=12))
def test_citations_are_the_same_however_the_answer_was_cut(cuts: list[int]) -> None:
    """Positions are code points of the whole answer; numbers that were not given do not count."""
    places = sorted({0, len(ANSWER), *cuts})
    finder = CitationFinder({1, 2, 10})
    found = [c for a, b in itertools.pairwise(places) for c in finder.feed(ANSWER[a:b])]
    assert [c.number for c in found] == [2, 1, 10, 1, 2]
    assert all(ANSWER[c.start : c.end] == f"[{c.number}]" for c in found)


def test_a_whole_answer_cites_a_passage_or_none() -> None:
    """A mark of a number that was not given is none."""
    assert has_mark("It is so [2].", (1, 2))
    assert not has_mark("It is so [3], see [x] and [].", (1, 2))
