"""Ollama's `/api/embed`. Loopback only; a model that is not there is never pulled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import httpx
import ollama

from ragkeep_embedder.embedder import ModelInfo, Purpose
from ragkeep_embedder.vectors import checked
from ragkeep_runtime.deadline import remaining
from ragkeep_runtime.errors import EngineFailed, EngineUnreachable, ModelNotInstalled, ModelUnsuitable, TextTooLong
from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.telemetry import span

log = get_logger()
# (query, document) prefixes by a part of the model's name, as the models' authors say.
PREFIXES = {"nomic-embed": ("search_query: ", "search_document: "), "e5": ("query: ", "passage: ")}
_CONNECT_S, _ANSWER_S = 1.5, 30.0


class OllamaEmbedder:
    """Embeds with one model of one Ollama."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        keep_alive: str = "-1",
    ) -> None:
        self._url = url
        self._name = model if ":" in model else f"{model}:latest"
        defaults = next((pair for part, pair in PREFIXES.items() if part in model), ("", ""))
        self._prefixes = {
            Purpose.QUERY: defaults[0] if query_prefix is None else query_prefix,
            Purpose.DOCUMENT: defaults[1] if document_prefix is None else document_prefix,
        }
        self._keep_alive: str | float = float(keep_alive) if keep_alive.lstrip("-").isdigit() else keep_alive
        timeout = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
        # trust_env off: no proxy of the environment sees a text.
        self._client = ollama.AsyncClient(host=url, timeout=timeout, trust_env=False)
        self._known: ModelInfo | None = None

    async def model(self) -> ModelInfo:
        """See the port. Two quick requests; the dimension is asked for once per digest."""
        with span("ollama.show", {"ragkeep.model": self._name}):
            async with self._errors():
                listed = (await self._client.list()).models
                digest = next((entry.digest or "" for entry in listed if entry.model == self._name), None)
                if digest is None:
                    raise self._not_installed()
                if self._known is not None and self._known.digest == digest:
                    return self._known
                shown = await self._client.show(self._name)
        if "embedding" not in (shown.capabilities or []):
            raise ModelUnsuitable(f"The model {self._name} does not embed. Set RAGKEEP_MODEL to an embedding model.")
        numbers = {key.rpartition(".")[2]: value for key, value in (shown.modelinfo or {}).items()}
        # The engine itself says what dimension comes out; the model's file may say another.
        dimension = len((await self._request(["dimension"]))[0])
        self._known = ModelInfo("ollama", self._name, digest, dimension, int(numbers.get("context_length") or 0))
        return self._known

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> list[list[float]]:
        """See the port."""
        known = self._known or await self.model()
        prefix = self._prefixes[purpose]
        with span("ollama.embed", {"ragkeep.texts": len(texts), "ragkeep.model": self._name}):
            vectors = await self._whole([prefix + text for text in texts], 0)
        return checked(vectors, len(texts), known.dimension, "Ollama")

    async def close(self) -> None:
        """Lets go of the connections."""
        with contextlib.suppress(Exception):
            await self._client._client.aclose()

    async def _whole(self, texts: list[str], first: int) -> list[Sequence[float]]:
        """All or none. One bad text fails Ollama's whole batch: halves find which one it is."""
        try:
            return await self._request(texts)
        except TextTooLong as error:
            if len(texts) == 1:
                raise TextTooLong(error.message, field=f"texts[{first}]") from None
        half = len(texts) // 2
        await self._whole(texts[:half], first)
        await self._whole(texts[half:], first + half)
        raise EngineFailed("Ollama refused a batch as too long and took its halves.")

    async def _request(self, texts: list[str]) -> list[Sequence[float]]:
        async with self._errors(), asyncio.timeout(remaining(_ANSWER_S)):
            # truncate off: by default Ollama cuts a long text in silence.
            response = await self._client.embed(model=self._name, input=texts, truncate=False, keep_alive=self._keep_alive)
        return list(response.embeddings)

    @contextlib.asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        try:
            yield
        except ollama.ResponseError as error:
            words = str(error.error)
            if error.status_code == 404:
                raise self._not_installed() from None
            if "context length" in words or "input length" in words:
                raise TextTooLong(f"The text is longer than {self._name} takes; nothing is cut.") from None
            if "does not support" in words:
                raise ModelUnsuitable(f"The model {self._name} does not embed. Set another one.") from None
            log.error("ollama_failed", status=error.status_code, engine_says=words[:300])
            raise EngineFailed("Ollama answered with an error; its words are in the embedder's log.") from None
        except (httpx.TimeoutException, TimeoutError) as error:
            if isinstance(error, httpx.ConnectTimeout):
                raise self._unreachable() from None
            raise EngineFailed(f"Ollama did not answer within {_ANSWER_S:.0f} s.") from None
        except (httpx.HTTPError, ConnectionError):
            raise self._unreachable() from None

    def _unreachable(self) -> EngineUnreachable:
        message = f"Ollama does not answer at {self._url}. Start it with `ollama serve`, or set RAGKEEP_OLLAMA_URL."
        return EngineUnreachable(message, metadata={"engine": "ollama", "address": self._url})

    def _not_installed(self) -> ModelNotInstalled:
        message = f"Ollama at {self._url} does not have the model {self._name}. Install it: ollama pull {self._name}"
        return ModelNotInstalled(message, metadata={"engine": "ollama", "model": self._name})
