"""No model: the sentences of the passages that answer best, each with its citation. Also what serves edge boxes."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, Sequence

from ragkeep_generator.follow_up import with_earlier_words
from ragkeep_generator.language import language_of, not_found
from ragkeep_generator.language_model import Delta, End, Finish, ModelInfo, Passage, Question, Whole
from ragkeep_generator.terms import question_terms, terms
from ragkeep_runtime.errors import ModelNotAllowed
from ragkeep_runtime.model_library import BuiltIn, InstalledModel, LoadedModel

_SENTENCE = re.compile(r"[^。！？；!?\n]*?(?:[。！？；!?]+[”’」』）)\]\"']*|\.[”’)\]\"']*(?=\s|$)|\n|$)")
NAME, MAX_SENTENCES = "quote", 6


class Quote:
    """Answers with the passages' own words."""

    async def model(self) -> ModelInfo:
        """Always there."""
        return ModelInfo("quote", NAME, "", 0)

    def models(self) -> tuple[str, ...]:
        """The one that is none."""
        return (NAME,)

    def library(self) -> BuiltIn:
        """No model, which takes no memory and is always there."""
        nothing = LoadedModel(size_bytes=0, vram_bytes=0, context_tokens=0, until=None)
        return BuiltIn("quote", InstalledModel(NAME, "", 0, "", "", (), 0, nothing, served=True, allowed=True, suitable=True))

    async def make_whole(self, question: Question) -> Whole:
        """See the port. By rule: the words of the questions that it leans on are added."""
        _check(question.options.model)
        return Whole(with_earlier_words(question.text, question.history), model="")

    async def close(self) -> None:
        """Holds nothing."""

    async def answer(self, question: Question) -> AsyncGenerator[Delta | End]:
        """See the port. The sentences come in the order in which the passage has them."""
        _check(question.options.model)
        searched = question.searched or question.text
        chosen = self._choose(searched, question.passages)
        used = tuple(passage.number for passage in question.passages)
        if not chosen:
            yield Delta(not_found(question.options.language or language_of(question.text), searched))
            yield End(Finish.NO_EVIDENCE, NAME, quoted=True, used=used)
            return
        for position, (sentence, number) in enumerate(chosen):
            gap = "" if position == 0 else " " if sentence[0].isascii() else ""
            yield Delta(f"{gap}{sentence} [{number}]")
        yield End(Finish.STOP, NAME, quoted=True, used=used)

    def _choose(self, question: str, passages: Sequence[Passage]) -> list[tuple[str, int]]:
        """Sentences of the best passage from the one that fits the question best onwards; none where nothing fits."""
        asked = question_terms(question)
        held = [terms(f"{passage.title}\n{passage.text}") for passage in passages]
        # In one language a passage that shares no term with the question cannot answer it. Across languages none is
        # shared anyway, and what the retriever found by meaning is trusted.
        fitting = [
            passage
            for passage, its in zip(passages, held, strict=True)
            if asked & its or language_of(passage.text) is not language_of(question)
        ]
        if not fitting:
            return []
        best = fitting[0]
        sentences = _sentences(best)
        rarity = _rarity(asked, held)
        values = [sum(rarity[term] for term in asked & terms(sentence)) for sentence in sentences]
        # What follows the sentence that fits is what helps (in a ticket, the solution), so quote from there on.
        start = max(range(len(sentences)), key=lambda at: (values[at], -at))
        start = max(0, min(start, len(sentences) - MAX_SENTENCES))
        return [(sentence, best.number) for sentence in sentences[start : start + MAX_SENTENCES]]


def _check(model: str) -> None:
    if model not in ("", NAME):
        message = f"This generator quotes and has no language model, so {model[:100]!r} cannot be asked for."
        raise ModelNotAllowed(message, field="options.model")


def _sentences(passage: Passage) -> list[str]:
    """The passage's sentences. The title, and lines without an end (labels), only where there is nothing else."""
    lines = [text for match in _SENTENCE.finditer(passage.text) if (text := match[0].strip())]
    whole = [line for line in lines if line != passage.title and line[-1] in "。！？；!?.…”’」』）)]\"'"]
    return whole or lines or [passage.title]


def _rarity(asked: set[str], passages: list[set[str]]) -> dict[str, float]:
    """A term that only some passages hold tells more than one that all of them do."""
    count = len(passages)
    return {term: 1 + math.log((count + 1) / (1 + sum(term in held for held in passages))) for term in asked}
