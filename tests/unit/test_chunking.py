"""Chunks end at sentences, fit, and lose nothing."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragkeep_gateway.chunking import Sizes, chunks

SIZES = Sizes(50, 140)
PIECES = st.lists(
    st.sampled_from(
        [
            "打印机脱机。",
            "怎么办？",
            "Reset the router. ",
            "It is at 10.2.3.4, port 8443.",
            "\n",
            "，",
            " ",
            "啊" * 120,
            "x" * 400,
            "😀",
        ]
    )
)


def test_a_text_that_fits_is_one_chunk() -> None:
    """A ticket is not torn without need."""
    assert chunks("  忘记密码。请用自助门户。 ", SIZES) == ["忘记密码。请用自助门户。"]
    assert chunks(" \n ", SIZES) == []


def test_chinese_and_latin_are_cut_at_ends_of_sentences() -> None:
    """Each chunk ends where a sentence does."""
    chinese = chunks("第一句话说的是打印机的驱动程序。" * 10, SIZES)
    assert len(chinese) > 2
    assert all(chunk.endswith("。") for chunk in chinese)
    latin = chunks("The printer driver has to be installed again. " * 10, SIZES)
    assert len(latin) > 2
    assert all(chunk.endswith(".") for chunk in latin)


def test_a_full_stop_inside_an_address_ends_nothing() -> None:
    """10.2.3.4 stays in one piece."""
    text = "Connect to 10.2.3.4 and wait for the light. " * 8
    assert all("10.2.3.4" in chunk or "10." not in chunk for chunk in chunks(text, SIZES))


def test_mixed_text_counts_each_script_by_its_own_measure() -> None:
    """Half a chunk of Chinese and half of Latin text is one chunk."""
    assert len(chunks("机" * 24 + " " + "a" * 60, SIZES)) == 1
    assert len(chunks("机" * 40 + "。" + "a" * 100, SIZES)) == 2


@pytest.mark.parametrize("text", ["字" * 1000, "w" * 1000, "字w" * 500])
def test_a_sentence_without_any_end_is_cut_between_characters(text: str) -> None:
    """Nothing is longer than a chunk may be, and nothing is lost."""
    found = chunks(text, SIZES)
    assert "".join(found) == text
    assert all(SIZES.share(chunk) <= 1.001 for chunk in found)


@given(PIECES)
def test_no_character_is_lost_and_every_chunk_fits(pieces: list[str]) -> None:
    """Whatever the text, the chunks hold all of it but white space, in order."""
    text = "".join(pieces)
    found = chunks(text, SIZES)
    assert re.sub(r"\s", "", "".join(found)) == re.sub(r"\s", "", text)
    assert all(chunk.strip() and SIZES.share(chunk) <= 1.001 for chunk in found)
