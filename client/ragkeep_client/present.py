"""Sources as people and as machines read them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from ragkeep_client.output import plain

if TYPE_CHECKING:
    from rich.text import Text

    from ragkeep_client.events import Source
    from ragkeep_client.values import FieldValue


def source_facts(source: Source) -> dict[str, Any]:
    """The source for a JSON line."""
    scores = source.scores
    return {
        "number": source.number,
        "document_id": source.document_id,
        "title": source.title,
        "chunk": source.chunk,
        "text": source.text,
        "fields": {name: _fact(value) for name, value in source.fields.items()},
        "scores": {"cosine": scores.cosine, "bm25": scores.bm25, "fused": scores.fused},
        "version": source.version.hex(),
    }


def _fact(value: FieldValue) -> str | float | bool:
    return value.isoformat() if isinstance(value, datetime) else value


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
        (f" ({plain(str(category))})" if category else "", "magenta"),
        (f"  {known}", "dim"),
    )
