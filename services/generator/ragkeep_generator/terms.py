"""The words of a text that carry its meaning: pairs of Han characters, and Latin words without the commonest and endings."""

from __future__ import annotations

import re

_HAN_RUN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\u3040-\u30ff\uac00-\ud7af]+")
_WORD = re.compile(r"[a-z0-9][a-z0-9._\-/]*[a-z0-9]|[a-z0-9]")
_ASKING = re.compile(
    "为什么|为何|什么时候|什么样|什么|怎么样|怎么办|怎么回事|怎么|怎样|如何|哪里|哪儿|哪些|哪个|是否|能否|可否|是不是|有没有|能不能|可不可以|"
    "多少|多久|多长时间|请问|我们|我的|一下|[我你您他她吗呢吧啊么的了]"
)
_STOP = frozenset(
    (
        "a about after all also an and any anyone are as at be been but by can cannot could did do does for from get had has "
        "have how i if in into is it its just me my no not of on one or our out should since so some still than that the their "
        "them then there they this to up us use want was we were what when where which while who why will with would you your"
    ).split()
)


def terms(text: str) -> set[str]:
    """The words of a text."""
    folded = text.casefold()
    found: set[str] = set()
    for run in _HAN_RUN.findall(folded):
        found.update(run[at : at + 2] for at in range(len(run) - 1))
    for word in _WORD.findall(folded):
        if word not in _STOP:
            found.add(_stem(word))
    return found


def question_terms(question: str) -> set[str]:
    """The words of a question without those that only ask; with them where nothing else is there."""
    return terms(_ASKING.sub(" ", question)) or terms(question)


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
