"""What the readers of files have in common: rows, rows that are none, and files that are none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ragkeep_client.output import plain

# In a file of rejected rows it says why. When that file is imported it is no column of a document: no field can have this name.
REASON_COLUMN = "_reason"
# Before the options that a row has to be imported with again, in its reason.
_OPTIONS = " (imported with "


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
    cells: Mapping[str, Any]  # by column: text from CSV, what JSON knows from JSONL
    raw: bytes = field(default=b"", compare=False, repr=False)  # as it stands in the file
    # A whole document as `ragkeep export` writes it: {"id": …, "fields": {…}, "groups": […]}. Its cells are the fields.
    document_id: Any = None
    groups: Any = None  # of a whole document; of others the column of groups says it
    whole: bool = False
    reason: str = ""  # in a file of rejected rows: why it was
    text: bool = False  # cells are text of which blanks around a word mean nothing, and an empty one is none


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that could not."""

    line: int
    message: str
    reason: str = "ROW_INVALID"
    raw: bytes | None = field(default=None, compare=False, repr=False)  # None: too large to be kept
    fatal: bool = False  # nothing after it could be read


class RowFile(Protocol):
    """An open file of rows. `rows` may be walked once; `bytes_read` tells how far that is."""

    format: str  # "csv", "tsv" or "jsonl"
    encoding: str  # as people call it

    @property
    def delimiter(self) -> str:
        """Between columns; empty where there are none."""

    size: int  # bytes; 0 where it is not known
    bytes_read: int
    ignored: dict[str, None]  # columns met so far that are not imported, in order

    def rows(self) -> Iterator[Row | BadRow]:
        """Each record, blank ones passed over."""

    def rejected_head(self) -> bytes:
        """What a file of this one's rejected rows begins with."""

    def rejected_row(self, raw: bytes, why: str) -> bytes:
        """A rejected record with the reason beside it, as it is written to such a file."""


def shown(name: str) -> str:
    """A name out of a file, fit for a message."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:60] or '""'


def reason_of(reason: str, message: str, options: str = "") -> str:
    """Why a row was rejected, as it stands in a file of such rows: a line of plain text. `options` are those of its import."""
    return _line(f"{reason}: {message}{f'{_OPTIONS}{options})' if options else ''}")


def options_in(reason: str) -> str:
    """The options of the import in which a row was rejected for this."""
    return reason.rpartition(_OPTIONS)[2][:-1] if _OPTIONS in reason and reason.endswith(")") else ""


def same_options(one: str, other: str) -> bool:
    """Whether they are the same, written as a reason has them."""
    return _line(one) == _line(other)


def _line(text: str) -> str:
    return " ".join(plain(text).split())
