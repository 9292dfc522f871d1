"""BM25 and rarity counted over what a scope sees. FTS5 counts over the whole file: that tells of hidden documents."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import apsw

from ragkeep_retriever.sqlite_files import rows
from ragkeep_retriever.sqlite_filters import groups_condition
from ragkeep_retriever.sqlite_rows import index_table
from ragkeep_retriever.values import Collection, Scope

# As FTS5 has them.
_K1, _B, _LEAST_IDF = 1.2, 0.75, 1e-6
_JOINED = "passages p JOIN documents d ON d.key = p.document"


def any_of(question: Sequence[str]) -> str:
    """FTS5's query for passages that hold one of the tokens, each a phrase."""
    return " OR ".join('"' + token.replace('"', '""') + '"' for token in question)


class SeenWords:
    """A question's tokens in the passages that a scope sees."""

    def __init__(
        self,
        file: apsw.Connection,
        scope: Scope,
        collection: Collection,
        question: Sequence[str],
        condition: str,
        values: Sequence[Any],
    ) -> None:
        """`condition` is what a hit must fulfil, the scope's own among it; rarity is counted over all that the scope sees."""
        seen, seen_values = groups_condition(scope.groups)
        sql = f"SELECT count(*) FROM {_JOINED} WHERE d.collection = ? AND {seen}"  # noqa: S608
        passages = rows(file, sql, (collection.name, *seen_values))[0][0]
        table = index_table(collection)
        sql = (
            f"SELECT f.rowid, ragkeep_frequencies(f.{table}), {condition} FROM {table} f "  # noqa: S608
            f"JOIN passages p ON p.key = f.rowid JOIN documents d ON d.key = p.document "
            f"WHERE f.tokens MATCH ? AND {seen}"
        )
        found = rows(file, sql, (*values, any_of(question), *seen_values))
        counted = [(key, wanted, *json.loads(frequencies)) for key, frequencies, wanted in found]
        holding = dict.fromkeys(map(str, range(len(question))), 0)
        for _, _, _, times in counted:
            for position in times:
                holding[position] += 1
        # In coverage every token counts something, also one that stands in every passage.
        self.rarity = {
            token: math.log(1 + (passages - n + 0.5) / (n + 0.5)) for token, n in zip(question, holding.values(), strict=True)
        }
        idf = {p: max(math.log((passages - n + 0.5) / (n + 0.5)), _LEAST_IDF) for p, n in holding.items()}
        mean = sum(size for _, _, size, _ in counted) / len(counted) if counted else 1.0
        self._scores = {
            key: sum(idf[p] * n * (_K1 + 1) / (n + _K1 * (1 - _B + _B * size / mean)) for p, n in times.items())
            for key, wanted, size, times in counted
            if wanted
        }

    def best(self, limit: int) -> dict[int, float]:
        """Keys of passages with their score, best first."""
        best = sorted(self._scores, key=lambda key: (-self._scores[key], key))[:limit]
        return {key: self._scores[key] for key in best}
