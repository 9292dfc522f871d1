"""The port: what a store of passages must do, in domain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

# A field's value. Timestamps are aware datetimes in UTC.
FieldValue = str | float | bool | datetime


class FieldType(Enum):
    """The type of a field's values."""

    TEXT = "text"
    KEYWORD = "keyword"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a collection's documents."""

    name: str  # [a-z][a-z0-9_]{0,62}
    type: FieldType
    filterable: bool = False
    required: bool = False
    searchable: bool = False  # the content template holds it


@dataclass(frozen=True, slots=True)
class EmbeddingSpace:
    """Which model made a collection's vectors."""

    model: str
    digest: str
    dimension: int
    probes: bytes = b""  # packed little-endian float32 of three probe texts; empty beside ordinary vectors

    def same_as(self, other: EmbeddingSpace) -> bool:
        """Equal but for the probes (whether other digests agree by probes is for the gateway to find out)."""
        return (self.model, self.digest, self.dimension) == (other.model, other.digest, other.dimension)


class Quantization(Enum):
    """How vectors are kept smaller in memory."""

    NONE = "none"
    PQ = "pq"
    BQ = "bq"
    SQ = "sq"
    RQ = "rq"


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """HNSW's parameters; a store without HNSW keeps them and searches exactly."""

    ef: int = 200
    ef_construction: int = 256
    max_connections: int = 64
    quantization: Quantization = Quantization.NONE


@dataclass(frozen=True, slots=True)
class Collection:
    """An installation-wide schema."""

    name: str  # [a-z][a-z0-9_-]{0,62}
    fields: tuple[Field, ...]
    content_template: str
    space: EmbeddingSpace
    cjk_characters: int = 350
    latin_characters: int = 1000
    vector_index: VectorIndex = VectorIndex()
    title_field: str = ""
    prompt_template: str = ""  # empty: the generator's own
    minimum_coverage: float | None = None  # None: the gateway's own
    minimum_margin: float | None = None  # of the best cosine above the background; None: the gateway's own
    revision: int = 0  # set by the store: 1 when made


@dataclass(frozen=True, slots=True)
class Change:
    """What an update came to."""

    collection: Collection
    import_again: bool  # passages that are there were made under the old definition


@dataclass(frozen=True, slots=True)
class Scope:
    """For whom: a tenant, and which of its documents are seen."""

    tenant: str  # 1 to 128 characters, as an identity provider writes it
    groups: frozenset[str] | None  # None: every document; empty: only what is open to the tenant


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document's text with its vector."""

    text: str
    vector: Sequence[float]  # unit length


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document with its chunks."""

    id: str
    version: bytes  # 32 bytes
    fields: Mapping[str, FieldValue]
    groups: tuple[str, ...]  # empty: open to the tenant
    chunks: Sequence[Chunk]


class Put(Enum):
    """What became of a document that was put."""

    CREATED = "created"
    UNCHANGED = "unchanged"
    UPDATED = "updated"


@dataclass(frozen=True, slots=True)
class ListedDocument:
    """A document as it is stored."""

    id: str
    version: bytes
    fields: Mapping[str, FieldValue]
    groups: tuple[str, ...]  # empty: open to the tenant
    chunks: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the documents."""

    documents: list[ListedDocument]  # may be none where more follow
    after: str  # where the next page begins; empty: there is none


# A page of documents holds about this many bytes of fields at most.
MAX_PAGE_BYTES = 16 * 1024 * 1024


# Filters: a small tree. The service has checked names and types before a store sees one.
@dataclass(frozen=True, slots=True)
class Equals:
    """The field has one of these values (one value: equality)."""

    field: str
    values: tuple[FieldValue, ...]


@dataclass(frozen=True, slots=True)
class InRange:
    """at_least ≤ field < less_than; None: no bound on that side. Number and timestamp fields only."""

    field: str
    at_least: FieldValue | None
    less_than: FieldValue | None


@dataclass(frozen=True, slots=True)
class AllOf:
    """All hold."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one holds."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """It does not hold. A document without the field satisfies it."""

    filter: Filter


Filter = Equals | InRange | AllOf | AnyOf | Not


@dataclass(frozen=True, slots=True)
class Query:
    """What to search for. `vector` alone: by meaning; `text` alone: by words; both: hybrid."""

    text: str | None = None  # the question; the store makes tokens of it with `analyzer`
    vector: Sequence[float] | None = None  # unit length
    alpha: float = 0.6  # weight of the vector half in hybrid
    filter: Filter | None = None
    limit: int = 5
    minimum_cosine: float | None = None  # cuts the vector half only
    passages_per_document: int = 0  # 0: any number
    explain: bool = False  # hits bring their ranks


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found."""

    document_id: str
    version: bytes
    chunk: int
    text: str
    fields: Mapping[str, FieldValue]
    cosine: float | None  # None: no vector was searched for
    bm25: float | None  # None: the keyword half did not find it
    fused: float | None  # hybrid only, 0 to 1
    vector_rank: int | None = None  # from 1; None: not found by this half, or no explanation was asked for
    keyword_rank: int | None = None  # as above


@dataclass(frozen=True, slots=True)
class Found:
    """Hits, best first, and what the scores tell of them."""

    hits: list[Hit]
    # Share of the question's distinct tokens found together in the best of the hits, 0 to 1 (idf-weighted where known).
    coverage: float
    best_cosine: float | None
    tokens: tuple[str, ...] = ()  # of the question, distinct, in order
    missing: tuple[str, ...] = ()  # those of them that no hit holds


class PassageStore(Protocol):
    """Documents in, passages out. Every error is one of `ragkeep_runtime.errors`.

    A document appears whole or not at all, in place of its older version. What `put` has returned survives `kill -9` of
    any process and is found afterwards, by vector and by keyword. All methods may run concurrently.
    """

    async def create_collection(self, collection: Collection) -> Collection:
        """Makes it with revision 1; returns the stored one if it exists with the same definition (revision aside).

        Raises CollectionExists where the definition differs.
        """
        ...

    async def collection(self, name: str, *, any_analyzer: bool = False) -> Collection:
        """The collection's definition. Raises CollectionUnknown, CatalogueTooNew, and AnalyzerMismatch where the index was made
        with another analyzer: only documents can be read of it, by who says `any_analyzer`.
        """
        ...

    async def collections(self, tenant: str) -> list[tuple[Collection, int]]:
        """All collections by name, whatever their analyzer, each with the number of the tenant's documents in it."""
        ...

    async def update_collection(self, wanted: Collection) -> Change:
        """Gives the collection another definition, and a higher revision where it differs. `wanted.space` does not count.

        Raises CollectionUnknown, CollectionFixed; CollectionChanged where `wanted.revision` is neither 0 nor the stored one.
        """
        ...

    async def delete_collection(self, name: str) -> None:
        """Deletes a collection without documents. Raises CollectionUnknown; CollectionInUse where a tenant has one in it."""
        ...

    async def versions(self, tenant: str, collection: str, document_ids: Sequence[str]) -> dict[str, bytes]:
        """The versions of those documents that are there, whole. Raises CollectionUnknown."""
        ...

    async def put(self, tenant: str, collection: Collection, documents: Sequence[StoredDocument]) -> list[Put]:
        """Stores documents (each id once), in order; one whose version is there already is left alone.

        Raises CollectionChanged (stored revision differs from `collection.revision`), StorageFull.
        """
        ...

    async def search(self, scope: Scope, collection: Collection, query: Query) -> Found:
        """Finds passages. An unknown tenant has none."""
        ...

    async def document(self, scope: Scope, collection: Collection, document_id: str) -> ListedDocument | None:
        """The document as it is stored; None where the scope does not see one."""
        ...

    async def documents(
        self, scope: Scope, collection: Collection, *, filter: Filter | None = None, after: str = "", limit: int = 100
    ) -> Page:
        """A page of documents in the store's own order; `after` is that of the page before.

        A document that is neither added, changed nor deleted meanwhile is on exactly one page. Raises InvalidRequest for an
        `after` that is none.
        """
        ...

    async def delete(
        self, scope: Scope, collection: Collection, wanted: Mapping[str, bytes | None], *, dry_run: bool = False
    ) -> list[str]:
        """Deletes those of the documents that the scope sees, each whole; the value is the version it must have, None for any.

        Returns the ids of those that were there, in the order of `wanted`; `dry_run` deletes nothing. What is deleted is not
        found afterwards, and stays away after `kill -9` of any process.
        """
        ...

    async def ready(self) -> None:
        """Raises EngineUnreachable where the engine does not answer."""
        ...

    async def close(self) -> None:
        """Lets go of files and connections."""
        ...
