"""One connection of the HTTPS edge with its limits: a header of bounded size and time, and a bounded number of connections.

uvicorn bounds neither a request's header and trailers nor the time that they take to come: here a slow or endless one ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ragkeep_gateway.http.errors import BadHttp, body_of, headers_of
from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.metrics import connection_used

log = get_logger()
# It warns of every malformed request and every task that is cancelled; ours are the lines that count.
logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
# The scope's key of the connection that a request came on.
CONNECTION = "ragkeep.connection"
# Said with every response, whatever it is: nothing of it is a page, and nothing of it is to be kept.
SECURITY_HEADERS = {
    "strict-transport-security": "max-age=31536000",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take."""

    connections: int = 512  # answered at once; a few more are told 429, the rest is closed
    header_bytes: int = 16 * 1024  # request line and headers
    body_bytes: int = 1024 * 1024
    handshakes: int = 256  # that have not ended; a newcomer drops the oldest
    handshake_s: float = 10.0
    header_s: float = 10.0  # from the first moment of a connection or request to the header's end
    body_s: float = 20.0  # for all of a body
    write_s: float = 30.0  # that a client may leave unread what was written
    idle_s: float = 15.0  # between two requests
    heartbeat_s: float = 10.0  # between comments in a stream that has nothing to say


# Above Limits.connections, connections that are still told why.
_TOLD = 32


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, bounded. `limits` is set by the server that makes the class."""

    limits = Limits()

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._serves = self.app
        self._timer: asyncio.TimerHandle | None = None
        self._in_header = False  # a request has begun and its header has not ended
        self._raw = 0  # bytes that came since, by whole reads
        self._size = 0  # bytes of its parsed header
        self._in_body = False  # a header has ended and its message has not
        self._idle_bytes = 0  # that came in it since the last byte of a body, by whole reads: extensions of chunks, trailers
        self._refused: BadHttp | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """A TLS handshake is done."""
        connection_used("https")
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections + _TOLD:
            transport.abort()
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a header or a body."""
        self._raw = self._raw + len(data) if self._in_header else 0
        self._idle_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_body and self._idle_bytes > self.limits.header_bytes:
            # An answer is under way or was given, so there is none; and whoever sends this is not waited for.
            log.info("request_refused", status=431, reason="INVALID_REQUEST", what="trailers")
            self.abort()
            return
        if self._in_header and self._raw > self.limits.header_bytes:
            self._refuse(self._too_large())
        elif self._timer is None and self.timeout_keep_alive_task is None and self._is_idle():
            self._arm()  # bytes that begin no request

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        # The read in which a header begins may hold all of a request before it: only those after it count.
        self._in_header, self._in_body, self._size, self._raw = True, False, 0, 0
        if self._timer is None:
            self._arm()

    def on_url(self, url: bytes) -> None:
        """A piece of the request line."""
        super().on_url(url)
        self._size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header line. One after the body, a trailer, is nothing to us: uvicorn would add it to the header."""
        if not self._in_header:
            return
        super().on_header(name, value)
        self._size += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        """The header has ended."""
        self._disarm()
        self._in_header, self._in_body, self._idle_bytes = False, True, 0
        self._refused = self._too_large() if self._size > self.limits.header_bytes else self._ambiguous()
        if self._refused is not None:
            raise self._refused  # the parser ends, and send_400_response says why
        self.app = _full if len(self.connections) > self.limits.connections else self._serves
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body has ended."""
        self._in_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Instead of uvicorn's plain text."""
        self._refuse(self._refused or BadHttp(400, "This is not a request that HTTP/1.1 knows."))

    def abort(self) -> None:
        """Ends the connection without waiting for what was not read."""
        self.transport.abort()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _arm(self) -> None:
        self._timer = self.loop.call_later(self.limits.header_s, self._too_late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._in_header:
            self._refuse(BadHttp(408, f"The request's header took longer than {self.limits.header_s:g} s."))
        else:
            self.transport.close()

    def _ambiguous(self) -> BadHttp | None:
        """What two programs on the way may understand in two ways (RFC 9112, 3.2 and 6.1) is refused."""
        version = self.parser.get_http_version()
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and version != "1.0"):
            return BadHttp(400, "A request must have one Host header.")
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        # 400 and not 501, as it is the request that is at fault and clients try again after a 5xx.
        if codings and (codings != [b"chunked"] or version == "1.0"):
            return BadHttp(400, "The only transfer encoding that is taken is chunked, once, in HTTP/1.1.")
        return None

    def _too_large(self) -> BadHttp:
        return BadHttp(431, f"Request line and headers are longer than {self.limits.header_bytes} bytes.")

    def _refuse(self, error: BadHttp) -> None:
        """Before there is a request: an answer by hand, and the end of the connection."""
        self._disarm()
        if self._is_idle():  # else a whole answer is under way, and nothing may stand in it
            request_id = uuid.uuid4().hex
            log.info("request_refused", status=error.status, reason=error.reason, request_id=request_id)
            body = json.dumps(body_of(error, request_id), ensure_ascii=False).encode()
            headers = SECURITY_HEADERS | {
                "content-type": "application/json; charset=utf-8",
                "content-length": str(len(body)),
                "x-request-id": request_id,
                "connection": "close",
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            status = HTTPStatus(error.status)
            self.transport.write(f"HTTP/1.1 {status.value} {status.phrase}\r\n{lines}\r\n".encode() + body)
        self.transport.close()


async def _full(scope: Any, _receive: Any, send: Any) -> None:
    """The application of a connection too many."""
    error = BadHttp(429, "This server has as many connections as it takes; come again shortly.")
    request_id = uuid.uuid4().hex
    log.info("request_refused", status=error.status, reason=error.reason, request_id=request_id)
    body = json.dumps(body_of(error, request_id), ensure_ascii=False).encode()
    headers = SECURITY_HEADERS | headers_of(error, with_token=False)
    headers |= {"content-type": "application/json; charset=utf-8", "x-request-id": request_id, "connection": "close"}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
