"""Ollama's `/api/embed`. Loopback only; a model that is not there is never pulled without being told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import ollama

from ragkeep_embedder.embedder import ModelInfo, Purpose
from ragkeep_embedder.vectors import checked
from ragkeep_ollama.errors import is_too_long, keep_alive_of, not_installed
from ragkeep_ollama.library import OllamaLibrary, Pinned
from ragkeep_runtime.deadline import remaining
from ragkeep_runtime.errors import EngineFailed, TextTooLong
from ragkeep_runtime.telemetry import span

# (query, document) prefixes by a part of the model's name, as the models' authors say.
PREFIXES = {"nomic-embed": ("search_query: ", "search_document: "), "e5": ("query: ", "passage: ")}
_ANSWER_S = 30.0


class OllamaEmbedder:
    """Embeds with one model of one Ollama."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        pinned: Pinned | None = None,
        pull_from: str = "",
    ) -> None:
        self._pinned = pinned or Pinned(num_ctx=4096)
        self._library = OllamaLibrary(url, "embedding", model, self._pinned, pull_from=pull_from)
        self._name = self._library.served
        defaults = next((pair for part, pair in PREFIXES.items() if part in model), ("", ""))
        self._prefixes = {
            Purpose.QUERY: defaults[0] if query_prefix is None else query_prefix,
            Purpose.DOCUMENT: defaults[1] if document_prefix is None else document_prefix,
        }
        self._known: ModelInfo | None = None

    def library(self) -> OllamaLibrary:
        """See the port."""
        return self._library

    async def model(self) -> ModelInfo:
        """See the port. Two quick requests; the dimension is asked for once per digest."""
        with span("ollama.show", {"ragkeep.model": self._name}):
            async with self._errors():
                listed = (await self._library.client.list()).models
                digest = next((entry.digest or "" for entry in listed if entry.model == self._name), None)
                if digest is None:
                    raise not_installed(self._library.url, self._name)
                if self._known is not None and self._known.digest == digest:
                    return self._known
                shown = await self._library.show(self._name, digest)
        if "embedding" not in shown.capabilities:
            raise self._library.unsuitable(self._name)
        longest = self._pinned.window(shown.context_tokens)
        # The engine itself says what dimension comes out; the model's file may say another.
        dimension = len((await self._request(["dimension"], longest))[0])
        self._known = ModelInfo("ollama", self._name, digest, dimension, longest)
        return self._known

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> list[list[float]]:
        """See the port."""
        known = self._known or await self.model()
        prefix = self._prefixes[purpose]
        with span("ollama.embed", {"ragkeep.texts": len(texts), "ragkeep.model": self._name}):
            vectors = await self._whole([prefix + text for text in texts], 0, known.context_tokens)
        return checked(vectors, len(texts), known.dimension, "Ollama")

    async def close(self) -> None:
        """Lets go of the connections."""
        await self._library.close()

    async def _whole(self, texts: list[str], first: int, num_ctx: int) -> list[Sequence[float]]:
        """All or none. One bad text fails Ollama's whole batch: halves find which one it is."""
        try:
            return await self._request(texts, num_ctx)
        except TextTooLong as error:
            if len(texts) == 1:
                raise TextTooLong(error.message, field=f"texts[{first}]") from None
        half = len(texts) // 2
        await self._whole(texts[:half], first, num_ctx)
        await self._whole(texts[half:], first + half, num_ctx)
        raise EngineFailed("Ollama refused a batch as too long and took its halves.")

    async def _request(self, texts: list[str], num_ctx: int) -> list[Sequence[float]]:
        async with self._errors(), asyncio.timeout(remaining(_ANSWER_S)):
            # truncate off: by default Ollama cuts a long text in silence.
            response = await self._library.client.embed(
                model=self._name,
                input=texts,
                truncate=False,
                keep_alive=keep_alive_of(self._pinned.keep_alive),
                options=self._pinned.options(num_ctx),
            )
        return list(response.embeddings)

    @contextlib.asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        async with self._library.errors(self._name):
            try:
                yield
            except ollama.ResponseError as error:
                if is_too_long(str(error.error)):
                    raise TextTooLong(f"The text is longer than {self._name} takes; nothing is cut.") from None
                raise
