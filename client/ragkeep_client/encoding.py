"""Which encoding a file of rows has: UTF-8 with or without BOM, or GB18030; rather none than other people's characters."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from ragkeep_client.lines import BLOCK, Bytes

_SAMPLE_LINES = 20_000
# Largest share of rare ideographs in a text that is taken for Chinese: other encodings' bytes, read as GB18030, are
# mostly such; traditional characters, which count as rare here, are about a third of a traditional text.
_RARE = 0.4


def recognised(source: Bytes, start: bytes, *, whole: bool) -> tuple[str, str, int]:
    """(name, codec, bytes to skip) of a file that begins with `start`; it is read to its end, a pipe no further than that.
    `whole`: there is no more than `start`.

    A row that fits neither encoding counts for neither.
    """
    if start.startswith(codecs.BOM_UTF8):
        return "UTF-8 with BOM", "utf-8", len(codecs.BOM_UTF8)
    if not source.seekable:
        # The last line of a sample may be half a line.
        lines = start.split(b"\n")
        return _judged(_is_utf8([start], final=whole), lines if whole or len(lines) == 1 else lines[:-1])
    source.seek(0)
    whole = _is_utf8(iter(lambda: source.read(BLOCK), b""), final=True)
    source.seek(0)
    return _judged(whole, _lines(source))


def is_chinese(raw: bytes) -> bool:
    """Whether bytes are plausibly text in GB18030, which gives nearly any bytes some meaning."""
    try:
        text = raw.decode("gb18030")
    except UnicodeDecodeError:
        return False
    foreign = "".join(letter for letter in text if not letter.isascii())
    ordinary = set(foreign.encode("gb2312", "ignore").decode("gb2312"))
    rare = [letter for letter in foreign if letter not in ordinary and ("\u3400" <= letter <= "\u9fff" or _is_private(letter))]
    if len(rare) > _RARE * len(foreign):
        return False
    try:
        other = raw.decode("utf-8")
    except UnicodeDecodeError:
        return True
    # It is right UTF-8 as well: with characters of three bytes that is no accident.
    return not any(letter > "\u07ff" for letter in other)


def _is_utf8(blocks: Iterable[bytes], *, final: bool) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in blocks:
            decoder.decode(block)
        decoder.decode(b"", final=final)
    except UnicodeDecodeError:
        return False
    return True


def _judged(utf8: bool, lines: Iterable[bytes]) -> tuple[str, str, int]:
    if utf8:
        return "UTF-8", "utf-8", 0
    found = {"utf-8": 0, "gb18030": 0}
    for line in lines:
        if line.isascii():
            continue
        try:
            line.decode("utf-8")
            found["utf-8"] += 1
        except UnicodeDecodeError:
            found["gb18030"] += is_chinese(line)
        if sum(found.values()) >= _SAMPLE_LINES:
            break
    return ("GB18030", "gb18030", 0) if found["gb18030"] > found["utf-8"] else ("UTF-8", "utf-8", 0)


def _lines(source: Bytes) -> Iterable[bytes]:
    left = b""
    while block := source.read(BLOCK):
        *lines, left = (left + block).split(b"\n")
        yield from lines
        # Without line ends there is nothing to keep together.
        if len(left) > BLOCK:
            yield left
            left = b""
    yield left


def _is_private(letter: str) -> bool:
    return "\ue000" <= letter <= "\uf8ff"
