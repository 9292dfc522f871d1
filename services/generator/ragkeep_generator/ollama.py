"""Ollama's `/api/chat`, streamed. What one socket read brought becomes one piece of the answer.

The `ollama` package asks about models; the stream is read with aiohttp, since `truncate` and `shift` must be sent (without them
Ollama drops the head of a long prompt in silence) and since it costs half the CPU a token.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx
import ollama

from ragkeep_generator.language import NOT_FOUND, language_of
from ragkeep_generator.language_model import Delta, End, Finish, ModelInfo, Options, Question
from ragkeep_generator.prompt import Prompt, assemble
from ragkeep_runtime.deadline import remaining
from ragkeep_runtime.errors import ContextTooSmall, EngineFailed, EngineUnreachable, ModelNotInstalled, ModelUnsuitable
from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.telemetry import span

log = get_logger()
_CONNECT_S, _SHOW_S, _ANSWER_S = 1.5, 5.0, 300.0


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request may leave open, and what it may not change: a different num_ctx would reload the model."""

    num_ctx: int = 8192
    max_tokens: int = 512
    temperature: float = 0.2
    num_thread: int = 0
    keep_alive: str = "-1"


class OllamaLanguageModel:
    """Answers with one model of one Ollama."""

    def __init__(self, url: str, model: str, defaults: Defaults | None = None) -> None:
        self._url = url.rstrip("/")
        self._name = model if ":" in model else f"{model}:latest"
        self._defaults = defaults or Defaults()
        self._keep_alive: str | int = (
            int(self._defaults.keep_alive) if self._defaults.keep_alive.lstrip("-").isdigit() else self._defaults.keep_alive
        )
        timeout = httpx.Timeout(_SHOW_S, connect=_CONNECT_S)
        # trust_env off here and below: no proxy of the environment sees a text.
        self._client = ollama.AsyncClient(host=url, timeout=timeout, trust_env=False)
        self._http: aiohttp.ClientSession | None = None
        self._known: ModelInfo | None = None

    async def model(self) -> ModelInfo:
        """See the port. Asks what is installed; what the model can do is asked once per digest."""
        with span("ollama.show", {"ragkeep.model": self._name}):
            try:
                listed = (await self._client.list()).models
                digest = next((entry.digest or "" for entry in listed if entry.model == self._name), None)
                if digest is None:
                    raise self._not_installed()
                if self._known is None or self._known.digest != digest:
                    shown = await self._client.show(self._name)
                    if "completion" not in (shown.capabilities or []):
                        raise self._unsuitable()
                    self._known = ModelInfo("ollama", self._name, digest, self._defaults.num_ctx)
            except ollama.ResponseError as error:
                raise self._refused(error.status_code, str(error.error)) from None
            except (httpx.HTTPError, ConnectionError):
                raise self._unreachable() from None
        return self._known

    async def answer(self, question: Question) -> AsyncGenerator[Delta | End]:
        """See the port. Without any passage no model is asked: what it said would be its own invention."""
        if not question.passages:
            yield Delta(NOT_FOUND[language_of(question.text)])
            yield End(Finish.NO_EVIDENCE, quoted=False, context_tokens=self._defaults.num_ctx)
            return
        options = question.options
        room = self._defaults.num_ctx - (options.max_tokens or self._defaults.max_tokens)
        prompt = assemble(question.text, question.passages, room)
        while True:
            try:
                async with contextlib.aclosing(self._chat(prompt, options)) as events:
                    async for event in events:
                        yield event
                return
            except ContextTooSmall:
                # Refused before the first word: the estimate was too low for this model. Fewer passages.
                if len(prompt.used) <= 1:
                    raise
                prompt = assemble(question.text, question.passages, room, at_most=len(prompt.used) // 2)

    async def close(self) -> None:
        """Lets go of the connections."""
        if self._http is not None:
            await self._http.close()
        with contextlib.suppress(Exception):
            await self._client._client.aclose()

    async def _chat(self, prompt: Prompt, options: Options) -> AsyncGenerator[Delta | End]:
        attributes: dict[str, str | int] = {"ragkeep.model": self._name, "ragkeep.passages": len(prompt.used)}
        with span("ollama.chat", attributes) as current:
            async with self._post(self._body(prompt, options)) as response:
                async for pieces in _lines(response.content):
                    text = "".join(str(piece.get("message", {}).get("content", "")) for piece in pieces)
                    if text:
                        yield Delta(text)
                    last = pieces[-1]
                    if "error" in last:
                        raise self._refused(500, str(last["error"]))
                    if last.get("done"):
                        current.set_attribute("ragkeep.completion_tokens", int(last.get("eval_count", 0)))
                        yield self._end(last, prompt)
                        return
        raise EngineFailed("Ollama's stream ended before the answer did; what came before stays valid.")

    @contextlib.asynccontextmanager
    async def _post(self, body: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._http is None:
            # A connection per answer: leaving closes it, and that is what stops Ollama.
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            self._http = aiohttp.ClientSession(connector=connector, trust_env=False)
        timeout = aiohttp.ClientTimeout(total=remaining(_ANSWER_S), sock_connect=_CONNECT_S)
        try:
            async with self._http.post(f"{self._url}/api/chat", json=body, timeout=timeout) as response:
                if response.status != 200:
                    raise self._refused(response.status, (await response.text())[:1000])
                yield response
        except aiohttp.ClientConnectionError:
            raise self._unreachable() from None
        except aiohttp.ClientError as error:
            log.error("ollama_failed", error=type(error).__name__)
            raise EngineFailed("Ollama's answer broke off; what came before stays valid.") from None

    def _body(self, prompt: Prompt, options: Options) -> dict[str, Any]:
        defaults = self._defaults
        sent: dict[str, Any] = {
            "num_ctx": defaults.num_ctx,
            "num_predict": options.max_tokens or defaults.max_tokens,
            "temperature": defaults.temperature if options.temperature is None else options.temperature,
        }
        if options.seed is not None:
            sent["seed"] = options.seed
        if options.stop:
            sent["stop"] = list(options.stop)
        if defaults.num_thread:
            sent["num_thread"] = defaults.num_thread
        return {
            "model": self._name,
            "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
            "stream": True,
            "truncate": False,
            "shift": False,
            "keep_alive": self._keep_alive,
            "options": sent,
        }

    def _end(self, last: dict[str, Any], prompt: Prompt) -> End:
        return End(
            Finish.LENGTH if last.get("done_reason") == "length" else Finish.STOP,
            quoted=False,
            prompt_tokens=int(last.get("prompt_eval_count", 0)),
            completion_tokens=int(last.get("eval_count", 0)),
            context_tokens=self._defaults.num_ctx,
            used=prompt.used,
        )

    def _refused(self, status: int, words: str) -> Exception:
        if "context length" in words or "input length" in words or "exceeds" in words:
            return ContextTooSmall(f"The prompt does not fit into the window of {self._defaults.num_ctx} tokens.")
        if "does not support" in words:
            return self._unsuitable()
        if status == 404:
            return self._not_installed()
        log.error("ollama_failed", status=status, engine_says=words[:300])
        return EngineFailed("Ollama answered with an error; its words are in the generator's log.")

    def _unreachable(self) -> EngineUnreachable:
        message = f"Ollama does not answer at {self._url}. Start it with `ollama serve`, or set RAGKEEP_OLLAMA_URL."
        return EngineUnreachable(message, metadata={"engine": "ollama", "address": self._url})

    def _not_installed(self) -> ModelNotInstalled:
        message = f"Ollama at {self._url} does not have the model {self._name}. Install it: ollama pull {self._name}"
        return ModelNotInstalled(message, metadata={"engine": "ollama", "model": self._name})

    def _unsuitable(self) -> ModelUnsuitable:
        return ModelUnsuitable(f"The model {self._name} does not chat. Set RAGKEEP_MODEL to a language model.")


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[list[dict[str, Any]]]:
    """The JSON lines that each read of the socket completed, never an empty list."""
    left = b""
    try:
        async for block in content.iter_any():
            *whole, left = (left + block).split(b"\n")
            if pieces := [json.loads(line) for line in whole if line.strip()]:
                yield pieces
        if left.strip():
            yield [json.loads(left)]
    except ValueError:
        raise EngineFailed("Ollama sent something that is not JSON.") from None
    except TimeoutError:
        raise EngineFailed("Ollama did not go on in time.") from None
