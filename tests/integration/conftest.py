"""Callers of the real stack."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep_runtime.channel import open_channel
from tests.stack import Stack


@pytest.fixture
async def gateway(stack: Stack) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of the command's certificate to the gateway."""
    async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
        yield channel


@pytest.fixture
def rag(gateway: grpc.aio.Channel) -> RagServiceStub:
    """What callers see."""
    return RagServiceStub(gateway)
