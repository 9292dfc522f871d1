"""A channel that follows its certificate files: where they change it connects anew, and the old connection ends with its
last call. gRPC's own credentials, in Python, stay as they were read."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import structlog

from ragkeep_runtime.logs import get_logger
from ragkeep_runtime.tls import Identity, channel_credentials

# How often the files are looked at, in seconds. Three calls of stat.
EVERY_S = 1.0

Stamp = tuple[tuple[int, int], ...]


class InFlight:
    """How many calls a channel has. Counted by its interceptors: a call's own callbacks are lost where one of them raises."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def begin(self) -> None:
        """A call begins."""
        self._count += 1
        self._none.clear()

    def end(self) -> None:
        """It ended, in whatever way."""
        self._count -= 1
        if not self._count:
            self._none.set()

    async def ended(self) -> None:
        """Returns when there is none."""
        await self._none.wait()


class _Generation:
    """One channel of grpc.aio with the certificates that it was opened with."""

    def __init__(self, channel: grpc.aio.Channel, in_flight: InFlight) -> None:
        self.channel = channel
        self.in_flight = in_flight
        self._methods: dict[tuple[str, str], Callable[..., Any]] = {}

    def method(self, shape: str, path: str, arguments: dict[str, Any]) -> Callable[..., Any]:
        """What begins a call of the method."""
        found = self._methods.get((shape, path))
        if found is None:
            found = self._methods[shape, path] = getattr(self.channel, shape)(path, **arguments)
        return found


class FollowingChannel(grpc.aio.Channel):
    """Generated stubs are made of it once and keep working.

    A change of the files is taken over when certificate, key and authorities fit each other and a connection with them
    stands: until then the old one serves, so the order in which two processes get new files does not matter.
    `open_with(credentials, in_flight)` opens a channel whose interceptors count its calls. Raises OSError or ssl.SSLError
    where the files are missing or do not fit each other now.
    """

    def __init__(
        self, name: str, identity: Identity, open_with: Callable[[grpc.ChannelCredentials, InFlight], grpc.aio.Channel]
    ) -> None:
        self.renewals = 0
        self._name = name
        self._identity = identity
        self._open_with = open_with
        self._seen: Stamp = identity.stamp()
        self._refused: Stamp | None = None
        self._current = self._open()
        self._watching: asyncio.Task[None] | None = None
        self._retiring: dict[asyncio.Task[None], _Generation] = {}
        self._closed = False
        self._watch_from_now_on()

    @property
    def connections(self) -> int:
        """The one in force, and those whose last calls have not ended."""
        return 1 + len(self._retiring)

    def _open(self) -> _Generation:
        in_flight = InFlight()
        return _Generation(self._open_with(channel_credentials(self._identity), in_flight), in_flight)

    def _watch_from_now_on(self) -> None:
        if self._watching is not None or self._closed:
            return
        try:
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        except RuntimeError:
            return  # made before its loop runs: its first call begins it

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self._look()
            except Exception as error:  # whatever it is, the next certificate must not be missed for it
                _log(logging.ERROR, "channel_not_renewed", to=self._name, error=type(error).__name__)

    async def _look(self) -> None:
        stamp = self._stamp()
        if stamp is None or stamp == self._seen:
            return
        try:
            following = self._open()
        except (OSError, ssl.SSLError) as error:
            if stamp != self._refused:
                _log(logging.WARNING, "channel_files_not_taken_over", to=self._name, error=type(error).__name__)
            self._refused = stamp
            return
        taken_over = False
        try:
            taken_over = await self._stands(following, stamp)
        finally:
            if not taken_over:
                await following.channel.close()
        if not taken_over:
            return
        former, self._current, self._seen = self._current, following, stamp
        self.renewals += 1
        _log(logging.INFO, "channel_renewed", to=self._name)
        retiring = asyncio.get_running_loop().create_task(self._retire(former))
        self._retiring[retiring] = former
        retiring.add_done_callback(lambda task: self._retiring.pop(task, None))

    def _stamp(self) -> Stamp | None:
        try:
            return self._identity.stamp()
        except OSError:
            return None  # between two of the writer's steps

    async def _stands(self, following: _Generation, stamp: Stamp) -> bool:
        """Waits for a connection for as long as the files stay as they are: the other side may get its own only later."""
        connecting = asyncio.ensure_future(following.channel.channel_ready())
        try:
            while True:
                done, _ = await asyncio.wait({connecting}, timeout=EVERY_S)
                if done:
                    return connecting.exception() is None
                if self._stamp() != stamp:
                    return False
        finally:
            connecting.cancel()

    async def _retire(self, former: _Generation) -> None:
        # A call that was begun a moment ago is counted when its interceptor runs.
        await asyncio.sleep(EVERY_S)
        await former.in_flight.ended()
        # Every call has a deadline, so this comes. Earlier, closing would cancel what is in flight.
        await former.channel.close()

    def _method(self, shape: str, path: str, arguments: dict[str, Any]) -> Any:
        def begin(*args: Any, **kwargs: Any) -> Any:
            self._watch_from_now_on()
            return self._current.method(shape, path, arguments)(*args, **kwargs)

        return begin

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._method("unary_unary", method, _named(args, kwargs))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._method("unary_stream", method, _named(args, kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Not there: nothing of the contract streams from the client."""
        raise NotImplementedError(f"{method} streams from the client")

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Not there: nothing of the contract streams from the client."""
        raise NotImplementedError(f"{method} streams from the client")

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the connection that serves new calls."""
        return self._current.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Of the connection that serves new calls."""
        await self._current.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Of the connection that serves new calls."""
        await self._current.channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Ends all connections; calls in flight are cancelled after `grace` seconds."""
        self._closed = True
        tasks: list[asyncio.Task[None]] = [*self._retiring]
        generations = [self._current, *self._retiring.values()]
        if self._watching is not None:
            tasks.append(self._watching)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        closing: list[Awaitable[None]] = [generation.channel.close(grace) for generation in generations]
        await asyncio.gather(*closing)

    async def __aenter__(self) -> FollowingChannel:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()


def _named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(("request_serializer", "response_deserializer"), args, strict=False)) | kwargs


def _log(level: int, event: str, **keys: str) -> None:
    # In a process of ours an event; in a caller's program, whose logs are its own, a line of the standard library's.
    if structlog.is_configured():
        get_logger().log(level, event, **keys)
    else:
        logging.getLogger("ragkeep").log(level, "%s %s", event, keys)
