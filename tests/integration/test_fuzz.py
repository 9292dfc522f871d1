"""Bytes from a caller who is let in, whatever they are: an answer or a documented reason, never a defect, and no memory lost.

FUZZ_SEED and FUZZ_CALLS (of each method) make it another run, or a longer one.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator
from random import Random

import grpc
import psutil
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import Message

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.generator.v1 import generator_pb2
from ragkeep.retriever.v1 import retriever_pb2
from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceStub
from ragkeep.types.v1 import types_pb2
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.edge import has_reason
from ragkeep_runtime.errors import REASONS, from_rpc_error
from tests.counted import COUNTED
from tests.engines.weaviate import WeaviateProcess
from tests.fuzzing import Messages, mutated, nested
from tests.stack import CLI, SERVICES, Stack
from tests.tickets import SAMPLE
from tests.walk import Method, every_method, raw_channel

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("quote")]
STORES = [pytest.param(name, marks=pytest.mark.engine(name)) for name in ("sqlite", "weaviate")]
SEED, CALLS = int(os.environ.get("FUZZ_SEED", "20261125")), int(os.environ.get("FUZZ_CALLS", "120"))
METHODS = every_method()
# What allocators and caches may keep of a run of thousands of calls, in MiB; a leak of one message a call is far beyond.
KEPT_MIB = 64


@pytest.fixture(scope="module", params=STORES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An installation that may be filled with anything, on each store."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "weaviate").mkdir()
    weaviate = WeaviateProcess(folder / "weaviate") if request.param == "weaviate" else None
    env = {}
    if weaviate is not None:
        weaviate.start()
        env = {"RAGKEEP_WEAVIATE_URL": weaviate.url, "RAGKEEP_WEAVIATE_GRPC_PORT": str(weaviate.grpc_port)}
    stack = Stack(folder, {"retriever": {"RAGKEEP_ENGINE": request.param, **env}})
    policy = json.loads(stack.policy.read_text())
    policy["callers"][CLI] = {"tenants": ["*"], "roles": ["reader", "editor", "admin", "auditor", "unsealer"], "groups": ["*"]}
    stack.policy.write_text(json.dumps(policy))
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
        if weaviate is not None:
            weaviate.stop()


def _requests(method: Method, random: Random, known: dict[str, list[Message]], count: int) -> Iterator[bytes]:
    """Messages of the right type from nearly right to anything, mutated ones, noise."""
    messages = Messages(random, known)
    service, _, name = method.path.removeprefix("/").rpartition("/")
    descriptor = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name].input_type
    for number in range(count):
        wild = (0.0, 0.03, 0.1, 0.6)[number % 4]
        raw = messages.message(descriptor, wild).SerializeToString()
        match number % 9:
            case 6 | 7:
                yield mutated(raw, random)
            case 0 | 1 | 2 | 3 | 4 | 5:
                yield raw
            case _:
                yield random.randbytes(random.choice((1, 3, 30, 300)))
    for levels in (10, 90, 101, 5000):
        yield nested(descriptor, levels)


async def _known(site: Stack) -> dict[str, list[Message]]:
    """Documents and a collection as they are, so that requests get far."""
    metadata = (("ragkeep-tenant", "demo"),)
    async with open_channel(site.target("gateway"), "gateway", site.cli) as channel:
        rag = RagServiceStub(channel)
        await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=metadata)
    async with open_channel(site.target("retriever"), "retriever", site.identities["gateway"]) as channel:
        got = await RetrieverServiceStub(channel).GetCollection(retriever_pb2.GetCollectionRequest(name="service-tickets"))
    again = type(got.collection)()
    again.CopyFrom(got.collection)
    again.name = "fuzz"
    space, category = got.collection.space, types_pb2.Value(keyword="VPN")
    vectors = types_pb2.Vectors(dimension=384, float32_le=struct.pack("<384f", 1, *[0] * 383) * 2)
    passages = [generator_pb2.NumberedPassage(number=number, title="a", text="VPN error 809.") for number in (1, 2)]
    return {
        "ragkeep.types.v1.Scope": [
            types_pb2.Scope(tenant="demo", every_document=True),
            types_pb2.Scope(tenant="demo", groups=types_pb2.Groups(names=["g1"])),
        ],
        "ragkeep.types.v1.Filter": [
            types_pb2.Filter(equals=types_pb2.Comparison(field="category", value=category)),
            types_pb2.Filter(none_of=types_pb2.Filter(one_of=types_pb2.Members(field="category", values=[category, category]))),
        ],
        "ragkeep.retriever.v1.ChunkedDocument": [
            retriever_pb2.ChunkedDocument(document=one, version=bytes(32), chunks=["a", "b"], vectors=vectors)
            for one in SAMPLE[:3]
        ],
        "ragkeep.generator.v1.GenerateRequest": [
            generator_pb2.GenerateRequest(question="VPN?", passages=passages, prompt_template="{passages} {question}"),
            generator_pb2.GenerateRequest(question="打印机？", passages=passages),
        ],
        "ragkeep.types.v1.Document": list(SAMPLE),
        "ragkeep.types.v1.Collection": [got.collection, again],
        "ragkeep.types.v1.EmbeddingSpace": [space],
    }


async def _fuzz(site: Stack, random: Random, known: dict[str, list[Message]], count: int) -> Counter[str]:
    """How often each reason came. Fails with the bytes of a call that went wrong."""
    authorities = site.authority.ca.read_bytes()
    outcomes: Counter[str] = Counter()
    gate = asyncio.Semaphore(8)

    async def one(channel: grpc.aio.Channel, method: Method, raw: bytes) -> None:
        tenant = random.choice(("demo", "t%25", "%E5%8C%BB"))
        async with gate:
            follows = method.path.endswith("/ReadEntries")  # where damage asks it to, for ever
            metadata = (("ragkeep-tenant", tenant),) if method.open else ()
            error = await method.failure(channel, raw, metadata, 3 if follows else 300)
        if follows and error is not None and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            error = None
        reason = "OK" if error is None else from_rpc_error(error).reason
        assert error is None or has_reason(error), f"{method.path} {raw[:2000].hex()}: {error}"
        assert reason in REASONS | {"OK"}, reason
        assert reason not in ("INTERNAL", "ENGINE_FAILED", "NOT_ALLOWED"), f"{method.path} {raw[:2000].hex()}: {error}"
        outcomes[reason] += 1

    for service in SERVICES:
        methods = [method for method in METHODS if method.service == service]
        identity = site.cli if service == "gateway" else site.identities["gateway"]
        async with raw_channel(site.target(service), service, identity, authorities) as channel:
            await asyncio.gather(
                *(one(channel, method, raw) for method in methods for raw in _requests(method, random, known, count))
            )
    return outcomes


def _memory(site: Stack) -> dict[str, int]:
    """Resident, in MiB."""
    return {name: psutil.Process(process.pid).memory_info().rss >> 20 for name, process in site.processes.items()}


async def test_no_bytes_are_a_defect(site: Stack) -> None:
    """Every method of every process; and after a first round the processes do not grow."""
    began = dict(site.processes)
    known = await _known(site)
    calls = CALLS if site.env["retriever"]["RAGKEEP_ENGINE"] == "sqlite" else CALLS // 3
    outcomes = await _fuzz(site, Random(SEED), known, calls // 2)
    before = _memory(site)
    outcomes += await _fuzz(site, Random(SEED + 1), known, calls)
    after = _memory(site)
    assert [name for name, process in began.items() if process.poll() is not None] == []
    assert {name: after[name] - before[name] for name in SERVICES if after[name] - before[name] > KEPT_MIB} == {}
    for name in SERVICES:
        assert re.findall(r'.*"event": "call_failed".*', site.log(name)) == []
        assert site.readiness(name)[0] == 200
    assert len(outcomes) >= 8
    assert outcomes["OK"] >= 100
    COUNTED["fuzz: calls of gRPC"] += outcomes.total()
    COUNTED["fuzz: outcomes of them that are different"] += len(outcomes)
    for name in SERVICES:
        grown = f"fuzz: MiB that the {name} grew by, at most"
        COUNTED[grown] = max(COUNTED[grown], after[name] - before[name])
