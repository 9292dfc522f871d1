"""JSONL read as bytes, line by line: flat objects whose keys are columns, and whole documents as they are exported."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from ragkeep_client.lines import BLOCK, Lines
from ragkeep_client.mapping import Mapping
from ragkeep_client.rows import REASON_COLUMN, BadRow, Row, UnreadableFile
from ragkeep_client.source import OpenFile

# A document is at most 1 MiB, and JSON may write a character of one byte with six.
MAX_LINE_BYTES = 8 * 1024 * 1024
_BLANK = b" \t\r\n"
_WITH_REASON = re.compile(rb'\A\s*\{\s*"%b"\s*:\s*"[^"\\]*(?:\\.[^"\\]*)*"\s*,?' % REASON_COLUMN.encode())
# Keys of a flat object that could be columns; of others a file may have any number, and not all are remembered.
_MOST_IGNORED = 100


class JsonlFile:
    """An open file of JSON lines. `rows` may be walked once; `bytes_read` tells how far that is."""

    format = "jsonl"
    encoding = "UTF-8"
    delimiter = ""

    def __init__(self, lines: Lines, size: int, mapping: Mapping) -> None:
        self.size = size
        self.bytes_read = 0
        self.ignored: dict[str, None] = {}
        self._lines = lines
        self._mapping = mapping

    @classmethod
    def begin(cls, file: OpenFile, name: str, mapping: Mapping) -> JsonlFile:
        """Raises UnreadableFile for what is no JSONL as a whole."""
        lines = Lines(file)
        start = lines.peek(BLOCK)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UnreadableFile(
                "FILE_UNREADABLE",
                f"{name} is UTF-16, and JSON lines are UTF-8: iconv -f UTF-16 -t UTF-8 FILE | ragkeep import - --format jsonl.",
            )
        if b"\0" in start.partition(b"\n")[0]:
            raise UnreadableFile("FILE_UNREADABLE", f"{name} is a binary file, not JSONL.")
        if start.startswith(codecs.BOM_UTF8):
            lines.skip(len(codecs.BOM_UTF8))
            start = start.removeprefix(codecs.BOM_UTF8)
        if start.lstrip(_BLANK)[:1] == b"[":
            raise UnreadableFile(
                "FILE_UNREADABLE", f"{name} begins with a JSON list; JSONL is one object a line: jq -c '.[]' FILE."
            )
        return cls(lines, file.size, mapping)

    def rows(self) -> Iterator[Row | BadRow]:
        """Each line's object. Blank lines are passed over."""
        while True:
            number = self._lines.line
            raw = self._lines.read(MAX_LINE_BYTES)
            too_long = self._lines.cut
            self._lines.skip_line(MAX_LINE_BYTES)
            self.bytes_read = self._lines.position
            if not raw:
                return
            if too_long:
                yield BadRow(number, f"The line is longer than {MAX_LINE_BYTES} bytes.", "DOCUMENT_TOO_LARGE")
            elif raw.strip(_BLANK):
                yield self._row(number, raw)

    def rejected_head(self) -> bytes:
        """Nothing: each line says what it holds."""
        return b""

    def rejected_row(self, raw: bytes, why: str) -> bytes:
        """The line as it stands in the file, with the reason as its first key."""
        reason = b'{"%b": %b' % (REASON_COLUMN.encode(), json.dumps(why, ensure_ascii=False).encode("utf-8", "replace"))
        earlier = _WITH_REASON.match(raw)
        rest = raw[earlier.end() :] if earlier else raw.lstrip(_BLANK)
        if not earlier and not rest.startswith(b"{"):
            text = json.dumps(rest.rstrip(_BLANK).decode("utf-8", "replace"))
            return b'%b, "_line": %b}\n' % (reason, text.encode())
        rest = (rest if earlier else rest[1:]).strip(_BLANK)
        return b"%b%b%b\n" % (reason, b"" if rest == b"}" else b", ", rest)

    def _row(self, number: int, raw: bytes) -> Row | BadRow:
        try:
            found = json.loads(raw.decode("utf-8").rstrip("\r\n"), object_pairs_hook=_object, parse_constant=_refuse_constant)
        except UnicodeDecodeError as error:
            return BadRow(number, f"Byte {error.start + 1} of the line is not UTF-8.", raw=raw)
        except json.JSONDecodeError as error:
            return BadRow(number, f"The line is not JSON: {error.msg} (column {error.pos + 1}).", raw=raw)
        except ValueError as error:
            # Of the hooks above, or of Python for a number with thousands of digits.
            message = str(error) if isinstance(error, _NotTaken) else "The line holds a number that is too long."
            return BadRow(number, message, raw=raw)
        except RecursionError:
            return BadRow(number, "The line is nested too deeply.", raw=raw)
        if not isinstance(found, dict):
            return BadRow(number, 'The line is not an object, {"column": value, …}.', raw=raw)
        reason = str(found.pop(REASON_COLUMN, ""))
        fields = found.get("fields")
        whole = isinstance(fields, dict)
        cells, twice = self._renamed(fields if isinstance(fields, dict) else found, fold=not whole)
        if twice:
            return BadRow(number, f"The line has the key {twice} twice.", raw=raw)
        if whole:
            groups = found.get("groups", found.get("acl"))
            return Row(number, cells, raw, found.get("id"), groups, whole=True, reason=reason)
        groups = found.get("groups") if "groups" not in self._mapping.columns else None
        # A list of groups says who may see the document: it is never passed over.
        return Row(number, cells, raw, groups=groups if isinstance(groups, list) else None, reason=reason)

    def _renamed(self, cells: dict[str, Any], *, fold: bool) -> tuple[dict[str, Any], str]:
        """(cells under their new names, a key that is there twice)."""
        names = [name.strip().lower() for name in cells] if fold else list(cells)
        renamed: dict[str, Any] = {}
        for old, new, value in zip(names, self._mapping.renamed(names), cells.values(), strict=True):
            if fold and new not in self._mapping.columns:
                if len(self.ignored) < _MOST_IGNORED and not (old == "groups" and isinstance(value, list)):
                    self.ignored[old] = None
            elif new in renamed:
                return {}, new
            else:
                renamed[new] = value
        return renamed, ""


class _NotTaken(ValueError):
    """What JSON's grammar allows, or Python's reader, and ragkeep does not."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _NotTaken(f"The line has the key {twice[:60]!r} twice.")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise _NotTaken(f"The line holds {name}, which is no JSON number.")
