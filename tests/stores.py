"""Documents and collections for tests of stores, whose vectors depend on their texts alone."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence

import pytest

from ragkeep_retriever.values import Chunk, Collection, EmbeddingSpace, Field, FieldType, Found, Scope, Sealed, StoredDocument

DIMENSION = 16
SPACE = EmbeddingSpace("test", "digest", DIMENSION, b"\0" * 4 * DIMENSION * 3)
FIELDS = (
    Field("title", FieldType.TEXT, required=True, searchable=True),
    Field("category", FieldType.KEYWORD, filterable=True),
    Field("id", FieldType.KEYWORD, filterable=True),
    Field("severity", FieldType.NUMBER, filterable=True),
    Field("open", FieldType.BOOLEAN, filterable=True),
    Field("at", FieldType.TIMESTAMP, filterable=True),
)
SEALED_FIELDS = (Field("salary", FieldType.NUMBER, sealed=True), Field("note", FieldType.TEXT, sealed=True))


def vector(seed: object) -> list[float]:
    """A unit vector that depends on the seed alone."""
    chance = random.Random(str(seed))
    values = [chance.gauss(0, 1) for _ in range(DIMENSION)]
    length = sum(x * x for x in values) ** 0.5
    return [x / length for x in values]


def document(
    name: str,
    *texts: str,
    version: int = 1,
    groups: Sequence[str] = (),
    category: str = "a",
    sealed: Mapping[str, Sealed] | None = None,
    **fields: object,
) -> StoredDocument:
    """A document whose chunks' vectors are those of their texts."""
    texts = texts or (f"text of {name}",)
    return StoredDocument(
        id=name,
        version=version.to_bytes(32, "big"),
        fields={"title": name, "category": category, **fields},  # type: ignore[dict-item]
        groups=tuple(groups),
        chunks=[Chunk(text, vector(text)) for text in texts],
        sealed=sealed or {},
    )


def sealed(key: str, text: str = "") -> Sealed:
    """A value as if it were encrypted: what a store sees of one."""
    return Sealed(key, b"n" * 12, f"{key} {text}".encode().ljust(16))


ALL = Scope("demo", None)


def ids(found: Found) -> list[str]:
    """Document ids, best first."""
    return [hit.document_id for hit in found.hits]


def definition(name: str = "") -> Collection:
    """A definition, of a name that nobody else has."""
    return Collection(name=name or f"c-{uuid.uuid4().hex[:12]}", fields=FIELDS, content_template="{title}", space=SPACE)


ADAPTERS = [
    pytest.param("sqlite", marks=pytest.mark.engine("sqlite")),
    pytest.param("weaviate", marks=pytest.mark.engine("weaviate")),
]
