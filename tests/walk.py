"""Every RPC of the contract, found by its descriptors, and a call of one by raw bytes."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import grpc

from ragkeep_runtime.access import Rule, rules_of
from ragkeep_runtime.tls import Identity

PROTOS = Path(__file__).parent.parent / "protos"
# No message of protobuf: a parser says so, and then who called was let in.
GARBAGE = b"\xff\xff\xff"


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC and the process that serves it."""

    service: str
    path: str
    streams: bool
    rule: Rule

    @property
    def open(self) -> bool:
        """Whether callers of the policy and people may have it."""
        return "*" in self.rule.peers

    async def call(
        self,
        channel: grpc.aio.Channel,
        raw: bytes,
        metadata: tuple[tuple[str, str], ...] = (),
        timeout: float = 20,
    ) -> list[bytes]:
        """The answers as they come. Raises AioRpcError."""
        if self.streams:
            return [answer async for answer in channel.unary_stream(self.path)(raw, metadata=metadata, timeout=timeout)]
        return [await channel.unary_unary(self.path)(raw, metadata=metadata, timeout=timeout)]

    async def failure(
        self, channel: grpc.aio.Channel, raw: bytes, metadata: tuple[tuple[str, str], ...] = (), timeout: float = 20
    ) -> grpc.aio.AioRpcError | None:
        """How the call failed; None: it did not."""
        try:
            await self.call(channel, raw, metadata, timeout)
        except grpc.aio.AioRpcError as error:
            return error
        return None


def every_method() -> list[Method]:
    """Of all services in all proto files: what is added is found too."""
    found = []
    for file in sorted(PROTOS.rglob("*.proto")):
        module = ".".join(file.relative_to(PROTOS).with_suffix("").parts) + "_pb2"
        descriptor = importlib.import_module(module).DESCRIPTOR
        services = list(descriptor.services_by_name.values())
        rules = rules_of(services)
        found += [
            Method(
                descriptor.package.split(".")[1],
                f"/{service.full_name}/{method.name}",
                method.server_streaming,
                rules[f"/{service.full_name}/{method.name}"],
            )
            for service in services
            for method in service.methods
        ]
    return found


def raw_channel(target: str, service: str, identity: Identity | None, authorities: bytes) -> grpc.aio.Channel:
    """A connection of its own, as somebody without our client would make it. None: without a certificate."""
    options = [("grpc.default_authority", f"{service}.ragkeep.internal"), ("grpc.use_local_subchannel_pool", 1)]
    key, cert = (identity.key.read_bytes(), identity.cert.read_bytes()) if identity else (None, None)
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(authorities, key, cert), options=options)
