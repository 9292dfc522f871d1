"""Marks like [2] in an answer, found while it streams. Only numbers of passages that were given count."""

from __future__ import annotations

import re
from collections.abc import Container, Set
from dataclasses import dataclass

_MARK = re.compile(r"\[(\d{1,4})\]")
# A mark has at most this many characters, so one that is cut between two pieces lies in the last ones.
_LONGEST = 6


@dataclass(frozen=True, slots=True)
class Citation:
    """A mark that names a passage; start and end in code points of the whole answer, end exclusive."""

    number: int
    start: int
    end: int


def has_mark(answer: str, numbers: Container[int]) -> bool:
    """Whether a whole answer cites one of these passages."""
    return any(int(match[1]) in numbers for match in _MARK.finditer(answer))


class CitationFinder:
    """Fed with the pieces of one answer, in order."""

    def __init__(self, numbers: Set[int]) -> None:
        self._numbers = numbers
        self._tail = ""
        self._length = 0  # of the answer so far
        self._done = 0  # up to where marks were reported

    def feed(self, text: str) -> list[Citation]:
        """The citations that this piece completes."""
        window = self._tail + text
        offset = self._length - len(self._tail)
        found = []
        for match in _MARK.finditer(window):
            start, end = offset + match.start(), offset + match.end()
            if start >= self._done and int(match[1]) in self._numbers:
                found.append(Citation(int(match[1]), start, end))
                self._done = end
        self._length += len(text)
        self._tail = window[-_LONGEST:]
        return found
