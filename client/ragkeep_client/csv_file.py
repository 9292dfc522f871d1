"""CSV read as bytes, record by record: a bad byte spoils its own row, and a file of any size needs the memory of one row."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# A document is at most 1 MiB; a record that is longer is a quote that was never closed.
MAX_RECORD_BYTES = 2 * 1024 * 1024
_BLOCK = 256 * 1024
_SAMPLE_LINES = 20_000
# Largest share of rare ideographs in a text that is taken for Chinese: other encodings' bytes, read as GB18030, are
# mostly such; traditional characters, which count as rare here, are about a third of a traditional text.
_RARE = 0.4


class UnreadableFile(Exception):
    """The file as a whole cannot be imported. `message` says why and what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Row:
    """A record that could be read."""

    line: int  # of the file, where the record begins; from 1
    cells: dict[str, str]  # by the header's names, in lower case


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that could not."""

    line: int
    message: str


class CsvFile:
    """An open file with a header. `rows` may be walked once; `bytes_read` tells how far that is."""

    def __init__(self, file: BinaryIO, columns: list[str], encoding: str, codec: str, size: int) -> None:
        self.columns = columns
        self.encoding = encoding  # as people call it
        self.size = size  # bytes
        self.bytes_read = 0
        self._file = file
        self._codec = codec
        self._line = 1  # the next one's number

    @classmethod
    def open(cls, path: Path, needed: tuple[str, ...]) -> CsvFile:
        """Opens a file that has the columns needed. Raises UnreadableFile."""
        try:
            file = path.open("rb")
        except OSError as error:
            raise UnreadableFile("FILE_UNREADABLE", f"{path} cannot be read: {error.strerror or error}.") from None
        try:
            return cls._begin(file, path, needed)
        except OSError as error:
            file.close()
            raise UnreadableFile("FILE_UNREADABLE", f"{path} cannot be read: {error.strerror or error}.") from None
        except BaseException:
            file.close()
            raise

    @classmethod
    def _begin(cls, file: BinaryIO, path: Path, needed: tuple[str, ...]) -> CsvFile:
        wanted = f"Needed are the columns {', '.join(needed)}"
        if not file.seekable():
            raise UnreadableFile("FILE_UNREADABLE", f"{path} is not a regular file.")
        size = os.fstat(file.fileno()).st_size
        start = file.read(_BLOCK)
        file.seek(0)
        if not start.strip(b"\xef\xbb\xbf \t\r\n"):
            raise UnreadableFile("COLUMNS_MISSING", f"{path} is empty. {wanted}; found is none.")
        _refuse_binary(path, start, wanted)
        encoding, codec, skip = _encoding(file)
        file.seek(skip)
        opened = cls(file, [], encoding, codec, size)
        header = opened._record()
        if isinstance(header, _Cells):
            try:
                opened.columns = [cell.decode(codec).strip().lower() for cell in header.cells]
            except UnicodeDecodeError:
                raise UnreadableFile("COLUMNS_MISSING", f"{path}: the first line is no text. {wanted}.") from None
        missing = [name for name in needed if name not in opened.columns]
        found = ", ".join(_shown(name) for name in opened.columns[:50]) or "none"
        if missing:
            raise UnreadableFile("COLUMNS_MISSING", f"{path} lacks {', '.join(missing)}. {wanted}; found: {found}.")
        twice = sorted({name for name in needed if opened.columns.count(name) > 1})
        if twice:
            raise UnreadableFile("COLUMNS_MISSING", f"{path} has the column {', '.join(twice)} twice. Found: {found}.")
        return opened

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def rows(self) -> Iterator[Row | BadRow]:
        """Each record after the header. Blank lines are passed over."""
        while (record := self._record()) is not None:
            self.bytes_read = self._file.tell()
            if isinstance(record, BadRow):
                yield record
            elif record.cells != [b""]:
                yield self._row(record)

    def _row(self, record: _Cells) -> Row | BadRow:
        if len(record.cells) != len(self.columns):
            problem = f"The row has {len(record.cells)} columns, and the header has {len(self.columns)}."
            return BadRow(record.line, problem)
        raw = b"\n".join(record.cells)
        if b"\0" in raw:
            return BadRow(record.line, "The row holds a NUL byte.")
        cells = {}
        for name, cell in zip(self.columns, record.cells, strict=True):
            try:
                cells[name] = cell.decode(self._codec)
            except UnicodeDecodeError as error:
                problem = (
                    f"Byte {error.start + 1} of the column {_shown(name)} does not fit the file's encoding, {self.encoding}."
                )
                return BadRow(record.line, problem)
        if self._codec == "gb18030" and not raw.isascii() and not _is_chinese(raw):
            return BadRow(record.line, f"The row's bytes are not text in the file's encoding, {self.encoding}.")
        return Row(record.line, cells)

    def _read_line(self) -> bytes:
        line = self._file.readline(MAX_RECORD_BYTES)
        self._line += 1
        return line

    def _record(self) -> _Cells | BadRow | None:
        """The next record; None at the end. After a bad one the next begins on the line after the one it began on."""
        begin = self._line
        line = self._read_line()
        if not line:
            return None
        if len(line) == MAX_RECORD_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = self._file.readline(MAX_RECORD_BYTES)
            return BadRow(begin, f"The line is longer than {MAX_RECORD_BYTES} bytes.")
        if b'"' not in line:
            return _Cells(begin, line.rstrip(b"\r\n").split(b","))
        resume = self._file.tell()
        problem_or_cells = self._quoted_record(line)
        if isinstance(problem_or_cells, list):
            return _Cells(begin, problem_or_cells)
        self._file.seek(resume)
        self._line = begin + 1
        return BadRow(begin, problem_or_cells)

    def _quoted_record(self, line: bytes) -> list[bytes] | str:
        """The cells of a record that begins with `line` and has quotes; or what is wrong with it."""
        cells: list[bytes] = []
        position = 0
        while True:
            if line[position : position + 1] != b'"':
                comma = line.find(b",", position)
                if comma < 0:
                    cells.append(line[position:].rstrip(b"\r\n"))
                    return cells
                cells.append(line[position:comma])
                position = comma + 1
                continue
            parts: list[bytes] = []
            size = 0
            position += 1
            while True:
                end = line.find(b'"', position)
                if end < 0:
                    parts.append(line[position:])
                    size += len(parts[-1])
                    line, position = self._read_line(), 0
                    if not line or size > MAX_RECORD_BYTES:
                        return f"A quote opened in column {len(cells) + 1} is never closed."
                    continue
                parts.append(line[position:end])
                position = end + 1
                if line[position : position + 1] != b'"':
                    break
                parts.append(b'"')
                position += 1
            cells.append(b"".join(parts))
            rest = line[position : position + 2]
            if rest[:1] == b",":
                position += 1
            elif rest.rstrip(b"\r\n"):
                return f"There is text after the closing quote of column {len(cells)}; a quote inside quotes is doubled."
            else:
                return cells


@dataclass(frozen=True, slots=True)
class _Cells:
    line: int
    cells: list[bytes]


def _shown(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:60] or '""'


def _refuse_binary(path: Path, start: bytes, wanted: str) -> None:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableFile("COLUMNS_MISSING", f"{path} is UTF-16. Save it as CSV in UTF-8. {wanted}.")
    if start.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UnreadableFile("COLUMNS_MISSING", f"{path} is a workbook or an archive. Save it as CSV in UTF-8. {wanted}.")
    first, separator, _ = start.partition(b"\n")
    if b"\0" in first:
        raise UnreadableFile("COLUMNS_MISSING", f"{path} is a binary file, not CSV. {wanted}; found is none.")
    if (not separator and len(start) == _BLOCK) or b"\r" in first.rstrip(b"\r"):
        raise UnreadableFile("COLUMNS_MISSING", f"{path} does not have its rows on lines of their own. {wanted}.")


def _encoding(file: BinaryIO) -> tuple[str, str, int]:
    """(name, codec, bytes to skip). Decided on the whole file; a row that fits neither counts for neither."""
    if file.read(3) == codecs.BOM_UTF8:
        return "UTF-8 with BOM", "utf-8", 3
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while block := file.read(_BLOCK):
            decoder.decode(block)
        decoder.decode(b"", final=True)
        return "UTF-8", "utf-8", 0
    except UnicodeDecodeError:
        file.seek(0)
    utf8 = chinese = 0
    while line := file.readline(MAX_RECORD_BYTES):
        if line.isascii():
            continue
        try:
            line.decode("utf-8")
            utf8 += 1
        except UnicodeDecodeError:
            chinese += _is_chinese(line)
        if utf8 + chinese >= _SAMPLE_LINES:
            break
    return ("GB18030", "gb18030", 0) if chinese > utf8 else ("UTF-8", "utf-8", 0)


def _is_chinese(raw: bytes) -> bool:
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


def _is_private(letter: str) -> bool:
    return "\ue000" <= letter <= "\uf8ff"
