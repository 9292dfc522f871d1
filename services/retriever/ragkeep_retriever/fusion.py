"""Relative-score fusion, and what scores tell of a list of hits. The same arithmetic as Weaviate's hybrid query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from ragkeep_retriever.analyzer import FUNCTION_WORDS, query_tokens
from ragkeep_retriever.values import Found, Hit, Query, Scope

K = TypeVar("K")
# Each half brings this many candidates, or the limit where it is more.
CANDIDATES = 100


def _normal(scores: Mapping[K, float]) -> dict[K, float]:
    """Scores stretched to 0..1; where all are equal, 1."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    return {key: (score - low) / (high - low) if high > low else 1.0 for key, score in scores.items()}


def fuse(vector: Mapping[K, float], keyword: Mapping[K, float], alpha: float) -> dict[K, float]:
    """alpha × vector + (1 − alpha) × keyword, each stretched to 0..1 first; absent is 0."""
    a, b = _normal(vector), _normal(keyword)
    return {key: alpha * a.get(key, 0.0) + (1 - alpha) * b.get(key, 0.0) for key in {**vector, **keyword}}


def ranks(scores: Mapping[K, float]) -> dict[K, int]:
    """The place of each, from 1; the order is the mapping's own, best first."""
    return {key: place for place, key in enumerate(scores, 1)}


def judged(
    scope: Scope,
    question: Sequence[str],
    hits: Sequence[Hit],
    passages: Sequence[set[str]],
    weights: Mapping[str, float] | None = None,
) -> Found:
    """Hits with what their scores and tokens (`passages`) tell of the question's tokens. A limited scope gets ranks and cosines
    alone: the other scores move with the words of documents that it does not see."""
    if scope.limited:
        hits = [replace(hit, bm25=None, fused=None) for hit in hits]
    cosines = [hit.cosine for hit in hits if hit.cosine is not None]
    return Found(
        list(hits),
        coverage(question, passages, weights),
        max(cosines, default=None),
        tokens=tuple(question),
        missing=tuple(token for token in question if not any(token in held for held in passages)),
    )


def nothing(query: Query) -> Found:
    """What is found where there is nothing: the same words as where there is nothing that the scope sees."""
    question = tuple(query_tokens(query.text)) if query.text else ()
    return Found([], 0.0, None, tokens=question, missing=question)


def coverage(question: Sequence[str], passages: Sequence[set[str]], weights: Mapping[str, float] | None = None) -> float:
    """The largest share of the question's tokens, by weight, that one passage holds; function words don't count."""
    counted = [token for token in question if token not in FUNCTION_WORDS] or list(question)
    weigh = weights or {}
    total = sum(weigh.get(token, 1.0) for token in counted)
    if not total:
        return 0.0
    return max((sum(weigh.get(t, 1.0) for t in counted if t in held) / total for held in passages), default=0.0)
