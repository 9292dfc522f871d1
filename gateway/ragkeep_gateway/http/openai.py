"""`/v1/…` in OpenAI's shape: a model is a collection with its language model, the last user message the question."""

from __future__ import annotations

import array
import base64
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ragkeep.embedder.v1 import embedder_pb2
from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.generator.v1 import generator_pb2
from ragkeep_gateway.embedding import rows
from ragkeep_gateway.http.chat import EVENT_STREAM, HEARTBEAT, End, as_json, ask_request_of, finish_name, sources_as_json
from ragkeep_gateway.http.errors import BadHttp, openai_body_of
from ragkeep_gateway.http.exchange import Exchange, dumps
from ragkeep_gateway.http.openai_shapes import ChatCompletionRequest, EmbeddingRequest, Message, completion, parsed
from ragkeep_runtime.errors import CollectionUnknown, InvalidRequest, ModelNotAllowed, RagkeepError

if TYPE_CHECKING:
    from ragkeep_gateway.service import RagService

# As the generator takes: older turns are left out, and the answer says how many.
MAX_TURNS, MAX_CHARACTERS = 20, 32_000
_OWNER = "ragkeep"


def ask_of(wanted: ChatCompletionRequest) -> tuple[gateway_pb2.AskRequest, int]:
    """The question, and how many of the oldest turns were left out. Raises InvalidRequest."""
    own = dict(wanted.ragkeep or {})
    for name in ("question", "history", "collection"):
        if name in own:
            raise InvalidRequest(f"ragkeep.{name} is what model and messages say.", field=f"ragkeep.{name}")
    try:
        request = ask_request_of(own)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, field=f"ragkeep.{error.field}".rstrip(".")) from None
    try:
        return _filled(request, wanted)
    except UnicodeError:
        raise InvalidRequest("A text holds characters that are not text (lone surrogates).", field="messages") from None


def _filled(request: gateway_pb2.AskRequest, wanted: ChatCompletionRequest) -> tuple[gateway_pb2.AskRequest, int]:
    request.collection, _, model = wanted.model.partition("/")
    question, turns = _conversation(wanted.messages)
    request.question = question
    left_out = 0
    while len(turns) > MAX_TURNS or sum(len(turn.question) + len(turn.answer) for turn in turns) > MAX_CHARACTERS:
        turns.pop(0)
        left_out += 1
    request.history.extend(turns)
    options = request.options
    if model:
        options.model = model
    if wanted.temperature is not None:
        options.temperature = wanted.temperature
    most = wanted.max_completion_tokens if wanted.max_completion_tokens is not None else wanted.max_tokens
    if most is not None:
        options.max_tokens = most
    if wanted.seed is not None:
        options.seed = wanted.seed
    if wanted.stop is not None:
        options.stop[:] = [wanted.stop] if isinstance(wanted.stop, str) else wanted.stop
    return request, left_out


def _conversation(messages: list[Message]) -> tuple[str, list[generator_pb2.Turn]]:
    turns: list[generator_pb2.Turn] = []
    for number, message in enumerate(messages):
        text = message.text()
        if message.role in ("system", "developer"):
            if text.strip():
                raise InvalidRequest(
                    "A system message cannot be honoured: what the model is told is the collection's prompt template.",
                    field=f"messages[{number}]",
                )
        elif message.role == "user":
            turns.append(generator_pb2.Turn(question=text))
        elif not turns:
            continue  # a greeting before any question
        elif turns[-1].answer:
            turns[-1].answer += "\n\n" + text
        else:
            turns[-1].answer = text
    if not turns or messages[-1].role != "user":
        raise InvalidRequest("The last message must be the user's: it is the question.", field="messages")
    question = turns.pop().question
    # A turn without words asks nothing.
    return question, [turn for turn in turns if turn.question.strip()]


def _usage(usage: generator_pb2.Usage) -> dict[str, int]:
    total = usage.prompt_tokens + usage.completion_tokens
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens, "total_tokens": total}


def _late(error: RagkeepError, request_id: str) -> bytes:
    return _data(openai_body_of(error, request_id))


def _data(value: dict[str, Any]) -> bytes:
    return f"data: {dumps(value)}\n\n".encode()


class _Answer:
    """One answer as it comes: its sources, its end, and its citations as OpenAI's annotations."""

    def __init__(self, exchange: Exchange, wanted: ChatCompletionRequest, collection: str, left_out: int) -> None:
        self.request_id, self.model, self.collection = exchange.request_id, wanted.model, collection
        self.sources = gateway_pb2.Sources()
        self.end = End()
        self.left_out = left_out

    def annotation(self, mark: dict[str, int]) -> dict[str, Any]:
        """A document has no address of the web: its url names it, and nobody answers there."""
        source = next((one for one in self.sources.sources if one.number == mark["number"]), gateway_pb2.Source())
        document = source.passage.document_id
        cited = {
            "start_index": mark["start"],
            "end_index": mark["end"],
            "title": source.title or document,
            "url": f"ragkeep://{self.collection}/{quote(document, safe='')}#{source.passage.chunk}",
        }
        return {"type": "url_citation", "url_citation": cited}

    def finish(self) -> str:
        """In OpenAI's words; ragkeep's own field says more."""
        return "length" if self.end.done.finish == generator_pb2.FINISH_LENGTH else "stop"

    def own(self, *, with_sources: bool) -> dict[str, Any]:
        """The field of our own."""
        found: dict[str, Any] = {"request_id": self.request_id, "finish": finish_name(self.end.done.finish)}
        found |= {"language_model": self.end.done.model, "quoted": self.end.done.quoted, "usage": as_json(self.end.usage)}
        found["history_left_out"] = self.left_out
        return found | (sources_as_json(self.sources) if with_sources else {})

    def chunk(self, delta: dict[str, Any], *, finish: str | None = None, **rest: Any) -> bytes:
        """A chunk of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        found = completion(self.request_id, self.model, object="chat.completion.chunk", choices=[choice])
        return _data(found | rest)


class OpenAI:
    """The routes' handlers."""

    def __init__(self, service: RagService) -> None:
        self._service = service

    async def chat_completions(self, exchange: Exchange, body: dict[str, Any]) -> None:
        """Streamed or whole."""
        wanted: ChatCompletionRequest = parsed(ChatCompletionRequest, body)
        request, left_out = ask_of(wanted)
        answer = _Answer(exchange, wanted, request.collection, left_out)
        try:
            async with aclosing(self._service.Ask(request, None)) as events:
                if wanted.stream:
                    usage = wanted.stream_options is not None and wanted.stream_options.include_usage
                    await self._stream(exchange, answer, events, with_usage=usage)
                else:
                    await self._whole(exchange, answer, events)
        except (CollectionUnknown, ModelNotAllowed) as error:
            if exchange.started:
                raise
            raise BadHttp(404, error.message, reason=error.reason, field="model") from error

    async def _stream(
        self, exchange: Exchange, answer: _Answer, events: AsyncIterator[gateway_pb2.AskResponse], *, with_usage: bool
    ) -> None:
        """Begins with the first word, or when that is long in coming: what goes wrong before is the response's status."""
        exchange.late = _late
        more: dict[str, Any] = {"usage": None} if with_usage else {}

        async def begin() -> None:
            await exchange.start(200, EVENT_STREAM, heartbeat=HEARTBEAT)
            own = {"request_id": answer.request_id, **sources_as_json(answer.sources)}
            await exchange.write(answer.chunk({"role": "assistant", "content": ""}, ragkeep=own, **more))

        async for event in events:
            answer.end.take(event)
            kind = event.WhichOneof("event")
            if kind == "sources":
                answer.sources = event.sources
                exchange.begin_soon(begin)
            elif kind not in ("status", "rewritten") and not exchange.started:
                await begin()
            if kind == "delta":
                await exchange.write(answer.chunk({"content": event.delta.text}, **more))
            elif kind == "citation":
                annotation = answer.annotation(answer.end.citations[-1])
                await exchange.write(answer.chunk({"annotations": [annotation]}, **more))
            elif kind == "done":
                own = answer.own(with_sources=False)
                await exchange.write(answer.chunk({}, finish=answer.finish(), ragkeep=own, **more))
        if with_usage:
            frame = completion(answer.request_id, answer.model, object="chat.completion.chunk", choices=[])
            await exchange.write(_data(frame | {"usage": _usage(answer.end.usage)}))
        await exchange.end(b"data: [DONE]\n\n")

    async def _whole(self, exchange: Exchange, answer: _Answer, events: AsyncIterator[gateway_pb2.AskResponse]) -> None:
        text: list[str] = []
        async for event in events:
            answer.end.take(event)
            kind = event.WhichOneof("event")
            if kind == "sources":
                answer.sources = event.sources
            elif kind == "delta":
                text.append(event.delta.text)
        message = {
            "role": "assistant",
            "content": "".join(text),
            "refusal": None,
            "annotations": [answer.annotation(mark) for mark in answer.end.citations],
        }
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish()}
        found = completion(answer.request_id, answer.model, object="chat.completion", choices=[choice])
        await exchange.reply(200, found | {"usage": _usage(answer.end.usage), "ragkeep": answer.own(with_sources=True)})

    async def models(self, exchange: Exchange, _body: dict[str, Any]) -> None:
        """What the caller may name as a model."""
        await exchange.reply(200, {"object": "list", "data": await self._models()})

    async def model(self, exchange: Exchange, _body: dict[str, Any]) -> None:
        """One of them."""
        name = exchange.parameters.get("model", "")
        for one in await self._models():
            if one["id"] == name:
                await exchange.reply(200, one)
                return
        message = "There is no model of this name; GET /v1/models lists those that are."
        raise BadHttp(404, message, reason="COLLECTION_UNKNOWN", field="model")

    async def _models(self) -> list[dict[str, Any]]:
        listed = await self._service.ListModels(gateway_pb2.ListModelsRequest(), None)
        collections = await self._service.ListCollections(gateway_pb2.ListCollectionsRequest(), None)
        languages: list[str] = []
        embedders: list[str] = []
        for service in listed.services:
            # Served ones first.
            for one in sorted(service.library.models, key=lambda model: not model.served):
                if service.service == gateway_pb2.MODEL_SERVICE_GENERATOR and one.allowed and one.suitable:
                    languages.append(one.name)
                elif service.service == gateway_pb2.MODEL_SERVICE_EMBEDDER and one.served:
                    embedders.append(one.name)
        found = []
        for summary in collections.collections:
            name = summary.collection.name
            own = {"kind": "collection", "documents": summary.documents}
            for model in ("", *languages):
                found.append(_model(f"{name}/{model}" if model else name, own | {"language_model": model}))
        return found + [_model(name, {"kind": "embedding"}) for name in embedders]

    async def embeddings(self, exchange: Exchange, body: dict[str, Any]) -> None:
        """Vectors of unit length, as numbers or packed in base64."""
        wanted: EmbeddingRequest = parsed(EmbeddingRequest, body)
        texts = [wanted.input] if isinstance(wanted.input, str) else wanted.input
        is_query = wanted.ragkeep is not None and wanted.ragkeep.purpose == "query"
        purpose = embedder_pb2.PURPOSE_QUERY if is_query else embedder_pb2.PURPOSE_DOCUMENT
        try:
            request = gateway_pb2.EmbedRequest(texts=texts, purpose=purpose)
        except ValueError:
            raise InvalidRequest("input holds characters that are not text (lone surrogates).", field="input") from None
        response = await self._service.Embed(request, None)
        space = response.space
        if wanted.model not in (space.model, space.model.removesuffix(":latest")):
            raise BadHttp(404, f"There is one embedding model here: {space.model}.", field="model")
        if wanted.dimensions not in (None, space.dimension):
            raise InvalidRequest(f"The model's vectors have {space.dimension} dimensions, and no others.", field="dimensions")
        packed = wanted.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": number, "embedding": base64.b64encode(row).decode() if packed else _numbers(row)}
            for number, row in enumerate(rows(response.vectors))
        ]
        # No engine tells tokens here, and a guess would be taken for a count.
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        await exchange.reply(200, {"object": "list", "data": data, "model": space.model, "usage": usage})


def _model(name: str, own: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": _OWNER, "ragkeep": own}


def _numbers(row: bytes) -> list[float]:
    values = array.array("f", row)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()
