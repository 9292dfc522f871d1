"""Whether what was retrieved can answer the question at all, judged from scores.

The best cosine is compared with the collection's background: what unrelated questions in the same language reach there. It
recognises another subject, not a missing answer; whether passages suffice is for the generator.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

from ragkeep.retriever.v1 import retriever_pb2
from ragkeep.types.v1.types_pb2 import MinimumEvidence
from ragkeep_runtime.errors import InvalidRequest, RagkeepError
from ragkeep_runtime.logs import get_logger

log = get_logger()
# Refused where less of the question than this is covered by a passage, and the best cosine is less than this above the
# background, unless the collection or the request says otherwise. Measured on examples/questions.csv with e5: docs/evidence.md.
MINIMUM_COVERAGE, MARGIN = 0.5, 0.04
# The background drifts as a collection grows: measured again after this many seconds.
_FRESH_S = 600.0
_MOST_KEPT = 1000
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")

# Unrelated to what anybody keeps in a company's documents. Another list means another threshold: version it.
PROBES = {
    "zh": (
        "红烧排骨要炖多长时间？",
        "唐朝一共有多少位皇帝？",
        "春天适合去哪里看樱花？",
        "猫为什么喜欢晒太阳？",
        "小提琴怎么调弦？",
        "月亮离地球有多远？",
        "跑马拉松前应该吃什么？",
        "怎样给玫瑰花剪枝？",
    ),
    "en": (
        "How long should I boil an egg?",
        "Who painted the ceiling of the chapel?",
        "What is the best season to see whales?",
        "Why do leaves turn red in autumn?",
        "How do you tune a violin?",
        "What is the distance to the moon?",
        "Which stretches help before a marathon?",
        "How should I prune roses?",
    ),
}


def language_of(text: str) -> str:
    """`zh` where the text has Han characters, else `en`."""
    return "zh" if _HAN.search(text) else "en"


class Background:
    """The mean best cosine of the probes, by scope, collection and language; measured when first needed."""

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, str, str], tuple[float, asyncio.Task[float | None]]] = {}

    async def get(self, key: tuple[bytes, str, str], probe: Callable[[str], Awaitable[float | None]]) -> float | None:
        """The background; `probe` gives the best cosine of one question. None where it cannot be measured."""
        now = asyncio.get_running_loop().time()
        kept = self._kept.get(key)
        if kept is None or now - kept[0] > _FRESH_S:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
            kept = self._kept[key] = (now, asyncio.create_task(_measure(PROBES[key[2]], probe)))
        found = await asyncio.shield(kept[1])
        if found is None:
            self._kept.pop(key, None)
        return found


async def _measure(questions: tuple[str, ...], probe: Callable[[str], Awaitable[float | None]]) -> float | None:
    try:
        cosines = [cosine for question in questions if (cosine := await probe(question)) is not None]
    except RagkeepError as error:
        # A question must not fail because its threshold could not be measured; then nothing is refused.
        log.warning("background_not_measured", reason=error.reason)
        return None
    return sum(cosines) / len(cosines) if cosines else None


def minimum_of(*wanted: MinimumEvidence | None) -> MinimumEvidence:
    """The thresholds to apply: the defaults, then what the collection and the request set, in order. Raises InvalidRequest."""
    minimum = MinimumEvidence(coverage=MINIMUM_COVERAGE, margin=MARGIN)
    for one in wanted:
        if one is not None:
            minimum.MergeFrom(one)
    if not 0 <= minimum.coverage <= 1:
        raise InvalidRequest("The least coverage must be 0 to 1.", field="minimum_evidence.coverage")
    if not -2 <= minimum.margin <= 2:
        raise InvalidRequest("The least margin must be -2 to 2.", field="minimum_evidence.margin")
    return minimum


def suffices(evidence: retriever_pb2.Evidence, background: float | None, minimum: MinimumEvidence) -> bool:
    """Whether the hits may answer the question."""
    if evidence.coverage >= minimum.coverage or background is None or not evidence.HasField("best_cosine"):
        return True
    return evidence.best_cosine >= background + minimum.margin
