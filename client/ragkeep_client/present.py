"""Sources, evidence and budgets as people and as machines read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ragkeep_client.output import plain

if TYPE_CHECKING:
    from rich.text import Text

    from ragkeep_client.events import Evidence, Source, StoredDocument, Usage
    from ragkeep_client.values import FieldValue

# Up to here a number has each whole one.
_WHOLE = 2**53


def source_facts(source: Source) -> dict[str, Any]:
    """The source for a JSON line."""
    scores = source.scores
    return {
        "number": source.number,
        "document_id": source.document_id,
        "title": source.title,
        "chunk": source.chunk,
        "text": source.text,
        "fields": {name: fact(value) for name, value in source.fields.items()},
        "scores": asdict(scores),
        "version": source.version.hex(),
    }


def fact(value: FieldValue) -> Any:
    """As JSON holds it: a moment as ISO 8601, what is not shown as {"sealed": true}."""
    from ragkeep_client.values import Sealed

    if isinstance(value, Sealed):
        return {"sealed": True} | {name: said for name, said in asdict(value).items() if said}
    return value.isoformat() if isinstance(value, datetime) else value


def shown(value: FieldValue) -> str:
    """For people, and as a cell of an import: «sealed» where it is, true and false, a whole number without decimals."""
    found = fact(value)
    if isinstance(found, bool):
        return str(found).lower()
    if isinstance(found, float) and found.is_integer() and abs(found) < _WHOLE:
        return str(int(found))
    return plain(str(value if isinstance(found, dict) else found))


def source_line(source: Source) -> Text:
    """[1] T-1001 title (category)  cosine .83 · bm25 4.2"""
    from rich.text import Text

    category = source.fields.get("category")
    scores = [("cosine", source.scores.cosine), ("bm25", source.scores.bm25), ("fused", source.scores.fused)]
    known = " · ".join(f"{name} {score:.2f}" for name, score in scores if score is not None)
    return Text.assemble(
        (f"[{source.number}] ", "bold cyan"),
        (f"{plain(source.document_id)} ", "bold"),
        plain(source.title).replace("\n", " "),
        (f" ({shown(category)})" if category else "", "magenta"),
        (f"  {known}", "dim"),
    )


def explanation(source: Source, mode: str = "hybrid") -> str:
    """by meaning #2 (cosine 0.83), by words not found, fused 0.61; of the half that the mode searched alone"""
    scores = source.scores
    cosine = "" if scores.cosine is None else f" (cosine {scores.cosine:.3f})"
    bm25 = "" if scores.bm25 is None else f" (bm25 {scores.bm25:.2f})"
    halves = []
    if mode != "keyword":
        halves.append(f"by meaning {f'#{scores.vector_rank}' if scores.vector_rank else 'not found'}{cosine}")
    if mode != "vector":
        halves.append(f"by words {f'#{scores.keyword_rank}' if scores.keyword_rank else 'not found'}{bm25}")
    if scores.fused is not None:
        halves.append(f"fused {scores.fused:.3f}")
    return "    " + ", ".join(halves)


def evidence_line(evidence: Evidence) -> str:
    """What the scores tell, beside what is asked of them."""
    parts = [f"{evidence.coverage:.2f} of the question's words in one passage (least {evidence.minimum_coverage:.2f})"]
    if evidence.best_cosine is not None and evidence.background is not None:
        margin = evidence.best_cosine - evidence.background
        least = evidence.minimum_margin
        parts.append(f"best cosine {evidence.best_cosine:.3f}, {margin:+.3f} from unrelated questions (least {least:+.3f})")
    return f"Evidence: {' or '.join(parts)}: {'enough' if evidence.suffices else 'not enough'}."


def budget_line(usage: Usage) -> str:
    """The window and what is in it."""
    numbers = ", ".join(f"[{number}]" for number in usage.used) or "none"
    history = f", {usage.history_turns} earlier turns" if usage.history_turns else ""
    return (
        f"Window: {usage.prompt_tokens} tokens of prompt and {usage.completion_tokens} of answer (at most "
        f"{usage.reserved_tokens}) of {usage.context_tokens}; passages read: {numbers}{history}."
    )


def document_facts(document: StoredDocument) -> dict[str, Any]:
    """The document for a JSON line."""
    return {
        "id": document.id,
        "fields": {name: fact(value) for name, value in document.fields.items()},
        "groups": list(document.groups),
        "version": document.version.hex(),
        "chunks": document.chunks,
    }


def document_line(document: StoredDocument, title_field: str) -> Text:
    """T-1001 title  2 passages · only hr"""
    from rich.text import Text

    title = plain(str(document.fields.get(title_field, ""))).replace("\n", " ")
    groups = f" · only {plain(', '.join(document.groups))}" if document.groups else ""
    passages = f"{document.chunks} passage{'' if document.chunks == 1 else 's'}"
    return Text.assemble((f"{plain(document.id)} ", "bold"), title, (f"  {passages}{groups}", "dim"))


def document_text(document: StoredDocument, order: Sequence[str]) -> Text:
    """The line, then each field, in the order of the collection's own."""
    from rich.text import Text

    parts: list[Any] = [document_line(document, "")]
    for name in sorted(document.fields, key=lambda one: (order.index(one) if one in order else len(order), one)):
        value = shown(document.fields[name])
        parts += [(f"\n  {name}: ", "cyan"), value.replace("\n", "\n    ")]
    return Text.assemble(*parts)
