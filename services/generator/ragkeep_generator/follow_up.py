"""Follow-up questions: which ones lean on the conversation, and how one is made whole without a model.

The rule adds the words of the questions before it, back to the last one that stands alone. It invents nothing, so it is also
what a model's rewriting is measured by and replaced with.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ragkeep_generator.language_model import Turn
from ragkeep_generator.terms import question_terms, terms

MAX_QUESTION = 8000
# Questions with at most so many words of their own say too little alone, and so many where they refer to something. Pairs of
# Han characters overlap: four of them are two words that say much, eight of them a short question.
_FEW_WORDS, _SHORT_WORDS, _WORDS_OF_A_PAIR = 2, 6, 0.5
# Earlier questions whose words are added at most.
_MOST_ADDED = 3
_BEGINS = re.compile(
    r"\s*(?:(?:and|but|or|so|then|also|what about|how about|what if|what else|why not|why)\b"
    "|那|如果|要是|但|可是|还有|还是|然后|接着|所以)",
    re.IGNORECASE,
)
# "IT" is a department.
_REFERS = re.compile(
    r"\b(?:[Ii]t|[Ii]ts|[Tt]hat|[Tt]his|[Tt]hese|[Tt]hose|[Tt]hey|[Tt]hem|[Tt]here|else|instead|again|still|same)\b"
    "|它|这个|那个|这样|那样|这些|那些|这种|那种|这里|那里|上面|刚才|前面|还是|仍然|其他|另外|呢[？?]?$"
)
_NUMBERED = re.compile(r"\d{2}")
_HAN = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_LABEL = re.compile(r"^(?:whole question|rewritten question|question|完整的?问题|问题)\s*[:：]\s*", re.IGNORECASE)


def is_follow_up(question: str) -> bool:
    """Whether the question cannot be understood alone, as far as its words tell."""
    own = question_terms(question)
    words = sum(_WORDS_OF_A_PAIR if _HAN.search(term) else 1 for term in own)
    if _BEGINS.match(question) or (words <= _SHORT_WORDS and _REFERS.search(question)):
        return True
    # "VPN 809" is short and stands alone; "on a Mac?" does not.
    return len(own) <= _FEW_WORDS and not _NUMBERED.search(question)


def with_earlier_words(question: str, history: Sequence[Turn]) -> str:
    """The question after the ones it leans on; as it is where it stands alone, or where that would be too long."""
    if not is_follow_up(question):
        return question
    added: list[str] = []
    for turn in reversed(history):
        earlier = turn.question.strip()
        if not earlier:
            continue
        added.insert(0, earlier)
        if len(added) == _MOST_ADDED or not is_follow_up(earlier):
            break
    whole = " ".join([*added, question.strip()])
    return whole if added and len(whole) <= MAX_QUESTION else question


def cleaned(rewriting: str) -> str:
    """What a model wrote, without a label or quotes around it."""
    text = _LABEL.sub("", rewriting.strip())
    if len(text) > 1 and text[0] + text[-1] in ('""', "“”", "「」", "''", "‘’"):
        text = text[1:-1].strip()
    return text.rstrip(":：").rstrip()


def can_be_trusted(rewriting: str, question: str, history: Sequence[Turn]) -> bool:
    """Whether a model rewrote the question and did nothing else: one line, of the conversation's words, most of the question's
    own among them, and where it leans on the conversation something of an earlier question added: who repeats the answer before
    adds nothing to search for."""
    if not rewriting or "\n" in rewriting or len(rewriting) > 2 * len(question) + 300:
        return False
    own, written = question_terms(question), terms(rewriting)
    asked = terms("\n".join(turn.question for turn in history))
    known = own | asked | terms("\n".join(turn.answer for turn in history))
    if not written or len(written & known) < 0.6 * len(written) or len(written & own) < 0.5 * len(own):
        return False
    return not is_follow_up(question) or bool((written & asked) - own)
