"""A collection's definition as callers write and read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from ragkeep.types.v1 import types_pb2

FieldType = Literal["text", "keyword", "number", "boolean", "timestamp", "other"]
Quantization = Literal["none", "pq", "bq", "sq", "rq", "other"]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a collection's documents."""

    name: str
    type: FieldType
    filterable: bool = False
    required: bool = False
    searchable: bool = False  # its value is part of the text that is indexed
    sealed: bool = False  # its value is encrypted, and shown to unsealers alone


@dataclass(frozen=True, slots=True)
class Schema:
    """What a collection is to be. What is left at 0, None or empty has its default; types.proto tells it, and the limits."""

    name: str
    fields: tuple[Field, ...]
    content_template: str = ""  # empty: the searchable fields, each on a line of its own
    title_field: str = ""  # whose value names a document to a reader
    cjk_characters: int = 0  # of a chunk of Chinese, Japanese or Korean text
    latin_characters: int = 0  # of a chunk of other text
    prompt_template: str = ""  # empty: ragkeep's own
    minimum_coverage: float | None = None
    minimum_margin: float | None = None
    ef: int = 0
    ef_construction: int = 0
    max_connections: int = 0
    quantization: Quantization = "none"


def enum_name(enum: Any, number: int, prefix: str) -> str:
    """The value's name in small letters; `other` for one that a newer server added."""
    name = enum.Name(number) if number and number in enum.values() else ""
    return name.removeprefix(prefix).lower() or "other"


def schema_message(schema: Schema) -> types_pb2.Collection:
    """The contract's definition. Raises ValueError where a value does not fit into its field."""
    return types_pb2.Collection(
        name=schema.name,
        fields=[
            types_pb2.Field(
                name=field.name,
                type=types_pb2.FieldType.Value(f"FIELD_TYPE_{field.type.upper()}"),
                filterable=field.filterable,
                required=field.required,
                searchable=field.searchable,
                sealed=field.sealed,
            )
            for field in schema.fields
        ],
        content_template=schema.content_template,
        title_field=schema.title_field,
        chunking=types_pb2.Chunking(cjk_characters=schema.cjk_characters, latin_characters=schema.latin_characters),
        prompt_template=schema.prompt_template,
        minimum_evidence=types_pb2.MinimumEvidence(coverage=schema.minimum_coverage, margin=schema.minimum_margin),
        vector_index=types_pb2.VectorIndex(
            ef=schema.ef,
            ef_construction=schema.ef_construction,
            max_connections=schema.max_connections,
            quantization=types_pb2.Quantization.Value(f"QUANTIZATION_{schema.quantization.upper()}"),
        ),
    )


def schema_from(message: types_pb2.Collection) -> Schema:
    """The definition of the contract."""
    evidence, index = message.minimum_evidence, message.vector_index
    return Schema(
        name=message.name,
        fields=tuple(
            Field(
                field.name,
                cast(FieldType, enum_name(types_pb2.FieldType, field.type, "FIELD_TYPE_")),
                field.filterable,
                field.required,
                field.searchable,
                field.sealed,
            )
            for field in message.fields
        ),
        content_template=message.content_template,
        title_field=message.title_field,
        cjk_characters=message.chunking.cjk_characters,
        latin_characters=message.chunking.latin_characters,
        prompt_template=message.prompt_template,
        minimum_coverage=evidence.coverage if evidence.HasField("coverage") else None,
        minimum_margin=evidence.margin if evidence.HasField("margin") else None,
        ef=index.ef,
        ef_construction=index.ef_construction,
        max_connections=index.max_connections,
        quantization=cast(
            Quantization,
            enum_name(types_pb2.Quantization, index.quantization or types_pb2.QUANTIZATION_NONE, "QUANTIZATION_"),
        ),
    )
