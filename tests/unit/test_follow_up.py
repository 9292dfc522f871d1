"""Follow-up questions: what leans on the conversation, how the rule makes it whole, which rewriting is believed."""

from __future__ import annotations

import pytest

from ragkeep_generator.follow_up import can_be_trusted, cleaned, is_follow_up, with_earlier_words
from ragkeep_generator.language_model import Turn

FIRST = Turn("打印机脱机了怎么办？", "取消“脱机使用打印机”，再重启打印服务。")
ENGLISH = Turn("How do I change a forgotten password?", "Open the portal and choose reset.")


@pytest.mark.parametrize(
    "question",
    ["重启以后还是不行呢？", "那笔记本呢？", "如果没有管理员权限？", "为什么？", "要等多久？", "And on a Mac?", "What about contractors?", "Does it need a restart?", "Why?", "on a Mac?", "Is that still allowed?"],
)  # fmt: skip
def test_what_cannot_be_understood_alone_is_a_follow_up(question: str) -> None:
    """It begins with and, refers to something, or says too little."""
    assert is_follow_up(question)


@pytest.mark.parametrize(
    "question",
    ["新一卷住院腕带打出来位置不对，条码扫不了怎么调？", "VPN error 809", "How do I install a shared mailbox in Outlook?", "医保刷卡时卡住了怎么办", "Which forms does the IT department need for a new notebook?", "忘记密码怎么办？"],
)  # fmt: skip
def test_what_stands_alone_is_none(question: str) -> None:
    """Short questions with a number, and IT as a department, among them."""
    assert not is_follow_up(question)
    assert with_earlier_words(question, [FIRST]) == question


def test_a_follow_up_gets_the_words_of_the_question_before_it() -> None:
    """Back to the one that stands alone, and no further."""
    history = [Turn("忘记密码怎么办？", "x"), FIRST, Turn("那笔记本呢？", "y")]
    assert with_earlier_words("为什么？", history) == "打印机脱机了怎么办？ 那笔记本呢？ 为什么？"
    assert with_earlier_words("And on a Mac?", [FIRST, ENGLISH]) == "How do I change a forgotten password? And on a Mac?"


def test_a_follow_up_without_anything_before_it_stays() -> None:
    """Nothing is invented, and nothing gets longer than a question may be."""
    assert with_earlier_words("Why?", []) == "Why?"
    assert with_earlier_words("Why?", [Turn(" ", "x")]) == "Why?"
    assert with_earlier_words("Why?", [Turn("a " * 3999, "")]) == "Why?"


@pytest.mark.parametrize(
    "rewriting",
    ["How do I change a forgotten password on a Mac?", "How is a password changed on a Mac?"],
)
def test_a_rewriting_in_the_conversations_words_is_believed(rewriting: str) -> None:
    """It keeps the question's own and adds what it leans on."""
    assert can_be_trusted(rewriting, "And on a Mac?", [ENGLISH])


@pytest.mark.parametrize(
    "rewriting",
    [
        "",
        "And on a Mac?",
        "How do I change a forgotten password?",
        "Open the Apple menu, choose System Settings and click Users & Groups.",
        "Open the portal on a Mac and choose reset.",
        "How do I change a forgotten password on a Mac?\nOpen the portal.",
        "Mac password " * 60,
        "?!",
    ],
)
def test_anything_else_is_not(rewriting: str) -> None:
    """Nothing added, its own words lost, an invention, an answer, several lines."""
    assert not can_be_trusted(rewriting, "And on a Mac?", [ENGLISH])


def test_a_question_that_stands_alone_may_come_back_as_it_is() -> None:
    """Nothing is missing."""
    assert can_be_trusted("忘记密码怎么办？", "忘记密码怎么办？", [FIRST])


@pytest.mark.parametrize(
    "written", ["How?", ' "How?" ', "Whole question: How?", "Rewritten question: “How?”", "Question：How?", "「How?」", "How?:"]
)
def test_labels_and_quotes_around_a_rewriting_are_taken_off(written: str) -> None:
    """Models add them."""
    assert cleaned(written) == "How?"
