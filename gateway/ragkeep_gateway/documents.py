"""One document before it is stored: checked against its collection, rendered, and given its version."""

from __future__ import annotations

import hashlib
import json
import math
import string
from dataclasses import dataclass

from ragkeep.types.v1.types_pb2 import Collection, Document, FieldType, Value
from ragkeep_gateway.sealing.sealer import Place, TenantSealer
from ragkeep_gateway.values import plain
from ragkeep_runtime.errors import DocumentRejected

MAX_DOCUMENT_BYTES = 1024 * 1024
# The first half of a sealed document's version. Without one, the same values make the same version.
MARK_BYTES = 16
NO_MARK = bytes(MARK_BYTES)
# 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
_EARLIEST_S, _LATEST_S = -62_135_596_800, 253_402_300_799
_KINDS = {
    FieldType.FIELD_TYPE_TEXT: "text",
    FieldType.FIELD_TYPE_KEYWORD: "keyword",
    FieldType.FIELD_TYPE_NUMBER: "number",
    FieldType.FIELD_TYPE_BOOLEAN: "boolean",
    FieldType.FIELD_TYPE_TIMESTAMP: "timestamp",
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document that may be stored."""

    position: int  # in the request
    document: Document
    version: bytes  # a digest of all that its passages are made from
    content: str  # what is indexed


def prepare(
    position: int, document: Document, collection: Collection, sealer: TenantSealer | None = None, mark: bytes = NO_MARK
) -> Prepared:
    """The document, checked and rendered. Raises DocumentRejected with the reason.

    `sealer` is needed where the collection has sealed fields; their values are in the open here, and sealed when it is stored.
    `mark` goes into the version of a document with such values.
    """
    _check_id(document.id)
    if document.ByteSize() > MAX_DOCUMENT_BYTES:
        raise DocumentRejected("DOCUMENT_TOO_LARGE", f"The document is larger than {MAX_DOCUMENT_BYTES} bytes.")
    if any(group == "*" or not group or len(group) > 128 for group in document.groups) or len(document.groups) > 256:
        raise DocumentRejected("INVALID_REQUEST", "Groups are up to 256 names of 1 to 128 characters; * is reserved.")
    known = {field.name: field for field in collection.fields}
    for name, value in document.fields.items():
        if name not in known:
            raise DocumentRejected(
                "FIELD_UNKNOWN", f"The collection {collection.name} has no field {name}; it has {', '.join(known)}."
            )
        _check_value(name, value, known[name].type)
    for field in collection.fields:
        if field.required and _is_empty(document.fields.get(field.name)):
            raise DocumentRejected("FIELD_MISSING", f"The field {field.name} is missing or empty.")
    content = render(collection.content_template, document)
    if not content.strip():
        raise DocumentRejected("FIELD_MISSING", "There is no text to index: every field of the content template is empty.")
    return Prepared(position, document, version(document, collection, sealer, mark), content)


def _check_id(document_id: str) -> None:
    if not 0 < len(document_id) <= 256 or not document_id.isprintable() or document_id != document_id.strip():
        raise DocumentRejected(
            "DOCUMENT_ID_INVALID", "A document's id is 1 to 256 printable characters without blanks around it."
        )


def _check_value(name: str, value: Value, expected: FieldType.ValueType) -> None:
    kind = value.WhichOneof("kind")
    wanted = _KINDS[expected]
    if kind == "sealed":
        raise DocumentRejected(
            "FIELD_SEALED",
            f"The field {name} brings a value that is sealed already. Send the value itself, or for a sealed field an empty "
            "one, which keeps what is stored.",
        )
    if kind != wanted:
        raise DocumentRejected("FIELD_TYPE_WRONG", f"The field {name} must be a {wanted}, and it is {kind or 'nothing'}.")
    if kind == "number" and not math.isfinite(value.number):
        raise DocumentRejected("FIELD_TYPE_WRONG", f"The field {name} must be a finite number.")
    if kind in ("text", "keyword") and "\0" in getattr(value, kind):
        raise DocumentRejected("TEXT_INVALID", f"The field {name} holds a NUL character.")
    if kind == "timestamp":
        if not (_EARLIEST_S <= value.timestamp.seconds <= _LATEST_S and 0 <= value.timestamp.nanos < 1_000_000_000):
            raise DocumentRejected("FIELD_TYPE_WRONG", f"The field {name} is not a timestamp of the years 1 to 9999.")
        # Stores keep microseconds; with more, what is exported and imported again would be another version.
        value.timestamp.nanos -= value.timestamp.nanos % 1000


def _is_empty(value: Value | None) -> bool:
    return value is None or (value.WhichOneof("kind") in ("text", "keyword") and not (value.text or value.keyword).strip())


def render(template: str, document: Document) -> str:
    """The template with each {field} replaced by the field's value; absent ones are empty."""
    values = {name: str(plain(value)) for name, value in document.fields.items()}
    parts = string.Formatter().parse(template)
    return "".join(literal + (values.get(name, "") if name else "") for literal, name, _, _ in parts)


def version(document: Document, collection: Collection, sealer: TenantSealer | None = None, mark: bytes = NO_MARK) -> bytes:
    """SHA-256 of canonical JSON of all that the passages are made from: any change of it makes the document new.

    Callers see it. So a sealed value enters as an HMAC, and nobody finds it by computing; and the version has a mark, so that
    nobody finds it by importing guesses and comparing versions: see `SealedFields.with_kept`.
    """
    fields = {name: [value.WhichOneof("kind"), plain(value)] for name, value in document.fields.items()}
    sealed = False
    for field in collection.fields:
        if field.sealed and field.name in fields:
            if sealer is None:
                raise ValueError("a sealed field needs a sealer")
            place = Place(collection.name, document.id, field.name)
            fields[field.name] = ["sealed", sealer.fingerprint(place, document.fields[field.name]).hex()]
            sealed = True
    made_from = {
        "fields": fields,
        "groups": sorted(set(document.groups)),
        "template": collection.content_template,
        "chunking": [collection.chunking.cjk_characters, collection.chunking.latin_characters],
        "space": [collection.space.model, collection.space.digest, collection.space.dimension],
    }
    canonical = json.dumps(made_from, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    if not sealed:
        return hashlib.sha256(canonical).digest()
    return mark + hashlib.sha256(mark + canonical).digest()[:-MARK_BYTES]


def mark_of(version: bytes) -> bytes:
    """The mark in the version of a document with sealed values."""
    return version[:MARK_BYTES]
