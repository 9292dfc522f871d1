"""`POST /chat/stream`: an AskRequest in JSON, its answer as server-sent events."""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.generator.v1 import generator_pb2
from ragkeep_gateway.http.errors import body_of
from ragkeep_gateway.http.exchange import Exchange, dumps
from ragkeep_runtime.errors import InvalidRequest, RagkeepError

if TYPE_CHECKING:
    from ragkeep_gateway.service import RagService

EVENT_STREAM = {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"}
HEARTBEAT = b": waiting\n\n"
EVENTS = ("thinking", "sources", "token", "done", "error")
_FIELD = re.compile(r'(?:has no field named|Failed to parse) "?(\w+)"?')


def ask_request_of(body: dict[str, Any]) -> gateway_pb2.AskRequest:
    """The request by its JSON names (or the proto's). Raises InvalidRequest with the field that is wrong."""
    try:
        return ParseDict(body, gateway_pb2.AskRequest(), max_recursion_depth=60)
    except (ParseError, ValueError, TypeError, OverflowError, RecursionError) as error:
        found = _FIELD.findall(str(error))
        # The innermost that protobuf names; its own words may repeat the request's text.
        field = found[-1] if found else ""
        known = f"The field {field}" if field else "A field of the request"
        raise InvalidRequest(f"{known} is not known here, or its value is of a wrong type.", field=field) from None


def as_json(message: Any) -> dict[str, Any]:
    """A message by its JSON names."""
    found: dict[str, Any] = MessageToDict(message)
    return found


def sources_as_json(sources: gateway_pb2.Sources) -> dict[str, Any]:
    """With the list where it is empty too."""
    return {"sources": [], **as_json(sources)}


def stage_name(stage: gateway_pb2.Stage.ValueType) -> str:
    """retrieving, generating, rewriting."""
    return gateway_pb2.Stage.Name(stage).removeprefix("STAGE_").lower()


def finish_name(finish: generator_pb2.Finish.ValueType) -> str:
    """stop, length, no_evidence."""
    return generator_pb2.Finish.Name(finish).removeprefix("FINISH_").lower()


class End:
    """What an answer ends with, gathered from its last events."""

    def __init__(self) -> None:
        self.citations: list[dict[str, int]] = []
        self.usage = generator_pb2.Usage()
        self.done = generator_pb2.Done()

    def take(self, event: gateway_pb2.AskResponse) -> None:
        """Looks at an event."""
        kind = event.WhichOneof("event")
        if kind == "citation":
            mark = event.citation
            self.citations.append({"number": mark.number, "start": mark.start, "end": mark.end})
        elif kind == "usage":
            self.usage = event.usage
        elif kind == "done":
            self.done = event.done

    def as_json(self) -> dict[str, Any]:
        """How it ended, by which model, what it took."""
        return {
            "finish": finish_name(self.done.finish),
            "model": self.done.model,
            "quoted": self.done.quoted,
            "citations": self.citations,
            "usage": as_json(self.usage),
        }


def _event(name: str, value: dict[str, Any], number: int = 0) -> bytes:
    head = f"id: {number}\n" if number else ""
    return f"{head}event: {name}\ndata: {dumps(value)}\n\n".encode()


def _late(error: RagkeepError, request_id: str) -> bytes:
    return _event("error", body_of(error, request_id)["error"])


def _told(event: gateway_pb2.AskResponse) -> tuple[str, dict[str, Any]] | None:
    """An event's name and data; None for what is told at the end."""
    kind = event.WhichOneof("event")
    if kind == "status":
        return "thinking", {"stage": stage_name(event.status.stage)}
    if kind == "rewritten":
        return "thinking", {"stage": "rewritten", "question": event.rewritten.question, "model": event.rewritten.model}
    if kind == "sources":
        return "sources", sources_as_json(event.sources)
    return ("token", {"text": event.delta.text}) if kind == "delta" else None


class Chat:
    """The route's handler."""

    def __init__(self, service: RagService) -> None:
        self._service = service

    async def stream(self, exchange: Exchange, body: dict[str, Any]) -> None:
        """What is wrong with the request is its status; what goes wrong later is the last event."""
        request = ask_request_of(body)
        end = End()
        exchange.late = _late
        async with aclosing(self._service.Ask(request, None)) as events:
            async for event in events:
                if not exchange.started:
                    await exchange.start(200, EVENT_STREAM, heartbeat=HEARTBEAT)
                end.take(event)
                told = _told(event)
                if told is not None:
                    await exchange.write(_event(*told, event.sequence))
                if event.WhichOneof("event") == "done":
                    await exchange.write(_event("done", end.as_json(), event.sequence))
        await exchange.end()
