"""A collection's definition ↔ its message, checked, with what is wrong named."""

from __future__ import annotations

import math
import re

from ragkeep.types.v1 import types_pb2 as pb
from ragkeep_retriever.convert import TYPES, space_of
from ragkeep_retriever.templates import check_prompt, content_names
from ragkeep_retriever.values import Collection, Field, Quantization, VectorIndex
from ragkeep_runtime.errors import FieldSealed, InvalidRequest, TemplateInvalid

_COLLECTION_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_MAX_FIELDS = 64
_TYPE_NUMBERS = {value: key for key, value in TYPES.items()}
_QUANTIZATIONS = {
    pb.QUANTIZATION_UNSPECIFIED: Quantization.NONE,
    pb.QUANTIZATION_NONE: Quantization.NONE,
    pb.QUANTIZATION_PQ: Quantization.PQ,
    pb.QUANTIZATION_BQ: Quantization.BQ,
    pb.QUANTIZATION_SQ: Quantization.SQ,
    pb.QUANTIZATION_RQ: Quantization.RQ,
}
_QUANTIZATION_NUMBERS = {value: key for key, value in _QUANTIZATIONS.items()}


def collection_of(message: pb.Collection) -> Collection:
    """The definition, defaults filled in; whether it needs a space is for the caller to say.

    Raises InvalidRequest, TemplateInvalid or FieldSealed.
    """
    if not _COLLECTION_NAME.fullmatch(message.name):
        raise InvalidRequest(
            "A collection's name begins with a small letter and has up to 63 of a-z, 0-9, _ and -.", field="collection.name"
        )
    fields = _fields(message)
    names = [field.name for field in fields]
    if message.title_field and message.title_field not in names:
        raise InvalidRequest(
            f"The title field {message.title_field[:64]!r} is not a field of the collection: {', '.join(names)}.",
            field="collection.title_field",
        )
    sealed = [field.name for field in fields if field.sealed]
    if message.title_field in sealed:
        raise FieldSealed(
            f"The field {message.title_field} is sealed, and everybody who may search is shown the title. Name another.",
            field="collection.title_field",
        )
    template = message.content_template or "\n".join(f"{{{field.name}}}" for field in fields if field.searchable)
    if not template:
        raise TemplateInvalid(
            "Nothing would be indexed: mark fields as searchable, or give a content template.",
            field="collection.content_template",
        )
    used = content_names(template, names, sealed)
    unused = [field.name for field in fields if field.searchable and field.name not in used]
    if unused:
        raise TemplateInvalid(
            f"Searchable fields are missing from the content template: {', '.join(unused)}.",
            field="collection.content_template",
        )
    check_prompt(message.prompt_template, sealed)
    cjk, latin = message.chunking.cjk_characters or 350, message.chunking.latin_characters or 1000
    if not (50 <= cjk <= 4000 and 100 <= latin <= 10_000):
        raise InvalidRequest("Chunks are 50 to 4,000 Chinese or 100 to 10,000 other characters.", field="collection.chunking")
    evidence = message.minimum_evidence
    return Collection(
        name=message.name,
        fields=tuple(Field(f.name, f.type, f.filterable, f.required, f.name in used, f.sealed) for f in fields),
        content_template=template,
        space=space_of(message.space),
        cjk_characters=cjk,
        latin_characters=latin,
        vector_index=_vector_index(message.vector_index),
        title_field=message.title_field,
        prompt_template=message.prompt_template,
        minimum_coverage=_bound(evidence, "coverage", 0, 1),
        minimum_margin=_bound(evidence, "margin", -2, 2),
        revision=message.revision,
    )


def _fields(message: pb.Collection) -> list[Field]:
    names = [field.name for field in message.fields]
    if not 1 <= len(names) <= _MAX_FIELDS or len(set(names)) != len(names):
        raise InvalidRequest(f"A collection has 1 to {_MAX_FIELDS} fields, each name once.", field="collection.fields")
    for field in message.fields:
        if not _FIELD_NAME.fullmatch(field.name):
            raise InvalidRequest(
                f"The field {field.name[:64]!r} has a wrong name: it begins with a small letter and has up to 63 of a-z, 0-9 "
                "and _.",
                field="collection.fields",
            )
        if field.type not in TYPES:
            kinds = ", ".join(kind.value for kind in TYPES.values())
            raise InvalidRequest(f"The field {field.name} needs a type: {kinds}.", field="collection.fields")
        if field.sealed and (field.searchable or field.filterable):
            what, why = ("searchable", "indexed") if field.searchable else ("filterable", "compared")
            raise FieldSealed(
                f"The field {field.name} is sealed and {what}, and what is encrypted cannot be {why}: leave one of them out.",
                field="collection.fields",
            )
    return [Field(f.name, TYPES[f.type], f.filterable, f.required, f.searchable, f.sealed) for f in message.fields]


def _vector_index(message: pb.VectorIndex) -> VectorIndex:
    index = VectorIndex(
        message.ef or 200,
        message.ef_construction or 256,
        message.max_connections or 64,
        _QUANTIZATIONS.get(message.quantization, Quantization.NONE),
    )
    within = 1 <= index.ef <= 4096 and 4 <= index.ef_construction <= 4096 and 4 <= index.max_connections <= 2047
    if not within or message.quantization not in _QUANTIZATIONS:
        raise InvalidRequest(
            "ef is 1 to 4,096, ef_construction 4 to 4,096, max_connections 4 to 2,047, quantization none, pq, bq, sq or rq.",
            field="collection.vector_index",
        )
    return index


def _bound(message: pb.MinimumEvidence, name: str, least: float, most: float) -> float | None:
    if not message.HasField(name):  # type: ignore[arg-type]
        return None
    value: float = getattr(message, name)
    if not math.isfinite(value) or not least <= value <= most:
        raise InvalidRequest(
            f"The minimum evidence's {name} must be {least} to {most}.", field=f"collection.minimum_evidence.{name}"
        )
    return value


def collection_message(collection: Collection) -> pb.Collection:
    """The stored definition as a message."""
    space, index = collection.space, collection.vector_index
    return pb.Collection(
        name=collection.name,
        fields=[
            pb.Field(
                name=f.name,
                type=_TYPE_NUMBERS[f.type],
                filterable=f.filterable,
                required=f.required,
                searchable=f.searchable,
                sealed=f.sealed,
            )
            for f in collection.fields
        ],
        content_template=collection.content_template,
        chunking=pb.Chunking(cjk_characters=collection.cjk_characters, latin_characters=collection.latin_characters),
        vector_index=pb.VectorIndex(
            ef=index.ef,
            ef_construction=index.ef_construction,
            max_connections=index.max_connections,
            quantization=_QUANTIZATION_NUMBERS[index.quantization],
        ),
        space=pb.EmbeddingSpace(
            model=space.model,
            digest=space.digest,
            dimension=space.dimension,
            probes=pb.Vectors(dimension=space.dimension, float32_le=space.probes),
        ),
        revision=collection.revision,
        title_field=collection.title_field,
        prompt_template=collection.prompt_template,
        minimum_evidence=pb.MinimumEvidence(coverage=collection.minimum_coverage, margin=collection.minimum_margin),
    )
