"""Messages ↔ domain values, with what is wrong in a message named."""

from __future__ import annotations

import array
import re
import string
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from ragkeep.types.v1 import types_pb2 as pb
from ragkeep_retriever.store import (
    Collection,
    EmbeddingSpace,
    Field,
    FieldType,
    FieldValue,
    Hit,
    Scope,
    VectorIndex,
)
from ragkeep_runtime.errors import EmbeddingSpaceMismatch, InvalidRequest

_COLLECTION_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_TYPES = {
    pb.FIELD_TYPE_TEXT: FieldType.TEXT,
    pb.FIELD_TYPE_KEYWORD: FieldType.KEYWORD,
    pb.FIELD_TYPE_NUMBER: FieldType.NUMBER,
    pb.FIELD_TYPE_BOOLEAN: FieldType.BOOLEAN,
    pb.FIELD_TYPE_TIMESTAMP: FieldType.TIMESTAMP,
}
_TYPE_NUMBERS = {value: key for key, value in _TYPES.items()}


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


def kind_of(message: pb.Value) -> FieldType | None:
    """The type of a value; None for a missing or sealed one."""
    kind = message.WhichOneof("kind")
    return FieldType(kind) if kind in {member.value for member in FieldType} else None


def fields_to_messages(fields: Mapping[str, FieldValue], collection: Collection) -> dict[str, pb.Value]:
    """The document's fields, each as its collection says."""
    types = {field.name: field.type for field in collection.fields}
    found = {}
    for name, value in fields.items():
        message = pb.Value()
        if isinstance(value, datetime):
            message.timestamp.FromDatetime(value)
        else:
            setattr(message, types.get(name, FieldType.TEXT).value, value)
        found[name] = message
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


def collection_of(message: pb.Collection) -> Collection:
    """A collection's definition, checked; defaults filled in."""
    if not _COLLECTION_NAME.fullmatch(message.name):
        raise InvalidRequest("A collection's name is [a-z][a-z0-9_-]{0,62}.", field="collection.name")
    names = [field.name for field in message.fields]
    if not 1 <= len(names) <= 64 or len(set(names)) != len(names):
        raise InvalidRequest("A collection has 1 to 64 fields, each name once.", field="collection.fields")
    for field in message.fields:
        if not _FIELD_NAME.fullmatch(field.name) or field.type not in _TYPES:
            raise InvalidRequest(f"The field {field.name[:64]!r} has a wrong name or no type.", field="collection.fields")
    _check_template(message.content_template, set(names))
    if message.title_field and message.title_field not in names:
        raise InvalidRequest("The title field is not a field of the collection.", field="collection.title_field")
    if not 1 <= message.space.dimension <= 16_384 or not message.space.model:
        raise InvalidRequest("The collection needs an embedding space.", field="collection.space")
    index, chunking = message.vector_index, message.chunking
    found = Collection(
        name=message.name,
        fields=tuple(Field(f.name, _TYPES[f.type], f.filterable, f.required) for f in message.fields),
        content_template=message.content_template,
        space=space_of(message.space),
        cjk_characters=chunking.cjk_characters or 350,
        latin_characters=chunking.latin_characters or 1000,
        vector_index=VectorIndex(index.ef or 200, index.ef_construction or 256, index.max_connections or 64),
        title_field=message.title_field,
    )
    if not (50 <= found.cjk_characters <= 4000 and 100 <= found.latin_characters <= 10_000):
        raise InvalidRequest("Chunks are 50 to 4,000 Chinese or 100 to 10,000 other characters.", field="collection.chunking")
    return found


def _check_template(template: str, names: set[str]) -> None:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InvalidRequest(f"The content template is wrong: {error}.", field="collection.content_template") from None
    used = [part[1:] for part in parts if part[1] is not None]
    if not used or any(name not in names or spec or conversion for name, spec, conversion in used):
        message = f"The content template holds {{field}} for fields of the collection only: {', '.join(sorted(names))}."
        raise InvalidRequest(message, field="collection.content_template")


def collection_message(collection: Collection) -> pb.Collection:
    """The stored definition as a message."""
    space = collection.space
    return pb.Collection(
        name=collection.name,
        fields=[
            pb.Field(name=f.name, type=_TYPE_NUMBERS[f.type], filterable=f.filterable, required=f.required)
            for f in collection.fields
        ],
        content_template=collection.content_template,
        chunking=pb.Chunking(cjk_characters=collection.cjk_characters, latin_characters=collection.latin_characters),
        vector_index=pb.VectorIndex(
            ef=collection.vector_index.ef,
            ef_construction=collection.vector_index.ef_construction,
            max_connections=collection.vector_index.max_connections,
        ),
        space=pb.EmbeddingSpace(
            model=space.model,
            digest=space.digest,
            dimension=space.dimension,
            probes=pb.Vectors(dimension=space.dimension, float32_le=space.probes),
        ),
        revision=collection.revision,
        title_field=collection.title_field,
    )


def passage_message(hit: Hit, collection: Collection) -> pb.Passage:
    """A hit as a message; absent scores stay absent."""
    return pb.Passage(
        document_id=hit.document_id,
        version=hit.version,
        chunk=hit.chunk,
        text=hit.text,
        fields=fields_to_messages(hit.fields, collection),
        scores=pb.Scores(cosine=hit.cosine, bm25=hit.bm25, fused=hit.fused),
    )
