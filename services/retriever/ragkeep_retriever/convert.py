"""Messages ↔ domain values, with what is wrong in a message named."""

from __future__ import annotations

import array
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from ragkeep.types.v1 import types_pb2 as pb
from ragkeep_retriever.values import Collection, EmbeddingSpace, FieldType, FieldValue, Hit, ListedDocument, Scope, Sealed
from ragkeep_runtime.errors import EmbeddingSpaceMismatch, InvalidRequest

TYPES = {
    pb.FIELD_TYPE_TEXT: FieldType.TEXT,
    pb.FIELD_TYPE_KEYWORD: FieldType.KEYWORD,
    pb.FIELD_TYPE_NUMBER: FieldType.NUMBER,
    pb.FIELD_TYPE_BOOLEAN: FieldType.BOOLEAN,
    pb.FIELD_TYPE_TIMESTAMP: FieldType.TIMESTAMP,
}
_KEY_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def scope_of(message: pb.Scope) -> Scope:
    """The scope. An unset one is refused: it must never mean everything."""
    sees = message.WhichOneof("sees")
    if not 1 <= len(message.tenant) <= 128:
        raise InvalidRequest("The scope's tenant must have 1 to 128 characters.", field="scope.tenant")
    if sees is None or (sees == "every_document" and not message.every_document):
        raise InvalidRequest("The scope must say which documents are seen.", field="scope.sees")
    return Scope(message.tenant, frozenset(message.groups.names) if sees == "groups" else None)


def value_of(message: pb.Value) -> FieldValue:
    """The value as Python knows it. Raises InvalidRequest for none, and for sealed ones."""
    kind = message.WhichOneof("kind")
    if kind == "timestamp":
        try:
            return message.timestamp.ToDatetime(tzinfo=UTC)
        except ValueError:
            raise InvalidRequest("A timestamp is out of range.") from None
    if kind in (None, "sealed"):
        raise InvalidRequest("A value is missing, or sealed.")
    value: FieldValue = getattr(message, str(kind))
    return value


def sealed_of(message: pb.SealedValue) -> Sealed:
    """The encrypted value. Raises InvalidRequest for what nobody can have sealed."""
    if not _KEY_ID.fullmatch(message.key_id) or len(message.nonce) != 12 or len(message.ciphertext) < 16:
        raise InvalidRequest("A sealed value has a key's id, a nonce of 12 bytes and a ciphertext with its tag.")
    return Sealed(message.key_id, message.nonce, message.ciphertext)


def kind_of(message: pb.Value) -> FieldType | None:
    """The type of a value; None for a missing or sealed one."""
    kind = message.WhichOneof("kind")
    return FieldType(kind) if kind in {member.value for member in FieldType} else None


def fields_to_messages(
    fields: Mapping[str, FieldValue], sealed: Mapping[str, Sealed], collection: Collection
) -> dict[str, pb.Value]:
    """The document's fields, each as its collection says; sealed ones as they are."""
    types = {field.name: field.type for field in collection.fields}
    found = {}
    for name, value in fields.items():
        message = pb.Value()
        if isinstance(value, datetime):
            message.timestamp.FromDatetime(value)
        else:
            setattr(message, types.get(name, FieldType.TEXT).value, value)
        found[name] = message
    for name, one in sealed.items():
        encrypted = pb.SealedValue(key_id=one.key_id, nonce=one.nonce, ciphertext=one.ciphertext)
        found[name] = pb.Value(sealed=encrypted)
    return found


def space_of(message: pb.EmbeddingSpace) -> EmbeddingSpace:
    """The embedding space, with its probes where it brings them."""
    return EmbeddingSpace(message.model, message.digest, message.dimension, message.probes.float32_le)


def vectors_of(message: pb.Vectors, count: int, dimension: int) -> list[array.array[float]]:
    """Exactly `count` vectors of `dimension` numbers."""
    if message.dimension != dimension:
        raise EmbeddingSpaceMismatch(
            f"The vector has {message.dimension} dimensions, and the collection's have {dimension}.",
            metadata={"got": str(message.dimension), "expected": str(dimension)},
        )
    if len(message.float32_le) != 4 * dimension * count:
        raise InvalidRequest(f"{count} vectors of {dimension} dimensions were expected.", field="vectors")
    values = array.array("f", message.float32_le)
    if sys.byteorder == "big":
        values.byteswap()
    return [values[at : at + dimension] for at in range(0, len(values), dimension)]


def passage_message(hit: Hit, collection: Collection) -> pb.Passage:
    """A hit as a message; absent scores stay absent."""
    return pb.Passage(
        document_id=hit.document_id,
        version=hit.version,
        chunk=hit.chunk,
        text=hit.text,
        fields=fields_to_messages(hit.fields, hit.sealed, collection),
        scores=pb.Scores(
            cosine=hit.cosine,
            bm25=hit.bm25,
            fused=hit.fused,
            vector_rank=hit.vector_rank,
            keyword_rank=hit.keyword_rank,
        ),
    )


def document_message(document: ListedDocument, collection: Collection) -> pb.StoredDocument:
    """A stored document as a message."""
    return pb.StoredDocument(
        document=pb.Document(
            id=document.id,
            fields=fields_to_messages(document.fields, document.sealed, collection),
            groups=document.groups,
        ),
        version=document.version,
        chunks=document.chunks,
    )
