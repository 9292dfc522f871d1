"""OpenAI's shapes as far as they can be honoured: what is not declared here, or asks for something else, is refused by name.

A parameter whose neutral value asks for nothing may be sent with that value, as clients do.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from ragkeep_runtime.errors import InvalidRequest

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_No = Annotated[list[Any], Field(max_length=0)] | None


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextPart(_Shape):
    """A piece of a message."""

    type: Literal["text"]
    text: StrictStr


class Message(_Shape):
    """One of a conversation. A system message has to be empty: what the model is told is the collection's prompt template."""

    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | list[TextPart] | None = None
    name: StrictStr | None = Field(None, description="Taken, and not used.")
    refusal: None = None
    annotations: list[Any] | None = Field(None, description="Of an earlier answer: taken, and not used.")
    audio: None = None
    tool_calls: _No = None
    function_call: None = None

    def text(self) -> str:
        """All of its pieces."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(_Shape):
    """How to stream."""

    include_usage: StrictBool = False


class TextFormat(_Shape):
    """The one format there is."""

    type: Literal["text"]


class ChatCompletionRequest(_Shape):
    """A question to a collection; the last user message is the question, earlier ones are the history."""

    model: Annotated[
        StrictStr, Field(min_length=1, max_length=300, description="<collection> or <collection>/<language model>.")
    ]
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1, le=8192)] | None = None
    max_completion_tokens: Annotated[StrictInt, Field(ge=1, le=8192)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**31), lt=2**31)] | None = None
    stop: StrictStr | Annotated[list[StrictStr], Field(max_length=8)] | None = None
    user: StrictStr | None = Field(None, description="Taken, and not used: who asks is in the token.")
    ragkeep: dict[str, Any] | None = Field(
        None, description="Fields of an AskRequest by their JSON names: filter, limit, mode, options.language …"
    )
    # What may be said, as it asks for nothing.
    n: Literal[1] | None = None
    top_p: Annotated[Number, Field(ge=1, le=1)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[Number, Field(ge=0, le=0)] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    response_format: TextFormat | None = None
    tools: _No = None
    tool_choice: Literal["none"] | None = None
    functions: _No = None
    function_call: Literal["none"] | None = None
    parallel_tool_calls: StrictBool | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None


class EmbeddingOptions(_Shape):
    """What OpenAI's shape has no word for."""

    purpose: Literal["document", "query"] = "document"


class EmbeddingRequest(_Shape):
    """Texts to turn into vectors. Tokens instead of texts are refused: they would be another model's."""

    model: Annotated[StrictStr, Field(min_length=1, max_length=300, description="The installation's embedding model.")]
    input: StrictStr | Annotated[list[StrictStr], Field(min_length=1, max_length=64)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[StrictInt, Field(ge=1, le=100_000)] | None = Field(None, description="The model's own, or refused.")
    user: StrictStr | None = Field(None, description="Taken, and not used.")
    ragkeep: EmbeddingOptions | None = None


def parsed(shape: type[_Shape], body: dict[str, Any]) -> Any:
    """The request in its shape. Raises InvalidRequest with the parameter that is not known or cannot be honoured."""
    try:
        return shape.model_validate(body)
    except (ValidationError, OverflowError) as error:
        problems = error.errors(include_url=False, include_input=False) if isinstance(error, ValidationError) else []
        place = problems[0]["loc"] if problems else ()
        known = shape.model_fields
        name = str(place[0]) if place else ""
        # Of a union pydantic names each member that did not fit: the parameter and where in it is what helps.
        inner = "".join(f"[{part}]" if isinstance(part, int) else "" for part in place[1:2])
        field = f"{name}{inner}"[:200]
        shown = field if field.isascii() and field.isprintable() else "a parameter"
        if problems and problems[0]["type"] == "missing":
            raise InvalidRequest(f"{'.'.join(str(part) for part in place)[:200]} is missing.", field=field) from None
        if name in known:
            raise InvalidRequest(f"{shown} has a value that cannot be honoured here.", field=field) from None
        raise InvalidRequest(f"{shown} is not a parameter that can be honoured here.", field=field) from None


def completion(request_id: str, model: str, **rest: Any) -> dict[str, Any]:
    """The frame of an answer or of a chunk of it."""
    return {"id": f"chatcmpl-{request_id}", "created": int(time.time()), "model": model, "system_fingerprint": None, **rest}
