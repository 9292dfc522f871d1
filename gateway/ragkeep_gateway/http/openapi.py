"""The OpenAPI document, made from the routes, the contract's messages and the shapes that requests are checked with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_gateway.http.openai_shapes import ChatCompletionRequest, EmbeddingRequest

if TYPE_CHECKING:
    from ragkeep_gateway.http.limits import Limits
    from ragkeep_gateway.http.routes import Route

_REF = "#/components/schemas/"
_F = FieldDescriptor
_INTEGERS = {
    _F.TYPE_INT32: (-(2**31), 2**31 - 1),
    _F.TYPE_SINT32: (-(2**31), 2**31 - 1),
    _F.TYPE_UINT32: (0, 2**32 - 1),
}
_ERRORS = {
    "400": "Not JSON in UTF-8, or not HTTP.",
    "401": "No token, or one that is not taken.",
    "403": "The token's roles do not allow it, or its tenant is not active.",
    "404": "There is no such collection or model.",
    "408": "The request took too long to come.",
    "409": "The installation is not in a state for it, e.g. another embedding model.",
    "413": "The body is too long, or holds too many texts.",
    "415": "The body is not said to be JSON.",
    "422": "A field or parameter is wrong or cannot be honoured; the error names it.",
    "429": "Too much at once, or over a quota; Retry-After says when to come again.",
    "500": "A defect; the request id finds it in the log.",
    "502": "An engine failed.",
    "503": "Something is not ready or cannot be reached; Retry-After says when to come again.",
    "504": "The time ran out.",
    "507": "The disk is full.",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["reason", "message", "request_id"],
            "properties": {
                "reason": {"type": "string", "description": "One of ragkeep.errors.v1.Reason without its prefix."},
                "message": {"type": "string"},
                "request_id": {"type": "string"},
                "field": {"type": "string", "description": "Of the request, where one is at fault."},
                "retry_after_s": {"type": "number"},
                "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                "type": {"type": "string", "description": "In OpenAI's shape alone, as param and code."},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
# What a route's request and response are, by its path.
_REQUESTS: dict[str, type[BaseModel] | Descriptor] = {
    "/chat/stream": gateway_pb2.AskRequest.DESCRIPTOR,
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/embeddings": EmbeddingRequest,
}
_STREAMS = frozenset({"/chat/stream", "/v1/chat/completions"})
_ONLY_STREAMS = frozenset({"/chat/stream"})


def document_of(routes: Sequence[Route], limits: Limits) -> dict[str, Any]:
    """The document; without the version of what serves it, which is nobody's concern."""
    shapes = [shape for shape in _REQUESTS.values() if not isinstance(shape, Descriptor)]
    _, found = models_json_schema([(shape, "validation") for shape in shapes], ref_template=_REF + "{model}")
    schemas: dict[str, Any] = {"Error": _ERROR, **found.get("$defs", {})}
    for shape in _REQUESTS.values():
        if isinstance(shape, Descriptor):
            _message(shape, schemas)
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path.replace(":path}", "}"), {})[route.verb.lower()] = _operation(route, limits)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ragkeep", "version": "v1", "description": "Ask one's own documents. docs/http.md tells more."},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(route: Route, limits: Limits) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.path not in _ONLY_STREAMS:
        content["application/json"] = {"schema": {"type": "object"}}
    if route.path in _STREAMS:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    error = {"application/json": {"schema": {"$ref": _REF + "Error"}}}
    place = "_".join(part for part in route.path.split("/") if part and "{" not in part)
    found: dict[str, Any] = {
        "operationId": f"{route.verb}_{place}{'_one' if '{' in route.path else ''}".lower(),
        "summary": route.summary,
        "description": f"Admitted as {route.rpc} of ragkeep.gateway.v1.RagService.",
        "responses": {
            "200": {"description": "Done.", "content": content},
            **{status: {"description": words, "content": error} for status, words in _ERRORS.items()},
        },
    }
    if route.verb == "POST":
        shape = _REQUESTS[route.path]
        name = shape.name if isinstance(shape, Descriptor) else shape.__name__
        found["requestBody"] = {
            "required": True,
            "description": f"At most {limits.body_bytes} bytes.",
            "content": {"application/json": {"schema": {"$ref": _REF + name}}},
        }
    if "{model" in route.path:
        found["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]
    return found


def _message(message: Descriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to the message's schema, by its JSON names."""
    if message.full_name == "google.protobuf.Timestamp":
        return {"type": "string", "format": "date-time"}
    if message.name not in schemas:
        schemas[message.name] = found = {"type": "object", "additionalProperties": False, "properties": {}}
        found["properties"] = {field.json_name: _field(field, schemas) for field in message.fields}
    return {"$ref": _REF + message.name}


def _field(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _one(field.message_type.fields_by_name["value"], schemas)}
    return {"type": "array", "items": _one(field, schemas)} if field.is_repeated else _one(field, schemas)


def _one(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.message_type is not None:
        return _message(field.message_type, schemas)
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    if field.type in _INTEGERS:
        least, most = _INTEGERS[field.type]
        return {"type": "integer", "minimum": least, "maximum": most}
    if field.type in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT):
        return {"type": "number"}
    if field.type == _F.TYPE_BYTES:
        return {"type": "string", "contentEncoding": "base64"}
    return {"type": "boolean"} if field.type == _F.TYPE_BOOL else {"type": "string"}
