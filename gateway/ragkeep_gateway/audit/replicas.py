"""The other gateways: where they are, and their answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from ragkeep.gateway.v1.audit_pb2 import ReplicaUnreachable
from ragkeep.gateway.v1.audit_pb2_grpc import AuditServiceStub
from ragkeep_runtime.channel import open_channel, stream
from ragkeep_runtime.errors import RagkeepError
from ragkeep_runtime.rotation import FollowingChannel
from ragkeep_runtime.tls import Identity

if TYPE_CHECKING:
    from ragkeep.gateway.v1.audit_pb2_grpc import AuditServiceAsyncStub

_DNS = "dns:///"


class Replicas:
    """`at` is dns:///host:port, every address behind the name, or host:port,host:port; empty: there are no others."""

    def __init__(self, at: str, identity: Identity, trust_domain: str) -> None:
        self._at, self._identity, self._trust_domain = at, identity, trust_domain
        self._channels: dict[str, FollowingChannel] = {}

    async def close(self) -> None:
        """Closes the connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def addresses(self) -> list[str]:
        """host:port of each, as far as is known now."""
        if not self._at.startswith(_DNS):
            return [one.strip() for one in self._at.split(",") if one.strip()]
        host, _, port = self._at.removeprefix(_DNS).rpartition(":")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except OSError:
            return [f"{host}:{port}"]  # it cannot be asked, and that is said
        names = {f"[{address[0]}]:{port}" if ":" in str(address[0]) else f"{address[0]}:{port}" for *_, address in found}
        return sorted(names)

    async def ask(self, call: Callable[[AuditServiceAsyncStub], Any]) -> list[AsyncGenerator[Any]]:
        """A stream of each: its messages, or ReplicaUnreachable."""
        return [self._of(address, call) for address in await self.addresses()]

    async def _of(self, address: str, call: Callable[[AuditServiceAsyncStub], Any]) -> AsyncGenerator[Any]:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = open_channel(address, "gateway", self._identity, self._trust_domain)
        try:
            async with contextlib.aclosing(stream(call(AuditServiceStub(channel)), "gateway")) as messages:
                async for message in messages:
                    yield message
        except RagkeepError as error:
            yield ReplicaUnreachable(address=address, reason=error.reason)
