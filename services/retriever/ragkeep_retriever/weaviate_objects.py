"""Documents as Weaviate keeps them: passages with their vectors, and a manifest each, which decides what exists."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragkeep_retriever.analyzer import tokens
from ragkeep_retriever.values import Collection, Hit, ListedDocument, Query, Scope, Sealed, StoredDocument
from ragkeep_retriever.weaviate_connection import object_id
from ragkeep_retriever.weaviate_schema import SEALED, decoded, property_of, stored, where

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from weaviate.classes.data import DataObject
    from weaviate.classes.query import Filter as WeaviateFilter

_BM25 = re.compile(r"keyword,bm25\).*?original score (\d+(?:\.\d+)?)", re.DOTALL)
# An insert is split by objects and by bytes: one message holds at most 100 MiB.
_INSERT_OBJECTS, _INSERT_BYTES = 500, 20 * 1024 * 1024
# The generation of a manifest that says: deleted. Others are 32 hexadecimal digits.
_TOMBSTONE = "deleted"
LIVE = WeaviateFilter.by_property("generation").not_equal(_TOMBSTONE)
# Of the catalogue's first version: their groups stand beside their passages alone. (A property that came later is not known to
# be absent; it is not known to be there.)
UNTOLD = WeaviateFilter.not_(WeaviateFilter.by_property("groups").is_none(False))


def seen_by(groups: frozenset[str]) -> Any:
    """Live manifests of documents that are open or of one of these groups."""
    return WeaviateFilter.all_of([LIVE, where(None, groups)])


@dataclass(frozen=True, slots=True)
class Manifest:
    """What of a document is current."""

    document_id: str
    generation: str  # of its passages
    version: bytes
    fields: str  # JSON
    chunks: int
    groups: tuple[str, ...] | None  # None: an older version of ragkeep wrote them to the passages alone

    def seen_by(self, scope: Scope) -> bool:
        """Whether the scope sees it; whose groups are not known is seen by who sees every document."""
        return not scope.limited or (self.groups is not None and scope.sees(self.groups))

    @property
    def sealed(self) -> dict[str, int]:
        """How many bytes each sealed value has, by field; the values are in an object of the generation's own."""
        found: dict[str, int] = json.loads(self.fields).get(SEALED, {}) if SEALED in self.fields else {}
        return found

    def listed(self, collection: Collection, sealed: Mapping[str, Sealed]) -> ListedDocument:
        """The document that it stands for."""
        fields = decoded(self.fields, collection)
        return ListedDocument(self.document_id, self.version, fields, self.groups or (), self.chunks, sealed)


def manifest_of(one: Any) -> Manifest | None:
    """The manifest of an object; None for a tombstone."""
    properties = one.properties
    if properties["generation"] == _TOMBSTONE:
        return None
    groups = properties.get("groups")
    return Manifest(
        str(properties["document_id"]),
        str(properties["generation"]),
        bytes.fromhex(str(properties["version"])),
        str(properties["fields"]),
        int(properties["chunks"]),
        None if groups is None else open_groups(groups),
    )


def open_groups(groups: Sequence[str]) -> tuple[str, ...]:
    """The document's own groups; stored, an open document has the group *."""
    return tuple(group for group in groups if group != "*")


def manifest_object(document: StoredDocument, generation: str) -> Any:
    """The manifest to write."""
    fields: dict[str, Any] = {name: stored(value) for name, value in document.fields.items()}
    if document.sealed:
        fields[SEALED] = {name: len(one.ciphertext) for name, one in document.sealed.items()}
    properties = {
        "document_id": document.id,
        "generation": generation,
        "version": document.version.hex(),
        "chunks": len(document.chunks),
        "fields": json.dumps(fields, ensure_ascii=False, default=str),
        "groups": list(document.groups) or ["*"],
    }
    return DataObject(properties=properties, uuid=object_id(document.id))


def tombstone_object(document_id: str) -> Any:
    """What stands in a manifest's place once the document is deleted: what an engine's fault brings back is never shown."""
    properties = {"document_id": document_id, "generation": _TOMBSTONE, "version": "", "chunks": 0, "fields": "{}"}
    return DataObject(properties=properties, uuid=object_id(document_id))


def passage_id(generation: str, position: int) -> Any:
    """The id of a passage."""
    return object_id(f"{generation}/{position}")


def passage_batches(
    collection: Collection, documents: Sequence[StoredDocument], generations: dict[str, str]
) -> list[list[Any]]:
    """Every chunk's object, in batches that one message holds."""
    filterable = {field.name for field in collection.fields if field.filterable}
    batches: list[list[Any]] = []
    size = 0
    for document in documents:
        generation = generations[document.id]
        fields = {property_of(name): stored(value) for name, value in document.fields.items() if name in filterable}
        for position, chunk in enumerate(document.chunks):
            properties = {
                **fields,
                "document_id": document.id,
                "generation": generation,
                "chunk": position,
                "text": chunk.text,
                "tokens": " ".join(tokens(chunk.text)),
                "groups": list(document.groups) or ["*"],
            }
            item = DataObject(properties=properties, vector=list(chunk.vector), uuid=passage_id(generation, position))
            about = 6 * len(chunk.text) + 4 * len(chunk.vector) + 1000
            if not batches or len(batches[-1]) == _INSERT_OBJECTS or size + about > _INSERT_BYTES:
                batches.append([])
                size = 0
            batches[-1].append(item)
            size += about
    return batches


def hit_of(one: Any, manifest: Manifest, collection: Collection, query: Query) -> Hit:
    """A passage that was found, with its raw scores."""
    cosine = bm25 = fused = None
    if query.vector is None:
        bm25 = one.metadata.score
    elif one.metadata.distance is not None:
        cosine = 1 - one.metadata.distance
    else:
        vector = one.vector["default"]
        cosine = sum(a * b for a, b in zip(vector, query.vector, strict=True))
        fused = one.metadata.score
        # Raw scores stand in the explanation's text alone, and only of the halves that found the passage.
        explained = _BM25.search(one.metadata.explain_score or "")
        bm25 = float(explained[1]) if explained else None
    return Hit(
        document_id=str(one.properties["document_id"]),
        version=manifest.version,
        chunk=int(one.properties["chunk"]),
        text=str(one.properties["text"]),
        fields=decoded(manifest.fields, collection),
        cosine=cosine,
        bm25=bm25,
        fused=fused,
    )
