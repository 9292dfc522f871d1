"""The four processes on the real Ollama and the real Weaviate, and on both stores when something is killed."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.generator.v1 import generator_pb2
from ragkeep.types.v1.types_pb2 import OutcomeKind
from ragkeep_client import Client, Document, Field, Schema, Usage
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.errors import from_rpc_error
from tests.engines.ollama import CHAT_MODEL, EMBEDDING_MODEL, OllamaProcess
from tests.engines.weaviate import WeaviateProcess
from tests.https import Site, connections
from tests.stack import Stack
from tests.tickets import SAMPLE, ticket
from tests.waiting import until_answered, until_true

TENANT = (("ragkeep-tenant", "real"),)


def real_env(ollama: OllamaProcess, weaviate: WeaviateProcess) -> dict[str, dict[str, str]]:
    """Settings that choose the real engines."""
    return {
        "embedder": {"RAGKEEP_ENGINE": "ollama", "RAGKEEP_OLLAMA_URL": ollama.url, "RAGKEEP_MODEL": EMBEDDING_MODEL},
        "retriever": {
            "RAGKEEP_ENGINE": "weaviate",
            "RAGKEEP_WEAVIATE_URL": weaviate.url,
            "RAGKEEP_WEAVIATE_GRPC_PORT": str(weaviate.grpc_port),
        },
        "generator": {
            "RAGKEEP_ENGINE": "ollama",
            "RAGKEEP_OLLAMA_URL": ollama.url,
            "RAGKEEP_MODEL": CHAT_MODEL,
            "RAGKEEP_NUM_CTX": "2048",
            "RAGKEEP_NUM_THREAD": "1",
            "RAGKEEP_MAX_TOKENS": "200",
        },
    }


@pytest.fixture(scope="module")
def real_stack(
    tmp_path_factory: pytest.TempPathFactory, ollama_server: OllamaProcess, weaviate_server: WeaviateProcess
) -> Iterator[Stack]:
    """All four, on the real engines."""
    found = Stack(tmp_path_factory.mktemp("real"), real_env(ollama_server, weaviate_server))
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.mark.engine("ollama")
@pytest.mark.engine("weaviate")
async def test_a_question_is_answered_by_the_real_engines(real_stack: Stack) -> None:
    """Import, search, ask: the right ticket is the first source, the model streams and says how much it took."""
    async with open_channel(real_stack.target("gateway"), "gateway", real_stack.cli) as channel:
        rag = RagServiceStub(channel)
        imported = await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=TENANT)
        assert {o.kind for o in imported.outcomes} <= {OutcomeKind.OUTCOME_KIND_CREATED, OutcomeKind.OUTCOME_KIND_UNCHANGED}
        again = await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=TENANT)
        assert {o.kind for o in again.outcomes} == {OutcomeKind.OUTCOME_KIND_UNCHANGED}
        question = pb.AskRequest(question="VPN error 809 after an update", options=generator_pb2.Options(max_tokens=30, seed=1))
        events = [event async for event in rag.Ask(question, metadata=TENANT, timeout=300)]
    kinds = [str(event.WhichOneof("event")) for event in events]
    assert kinds[:3] == ["status", "sources", "status"]
    assert kinds[-2:] == ["usage", "done"]
    assert kinds.count("delta") > 1
    assert events[1].sources.sources[0].passage.document_id == "T-1042"
    assert not events[-1].done.quoted
    assert events[-1].done.model == CHAT_MODEL
    assert events[-2].usage.prompt_tokens > 50
    assert 1 in events[-2].usage.used


@pytest.mark.engine("ollama")
@pytest.mark.engine("weaviate")
async def test_a_conversation_on_the_real_engines(real_stack: Stack) -> None:
    """The follow-up is made whole, searched for and explained; the budget is told, and what cannot fit has its remedy."""
    history = [generator_pb2.Turn(question="VPN error 809 after an update", answer="Set the registry value and restart.")]
    options = generator_pb2.Options(max_tokens=20, seed=1, temperature=0)
    async with open_channel(real_stack.target("gateway"), "gateway", real_stack.cli) as channel:
        rag = RagServiceStub(channel)
        await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=TENANT)
        question = pb.AskRequest(question="And after a restart?", history=history, options=options, explain=True)
        events = [event async for event in rag.Ask(question, metadata=TENANT, timeout=300)]
        whole = events[1].rewritten
        assert "restart" in whole.question.lower()
        assert whole.model in ("", CHAT_MODEL)
        first = events[3].sources.sources[0].passage
        assert first.document_id == "T-1042"
        assert first.scores.vector_rank >= 1
        assert first.scores.keyword_rank == 1
        usage = events[-2].usage
        assert (usage.history_turns, usage.reserved_tokens, usage.context_tokens) == (1, 20, 2048)
        assert list(usage.used) + list(usage.left_out) == list(range(1, len(events[3].sources.sources) + 1))
        question.options.max_tokens = 4096
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            [event async for event in rag.Ask(question, metadata=TENANT, timeout=300)]
    error = from_rpc_error(failed.value)
    assert error.reason == "CONTEXT_TOO_SMALL"
    assert "RAGKEEP_NUM_CTX" in error.message


@pytest.mark.engine("ollama")
@pytest.mark.engine("weaviate")
async def test_a_collections_prompt_template_is_what_the_model_gets(real_stack: Stack) -> None:
    """A short one takes fewer tokens than our own prompt, for the same passages and question."""
    tokens = []
    async with Client(real_stack.target("gateway"), real_stack.cli, tenant="templates") as client:
        for template in ("", "{passages}\n\n{question}"):
            name = f"notes-{len(tokens)}-{uuid.uuid4().hex[:8]}"
            fields = (Field("body", "text", searchable=True),)
            await client.create_collection(Schema(name, fields, prompt_template=template))
            documents = [Document("N-1", {"body": "The printer needs new paper after every hundred labels."})]
            assert [outcome.kind async for outcome in client.import_documents(documents, collection=name)] == ["created"]
            events = [event async for event in client.ask("printer paper", collection=name, max_tokens=3, timeout_s=300)]
            (usage,) = [event for event in events if isinstance(event, Usage)]
            assert usage.used == (1,)
            tokens.append(usage.prompt_tokens)
    assert 10 < tokens[1] < tokens[0] - 50


@pytest.mark.engine("ollama")
@pytest.mark.engine("weaviate")
async def test_cancelling_an_ask_stops_ollama(real_stack: Stack, ollama_server: OllamaProcess) -> None:
    """Through gateway and generator: the engine's runner computes before, and is idle soon after."""
    async with open_channel(real_stack.target("gateway"), "gateway", real_stack.cli) as channel:
        rag = RagServiceStub(channel)
        await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=TENANT)
        options = generator_pb2.Options(max_tokens=1500, seed=3, temperature=1)
        call = rag.Ask(pb.AskRequest(question="Tell a long story about VPN error 809", options=options), metadata=TENANT)
        async for event in call:
            if event.WhichOneof("event") == "delta":
                break
        await asyncio.to_thread(ollama_server.works)
        call.cancel()
        assert await asyncio.to_thread(ollama_server.becomes_idle, 3)


@pytest.mark.engine("e5")
@pytest.mark.engine("sqlite")
async def test_an_engine_that_is_gone_is_named_to_the_caller(tmp_path: Path) -> None:
    """Through all hops: which engine, where it was looked for, how to start it; readiness says so too."""
    dead = {
        "generator": {"RAGKEEP_ENGINE": "ollama", "RAGKEEP_OLLAMA_URL": "http://127.0.0.1:9"},
        "retriever": {"RAGKEEP_ENGINE": "weaviate", "RAGKEEP_WEAVIATE_URL": "http://127.0.0.1:9"},
    }
    for name, engine, word in (("generator", "ollama", "ollama serve"), ("retriever", "weaviate", "Start it")):
        (tmp_path / name).mkdir()
        stack = Stack(tmp_path / name, {name: dead[name]})
        try:
            stack.start(wait=False)
            for other in ("embedder", "gateway", *({"retriever", "generator"} - {name})):
                stack.wait_ready(other)
            await until_true(lambda: "ENGINE_UNREACHABLE" in str(stack.readiness(name)))  # noqa: B023
            async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
                rag = RagServiceStub(channel)
                if name == "generator":
                    await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE[:1]), metadata=TENANT)
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    [event async for event in rag.Ask(pb.AskRequest(question="忘记密码"), metadata=TENANT)]
            error = from_rpc_error(failed.value)
            assert (error.reason, error.metadata["engine"]) == ("ENGINE_UNREACHABLE", engine)
            assert "127.0.0.1:9" in error.message
            assert word in error.message
            assert stack.readiness(name)[0] == 503
        finally:
            stack.stop()


STORES = [
    pytest.param("sqlite", marks=pytest.mark.engine("sqlite")),
    pytest.param("weaviate", marks=pytest.mark.engine("weaviate")),
]


@pytest.mark.engine("e5")
@pytest.mark.parametrize("store", STORES)
async def test_a_killed_import_is_resumed_and_every_ticket_is_there_once(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """kill -9 of the gateway, then of the store's process, in the middle; the same import again completes it."""
    weaviate = WeaviateProcess(tmp_path) if store == "weaviate" else None
    env: dict[str, dict[str, str]] = {}
    solution = "取消“脱机使用打印机”，再重启后台打印服务，并重新添加网络打印机。" * 5
    tickets = [ticket(f"T-{n}", title=f"打印机 {n} 号脱机", solution=solution) for n in range(60)]
    batches = [tickets[at : at + 10] for at in range(0, len(tickets), 10)]
    stack = None
    try:
        if weaviate is not None:
            weaviate.start()
            env["retriever"] = {
                "RAGKEEP_ENGINE": "weaviate",
                "RAGKEEP_WEAVIATE_URL": weaviate.url,
                "RAGKEEP_WEAVIATE_GRPC_PORT": str(weaviate.grpc_port),
            }
        stack = Stack(tmp_path, env)
        stack.start()

        async def run_import(kill_at: int | None, victim: str = "") -> list[int]:
            kinds: list[int] = []
            async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
                rag = RagServiceStub(channel)
                for number, batch in enumerate(batches):
                    before = stack.log("retriever").count("/GetVersions")
                    if number == kill_at:
                        # So that the batch stays where it is, however quick the machine.
                        stack.processes["embedder"].send_signal(signal.SIGSTOP)
                    call = asyncio.ensure_future(
                        rag.ImportDocuments(pb.ImportDocumentsRequest(documents=batch), metadata=TENANT, timeout=300)
                    )
                    if number == kill_at:
                        await until_true(lambda: stack.log("retriever").count("/GetVersions") > before)  # noqa: B023
                        if victim == "store" and weaviate is not None:
                            weaviate.kill()
                        else:
                            stack.kill("retriever" if victim == "store" else victim)
                        stack.processes["embedder"].send_signal(signal.SIGCONT)
                        with pytest.raises(grpc.aio.AioRpcError) as failed:
                            await call
                        if victim == "store" and weaviate is not None:
                            assert from_rpc_error(failed.value).reason == "ENGINE_UNREACHABLE"
                        return kinds
                    kinds += [outcome.kind for outcome in (await call).outcomes]
            return kinds

        await run_import(2, "gateway")
        stack.start("gateway")
        await run_import(4, "store")
        if weaviate is not None:
            weaviate.start()
        else:
            stack.start("retriever")
        async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
            await until_answered(lambda: RagServiceStub(channel).ListCollections(pb.ListCollectionsRequest(), metadata=TENANT))
        kinds = await run_import(None)
        assert set(kinds) <= {OutcomeKind.OUTCOME_KIND_CREATED, OutcomeKind.OUTCOME_KIND_UNCHANGED}
        assert len(kinds) == 60
        async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
            rag = RagServiceStub(channel)
            listed = await rag.ListCollections(pb.ListCollectionsRequest(), metadata=TENANT)
            assert [one.documents for one in listed.collections] == [60]
            for mode in (pb.SEARCH_MODE_KEYWORD, pb.SEARCH_MODE_VECTOR):
                found = await rag.Search(pb.SearchRequest(query="打印机脱机", limit=1000, mode=mode), metadata=TENANT)
                ids = [source.passage.document_id for source in found.sources]
                assert sorted(ids) == sorted(document.id for document in tickets)
    finally:
        if stack is not None:
            stack.stop()
        if weaviate is not None:
            weaviate.stop()


@pytest.mark.engine("ollama")
@pytest.mark.engine("weaviate")
async def test_hanging_up_over_https_stops_ollama(
    tmp_path: Path, ollama_server: OllamaProcess, weaviate_server: WeaviateProcess
) -> None:
    """As over gRPC, for both kinds of stream and for an answer that is waited for whole."""
    site = Site(tmp_path, real_env(ollama_server, weaviate_server))
    question = "Tell a long story about VPN error 809"
    chat = {"model": "service-tickets", "messages": [{"role": "user", "content": question}], "max_tokens": 1500}
    chat |= {"seed": 3, "temperature": 1}
    try:
        site.stack.start()
        await site.import_sample(tenant="demo")
        headers = {"authorization": f"Bearer {site.token()}"}
        for path, body, word in (
            (
                "/chat/stream",
                {"question": question, "options": {"maxTokens": 1500, "seed": 3, "temperature": 1}},
                b"event: token",
            ),
            ("/v1/chat/completions", {**chat, "stream": True}, b'"delta":{"content"'),
            ("/v1/chat/completions", chat, b""),
        ):
            async with connections(site.tls) as session:
                before = ollama_server.completions()
                asking = asyncio.create_task(session.post(site.url + path, json=body, headers=headers).__aenter__())
                if word:
                    response = await asking
                    while word not in await response.content.readline():
                        pass
                    await asyncio.to_thread(ollama_server.works)
                    response.close()
                else:
                    # Nothing comes until all is there. (A hang-up while the prompt is read is seen by Ollama when it has read it.)
                    await until_true(lambda: ollama_server.completions() > before)  # noqa: B023
                    await asyncio.to_thread(ollama_server.works)
                    asking.cancel()
            assert await asyncio.to_thread(ollama_server.becomes_idle, 3), path
    finally:
        site.stack.stop()
