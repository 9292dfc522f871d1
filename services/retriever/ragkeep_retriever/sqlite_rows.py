"""How the embedded store writes documents: fields and groups as JSON, tokens in a full-text table for each collection."""

from __future__ import annotations

import array
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import apsw

from ragkeep_retriever.sealed_values import dumped, loaded
from ragkeep_retriever.sqlite_files import row
from ragkeep_retriever.values import Collection, FieldType, FieldValue, ListedDocument, Put, Scope, Sealed, StoredDocument

# Passes our stream through unchanged: every character belongs to a token, blanks divide.
_TOKENIZE = "unicode61 remove_diacritics 0 categories 'L* M* N* P* S* Co'"
# The sealed values of a document `d`, NULL where it has none.
SEALED_COLUMN = "(SELECT s.fields FROM sealed s WHERE s.document = d.key)"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def index_table(collection: Collection) -> str:
    """The table of tokens. The name is [a-z0-9_-]: checked when the collection was made."""
    return f'"tokens:{collection.name}"'


def vocabulary_table(collection: Collection) -> str:
    """The table that tells how rare a token is."""
    return f'"vocabulary:{collection.name}"'


def make_index(file: apsw.Connection, collection: Collection) -> None:
    """Both tables, where they are not there."""
    table = index_table(collection)
    file.execute(
        f"CREATE VIRTUAL TABLE IF NOT EXISTS {table} USING fts5 "
        f'(tokens, content="", contentless_delete=1, tokenize="{_TOKENIZE}")'
    )
    file.execute(f"CREATE VIRTUAL TABLE IF NOT EXISTS {vocabulary_table(collection)} USING fts5vocab ({table}, row)")


def has_index(file: apsw.Connection, collection: Collection) -> bool:
    """Whether the tenant ever put something into the collection."""
    return row(file, "SELECT 1 FROM sqlite_master WHERE name = ?", (index_table(collection).strip('"'),)) is not None


def put_document(
    file: apsw.Connection, scope: Scope, collection: Collection, document: StoredDocument, streams: Sequence[str]
) -> Put:
    """The document in place of its older version; `streams` are the chunks' tokens."""
    sql = "SELECT key, version, groups FROM documents WHERE collection = ? AND id = ?"
    found = row(file, sql, (collection.name, document.id))
    if not scope.sees(document.groups) or (found and not scope.sees(own_groups(found[2]))):
        return Put.HIDDEN
    if found and found[1] == document.version:
        return Put.UNCHANGED
    if found:
        remove_document(file, collection, found[0])
    fields = json.dumps({name: stored(value) for name, value in document.fields.items()}, ensure_ascii=False)
    groups = json.dumps(list(document.groups) or ["*"], ensure_ascii=False)
    file.execute(
        "INSERT INTO documents (collection, id, version, fields, groups) VALUES (?, ?, ?, ?, ?)",
        (collection.name, document.id, document.version, fields, groups),
    )
    key = file.last_insert_rowid()
    for position, (chunk, stream) in enumerate(zip(document.chunks, streams, strict=True)):
        file.execute(
            "INSERT INTO passages (document, chunk, text, vector) VALUES (?, ?, ?, ?)",
            (key, position, chunk.text, array.array("f", chunk.vector).tobytes()),
        )
        sql = f"INSERT INTO {index_table(collection)} (rowid, tokens) VALUES (?, ?)"  # noqa: S608
        file.execute(sql, (file.last_insert_rowid(), stream))
    if document.sealed:
        file.execute("INSERT INTO sealed (document, fields) VALUES (?, ?)", (key, dumped(document.sealed)))
    return Put.UPDATED if found else Put.CREATED


def remove_document(file: apsw.Connection, collection: Collection, key: int) -> None:
    """The document with all that was made of it."""
    of_document = "SELECT key FROM passages WHERE document = ?"
    file.execute(f"DELETE FROM {index_table(collection)} WHERE rowid IN ({of_document})", (key,))  # noqa: S608
    file.execute("DELETE FROM passages WHERE document = ?", (key,))
    file.execute("DELETE FROM sealed WHERE document = ?", (key,))
    file.execute("DELETE FROM documents WHERE key = ?", (key,))


def listed(found: Sequence[Any], collection: Collection) -> ListedDocument:
    """A row of (id, version, fields, groups, chunks, sealed)."""
    document_id, version, fields, groups, chunks, sealed = found
    return ListedDocument(document_id, version, decoded(fields, collection), own_groups(groups), chunks, sealed_of(sealed))


def own_groups(stored: str) -> tuple[str, ...]:
    """A document's own groups; stored, an open one has the group *."""
    return tuple(group for group in json.loads(stored) if group != "*")


def sealed_of(found: str | None) -> dict[str, Sealed]:
    """A document's sealed values."""
    return loaded(found) if found else {}


def stored(value: FieldValue) -> FieldValue:
    """As JSON holds it: moments are microseconds since 1970, so that they compare."""
    return (value - _EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else value


def decoded(fields: str, collection: Collection) -> dict[str, FieldValue]:
    """A document's fields, each of its type."""
    types = {field.name: field.type for field in collection.fields}
    return {name: _decoded(value, types.get(name)) for name, value in json.loads(fields).items()}


def _decoded(value: Any, kind: FieldType | None) -> FieldValue:
    if kind is FieldType.TIMESTAMP:
        return _EPOCH + timedelta(microseconds=int(value))
    return float(value) if kind is FieldType.NUMBER else value
