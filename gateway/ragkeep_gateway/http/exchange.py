"""One request and its response, on bare ASGI: a body within bounds, a client that leaves or does not read, a heartbeat."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

from starlette.types import Message, Receive, Scope, Send

from ragkeep_gateway.http.errors import BadHttp, headers_of, status_of
from ragkeep_gateway.http.limits import CONNECTION, Limits
from ragkeep_runtime.edge import REQUEST_ID_KEY, request_id_of
from ragkeep_runtime.errors import RagkeepError

# Of a request's headers, those that the edge may see. What a person may do is in the token alone.
_METADATA = ("authorization", REQUEST_ID_KEY, "traceparent", "tracestate")
# Of a body that nobody wants, what is read so that the answer arrives before the connection ends.
_LINGER_BYTES, _LINGER_S = 8 * 1024 * 1024, 2.0

ErrorBody = Callable[[RagkeepError, str], dict[str, Any]]


def dumps(value: object) -> str:
    """JSON on one line, characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class Exchange:
    """Used by the one task that serves the request. After `attended` began, a client that leaves cancels that task."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self._scope, self._receive, self._send_raw, self._limits = scope, receive, send, limits
        self._headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        # Which of two tokens is meant nobody can tell, so there is none.
        self._twice = [name for name, _ in scope["headers"]].count(b"authorization") > 1
        self._owner: asyncio.Task[Any] | None = None
        self._beside: list[asyncio.Task[None]] = []
        self._read = False  # all of the body came
        self._written_at = 0.0
        self.started = self.ended = self.left = False
        self.late: Callable[[RagkeepError, str], bytes] | None = None  # how an error is told in a stream that has begun
        self.request_id = scope.setdefault("ragkeep.request_id", request_id_of(self._headers))

    @property
    def has_token(self) -> bool:
        """Whether the client sent credentials, whatever they are."""
        return "authorization" in self._headers

    @property
    def parameters(self) -> Mapping[str, str]:
        """Of the path, decoded: a name may hold a slash, written as it is or as %2F."""
        return {name: unquote(value) for name, value in self._scope.get("path_params", {}).items()}

    def metadata(self) -> dict[str, str]:
        """What the edge sees of the headers."""
        found = {name: self._headers[name] for name in _METADATA if name in self._headers}
        if self._twice:
            del found["authorization"]
        return found | {REQUEST_ID_KEY: self.request_id}

    async def json(self) -> dict[str, Any]:
        """The body, a JSON object. Raises BadHttp."""
        kind = self._headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise BadHttp(415, "The body must be JSON: send content-type: application/json.")
        if "content-encoding" in self._headers:
            raise BadHttp(415, "The body must not be compressed.")
        try:
            found = json.loads((await self._body()).decode(), parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise BadHttp(400, "The body is not JSON in UTF-8.") from None
        if not isinstance(found, dict):
            raise BadHttp(400, "The body must be a JSON object.")
        return found

    async def _body(self) -> bytes:
        most = self._limits.body_bytes
        declared = self._headers.get("content-length", "")
        if declared.isdigit() and int(declared[:20]) > most:
            raise BadHttp(413, f"The body is longer than {most} bytes.")
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_s):
                while not self._read:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        await self._leave()
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise BadHttp(413, f"The body is longer than {most} bytes.")
                    self._read = not message.get("more_body", False)
        except TimeoutError:
            raise BadHttp(408, f"The body took longer than {self._limits.body_s:g} s.") from None
        return bytes(body)

    @contextlib.asynccontextmanager
    async def attended(self) -> AsyncIterator[None]:
        """From here on a client that leaves cancels what is in the block. What is left of the body is not looked at."""
        self._owner = asyncio.current_task()
        self._beside.append(asyncio.create_task(self._watch()))
        try:
            yield
        finally:
            for task in self._beside:
                task.cancel()
            await asyncio.gather(*self._beside, return_exceptions=True)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            self._read = True
        await self._leave()

    async def _leave(self) -> None:
        """The client is gone, or as good as gone. Does not return in the task that serves the request."""
        if self.ended:
            return
        self.left = True
        owner = self._owner or asyncio.current_task()
        assert owner is not None  # noqa: S101 - coroutines run in tasks
        owner.cancel()
        if owner is asyncio.current_task():
            await asyncio.Event().wait()

    async def start(self, status: int, headers: Mapping[str, str], *, heartbeat: bytes = b"") -> None:
        """Begins the response. `heartbeat` is written whenever nothing else was for a while."""
        self.started = True
        raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
        if heartbeat:
            self._beside.append(asyncio.create_task(self._beat(heartbeat)))

    def begin_soon(self, begin: Callable[[], Awaitable[None]]) -> None:
        """Awaits `begin` when the response has not begun after the time of a heartbeat."""

        async def wait() -> None:
            await asyncio.sleep(self._limits.heartbeat_s)
            if not self.started:
                await begin()

        self._beside.append(asyncio.create_task(wait()))

    async def write(self, data: bytes) -> None:
        """A piece of the response."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """The response's end."""
        self.ended = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def reply(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        """A whole response in JSON."""
        data = dumps(value).encode()
        shape = {"content-type": "application/json; charset=utf-8", "content-length": str(len(data))}
        await self.start(status, {**shape, **(headers or {})})
        await self.end(data)

    async def fail(self, error: RagkeepError, body: ErrorBody) -> None:
        """Tells an error: as the response, or in the stream that has begun."""
        if self.ended:
            return
        if self.started:
            await self.end(self.late(error, self.request_id) if self.late else b"")
            return
        data = dumps(body(error, self.request_id)).encode()
        headers = {"content-type": "application/json; charset=utf-8", "content-length": str(len(data))}
        headers |= headers_of(error, with_token=self.has_token)
        if self._read or not self._expects_body():
            await self.start(status_of(error), headers)
            await self.end(data)
            return
        # Closing with bytes unread would take the answer from the client: it gets all of it, and then a little time.
        await self.start(status_of(error), headers | {"connection": "close"})
        await self.write(data)
        await self._linger()
        await self.end()

    def _expects_body(self) -> bool:
        return "transfer-encoding" in self._headers or self._headers.get("content-length", "0") != "0"

    async def _linger(self) -> None:
        left = _LINGER_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while left > 0:
                    message = await self._receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
                    left -= len(message.get("body", b""))

    async def _beat(self, heartbeat: bytes) -> None:
        loop, pause = asyncio.get_running_loop(), self._limits.heartbeat_s
        while not (self.left or self.ended):
            quiet = loop.time() - self._written_at
            if quiet >= pause:
                await self.write(heartbeat)
                continue
            await asyncio.sleep(pause - quiet)

    async def _send(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._limits.write_s):
                await self._send_raw(message)
        except TimeoutError:
            connection = self._scope.get(CONNECTION)
            if connection is not None:
                connection.abort()
            self.ended = False
            await self._leave()
        self._written_at = asyncio.get_running_loop().time()


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
