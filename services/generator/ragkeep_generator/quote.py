"""No model: the sentences of the passages that answer best, each with its citation. Also what serves edge boxes."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, Sequence

from ragkeep_generator.language import NOT_FOUND, language_of
from ragkeep_generator.language_model import Delta, End, Finish, ModelInfo, Passage, Question

_SENTENCE = re.compile(r"[^。！？；!?\n]*?(?:[。！？；!?]+[”’」』）)\]\"']*|\.[”’)\]\"']*(?=\s|$)|\n|$)")
_HAN_RUN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\u3040-\u30ff\uac00-\ud7af]+")
_WORD = re.compile(r"[a-z0-9][a-z0-9._\-/]*[a-z0-9]|[a-z0-9]")
_ASKING = re.compile(
    "为什么|为何|什么时候|什么样|什么|怎么样|怎么办|怎么回事|怎么|怎样|如何|哪里|哪儿|哪些|哪个|是否|能否|可否|是不是|有没有|能不能|可不可以|"
    "多少|请问|我们|我的|一下|[我你您他她吗呢吧啊么的了]"
)
_STOP = frozenset(
    (
        "a about after all also an and any anyone are as at be been but by can cannot could did do does for from get had has "
        "have how i if in into is it its just me my no not of on one or our out should since so some still than that the their "
        "them then there they this to up us use want was we were what when where which while who why will with would you your"
    ).split()
)
MAX_SENTENCES = 6


class Quote:
    """Answers with the passages' own words."""

    async def model(self) -> ModelInfo:
        """Always there."""
        return ModelInfo("quote", "quote", "", 0)

    async def close(self) -> None:
        """Holds nothing."""

    async def answer(self, question: Question) -> AsyncGenerator[Delta | End]:
        """See the port. The sentences come in the order in which the passage has them."""
        chosen = self._choose(question.text, question.passages)
        used = tuple(passage.number for passage in question.passages)
        if not chosen:
            yield Delta(NOT_FOUND[language_of(question.text)])
            yield End(Finish.NO_EVIDENCE, quoted=True, used=used)
            return
        for position, (sentence, number) in enumerate(chosen):
            gap = "" if position == 0 else " " if sentence[0].isascii() else ""
            yield Delta(f"{gap}{sentence} [{number}]")
        yield End(Finish.STOP, quoted=True, used=used)

    def _choose(self, question: str, passages: Sequence[Passage]) -> list[tuple[str, int]]:
        """Sentences of the best passage from the one that fits the question best onwards; none where nothing fits."""
        terms = _terms(_ASKING.sub(" ", question)) or _terms(question)
        held = [_terms(f"{passage.title}\n{passage.text}") for passage in passages]
        # In one language a passage that shares no term with the question cannot answer it. Across languages none is
        # shared anyway, and what the retriever found by meaning is trusted.
        fitting = [
            passage
            for passage, its in zip(passages, held, strict=True)
            if terms & its or language_of(passage.text) is not language_of(question)
        ]
        if not fitting:
            return []
        best = fitting[0]
        sentences = _sentences(best)
        rarity = _rarity(terms, held)
        values = [sum(rarity[term] for term in terms & _terms(sentence)) for sentence in sentences]
        # What follows the sentence that fits is what helps (in a ticket, the solution), so quote from there on.
        start = max(range(len(sentences)), key=lambda at: (values[at], -at))
        start = max(0, min(start, len(sentences) - MAX_SENTENCES))
        return [(sentence, best.number) for sentence in sentences[start : start + MAX_SENTENCES]]


def _sentences(passage: Passage) -> list[str]:
    """The passage's sentences. The title, and lines without an end (labels), only where there is nothing else."""
    lines = [text for match in _SENTENCE.finditer(passage.text) if (text := match[0].strip())]
    whole = [line for line in lines if line != passage.title and line[-1] in "。！？；!?.…”’」』）)]\"'"]
    return whole or lines or [passage.title]


def _rarity(terms: set[str], passages: list[set[str]]) -> dict[str, float]:
    """A term that only some passages hold tells more than one that all of them do."""
    count = len(passages)
    return {term: 1 + math.log((count + 1) / (1 + sum(term in held for held in passages))) for term in terms}


def _terms(text: str) -> set[str]:
    """Pairs of Han characters, and Latin words without the commonest ones and without endings."""
    folded = text.casefold()
    found: set[str] = set()
    for run in _HAN_RUN.findall(folded):
        found.update(run[at : at + 2] for at in range(len(run) - 1))
    for word in _WORD.findall(folded):
        if word not in _STOP:
            found.add(_stem(word))
    return found


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
