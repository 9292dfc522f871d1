"""The HTTPS edge's server: TLS that follows its files, in the process's own loop, drained when the process says so.

uvicorn's protocol without uvicorn's server: that one would install signal handlers and knows no bound of a handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from ragkeep_gateway.http.limits import Connection, Limits
from ragkeep_gateway.http.listener import Listener
from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.metrics import connection_began, file_not_taken_over

log = get_logger()
_PAUSE_S = 0.05


class FollowingContext:
    """What TLS handshakes are made with: the files as they are now. A broken pair leaves the former in force, and is logged."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises OSError or ssl.SSLError where the files are missing or do not match."""
        self._cert, self._key = cert, key
        self._seen = self._stamp()
        self._current = self._read()
        self._refused: tuple[int, ...] | None = None
        # The one that listens. Each handshake is handed over to the one that is current.
        self.listening = self._read()
        self.listening.sni_callback = self._hand_over  # it is given an SSLObject here

    def _hand_over(self, handshake: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        # Runs in the loop for each new connection: two calls of stat, and a read where something changed.
        connection_began("https")
        self.look()
        handshake.context = self._current

    def look(self) -> None:
        """Takes the files over where they changed; each second, and at each handshake."""
        try:
            stamp = self._stamp()
            if stamp == self._seen or stamp == self._refused:
                return
        except OSError:
            return  # between two of the writer's steps
        try:
            current = self._read()
            if self._stamp() != stamp:
                return  # changed while it was read: at the next handshake
        except (OSError, ssl.SSLError) as error:
            self._refused = stamp
            file_not_taken_over("http_cert")
            log.error("file_not_taken_over", what="http_cert", error=type(error).__name__, in_force="the old one")
            return
        self._current, self._seen, self._refused = current, stamp, None
        log.info("file_taken_over", what="http_cert", file=self._cert.name)

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._cert, self._key)
        return context

    def _stamp(self) -> tuple[int, ...]:
        return tuple(part for path in (self._cert, self._key) for part in (path.stat().st_mtime_ns, path.stat().st_ino))


class HttpServer:
    """Serves an application over HTTPS."""

    def __init__(self, app: ASGIApp, cert: Path, key: Path, limits: Limits) -> None:
        """Raises OSError or ssl.SSLError where the certificate cannot be used."""
        self._tls = FollowingContext(cert, key)
        self.look = self._tls.look
        self._limits = limits
        bounded = type("BoundedConnection", (Connection,), {"limits": limits})
        self._config = uvicorn.Config(
            app,
            http=bounded,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=round(limits.idle_s),
            # What the listener's own context holds is nobody's request.
            reset_contextvars=True,
        )
        self._state = ServerState()
        self._listener = Listener(self._tls.listening, self._connection, limits)

    @property
    def connections(self) -> int:
        """Those that are open after their handshake."""
        return len(self._state.connections)

    @property
    def half_open(self) -> int:
        """Those whose handshake has not ended."""
        return self._listener.half_open

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port. Raises OSError where the address is taken."""
        self._config.load()
        return await self._listener.open(host, port)

    async def stop(self, grace_s: float) -> None:
        """No new connections; requests in flight have `grace_s`, and are cancelled then."""
        self._listener.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        loop = asyncio.get_running_loop()
        until = loop.time() + grace_s
        while self._state.connections and loop.time() < until:  # noqa: ASYNC110 - once in a process's life
            await asyncio.sleep(_PAUSE_S)
        for task in list(self._state.tasks):
            task.cancel()
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks), timeout=1)
        for connection in list(self._state.connections):
            with contextlib.suppress(AttributeError):
                connection.transport.abort()

    def _connection(self) -> Connection:
        return self._config.http_protocol_class(  # type: ignore[call-arg, return-value]  # its constructor is the protocol classes' own
            config=self._config, server_state=self._state, app_state={}, _loop=asyncio.get_running_loop()
        )
