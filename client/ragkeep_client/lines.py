"""Bytes of a file or a pipe, line by line, with a way back: an open quote may turn out never to be closed."""

from __future__ import annotations

import re
from typing import Protocol

BLOCK = 256 * 1024
# A pipe cannot be read twice: what may be needed again is kept, up to this.
_KEPT_BYTES = 16 * 1024 * 1024
_ANY_END = re.compile(rb"\r\n?|\n")


class Bytes(Protocol):
    """Where bytes come from."""

    seekable: bool

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""

    def seek(self, position: int, /) -> object:
        """Continues at a byte from the start; only where `seekable`."""

    def is_late(self) -> bool:
        """Whether nothing comes for a while."""


class Lines:
    """Reads lines; needs the memory of one line and a block, or of what lies between a mark and here in a pipe."""

    def __init__(self, source: Bytes) -> None:
        self.line = 1  # the next one's number
        self.cut = False  # the last one read was longer than its limit
        self.any_end = False  # lines end at CR too, as on old Macs
        self._source = source
        self._buffer = bytearray()
        self._start = 0  # of the buffer, in the file
        self._at = 0  # in the buffer
        self._ended = False
        self._mark: int | None = None  # in the file
        self._mark_line = 1
        self._lost = False  # the mark's bytes are no longer in the buffer

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._start + self._at

    @property
    def ended(self) -> bool:
        """Whether all of the file is in the buffer, or was read."""
        return self._ended

    def peek(self, size: int) -> bytes:
        """What comes next, without reading it; fewer bytes at the end, or where a pipe has no more for a while."""
        while (here := len(self._buffer) - self._at) < size:
            if (here and self._source.is_late()) or not self._fill():
                break
        with memoryview(self._buffer) as view:
            return bytes(view[self._at : self._at + size])

    def skip(self, size: int) -> None:
        """Passes over bytes that were peeked at."""
        self._at += size

    def read(self, limit: int) -> bytes:
        """The next line with its end; a longer one is cut at `limit` bytes, and goes on in the next read. Empty at the end."""
        self._trim()
        searched = self._at
        while True:
            stop = self._end(searched, self._at + limit)
            if stop is not None:
                self.cut = False
                self.line += 1
                break
            if len(self._buffer) - self._at >= limit:
                stop = self._at + limit
                self.cut = True
                break
            # A CR at the very end may be half of a CRLF.
            searched = max(self._at, len(self._buffer) - 1)
            if not self._fill():
                stop = len(self._buffer)
                self.cut = False
                self.line += stop > self._at
                break
        return self._take(stop)

    def read_to(self, mark: bytes, limit: int) -> bytes:
        """Through the next mark of one byte, over line ends; less where there is none within `limit` bytes, or at the end."""
        self._trim()
        searched = self._at
        while (stop := self._buffer.find(mark, searched, self._at + limit) + 1) == 0:
            searched = len(self._buffer)
            if searched - self._at >= limit or not self._fill():
                stop = min(searched, self._at + limit)
                break
        found = self._take(stop)
        self.line += len(_ANY_END.findall(found)) if self.any_end else found.count(b"\n")
        self.cut = bool(found)
        return found

    def _take(self, stop: int) -> bytes:
        with memoryview(self._buffer) as view:
            found = bytes(view[self._at : stop])
        self._at = stop
        return found

    def skip_line(self, limit: int) -> None:
        """Reads what is left of a line that was cut."""
        while self.cut and self.read(limit):
            pass

    def mark(self) -> None:
        """Here `rewind` comes back to."""
        self._mark, self._mark_line, self._lost = self.position, self.line, False

    def rewind(self) -> bool:
        """Back to the mark; False where too much of a pipe was read since."""
        if self._mark is None or (self._lost and not self._source.seekable):
            return False
        if self._lost:
            self._source.seek(self._mark)
            self._buffer.clear()
            self._start, self._at, self._ended = self._mark, 0, False
        else:
            self._at = self._mark - self._start
        self.line = self._mark_line
        return True

    def _end(self, searched: int, stop: int) -> int | None:
        if not self.any_end:
            found = self._buffer.find(b"\n", searched, stop)
            return None if found < 0 else found + 1
        match = _ANY_END.search(self._buffer, searched, stop)
        if match is None or (match.end() == len(self._buffer) and match[0] == b"\r" and not self._ended):
            return None
        return match.end()

    def _fill(self) -> bool:
        if self._ended:
            return False
        block = self._source.read(BLOCK)
        self._ended = not block
        self._buffer += block
        return not self._ended

    def _trim(self) -> None:
        kept = self._at
        if self._mark is not None and not self._lost:
            behind = self.position - self._mark
            if behind > (BLOCK if self._source.seekable else _KEPT_BYTES):
                self._lost = True
            else:
                kept -= behind
        if kept >= BLOCK:
            del self._buffer[:kept]
            self._start += kept
            self._at -= kept
