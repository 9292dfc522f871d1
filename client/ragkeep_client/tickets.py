"""Rows of a service-ticket file → documents. Each row that is none has its reason; a repeated row counts once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ragkeep_client.csv_file import BadRow, CsvFile, Row
from ragkeep_client.values import Document, Keyword

COLUMNS = ("ticket_id", "title", "description", "solution", "category")
_TEXTS = ("title", "description", "solution")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that is not imported."""

    line: int  # of the file, where the row begins
    document_id: str  # empty where it could not be read
    reason: str  # a name of errors.proto without its prefix
    message: str


class Tickets:
    """The documents of a file, and counts of what was met on the way."""

    def __init__(self, file: CsvFile) -> None:
        self.file = file
        self.counts: Counter[str] = Counter()  # rows, ids, duplicates
        self._seen: dict[str, bytes] = {}

    def __iter__(self) -> Iterator[tuple[int, Document] | Rejected]:
        """(line, document), or why a row is none. Exact repetitions are only counted."""
        for row in self.file.rows():
            self.counts["rows"] += 1
            if isinstance(row, BadRow):
                yield Rejected(row.line, "", "ROW_INVALID", row.message)
                continue
            found = self._document(row)
            if found is None:
                self.counts["duplicates"] += 1
            elif isinstance(found, Rejected):
                yield found
            else:
                yield row.line, found

    def _document(self, row: Row) -> Document | Rejected | None:
        document_id = row.cells["ticket_id"].strip()
        empty = [name for name in COLUMNS if not row.cells[name].strip()]
        if empty:
            plural = "s are" if len(empty) > 1 else " is"
            return Rejected(row.line, document_id, "FIELD_MISSING", f"The column{plural} empty: {', '.join(empty)}.")
        texts = {name: row.cells[name] for name in _TEXTS}
        category = row.cells["category"].strip()
        # 16 bytes a row are all that is kept of it.
        content = "\0".join([*texts.values(), category])
        digest = hashlib.blake2b(content.encode(), digest_size=16).digest()
        first = self._seen.setdefault(document_id, digest)
        if len(self._seen) == self.counts["ids"]:
            if first == digest:
                return None
            message = f"The id {document_id[:64]} came before with other content; the first one is taken."
            return Rejected(row.line, document_id, "DUPLICATE_ID", message)
        self.counts["ids"] += 1
        keywords = {"ticket_id": Keyword(document_id), "category": Keyword(category)}
        return Document(document_id, {**texts, **keywords})
