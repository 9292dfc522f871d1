"""What callers get back: sources, the events of an answer, outcomes of an import, collections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.generator.v1 import generator_pb2
from ragkeep.types.v1 import types_pb2
from ragkeep_client.schema import Field as Field
from ragkeep_client.schema import Schema, enum_name, schema_from
from ragkeep_client.values import FieldValue, plain_value

Stage = Literal["rewriting", "retrieving", "generating", "other"]
Finish = Literal["stop", "length", "no_evidence", "other"]
Kind = Literal["created", "unchanged", "updated", "rejected", "other"]


@dataclass(frozen=True, slots=True)
class Scores:
    """How a passage was found; None: this half did not find it."""

    cosine: float | None  # -1 to 1
    bm25: float | None  # comparable only inside one result
    fused: float | None  # 0 to 1, what a hybrid result is ordered by
    vector_rank: int | None = None  # place in the vector half, from 1; only where an explanation was asked for
    keyword_rank: int | None = None  # place in the keyword half, as above


@dataclass(frozen=True, slots=True)
class Source:
    """A passage that was found."""

    number: int  # it is cited by, from 1
    title: str  # the document's; may be empty
    document_id: str
    chunk: int  # position in the document, from 0
    text: str  # what was indexed
    fields: Mapping[str, FieldValue]  # the document's
    scores: Scores
    version: bytes  # the document's, SHA-256


@dataclass(frozen=True, slots=True)
class Status:
    """A stage begins."""

    stage: Stage


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What is searched for instead of a follow-up question; once where there is history, before sources."""

    question: str  # the one that was asked where nothing was missing
    model: str  # that rewrote it; empty where none did


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the scores told of whether the passages answer the question."""

    suffices: bool  # False: the answer is that the documents do not tell
    coverage: float  # share of the question's tokens that one passage holds, 0 to 1
    best_cosine: float | None
    background: float | None  # what unrelated questions reach in the collection
    minimum_coverage: float  # the thresholds that were applied
    minimum_margin: float
    tokens: tuple[str, ...]  # what the keyword half looked for
    missing: tuple[str, ...]  # those that no passage holds


@dataclass(frozen=True, slots=True)
class Sources:
    """What the answer is made from, best first; before any delta. Empty where nothing fits the question."""

    sources: tuple[Source, ...]
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer; pieces joined are the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Citation:
    """A mark like [2] in the answer that names a source."""

    number: int  # the source's
    start: int  # in code points of the whole answer
    end: int  # exclusive


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took; numbers of tokens are 0 where there is no model."""

    prompt_tokens: int
    completion_tokens: int
    context_tokens: int  # the window
    used: tuple[int, ...]  # numbers of the sources that fitted into the window
    left_out: tuple[int, ...] = ()  # numbers of those that did not, and were not read
    reserved_tokens: int = 0  # of the window, kept free for the answer
    history_turns: int = 0  # earlier turns that were read


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer."""

    finish: Finish
    model: str
    quoted: bool  # sentences of the documents; no language model wrote it


Event = Status | Rewritten | Sources | Delta | Citation | Usage | Done


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one document of an import."""

    position: int  # among the documents given, from 0
    document_id: str
    kind: Kind
    reason: str = ""  # for a rejected one: a name of errors.proto without its prefix
    message: str = ""  # for a rejected one: a sentence that helps


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection and how much of it is the tenant's."""

    name: str
    fields: tuple[Field, ...]
    documents: int  # of the tenant
    embedding_model: str  # empty where none is kept yet
    schema: Schema  # its whole definition
    revision: int  # grows with each change of it


@dataclass(frozen=True, slots=True)
class Change:
    """What an update of a collection came to."""

    schema: Schema
    revision: int
    import_again: bool  # documents keep passages made under the old definition until they are imported again


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it is stored."""

    id: str
    fields: Mapping[str, FieldValue]
    groups: tuple[str, ...]  # that may see it; none: open to its tenant
    version: bytes  # SHA-256
    chunks: int  # passages made of it


def source_from(message: gateway_pb2.Source) -> Source:
    """A source of the contract."""
    passage, scores = message.passage, message.passage.scores
    return Source(
        number=message.number,
        title=message.title,
        document_id=passage.document_id,
        chunk=passage.chunk,
        text=passage.text,
        fields={name: plain_value(value) for name, value in passage.fields.items()},
        scores=Scores(
            cosine=scores.cosine if scores.HasField("cosine") else None,
            bm25=scores.bm25 if scores.HasField("bm25") else None,
            fused=scores.fused if scores.HasField("fused") else None,
            vector_rank=scores.vector_rank if scores.HasField("vector_rank") else None,
            keyword_rank=scores.keyword_rank if scores.HasField("keyword_rank") else None,
        ),
        version=passage.version,
    )


def outcome_from(message: types_pb2.Outcome, position: int) -> Outcome:
    """An outcome of the contract, at its place among all documents."""
    kind = cast(Kind, enum_name(types_pb2.OutcomeKind, message.kind, "OUTCOME_KIND_"))
    return Outcome(position, message.document_id, kind, message.reason, message.message)


def collection_from(message: gateway_pb2.CollectionSummary) -> Collection:
    """A collection of the contract."""
    schema = schema_from(message.collection)
    return Collection(
        schema.name, schema.fields, message.documents, message.collection.space.model, schema, message.collection.revision
    )


def stored_document_from(message: types_pb2.StoredDocument) -> StoredDocument:
    """A stored document of the contract."""
    document = message.document
    fields = {name: plain_value(value) for name, value in document.fields.items()}
    return StoredDocument(document.id, fields, tuple(document.groups), message.version, message.chunks)


def evidence_from(message: gateway_pb2.Evidence) -> Evidence:
    """The evidence of the contract."""
    return Evidence(
        suffices=message.suffices,
        coverage=message.coverage,
        best_cosine=message.best_cosine if message.HasField("best_cosine") else None,
        background=message.background if message.HasField("background") else None,
        minimum_coverage=message.minimum.coverage,
        minimum_margin=message.minimum.margin,
        tokens=tuple(message.tokens),
        missing=tuple(message.missing),
    )


def _sources(message: gateway_pb2.Sources) -> Sources:
    return Sources(tuple(source_from(source) for source in message.sources), evidence_from(message.evidence))


def _usage(usage: generator_pb2.Usage) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        context_tokens=usage.context_tokens,
        used=tuple(usage.used),
        left_out=tuple(usage.left_out),
        reserved_tokens=usage.reserved_tokens,
        history_turns=usage.history_turns,
    )


def _done(done: generator_pb2.Done) -> Done:
    return Done(cast(Finish, enum_name(generator_pb2.Finish, done.finish, "FINISH_")), done.model, done.quoted)


_EVENTS: dict[str, Callable[[gateway_pb2.AskResponse], Event]] = {
    "status": lambda one: Status(cast(Stage, enum_name(gateway_pb2.Stage, one.status.stage, "STAGE_"))),
    "rewritten": lambda one: Rewritten(one.rewritten.question, one.rewritten.model),
    "sources": lambda one: _sources(one.sources),
    "delta": lambda one: Delta(one.delta.text),
    "citation": lambda one: Citation(one.citation.number, one.citation.start, one.citation.end),
    "usage": lambda one: _usage(one.usage),
    "done": lambda one: _done(one.done),
}


def event_from(message: gateway_pb2.AskResponse) -> Event | None:
    """An event of the contract; None for one that is not known, which is to be ignored."""
    kind = message.WhichOneof("event")
    return _EVENTS[kind](message) if kind in _EVENTS else None
