"""Errors over HTTP: a domain error's status, its headers, and its JSON body in two shapes, ragkeep's own and OpenAI's."""

from __future__ import annotations

import math
from typing import Any

import grpc

from ragkeep_runtime.errors import InvalidRequest, RagkeepError

_Code = grpc.StatusCode
_BY_CODE = {
    _Code.UNAUTHENTICATED: 401,
    _Code.PERMISSION_DENIED: 403,
    _Code.NOT_FOUND: 404,
    _Code.INVALID_ARGUMENT: 422,
    _Code.ALREADY_EXISTS: 409,
    _Code.ABORTED: 409,
    _Code.FAILED_PRECONDITION: 409,
    _Code.RESOURCE_EXHAUSTED: 429,
    _Code.UNAVAILABLE: 503,
    _Code.DEADLINE_EXCEEDED: 504,
}
# Where the code alone would mislead: a full disk is not the caller's haste, and a failed engine is not a defect of ours.
_BY_REASON = {"REQUEST_TOO_LARGE": 413, "STORAGE_FULL": 507, "MODEL_OUT_OF_MEMORY": 503, "ENGINE_FAILED": 502}
_COME_AGAIN = (429, 503)
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class BadHttp(InvalidRequest):
    """A request that is wrong as HTTP. Its reason is INVALID_REQUEST unless another one says it better."""

    def __init__(
        self, status: int, message: str, *, reason: str = "", field: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message, field=field)
        self.status = status
        self.headers = headers or {}
        self.reason = reason or {413: "REQUEST_TOO_LARGE", 429: "OVERLOADED"}.get(status, self.reason)


def status_of(error: RagkeepError) -> int:
    """The HTTP status that the error stands for; 500 for a defect."""
    if isinstance(error, BadHttp):
        return error.status
    return _BY_REASON.get(error.reason) or _BY_CODE.get(error.code, 500)


def headers_of(error: RagkeepError, *, with_token: bool) -> dict[str, str]:
    """What the status asks for: WWW-Authenticate, Retry-After, and what the error brings itself."""
    status = status_of(error)
    headers = dict(error.headers) if isinstance(error, BadHttp) else {}
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="ragkeep"' + (', error="invalid_token"' if with_token else "")
    if status in _COME_AGAIN or error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s or 1)))
    return headers


def body_of(error: RagkeepError, request_id: str) -> dict[str, Any]:
    """ragkeep's own shape."""
    found: dict[str, Any] = {"reason": error.reason, "message": error.message, "request_id": request_id}
    if error.field:
        found["field"] = error.field
    if error.retry_after_s is not None:
        found["retry_after_s"] = error.retry_after_s
    if error.metadata:
        found["metadata"] = error.metadata
    return {"error": found}


def openai_body_of(error: RagkeepError, request_id: str) -> dict[str, Any]:
    """OpenAI's shape, with ragkeep's reason and request id beside what its clients read."""
    status = status_of(error)
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    found = body_of(error, request_id)["error"]
    return {"error": {"type": kind, "param": found.pop("field", None), "code": error.reason.lower(), **found}}
