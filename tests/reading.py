"""Files as `ragkeep import` reads them, for tests of readers."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from ragkeep_client.csv_file import CsvFile
from ragkeep_client.documents import TICKET_FIELDS, Columns, Documents, Duplicate, Found, Rejected
from ragkeep_client.events import Field
from ragkeep_client.jsonl_file import JsonlFile
from ragkeep_client.mapping import Mapping
from ragkeep_client.rows import BadRow, Row
from ragkeep_client.source import OpenFile, Source

TICKET_COLUMNS = tuple(field.name for field in TICKET_FIELDS)


def read(
    path: Path, content: bytes, needed: tuple[str, ...] = TICKET_COLUMNS, format_: str = "csv", mapping: Mapping | None = None
) -> tuple[CsvFile | JsonlFile, list[Row | BadRow]]:
    """The file, and what each of its records is."""
    path.write_bytes(content)
    opened = Source(path, format_).open()
    try:
        return rows_of(opened, str(path), needed, format_, mapping)
    finally:
        opened.close()


def read_pipe(content: bytes, needed: tuple[str, ...], format_: str = "csv") -> list[Row | BadRow]:
    """The same bytes, from a pipe."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as out:
            out.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    opened = OpenFile(reading, threading.Event(), own=True)
    try:
        return rows_of(opened, "pipe", needed, format_)[1]
    finally:
        # What nobody read must not hold the writer.
        while opened.read(65536):
            pass
        writer.join()
        opened.close()


def rows_of(
    opened: OpenFile, name: str, needed: tuple[str, ...], format_: str, mapping: Mapping | None = None
) -> tuple[CsvFile | JsonlFile, list[Row | BadRow]]:
    """What each record of an open file is."""
    mapping = mapping or Mapping(needed)
    file: CsvFile | JsonlFile = (
        JsonlFile.begin(opened, name, mapping) if format_ == "jsonl" else CsvFile.begin(opened, name, format_, needed, mapping)
    )
    return file, list(file.rows())


def documents_of(
    path: Path,
    content: str | bytes,
    fields: Sequence[Field] = TICKET_FIELDS,
    format_: str = "csv",
    collection: str = "service-tickets",
    id_column: str | None = None,
    columns: Columns | None = None,
) -> list[Found | Rejected | Duplicate]:
    """What each row of a file is in a collection with these fields."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    columns = columns or Columns.of(collection, fields, id_column)
    documents = Documents(columns, [str(path)])
    opened = Source(path, format_).open()
    mapping = Mapping(columns.known)
    try:
        file: CsvFile | JsonlFile = (
            JsonlFile.begin(opened, str(path), mapping)
            if format_ == "jsonl"
            else CsvFile.begin(opened, str(path), format_, columns.in_header, mapping)
        )
        return list(documents.of(file.rows(), 0))
    finally:
        documents.close()
        opened.close()
