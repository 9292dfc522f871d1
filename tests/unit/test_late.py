"""A call whose time runs out: who was waited for is said, as far as it is known."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from ragkeep.embedder.v1 import embedder_pb2
from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_runtime.access import AccessTable, rules_of
from ragkeep_runtime.edge import Edge, hop_error
from ragkeep_runtime.errors import DeadlineExceeded
from ragkeep_runtime.policy import Grant, Policy

RULES = rules_of(
    [gateway_pb2.DESCRIPTOR.services_by_name["RagService"], embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"]]
)
POLICY = Policy({"caller/x/a": Grant(frozenset({"demo"}), frozenset({"reader"}))})
EMBED, ASK = "/ragkeep.embedder.v1.EmbedderService/Embed", "/ragkeep.gateway.v1.RagService/Ask"


@pytest.mark.parametrize(
    ("engine", "method", "peer", "said"),
    [
        ("ollama", EMBED, "gateway", "The engine ollama did not answer in time."),
        ("", ASK, "caller/x/a", "The time for this call ran out."),
    ],
)
async def test_a_service_names_the_engine_that_it_waited_for(engine: str, method: str, peer: str, said: str) -> None:
    """The gateway has none of its own."""
    edge = Edge(AccessTable(RULES, POLICY), "ragkeep.internal", engine=engine)
    with pytest.raises(DeadlineExceeded) as late:
        async with edge.admitted(method, {}, peer=lambda: peer, seconds=0.01):
            await asyncio.Event().wait()
    assert late.value.message == said
    assert late.value.metadata == ({"engine": engine} if engine else {})


def test_a_service_that_did_not_come_to_say_is_not_blamed_alone() -> None:
    """gRPC's own deadline says nothing of what the service itself waited for."""
    bare = grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata(), grpc.aio.Metadata())
    late = hop_error("retriever", bare)
    assert isinstance(late, DeadlineExceeded)
    assert late.message == "The retriever did not answer in time: it, or the engine that it waits for, is slow."
