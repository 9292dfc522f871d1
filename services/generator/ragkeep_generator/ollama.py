"""Ollama's `/api/chat`, streamed. What one socket read brought becomes one piece of the answer.

`ragkeep_ollama` asks about models, with the `ollama` package; the stream is read with aiohttp, since `truncate` and `shift`
must be sent (without them Ollama drops the head of a long prompt in silence) and since it costs half the CPU a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from ragkeep_generator.citations import has_mark
from ragkeep_generator.fence import MarkerRemover
from ragkeep_generator.follow_up import can_be_trusted, cleaned, with_earlier_words
from ragkeep_generator.language import language_of, not_found, says_no
from ragkeep_generator.language_model import Delta, End, Finish, ModelInfo, Options, Question, Whole
from ragkeep_generator.prompt import Prompt, assemble, rewriting
from ragkeep_ollama.errors import full_name, is_too_long, keep_alive_of, not_installed, unreachable
from ragkeep_ollama.library import OllamaLibrary, Pinned
from ragkeep_runtime.deadline import remaining
from ragkeep_runtime.errors import ContextTooSmall, EngineFailed, ModelNotAllowed
from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.telemetry import span

log = get_logger()
_CONNECT_S, _ANSWER_S = 1.5, 300.0
# A whole question is short; one that has not ended by then is no question. And nobody waits long for it: the rule does too.
_REWRITE_TOKENS, _REWRITE_S = 160, 20.0


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request may leave open, and what it may not change: a different num_ctx would reload the model."""

    num_ctx: int = 8192
    max_tokens: int = 512
    temperature: float = 0.2
    num_thread: int = 0
    keep_alive: str = "-1"


class OllamaLanguageModel:
    """Answers with one model of one Ollama, or with another that the settings allow where a request asks for it."""

    def __init__(
        self, url: str, model: str, defaults: Defaults | None = None, also: Sequence[str] = (), pull_from: str = ""
    ) -> None:
        self._defaults = defaults or Defaults()
        self._pinned = Pinned(self._defaults.num_ctx, self._defaults.num_thread, self._defaults.keep_alive)
        self._library = OllamaLibrary(url, "completion", model, self._pinned, also=also, pull_from=pull_from)
        self._url = self._library.url
        self._name = self._library.served
        self._allowed = self._library.allowed
        self._http: aiohttp.ClientSession | None = None
        self._known: ModelInfo | None = None

    async def model(self) -> ModelInfo:
        """See the port. Asks what is installed; what the model can do is asked once per digest."""
        with span("ollama.show", {"ragkeep.model": self._name}):
            async with self._library.errors(self._name):
                listed = (await self._library.client.list()).models
                digest = next((entry.digest or "" for entry in listed if entry.model == self._name), None)
                if digest is None:
                    raise not_installed(self._url, self._name)
                if self._known is None or self._known.digest != digest:
                    shown = await self._library.show(self._name, digest)
                    if "completion" not in shown.capabilities:
                        raise self._library.unsuitable(self._name)
                    self._known = ModelInfo("ollama", self._name, digest, self._pinned.window(shown.context_tokens))
        return self._known

    def library(self) -> OllamaLibrary:
        """See the port."""
        return self._library

    def models(self) -> tuple[str, ...]:
        """The served one and those that RAGKEEP_ALLOWED_MODELS adds."""
        return self._allowed

    async def answer(self, question: Question) -> AsyncGenerator[Delta | End]:
        """See the port. Without any passage no model is asked: what it said would be its own invention."""
        options = question.options
        name = self._asked(options.model)
        if not question.passages:
            language = options.language or language_of(question.text)
            yield Delta(not_found(language, question.searched or question.text))
            yield End(Finish.NO_EVIDENCE, name, quoted=False, context_tokens=self._defaults.num_ctx)
            return
        reserved = options.max_tokens or self._defaults.max_tokens
        window = await self._library.window(name)
        room = window - reserved
        if room <= 0:
            raise ContextTooSmall(
                f"{reserved} tokens are to be kept for the answer, and the window has {window}. "
                f"Ask for fewer max_tokens, or {self._larger(name, window)}.",
                field="options.max_tokens",
            )
        prompt = assemble(question, room)
        while True:
            try:
                async with contextlib.aclosing(self._chat(name, prompt, options, window)) as events:
                    async for event in events:
                        yield event
                return
            except ContextTooSmall:
                # Refused before the first word: the estimate was too low for this model. No history, then fewer passages.
                if len(prompt.used) <= 1 and not prompt.history_turns:
                    raise
                fewer = len(prompt.used) if prompt.history_turns else len(prompt.used) // 2
                prompt = assemble(question, room, at_most=fewer, with_history=False)

    async def make_whole(self, question: Question) -> Whole:
        """See the port. What the model wrote counts only where it rewrote the question and did nothing else."""
        name = self._asked(question.options.model)
        by_rule = Whole(with_earlier_words(question.text, question.history), model="")
        window = await self._library.window(name)
        prompt = rewriting(question.text, question.history, window - _REWRITE_TOKENS)
        if prompt is None:
            return by_rule
        pieces: list[str] = []
        finish = None
        try:
            # One line: models that go on to answer are stopped there.
            options = Options(temperature=0, max_tokens=_REWRITE_TOKENS, seed=0, stop=("\n",))
            async with (
                asyncio.timeout(remaining(_REWRITE_S)),
                contextlib.aclosing(self._chat(name, prompt, options, window)) as events,
            ):
                async for event in events:
                    if isinstance(event, Delta):
                        pieces.append(event.text)
                    else:
                        finish = event.finish
        except (ContextTooSmall, TimeoutError):
            log.info("rewriting_not_possible", model=name)
            return by_rule
        written = cleaned("".join(pieces))
        if finish is Finish.LENGTH or not can_be_trusted(written, question.text, question.history):
            log.info("rewriting_not_trusted", model=name)
            return by_rule
        return Whole(written, name)

    async def close(self) -> None:
        """Lets go of the connections."""
        if self._http is not None:
            await self._http.close()
        await self._library.close()

    async def _chat(self, name: str, prompt: Prompt, options: Options, window: int) -> AsyncGenerator[Delta | End]:
        attributes: dict[str, str | int] = {"ragkeep.model": name, "ragkeep.passages": len(prompt.used)}
        answer = ""
        remover = MarkerRemover(prompt.marker)
        with span("ollama.chat", attributes) as current:
            async with self._post(name, window, self._body(name, prompt, options, window)) as response:
                async for pieces in _lines(response.content):
                    last = pieces[-1]
                    text = remover.feed("".join(str(piece.get("message", {}).get("content", "")) for piece in pieces))
                    if last.get("done"):
                        text += remover.rest()
                    if text:
                        answer += text
                        yield Delta(text)
                    if "error" in last:
                        raise self._refused(name, window, 500, str(last["error"]))
                    if last.get("done"):
                        current.set_attribute("ragkeep.completion_tokens", int(last.get("eval_count", 0)))
                        yield self._end(name, last, prompt, options, answer, window)
                        return
        raise EngineFailed("Ollama's stream ended before the answer did; what came before stays valid.")

    @contextlib.asynccontextmanager
    async def _post(self, name: str, window: int, body: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._http is None:
            # A connection per answer: leaving closes it, and that is what stops Ollama.
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            # trust_env off: no proxy of the environment sees a text.
            self._http = aiohttp.ClientSession(connector=connector, trust_env=False)
        timeout = aiohttp.ClientTimeout(total=remaining(_ANSWER_S), sock_connect=_CONNECT_S)
        try:
            async with self._http.post(f"{self._url}/api/chat", json=body, timeout=timeout) as response:
                if response.status != 200:
                    raise self._refused(name, window, response.status, (await response.text())[:1000])
                yield response
        except aiohttp.ClientConnectionError:
            raise unreachable(self._url) from None
        except aiohttp.ClientError as error:
            log.error("ollama_failed", error=type(error).__name__)
            raise EngineFailed("Ollama's answer broke off; what came before stays valid.") from None

    def _body(self, name: str, prompt: Prompt, options: Options, window: int) -> dict[str, Any]:
        defaults = self._defaults
        sent: dict[str, Any] = {
            **self._pinned.options(window),
            "num_predict": options.max_tokens or defaults.max_tokens,
            "temperature": defaults.temperature if options.temperature is None else options.temperature,
        }
        if options.seed is not None:
            sent["seed"] = options.seed
        if options.stop:
            sent["stop"] = list(options.stop)
        return {
            "model": name,
            "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
            "stream": True,
            "truncate": False,
            "shift": False,
            "keep_alive": keep_alive_of(self._pinned.keep_alive),
            "options": sent,
        }

    def _end(self, name: str, last: dict[str, Any], prompt: Prompt, options: Options, answer: str, window: int) -> End:
        finish = Finish.LENGTH if last.get("done_reason") == "length" else Finish.STOP
        if says_no(answer) and not has_mark(answer, prompt.used):
            # The passages did not suffice, and the model said so in the words that it was offered.
            finish = Finish.NO_EVIDENCE
        return End(
            finish,
            name,
            quoted=False,
            prompt_tokens=int(last.get("prompt_eval_count", 0)),
            completion_tokens=int(last.get("eval_count", 0)),
            context_tokens=window,
            used=prompt.used,
            left_out=prompt.left_out,
            reserved_tokens=options.max_tokens or self._defaults.max_tokens,
            history_turns=prompt.history_turns,
        )

    def _asked(self, model: str) -> str:
        """The name of the model that a request asks for."""
        name = full_name(model) if model else self._name
        if name not in self._allowed:
            raise ModelNotAllowed(
                f"The model {model[:100]!r} may not be asked for; allowed are: {', '.join(self._allowed)}. "
                "The generator's RAGKEEP_ALLOWED_MODELS adds others.",
                field="options.model",
            )
        return name

    def _larger(self, name: str, window: int) -> str:
        """How to get a larger window: Ollama gives a model no more than it was trained for, whatever is asked."""
        if window < self._defaults.num_ctx:
            return f"serve another model: {name} was trained for {window} tokens"
        return "raise RAGKEEP_NUM_CTX"

    def _refused(self, name: str, window: int, status: int, words: str) -> Exception:
        if is_too_long(words):
            return ContextTooSmall(
                f"The prompt does not fit into the window of {window} tokens. "
                f"Ask for fewer max_tokens, ask a shorter question, or {self._larger(name, window)}.",
                field="question",
            )
        if "does not support" in words:
            return self._library.unsuitable(name)
        return self._library.failed(name, status, words)


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
