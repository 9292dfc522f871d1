"""A collection's definition as stores keep it: JSON with a version; an older one is upgraded, a newer one refused."""

from __future__ import annotations

import base64
import json
import string
from dataclasses import asdict, replace
from typing import Any

from ragkeep_retriever.analyzer import FINGERPRINT
from ragkeep_retriever.values import Collection, EmbeddingSpace, Field, FieldType, Quantization, VectorIndex
from ragkeep_runtime.errors import AnalyzerMismatch, CatalogueTooNew, CollectionExists, EngineFailed

# 1: the first. 2: searchable fields, quantization, prompt template, minimum evidence. 3: sealed fields.
VERSION = 3


def dump(collection: Collection) -> str:
    """The definition as JSON, with the analyzer that the index is made with."""
    plain = asdict(collection)
    plain["fields"] = [{**asdict(field), "type": field.type.value} for field in collection.fields]
    plain["space"]["probes"] = base64.b64encode(collection.space.probes).decode()
    plain["vector_index"]["quantization"] = collection.vector_index.quantization.value
    return json.dumps({"version": VERSION, "analyzer": FINGERPRINT, "collection": plain}, ensure_ascii=False)


def version_of(text: str) -> int:
    """In which form the definition is stored."""
    return int(json.loads(text)["version"])


def mark_deleting(text: str) -> str:
    """The definition of a collection that is going: readers do not see it, and who makes it again ends the deletion first."""
    return json.dumps({**json.loads(text), "deleting": True}, ensure_ascii=False)


def is_deleting(text: str) -> bool:
    """Whether a deletion began and did not end."""
    return bool(json.loads(text).get("deleting"))


def load(text: str, *, any_analyzer: bool = False) -> Collection:
    """The definition. Raises CatalogueTooNew, AnalyzerMismatch, or EngineFailed for what no version ever wrote."""
    try:
        stored = json.loads(text)
        version, plain = int(stored["version"]), stored["collection"]
        if version > VERSION:
            raise CatalogueTooNew(
                f"The collection {plain.get('name', '')} was written in the form {version} of a newer ragkeep, and this one "
                f"reads up to {VERSION}. Use the newer one."
            )
        if version < 2:
            _upgrade_from_1(plain)
        if version < 3:
            for field in plain["fields"]:
                field["sealed"] = False
        found = Collection(
            **{
                **plain,
                "fields": tuple(Field(**{**field, "type": FieldType(field["type"])}) for field in plain["fields"]),
                "space": EmbeddingSpace(**{**plain["space"], "probes": base64.b64decode(plain["space"]["probes"])}),
                "vector_index": VectorIndex(
                    **{**plain["vector_index"], "quantization": Quantization(plain["vector_index"]["quantization"])}
                ),
            }
        )
        analyzer = str(stored["analyzer"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EngineFailed("The catalogue holds an entry that ragkeep did not write: restore it from a backup.") from None
    if analyzer != FINGERPRINT and not any_analyzer:
        raise AnalyzerMismatch(
            f"The collection {found.name} was indexed with the analyzer {analyzer}, and this program has {FINGERPRINT}. Export "
            "its documents, and import them into a new collection."
        )
    return found


def _upgrade_from_1(plain: dict[str, Any]) -> None:
    used = {name for _, name, _, _ in string.Formatter().parse(plain["content_template"]) if name}
    for field in plain["fields"]:
        field["searchable"] = field["name"] in used
    plain["vector_index"]["quantization"] = Quantization.NONE.value


def same_or_raise(stored: Collection, wanted: Collection) -> Collection:
    """The stored one where only revision and probes differ, else CollectionExists."""

    def bare(one: Collection) -> Collection:
        return replace(one, revision=0, space=replace(one.space, probes=b""))

    if bare(stored) != bare(wanted):
        raise CollectionExists(
            f"The collection {stored.name} exists with another definition: update it, or choose another name."
        )
    return stored
