"""The values that the store's port speaks in: collections, documents, queries, hits, tenants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import datetime
from enum import Enum

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
    sealed: bool = False  # its values come encrypted: kept apart from passages, never looked into


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value that the gateway encrypted; nothing here can open it."""

    key_id: str
    nonce: bytes  # 12 bytes
    ciphertext: bytes  # with its tag


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

    @property
    def limited(self) -> bool:
        """Whether there may be documents that it does not see."""
        return self.groups is not None

    def sees(self, groups: Iterable[str]) -> bool:
        """Whether it sees a document of these groups (none: open to the tenant)."""
        own = frozenset(groups)
        return self.groups is None or not own or not own.isdisjoint(self.groups)


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
    sealed: Mapping[str, Sealed] = dataclass_field(default_factory=dict)  # by field


@dataclass(frozen=True, slots=True)
class SealedUpdate:
    """Other sealed values for a document in the version that it must have."""

    document_id: str
    version: bytes
    sealed: Mapping[str, Sealed]  # all of the document's


class Put(Enum):
    """What became of a document that was put."""

    CREATED = "created"
    UNCHANGED = "unchanged"
    UPDATED = "updated"
    HIDDEN = "hidden"  # not taken: the id is one of a document that the scope does not see, or it would not see this one


@dataclass(frozen=True, slots=True)
class ListedDocument:
    """A document as it is stored."""

    id: str
    version: bytes
    fields: Mapping[str, FieldValue]
    groups: tuple[str, ...]  # empty: open to the tenant
    chunks: int
    sealed: Mapping[str, Sealed] = dataclass_field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Versions:
    """Which of some ids are there."""

    seen: dict[str, bytes]  # the versions of those documents that the scope sees, whole
    hidden: frozenset[str]  # ids of those that it does not see: nothing of them is told but that the id is taken


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
    bm25: float | None  # None: the keyword half did not find it, or the scope is limited
    fused: float | None  # hybrid only, 0 to 1; None where the scope is limited: both tell of words in documents it does not see
    vector_rank: int | None = None  # from 1; None: not found by this half, or no explanation was asked for
    keyword_rank: int | None = None  # as above
    sealed: Mapping[str, Sealed] = dataclass_field(default_factory=dict)  # the document's


@dataclass(frozen=True, slots=True)
class Found:
    """Hits, best first, and what the scores tell of them."""

    hits: list[Hit]
    # Share of the question's distinct tokens found together in the best of the hits, 0 to 1. Weighted, where the store knows,
    # by how rare they are among the documents that the scope sees.
    coverage: float
    best_cosine: float | None
    tokens: tuple[str, ...] = ()  # of the question, distinct, in order
    missing: tuple[str, ...] = ()  # those of them that no hit holds


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """What is known of a tenant, whether it has documents or not."""

    name: str  # 1 to 128 characters
    active: bool
    created: datetime  # in UTC; of one that an older version made: when its record was
    salt: bytes = dataclass_field(repr=False)  # 32 random bytes, made once; its keys are derived with them
    # A deletion began and did not end: the documents of each collection then. None: no deletion began.
    deleting: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Tenants:
    """All of them."""

    tenants: list[tuple[TenantRecord, dict[str, int]]]  # by name; with the documents of each collection that has some
    unnamed: int  # have documents of an older version, under a hash: their names are known once they call again
