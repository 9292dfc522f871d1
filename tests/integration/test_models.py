"""Models, vectors and batches of searches over the real RPC: embedded engines, and the real Ollama behind two services."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from ragkeep.embedder.v1 import embedder_pb2
from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep_client import Client, Equals, Keyword, RagkeepError, Search
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.errors import from_rpc_error
from tests.engines.ollama import CHAT_MODEL, EMBEDDING_MODEL, OllamaProcess
from tests.engines.registry import Registry
from tests.stack import Stack
from tests.tickets import SAMPLE

TENANT = (("ragkeep-tenant", "models"),)
ADMINS_ALONE = ("LoadModel", "UnloadModel", "PullModel")


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    """The typed client on embedded engines, with the sample in its tenant."""
    async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
        await RagServiceStub(channel).ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=TENANT)
    async with Client(stack.target("gateway"), stack.cli, tenant="models") as found:
        yield found


@pytest.mark.engine("e5")
@pytest.mark.engine("sqlite")
@pytest.mark.engine("quote")
class TestEmbedded:
    """On e5, SQLite and quote."""

    async def test_both_services_tell_what_is_built_in(self, client: Client) -> None:
        """Embedder first; always in memory, nothing pulled."""
        found = await client.list_models()
        assert [(one.service, one.engine, one.pull_from) for one in found] == [
            ("embedder", "e5", ""),
            ("generator", "quote", ""),
        ]
        for one in found:
            (model,) = one.models
            assert model.served
            assert model.loaded is not None

    @pytest.mark.parametrize("service", [None, "embedder", "generator"])
    async def test_what_is_built_in_is_neither_loaded_nor_pulled(self, client: Client, service: str | None) -> None:
        """With the reason, through both hops."""
        for work in (
            client.load_model("multilingual-e5-small", service=service),  # type: ignore[arg-type]
            client.unload_model("multilingual-e5-small", service=service),  # type: ignore[arg-type]
            anext(client.pull_model("llama3.2", service=service)),  # type: ignore[arg-type]
        ):
            with pytest.raises(RagkeepError, match="built in") as failed:
                await work
            assert failed.value.reason == "MODEL_BUILT_IN"

    async def test_a_reader_may_list_and_an_admin_alone_may_change(self, stack: Stack) -> None:
        """By the access rules of the contract."""
        async with open_channel(stack.target("gateway"), "gateway", stack.reader) as channel:
            rag = RagServiceStub(channel)
            assert len((await rag.ListModels(pb.ListModelsRequest())).services) == 2
            for method in ADMINS_ALONE:
                call = getattr(rag, method)(getattr(pb, f"{method}Request")(model="x"))
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await (call.read() if method == "PullModel" else call)
                error = from_rpc_error(failed.value)
                assert error.reason == "NOT_ALLOWED"
                assert "admin" in error.message

    @pytest.mark.parametrize("method", ["ListModels", *ADMINS_ALONE])
    @pytest.mark.parametrize("service", ["embedder", "generator"])
    async def test_models_of_a_service_are_for_its_gateway_alone(self, stack: Stack, service: str, method: str) -> None:
        """A caller of the gateway does not reach the services themselves."""
        from ragkeep.embedder.v1.embedder_pb2_grpc import EmbedderServiceStub
        from ragkeep.generator.v1 import generator_pb2
        from ragkeep.generator.v1.generator_pb2_grpc import GeneratorServiceStub

        async with open_channel(stack.target(service), service, stack.cli) as channel:
            embeds = service == "embedder"
            stub = EmbedderServiceStub(channel) if embeds else GeneratorServiceStub(channel)
            request = getattr(embedder_pb2 if embeds else generator_pb2, f"{method}Request")()
            call = getattr(stub, method)(request)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await (call.read() if method == "PullModel" else call)
        assert from_rpc_error(failed.value).reason == "NOT_ALLOWED"

    @pytest.mark.parametrize("name", ["", " ", "x" * 201])
    async def test_a_request_without_a_models_name_is_refused(self, client: Client, name: str) -> None:
        """And so is one that is too long for any."""
        for work in (client.load_model(name), anext(client.pull_model(name))):
            with pytest.raises(RagkeepError) as failed:
                await work
            assert failed.value.reason == ("MODEL_BUILT_IN" if len(name) > 1 else "INVALID_REQUEST")

    async def test_callers_get_vectors_of_the_installations_model(self, client: Client) -> None:
        """Of unit length, each as it is alone; a question's is nearer to its answer."""
        texts = ["Open the portal to set a new password.", "The label printer needs new paper."]
        passages = await client.embed(texts, purpose="document")
        (question,) = (await client.embed(["How do I reset my password?"])).vectors
        assert (passages.model, passages.dimension, len(passages.vectors)) == ("multilingual-e5-small", 384, 2)
        assert passages.digest
        for vector in passages.vectors:
            assert math.isclose(math.sqrt(sum(x * x for x in vector)), 1, abs_tol=1e-4)
        right, wrong = (sum(x * y for x, y in zip(question, vector, strict=True)) for vector in passages.vectors)
        assert right > wrong

    @pytest.mark.parametrize(
        ("texts", "reason", "field"),
        [
            ([], "INVALID_REQUEST", "texts"),
            (["x"] * 65, "REQUEST_TOO_LARGE", "texts"),
            (["x" * 600_000] * 2, "REQUEST_TOO_LARGE", "texts"),
            (["x", " "], "TEXT_INVALID", "texts[1]"),
            (["x", "打印" * 2000], "TEXT_TOO_LONG", "texts[1]"),
        ],
    )
    async def test_texts_to_embed_have_the_contracts_limits(
        self, client: Client, texts: list[str], reason: str, field: str
    ) -> None:
        """The embedder's own errors come through the gateway, with the text at fault."""
        with pytest.raises(RagkeepError) as failed:
            await client.embed(texts)
        assert (failed.value.reason, failed.value.field) == (reason, field)

    async def test_a_purpose_is_needed(self, stack: Stack) -> None:
        """Questions and passages have other vectors: guessing would spoil a search without a word."""
        async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await RagServiceStub(channel).Embed(pb.EmbedRequest(texts=["x"]), metadata=TENANT)
        assert from_rpc_error(failed.value).field == "purpose"

    async def test_a_batch_finds_what_its_searches_find_alone(self, client: Client) -> None:
        """In order, each with its own options; the texts are embedded in one call."""
        searches = [
            Search("忘记密码怎么办"),
            Search("T-1042", mode="keyword", limit=1),
            Search("打印机连不上", mode="vector", limit=3, explain=True),
            Search("密码", filter=Equals("category", Keyword("邮件与日历"))),
        ]
        together = await client.search_batch(searches)
        for search, found in zip(searches, together, strict=True):
            alone = await client.search(
                search.query, mode=search.mode, limit=search.limit, filter=search.filter, explain=search.explain
            )
            assert not isinstance(found, RagkeepError)
            assert [source.document_id for source in found] == [source.document_id for source in alone]
            assert [source.number for source in found] == list(range(1, len(alone) + 1))
        assert [found[0].document_id for found in together if isinstance(found, list)] == [
            "T-1001",
            "T-1042",
            "T-1003",
            "T-1004",
        ]

    async def test_the_texts_of_a_batch_are_embedded_together(self, client: Client, stack: Stack) -> None:
        """One call of the embedder for all of them."""
        await client.search_batch([Search("warm")])
        before = stack.log("embedder").count("EmbedderService/Embed")
        await client.search_batch([Search(f"question {number}") for number in range(32)])
        # The call's line is written when it ends, which is before its caller goes on.
        assert stack.log("embedder").count("EmbedderService/Embed") - before == 1

    async def test_a_wrong_search_does_not_spoil_the_others(self, client: Client) -> None:
        """Each is refused with its own reason, the rest is found; a text that is too long among them."""
        found = await client.search_batch(
            [
                Search(" "),
                Search("VPN error 809"),
                Search("x", collection="unheard"),
                Search("x", limit=0),
                Search("x", filter=Equals("nofield", Keyword("y"))),
                Search("打印" * 2000),
                Search("忘记密码"),
            ]
        )
        reasons = [one.reason if isinstance(one, RagkeepError) else one[0].document_id for one in found]
        assert reasons == [
            "QUESTION_EMPTY", "T-1042", "COLLECTION_UNKNOWN", "LIMIT_OUT_OF_RANGE", "FILTER_FIELD_UNKNOWN", "TEXT_TOO_LONG", "T-1001",
        ]  # fmt: skip
        assert isinstance(found[0], RagkeepError)
        assert found[0].field == "query"

    @pytest.mark.parametrize(("count", "reason"), [(0, "INVALID_REQUEST"), (33, "REQUEST_TOO_LARGE")])
    async def test_a_batch_is_bounded(self, client: Client, count: int, reason: str) -> None:
        """1 to 32 searches."""
        with pytest.raises(RagkeepError) as failed:
            await client.search_batch([Search("x")] * count)
        assert failed.value.reason == reason

    async def test_a_batch_sees_its_tenants_documents_alone(self, client: Client, stack: Stack) -> None:
        """As every search does."""
        async with Client(stack.target("gateway"), stack.cli, tenant="models-elsewhere") as stranger:
            assert await stranger.search_batch([Search("忘记密码"), Search("T-1042", mode="keyword")]) == [[], []]


@pytest.fixture(scope="module")
def models_stack(
    tmp_path_factory: pytest.TempPathFactory, ollama_server: OllamaProcess
) -> Iterator[tuple[Stack, OllamaProcess]]:
    """Embedder and generator on the real Ollama; the models are out of memory before."""
    common = {"RAGKEEP_ENGINE": "ollama", "RAGKEEP_OLLAMA_URL": ollama_server.url, "RAGKEEP_NUM_THREAD": "1"}
    env = {
        "embedder": common | {"RAGKEEP_MODEL": EMBEDDING_MODEL, "RAGKEEP_NUM_CTX": "256"},
        "generator": common | {"RAGKEEP_MODEL": CHAT_MODEL, "RAGKEEP_NUM_CTX": "1536", "RAGKEEP_MAX_TOKENS": "8"},
    }
    found = Stack(tmp_path_factory.mktemp("models"), env)
    try:
        found.start()
        yield found, ollama_server
    finally:
        found.stop()


@pytest.mark.engine("ollama")
async def test_a_ready_service_has_its_model_in_memory_and_the_first_question_loads_nothing(
    models_stack: tuple[Stack, OllamaProcess],
) -> None:
    """With the window of its settings; load and unload go to the service whose model it is."""
    stack, ollama = models_stack
    async with Client(stack.target("gateway"), stack.cli, tenant="models") as client:
        windows = {}
        for one in await client.list_models():
            (served,) = [model for model in one.models if model.served]
            assert served.loaded is not None
            windows[one.service] = (served.name, served.loaded.context_tokens)
        assert windows == {"embedder": (EMBEDDING_MODEL, 256), "generator": (CHAT_MODEL, 1536)}
        before = ollama.runner_starts()
        await client.embed(["a question"])
        async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
            await RagServiceStub(channel).ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE[:2]), metadata=TENANT)
        assert [event async for event in client.ask("打印机脱机怎么办？", minimum_coverage=0, timeout_s=300)]
        assert ollama.runner_starts() == before
        assert (await client.unload_model(CHAT_MODEL)).loaded is None
        loaded = (await client.load_model(CHAT_MODEL)).loaded
        assert loaded is not None
        assert loaded.context_tokens == 1536
        assert (await client.load_model(CHAT_MODEL, service="generator")).served
        with pytest.raises(RagkeepError) as failed:
            await client.load_model(CHAT_MODEL, service="embedder")
        assert failed.value.reason == "MODEL_UNSUITABLE"
        with pytest.raises(RagkeepError) as failed:
            await client.load_model("not-here")
        assert failed.value.reason == "MODEL_NOT_INSTALLED"
        with pytest.raises(RagkeepError) as failed:
            await anext(client.pull_model("not-here"))
        assert failed.value.reason == "PULL_NOT_ALLOWED"
        assert "RAGKEEP_PULL_FROM" in failed.value.message


@pytest.mark.engine("ollama")
async def test_without_warm_up_the_first_question_loads_the_model(tmp_path: Path, ollama_server: OllamaProcess) -> None:
    """The opt-out: ready at once, and nothing in memory."""
    env = {
        "generator": {
            "RAGKEEP_ENGINE": "ollama", "RAGKEEP_OLLAMA_URL": ollama_server.url, "RAGKEEP_MODEL": CHAT_MODEL,
            "RAGKEEP_NUM_CTX": "768", "RAGKEEP_NUM_THREAD": "1", "RAGKEEP_WARM_UP": "false",
        }
    }  # fmt: skip
    stack = Stack(tmp_path, env)
    before = ollama_server.runner_starts()
    try:
        stack.start("generator")
        assert ollama_server.runner_starts() == before
    finally:
        stack.stop()


@pytest.mark.engine("ollama")
async def test_a_model_is_pulled_through_the_gateway_and_a_dead_engine_does_not_hide_the_other(
    tmp_path: Path, registry: Registry
) -> None:
    """Ollama pulls from the registry of the generator's settings; the embedder's Ollama is away, and says so."""
    (tmp_path / "ollama").mkdir()
    ollama = OllamaProcess(tmp_path / "ollama", tmp_path / "ollama" / "models")
    env = {
        "embedder": {"RAGKEEP_ENGINE": "ollama", "RAGKEEP_OLLAMA_URL": "http://127.0.0.1:9"},
        "generator": {
            "RAGKEEP_ENGINE": "ollama", "RAGKEEP_OLLAMA_URL": ollama.url, "RAGKEEP_MODEL": CHAT_MODEL, "RAGKEEP_NUM_CTX": "1024",
            "RAGKEEP_NUM_THREAD": "1", "RAGKEEP_PULL_FROM": f"http://{registry.host}",
        },
    }  # fmt: skip
    stack = Stack(tmp_path, env)
    try:
        ollama.start()
        stack.start(wait=False)
        stack.wait_ready("gateway")
        while not all(stack.readiness(name)[0] for name in ("embedder", "generator")):
            await asyncio.sleep(0.05)  # the test's own time limit ends this
        async with Client(stack.target("gateway"), stack.cli, tenant="models") as client:
            embedder, generator = await client.list_models()
            assert (embedder.reason, embedder.models) == ("ENGINE_UNREACHABLE", ())
            assert "127.0.0.1:9" in embedder.message
            assert (generator.reason, generator.models, generator.pull_from) == ("", (), registry.host)
            with pytest.raises(RagkeepError) as failed:
                await anext(client.pull_model("nothing-there", service="embedder"))
            assert failed.value.reason == "PULL_NOT_ALLOWED"
            with pytest.raises(RagkeepError) as failed:
                [event async for event in client.pull_model("nothing-there")]
            assert failed.value.reason == "MODEL_UNKNOWN"
            events = [event async for event in client.pull_model(CHAT_MODEL)]
            assert events[-1].stage == "done"
            assert events[-1].completed_bytes == events[-1].total_bytes > 90e6
            # It was missing at the start: the process becomes ready by itself.
            stack.wait_ready("generator")
            (_, generator) = await client.list_models()
            (model,) = generator.models
            assert (model.name, model.served, model.loaded is not None) == (CHAT_MODEL, True, True)
            registry.stop()
            with pytest.raises(RagkeepError) as failed:
                [event async for event in client.pull_model("something-else")]
            assert failed.value.reason == "REGISTRY_FAILED"
            assert "dial" not in failed.value.message
    finally:
        stack.stop()
        ollama.stop()


@pytest.mark.engine("ollama")
@pytest.mark.engine("e5")
async def test_a_model_that_does_not_fit_into_memory_is_told_to_the_asker_and_by_readiness(tmp_path: Path) -> None:
    """By Ollama's own estimate, before it allocates; with what makes room."""
    ollama = OllamaProcess(tmp_path, OLLAMA_NUM_PARALLEL="4096")
    env = {
        "generator": {
            "RAGKEEP_ENGINE": "ollama", "RAGKEEP_OLLAMA_URL": ollama.url, "RAGKEEP_MODEL": CHAT_MODEL, "RAGKEEP_NUM_CTX": "8192",
        }
    }  # fmt: skip
    stack = Stack(tmp_path, env)
    try:
        ollama.start()
        stack.start(wait=False)
        for name in ("embedder", "retriever", "gateway"):
            stack.wait_ready(name)
        async with Client(stack.target("gateway"), stack.cli, tenant="models") as client:
            async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
                await RagServiceStub(channel).ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=TENANT)
            with pytest.raises(RagkeepError) as failed:
                [event async for event in client.ask("忘记密码怎么办？")]
        assert failed.value.reason == "MODEL_OUT_OF_MEMORY"
        assert "RAGKEEP_NUM_CTX (now 8192)" in failed.value.message
        status, body = stack.readiness("generator")
        assert status == 503
        assert "MODEL_OUT_OF_MEMORY" in str(body)
    finally:
        stack.stop()
        ollama.stop()
