"""Cuts a document's text into chunks at ends of sentences, Chinese and Latin. Nothing but white space at cuts is lost."""

from __future__ import annotations

import itertools
import re

# Han, kana, Hangul and full-width forms: one character of them says as much as about three Latin letters.
_CJK = re.compile("[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uff00-\uffef\U00020000-\U0003ffff]")
# An end of a sentence keeps its closing quotes and brackets. A full stop ends one only before white space: not 10.2.3.4.
_SENTENCE_END = re.compile(r"(?:[。！？；…!?]+[”’」』）)\]\"']*|\.[”’)\]\"']*(?=\s)|\n)\s*")
_CLAUSE_END = re.compile(r"(?:[，、：,;:]+|\s+)\s*")


class Sizes:
    """How long a chunk may be: `cjk` characters of Chinese or `latin` of other text, and their mixture in proportion."""

    def __init__(self, cjk: int, latin: int) -> None:
        self.cjk = cjk
        self.latin = latin

    def share(self, text: str) -> float:
        """Which part of a full chunk the text is; up to 1 fits."""
        wide = len(_CJK.findall(text))
        return wide / self.cjk + (len(text) - wide) / self.latin


def chunks(text: str, sizes: Sizes) -> list[str]:
    """The text in pieces that each fit, cut at ends of sentences, else of clauses, else between characters."""
    text = text.strip()
    if not text:
        return []
    if sizes.share(text) <= 1:
        return [text]
    return [chunk for piece in _packed(_pieces(text, sizes), sizes) if (chunk := piece.strip())]


def _packed(pieces: list[str], sizes: Sizes) -> list[str]:
    """Neighbouring pieces joined for as long as they fit together."""
    packed: list[str] = []
    current, filled = "", 0.0
    for piece in pieces:
        share = sizes.share(piece)
        if current and filled + share > 1:
            packed.append(current)
            current, filled = "", 0.0
        current += piece
        filled += share
    packed.append(current)
    return packed


def _pieces(text: str, sizes: Sizes) -> list[str]:
    """Sentences; of those that do not fit clauses; of those that do not fit runs of characters."""
    found: list[str] = []
    for sentence in _split(text, _SENTENCE_END):
        if sizes.share(sentence) <= 1:
            found.append(sentence)
            continue
        for clause in _split(sentence, _CLAUSE_END):
            if sizes.share(clause) <= 1:
                found.append(clause)
            else:
                step = min(sizes.cjk, sizes.latin)
                found.extend(clause[at : at + step] for at in range(0, len(clause), step))
    return found


def _split(text: str, end: re.Pattern[str]) -> list[str]:
    cuts = [0, *(match.end() for match in end.finditer(text)), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(cuts) if a < b]
