"""CSV and TSV read as bytes, record by record: a bad byte spoils its own row, and any size needs the memory of one row."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ragkeep_client.encoding import is_chinese, recognised
from ragkeep_client.lines import BLOCK, Lines
from ragkeep_client.mapping import Mapping
from ragkeep_client.rows import REASON_COLUMN, BadRow, Row, UnreadableFile, shown
from ragkeep_client.source import OpenFile

# A document is at most 1 MiB; of a longer record only its end is looked for.
MAX_RECORD_BYTES = 2 * 1024 * 1024
_TOO_LARGE = f"The row is larger than {MAX_RECORD_BYTES} bytes."
_DELIMITERS = {"csv": b",", "tsv": b"\t"}
# What a spreadsheet puts there where the comma is for decimals, and some programs do.
_OTHERS = (b";", b"\t")
_QUOTED = re.compile(rb'"[^"]*"')
_LINE_END = re.compile(rb"\r\n|\n|\r")


class CsvFile:
    """An open file with a header. `rows` may be walked once; `bytes_read` tells how far that is."""

    def __init__(
        self, file: OpenFile, lines: Lines, name: str, format_: str, encoding: str, codec: str, delimiter: bytes
    ) -> None:
        self.format = format_
        self.encoding = encoding
        self.size = file.size
        self.bytes_read = 0
        self.columns: list[str] = []  # under their new names
        self.ignored: dict[str, None] = {}
        self._lines = lines
        self._name = name
        self._codec = codec
        self._delimiter = delimiter
        self._head = b""
        self._first_cell = re.compile(rb'\A(?:"[^"]*(?:""[^"]*)*"|[^"%b]*)%b' % (self._delimiter, self._delimiter))

    @classmethod
    def begin(
        cls, file: OpenFile, name: str, format_: str, needed: tuple[str, ...], mapping: Mapping, collection: str = ""
    ) -> CsvFile:
        """Reads the header of a file that has the columns needed, those of `collection`. Raises UnreadableFile."""
        wanted = f"{f'The collection {collection} needs' if collection else 'Needed are'} the columns {', '.join(needed)}"
        lines = Lines(file)
        start = lines.peek(BLOCK)
        if not start.strip(b"\xef\xbb\xbf \t\r\n"):
            raise UnreadableFile("COLUMNS_MISSING", f"{name} is empty. {wanted}; found is none.")
        cr_only = _refuse_binary(name, format_, start, wanted)
        encoding, codec, skip = recognised(file, start, whole=lines.ended)
        if file.seekable:
            file.seek(0)
            lines = Lines(file)
            lines.peek(skip)
        lines.any_end = cr_only
        lines.skip(skip)
        opened = cls(file, lines, name, format_, encoding, codec, _delimiter_of(start, format_))
        opened._read_header(needed, mapping, wanted)
        return opened

    @property
    def delimiter(self) -> str:
        """Between columns."""
        return self._delimiter.decode()

    def _read_header(self, needed: tuple[str, ...], mapping: Mapping, wanted: str) -> None:
        header = self._record()
        names: list[str] = []
        if isinstance(header, _Cells):
            self._head = header.raw
            try:
                names = [cell.decode(self._codec).strip().lower() for cell in header.cells]
            except UnicodeDecodeError:
                raise UnreadableFile("COLUMNS_MISSING", f"{self._name}: the first line is no text. {wanted}.") from None
        self.columns = mapping.renamed(names)
        missing = [name for name in needed if name not in self.columns]
        found = ", ".join(shown(name) for name in names[:50]) or "none"
        if missing:
            raise UnreadableFile(
                "COLUMNS_MISSING",
                f"{self._name} lacks {', '.join(missing)}. {wanted}; found: {found}. --collection names another one, "
                "--mapping old=new renames a column.",
            )
        twice = sorted({name for name in self.columns if name in mapping.columns and self.columns.count(name) > 1})
        if twice:
            raise UnreadableFile("COLUMNS_MISSING", f"{self._name} has the column {', '.join(twice)} twice. Found: {found}.")
        self.ignored = {
            name: None
            for name, new in zip(names, self.columns, strict=True)
            if new not in mapping.columns and name and new != REASON_COLUMN
        }

    def rows(self) -> Iterator[Row | BadRow]:
        """Each record after the header. Blank lines are passed over."""
        while (record := self._record()) is not None:
            self.bytes_read = self._lines.position
            if isinstance(record, BadRow):
                yield record
                if record.fatal:
                    return
            elif record.cells != [b""]:
                yield self._row(record)

    def rejected_head(self) -> bytes:
        """The header with the reason's column before it."""
        bom = codecs.BOM_UTF8 if self.encoding == "UTF-8 with BOM" else b""
        return bom + REASON_COLUMN.encode() + self._delimiter + _ended(self._without_reason(self._head))

    def rejected_row(self, raw: bytes, why: str) -> bytes:
        """The record as it stands in the file, with the reason before it: what is wrong with it may be its quotes."""
        reason = why.replace('"', '""').encode(self._codec, "replace")
        return b'"%b"%b%b' % (reason, self._delimiter, _ended(self._without_reason(raw)))

    def _without_reason(self, raw: bytes) -> bytes:
        # A file of rejected rows that is imported, and rejected, again.
        has_one = self.columns[:1] == [REASON_COLUMN] and (first := self._first_cell.match(raw))
        return raw[first.end() :] if has_one and first else raw

    def _row(self, record: _Cells) -> Row | BadRow:
        if len(record.cells) != len(self.columns):
            problem = f"The row has {len(record.cells)} columns, and the header has {len(self.columns)}."
            return BadRow(record.line, problem, raw=record.raw)
        content = b"\n".join(record.cells)
        if b"\0" in content:
            return BadRow(record.line, "The row holds a NUL byte.", raw=record.raw)
        cells = {}
        for name, cell in zip(self.columns, record.cells, strict=True):
            try:
                cells[name] = cell.decode(self._codec)
            except UnicodeDecodeError as error:
                problem = (
                    f"Byte {error.start + 1} of the column {shown(name)} does not fit the file's encoding, {self.encoding}."
                )
                return BadRow(record.line, problem, raw=record.raw)
        if self._codec == "gb18030" and not content.isascii() and not is_chinese(content):
            problem = f"The row's bytes are not text in the file's encoding, {self.encoding}."
            return BadRow(record.line, problem, raw=record.raw)
        return Row(record.line, cells, record.raw, reason=cells.get(REASON_COLUMN, ""), text=True)

    def _record(self) -> _Cells | BadRow | None:
        """The next record; None at the end. Where quotes do not close, the next begins on the line after this one's first."""
        begin = self._lines.line
        self._lines.mark()
        line = self._lines.read(BLOCK)
        if not line:
            return None
        if b'"' not in line and not self._lines.cut:
            return _Cells(begin, line.rstrip(b"\r\n").split(self._delimiter), line)
        parsed = _QuotedRecord(self._lines, self._delimiter, line)
        problem = parsed.read()
        if problem is None:
            return BadRow(begin, _TOO_LARGE, "DOCUMENT_TOO_LARGE") if parsed.large else _Cells(begin, *parsed.found())
        if not self._lines.rewind():
            problem += f" Nothing after line {begin} could be read; give the file by its name instead of by a pipe."
            return BadRow(begin, problem, fatal=True)
        raw = self._lines.read(MAX_RECORD_BYTES)
        too_long = self._lines.cut
        self._lines.skip_line(MAX_RECORD_BYTES)
        return BadRow(begin, problem, raw=None if too_long else raw)


@dataclass(frozen=True, slots=True)
class _Cells:
    line: int
    cells: list[bytes]
    raw: bytes


class _QuotedRecord:
    """Reads one record with quotes, piece by piece; of one that is too large nothing is kept."""

    def __init__(self, lines: Lines, delimiter: bytes, first: bytes) -> None:
        self.large = False
        self._lines = lines
        self._delimiter = delimiter
        self._piece = first
        self._at = 0
        self._raw = [first]
        self._size = len(first)
        self._cells: list[bytes] = []
        self._cell = bytearray()

    def found(self) -> tuple[list[bytes], bytes]:
        """(cells, the record as it stands in the file)."""
        return self._cells, b"".join(self._raw)

    def read(self) -> str | None:
        """To the record's end; or what is wrong with it."""
        number = 0
        more = True
        while more:
            number += 1
            self._cell = bytearray()
            if self._here(1) == b'"':
                self._at += 1
                if not self._quoted():
                    return f"A quote opened in column {number} is never closed."
                # CR and LF may lie in two pieces.
                rest = self._here(2)
                if rest[:1] == self._delimiter:
                    self._at += 1
                elif rest.rstrip(b"\r\n"):
                    return f"There is text after the closing quote of column {number}; a quote inside quotes is doubled."
                else:
                    more = False
            else:
                more = self._plain()
            if not self.large:
                self._cells.append(bytes(self._cell))
        return None

    def _quoted(self) -> bool:
        """To behind the closing quote; False where there is none."""
        while True:
            end = self._piece.find(b'"', self._at)
            if end < 0:
                self._keep(self._piece[self._at :])
                # The lines of a long field need not be looked at one by one.
                if not self._next_piece(self._lines.read_to(b'"', BLOCK)):
                    return False
                continue
            self._keep(self._piece[self._at : end])
            self._at = end + 1
            if self._here(1) != b'"':
                return True
            self._keep(b'"')
            self._at += 1

    def _plain(self) -> bool:
        """To behind the delimiter, or to the record's end: False."""
        while True:
            end = self._piece.find(self._delimiter, self._at)
            if end >= 0:
                self._keep(self._piece[self._at : end])
                self._at = end + 1
                return True
            self._keep(self._piece[self._at :])
            if not self._lines.cut or not self._next_piece(self._lines.read(BLOCK)):
                self._cell = self._cell.rstrip(b"\r\n")
                return False

    def _here(self, size: int) -> bytes:
        """The next bytes of the line; fewer at its end."""
        while len(self._piece) - self._at < size and self._lines.cut:
            rest = self._piece[self._at :]
            if not self._next_piece(self._lines.read(BLOCK)):
                self._piece = rest
                break
            self._piece = rest + self._piece
        return self._piece[self._at : self._at + size]

    def _next_piece(self, piece: bytes) -> bool:
        """Whether there is one; it begins where the last one ended."""
        self._piece, self._at = piece, 0
        self._size += len(piece)
        if self._size > MAX_RECORD_BYTES:
            self.large = True
            self._raw, self._cells, self._cell = [], [], bytearray()
        else:
            self._raw.append(piece)
        return bool(piece)

    def _keep(self, part: bytes) -> None:
        if not self.large:
            self._cell += part


def _ended(raw: bytes) -> bytes:
    return raw if raw.endswith((b"\r", b"\n")) else raw + b"\n"


def _delimiter_of(start: bytes, format_: str) -> bytes:
    """What is between the columns of a file that begins so. A header without a comma has something else there."""
    header = _LINE_END.split(_QUOTED.sub(b"", start), maxsplit=1)[0]
    usual = _DELIMITERS[format_]
    found = next((other for other in _OTHERS if other in header), usual)
    return found if format_ == "csv" and usual not in header else usual


def _refuse_binary(name: str, format_: str, start: bytes, wanted: str) -> bool:
    """Whether lines end at CR alone. Raises UnreadableFile for what is no text."""
    text = format_.upper()
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableFile(
            "COLUMNS_MISSING",
            f"{name} is UTF-16. Save it as {text} in UTF-8, or: iconv -f UTF-16 -t UTF-8 FILE | "
            f"ragkeep import - --format {format_}. {wanted}.",
        )
    if start.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UnreadableFile("COLUMNS_MISSING", f"{name} is a workbook or an archive. Save it as {text} in UTF-8. {wanted}.")
    line_end = _LINE_END.search(_QUOTED.sub(lambda quoted: b" " * len(quoted[0]), start))
    if b"\0" in start[: line_end.start() if line_end else None]:
        raise UnreadableFile("COLUMNS_MISSING", f"{name} is a binary file, not {text}. {wanted}; found is none.")
    if line_end is None and len(start) == BLOCK:
        raise UnreadableFile("COLUMNS_MISSING", f"{name} does not have its rows on lines of their own. {wanted}.")
    return line_end is not None and line_end[0] == b"\r"
