"""Search in the embedded store: exact cosines over plain blobs, BM25 over our own tokens, fused as Weaviate does."""

from __future__ import annotations

import array
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import apsw

from ragkeep_retriever.analyzer import query_tokens, tokens
from ragkeep_retriever.fusion import CANDIDATES, fuse, judged, ranks
from ragkeep_retriever.sqlite_files import rows, transaction
from ragkeep_retriever.sqlite_filters import groups_condition, where
from ragkeep_retriever.sqlite_rows import SEALED_COLUMN, decoded, index_table, sealed_of, vocabulary_table
from ragkeep_retriever.sqlite_seen_words import SeenWords, any_of
from ragkeep_retriever.values import Collection, Found, Hit, Query, Scope

_JOINED = "passages p JOIN documents d ON d.key = p.document"


def search(file: apsw.Connection, scope: Scope, collection: Collection, query: Query) -> Found:
    """Passages of a tenant's file, best first."""
    conditions, values = ["d.collection = ?"], [collection.name]
    for condition, more in (groups_condition(scope.groups), where(query.filter)):
        conditions.append(condition)
        values.extend(more)
    condition = " AND ".join(conditions)
    wanted = max(CANDIDATES, query.limit)
    question = query_tokens(query.text) if query.text else []
    # One snapshot for all reads: a document that is replaced meanwhile is seen whole, as it was.
    with transaction(file, "DEFERRED"):
        words = SeenWords(file, scope, collection, question, condition, values) if scope.limited and question else None
        hits, deeper = _best(file, collection, query, question, words, condition, values, wanted)
        # Long documents may fill the candidates with passages of which only the first count: look deeper.
        while deeper and query.passages_per_document and len(hits) < query.limit:
            wanted *= 4
            hits, deeper = _best(file, collection, query, question, words, condition, values, wanted)
        weights = words.rarity if words else _rarity(file, collection, question)
    return judged(scope, question, hits, [set(tokens(hit.text)) for hit in hits], weights)


def _best(
    file: apsw.Connection,
    collection: Collection,
    query: Query,
    question: list[str],
    words: SeenWords | None,
    condition: str,
    values: list[Any],
    wanted: int,
) -> tuple[list[Hit], bool]:
    """Hits among the first `wanted` of each half, and whether there may be more."""
    cosines = _by_vector(file, query, condition, values, wanted)
    bm25 = words.best(wanted) if words else _by_keyword(file, collection, question, condition, values, wanted)
    more = wanted in (len(cosines), len(bm25))
    places = (ranks(cosines), ranks(bm25)) if query.explain else ({}, {})
    hybrid = query.vector is not None and query.text is not None
    order = fuse(cosines, bm25, query.alpha) if hybrid else bm25 if query.vector is None else cosines
    best = sorted(order, key=lambda key: (-order[key], key))
    if query.vector is not None:
        missing = [key for key in best if key not in cosines]
        cosines = {**cosines, **_cosines(file, query.vector, missing)}
    scores = {
        key: (cosines.get(key), bm25.get(key), order[key] if hybrid else None, *(half.get(key) for half in places))
        for key in best
    }
    return _hits(file, collection, best, scores, query), more


def _by_vector(file: apsw.Connection, query: Query, condition: str, values: list[Any], limit: int) -> dict[int, float]:
    if query.vector is None:
        return {}
    packed = array.array("f", query.vector).tobytes()
    sql = (
        f"SELECT p.key, 1 - vec_distance_cosine(p.vector, ?) AS cosine FROM {_JOINED} "  # noqa: S608
        f"WHERE {condition} ORDER BY cosine DESC, p.key LIMIT ?"
    )
    least = query.minimum_cosine
    found = rows(file, sql, (packed, *values, limit))
    return {key: cosine for key, cosine in found if least is None or cosine >= least}


def _by_keyword(
    file: apsw.Connection, collection: Collection, question: list[str], condition: str, values: list[Any], limit: int
) -> dict[int, float]:
    if not question:
        return {}
    sql = (
        f"SELECT f.rowid, -f.rank FROM {index_table(collection)} f JOIN passages p ON p.key = f.rowid "  # noqa: S608
        f"JOIN documents d ON d.key = p.document WHERE f.tokens MATCH ? AND {condition} ORDER BY f.rank LIMIT ?"
    )
    return dict(rows(file, sql, (any_of(question), *values, limit)))


def _cosines(file: apsw.Connection, vector: Sequence[float], keys: list[int]) -> dict[int, float]:
    packed = array.array("f", vector).tobytes()
    sql = "SELECT key, 1 - vec_distance_cosine(vector, ?) FROM passages WHERE key IN (SELECT value FROM json_each(?))"
    return dict(rows(file, sql, (packed, json.dumps(keys))))


def _hits(
    file: apsw.Connection,
    collection: Collection,
    best: list[int],
    scores: Mapping[int, tuple[Any, ...]],
    query: Query,
) -> list[Hit]:
    taken: dict[str, int] = {}
    hits: list[Hit] = []
    sql = f"SELECT d.id, d.version, d.fields, p.chunk, p.text, {SEALED_COLUMN} FROM {_JOINED} WHERE p.key = ?"  # noqa: S608
    for key in best:
        document_id, version, fields, chunk, text, sealed = rows(file, sql, (key,))[0]
        taken[document_id] = taken.get(document_id, 0) + 1
        if query.passages_per_document and taken[document_id] > query.passages_per_document:
            continue
        hit = Hit(document_id, version, chunk, text, decoded(fields, collection), *scores[key])
        hits.append(replace(hit, sealed=sealed_of(sealed)))
        if len(hits) == query.limit:
            break
    return hits


def _rarity(file: apsw.Connection, collection: Collection, question: list[str]) -> dict[str, float]:
    """The question's tokens by idf in this tenant's part of the collection."""
    if not question:
        return {}
    count = rows(file, f"SELECT count(*) FROM {index_table(collection)}")[0][0]  # noqa: S608
    sql = f"SELECT term, doc FROM {vocabulary_table(collection)} WHERE term = ?"  # noqa: S608
    frequency = {token: next((found[1] for found in file.execute(sql, (token,))), 0) for token in question}
    return {token: math.log(1 + (count - n + 0.5) / (n + 0.5)) for token, n in frequency.items()}
