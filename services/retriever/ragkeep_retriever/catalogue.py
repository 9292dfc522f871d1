"""A collection's definition as stores keep it: JSON with a version, never guessed when it is of another one."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, replace

from ragkeep_retriever.analyzer import FINGERPRINT
from ragkeep_retriever.store import Collection, EmbeddingSpace, Field, FieldType, VectorIndex
from ragkeep_runtime.errors import AnalyzerMismatch, CollectionExists, EngineFailed

VERSION = 1


def dump(collection: Collection) -> str:
    """The definition as JSON, with the analyzer that the index is made with."""
    plain = asdict(collection)
    plain["fields"] = [{**asdict(field), "type": field.type.value} for field in collection.fields]
    plain["space"]["probes"] = base64.b64encode(collection.space.probes).decode()
    return json.dumps({"version": VERSION, "analyzer": FINGERPRINT, "collection": plain}, ensure_ascii=False)


def load(text: str) -> Collection:
    """The definition. Raises AnalyzerMismatch, or EngineFailed for one that another version wrote."""
    stored = json.loads(text)
    if stored["version"] != VERSION:
        raise EngineFailed(
            f"The catalogue is of version {stored['version']}, and this program reads {VERSION}. Use the other program."
        )
    plain = stored["collection"]
    if stored["analyzer"] != FINGERPRINT:
        raise AnalyzerMismatch(
            f"The collection {plain['name']} was indexed with the analyzer {stored['analyzer']}, "
            f"and this program has {FINGERPRINT}. Import into a new collection."
        )
    space = {**plain["space"], "probes": base64.b64decode(plain["space"]["probes"])}
    return Collection(
        **{
            **plain,
            "fields": tuple(Field(**{**field, "type": FieldType(field["type"])}) for field in plain["fields"]),
            "space": EmbeddingSpace(**space),
            "vector_index": VectorIndex(**plain["vector_index"]),
        }
    )


def same_or_raise(stored: Collection, wanted: Collection) -> Collection:
    """The stored one where only revision and probes differ, else CollectionExists."""

    def bare(one: Collection) -> Collection:
        return replace(one, revision=0, space=replace(one.space, probes=b""))

    if bare(stored) != bare(wanted):
        raise CollectionExists(f"The collection {stored.name} exists with another definition.")
    return stored
