"""The HTTPS edge's listener: takes connections one by one, and bounds the number of those whose handshake has not ended."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Callable
from typing import Any

from ragkeep_gateway.http.limits import Connection, Limits
from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.metrics import handshake_dropped

log = get_logger()
_BACKLOG = 256
# Until it is looked again whether a descriptor is free.
_PAUSE_S = 1.0
_SHUTDOWN_S = 5


class Listener:
    """Where there are too many open handshakes, a newcomer takes the place of the oldest.

    Not the other way round: who holds all places would keep everybody out for as long as a handshake may last. An honest
    handshake is short, so it is never the oldest unless as many newcomers as there are places come while it lasts.
    """

    def __init__(self, tls: ssl.SSLContext, connection: Callable[[], Connection], limits: Limits) -> None:
        self._tls, self._connection, self._limits = tls, connection, limits
        self._listening: list[socket.socket] = []
        # In the order in which they came.
        self._half_open: dict[asyncio.Task[Any], Connection] = {}

    @property
    def half_open(self) -> int:
        """Connections whose handshake has not ended."""
        return len(self._half_open)

    async def open(self, host: str, port: int) -> int:
        """Listens at every address of the host; returns the port. Raises OSError where one is taken."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
                # IPv6 alone where the address is one: IPv4's are listed beside it. Never shared with another process.
                listening = socket.create_server(address, family=family, backlog=_BACKLOG)
                listening.setblocking(False)
                self._listening.append(listening)
        except OSError:
            self.close()
            raise
        for listening in self._listening:
            loop.add_reader(listening, self._take, listening)
        taken: int = self._listening[0].getsockname()[1]
        return taken

    def close(self) -> None:
        """Nobody new; handshakes that have not ended are dropped."""
        loop = asyncio.get_running_loop()
        for listening in self._listening:
            loop.remove_reader(listening)
            listening.close()
        self._listening.clear()
        for task, connection in self._half_open.items():
            if connection.transport is None:
                task.cancel()

    def _take(self, listening: socket.socket) -> None:
        # One each turn of the loop: between two newcomers every handshake gets on.
        try:
            accepted, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return  # it left before
        except OSError as error:
            log.error("connection_not_taken", error=type(error).__name__, errno=error.errno)
            loop = asyncio.get_running_loop()
            loop.remove_reader(listening)
            loop.call_later(_PAUSE_S, self._listen_again, listening)
            return
        accepted.setblocking(False)
        if len(self._half_open) >= self._limits.handshakes:
            self._drop_oldest()
        connection = self._connection()
        task = asyncio.ensure_future(
            asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=self._limits.handshake_s,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        )
        self._half_open[task] = connection
        task.add_done_callback(functools.partial(self._ended, accepted))

    def _listen_again(self, listening: socket.socket) -> None:
        if listening in self._listening:
            asyncio.get_running_loop().add_reader(listening, self._take, listening)

    def _drop_oldest(self) -> None:
        for task, connection in self._half_open.items():
            # One that has its transport is through, and its task ends with this turn of the loop.
            if connection.transport is None:
                del self._half_open[task]
                task.cancel()
                handshake_dropped()
                return

    def _ended(self, accepted: socket.socket, task: asyncio.Task[Any]) -> None:
        self._half_open.pop(task, None)
        failed = None if task.cancelled() else task.exception()
        if failed is not None and not isinstance(failed, OSError):  # else: they did not agree, it took too long, it left
            log.error("handshake_failed", error=type(failed).__name__)
        if failed is not None or task.cancelled():
            accepted.close()
