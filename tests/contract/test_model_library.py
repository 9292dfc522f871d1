"""One suite for every library of models: e5 and quote, which are built in, and the real Ollama for both of its jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ragkeep_embedder.embedder import Embedder, Purpose
from ragkeep_embedder.ollama import OllamaEmbedder
from ragkeep_generator.language_model import LanguageModel, Passage, Question, Turn
from ragkeep_generator.ollama import Defaults, OllamaLanguageModel
from ragkeep_ollama.library import OllamaLibrary, Pinned
from ragkeep_runtime.errors import (
    EngineUnreachable,
    InvalidRequest,
    ModelBuiltIn,
    ModelNotInstalled,
    ModelOutOfMemory,
    ModelUnknown,
    ModelUnsuitable,
    PullNotAllowed,
    RegistryFailed,
)
from ragkeep_runtime.model_library import ModelLibrary, PullProgress, PullStage
from tests.engines.ollama import CHAT_MODEL, EMBEDDING_MODEL, OllamaProcess
from tests.engines.process import CACHE
from tests.engines.registry import Registry

PINNED = Pinned(512, num_thread=1)
SMALL = Defaults(num_ctx=1024, max_tokens=8, temperature=0, num_thread=1)
BUILT_IN = [
    pytest.param("e5", marks=pytest.mark.engine("e5")),
    pytest.param("quote", marks=pytest.mark.engine("quote")),
]
OLLAMA = [
    pytest.param("ollama embedder", marks=pytest.mark.engine("ollama")),
    pytest.param("ollama generator", marks=pytest.mark.engine("ollama")),
]


async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Embedder | LanguageModel]:
    """The adapter that the parameter names."""
    found: Embedder | LanguageModel
    if request.param == "e5":
        from ragkeep_embedder.e5 import E5Embedder

        found = E5Embedder()
    elif request.param == "quote":
        from ragkeep_generator.quote import Quote

        found = Quote()
    else:
        server: OllamaProcess = request.getfixturevalue("ollama_server")
        if request.param == "ollama embedder":
            found = OllamaEmbedder(server.url, EMBEDDING_MODEL, pinned=PINNED)
        else:
            found = OllamaLanguageModel(server.url, CHAT_MODEL, SMALL)
    yield found
    await found.close()


@pytest.fixture(params=[*BUILT_IN, *OLLAMA])
async def adapter(request: pytest.FixtureRequest) -> AsyncIterator[Embedder | LanguageModel]:
    """Each in turn."""
    async for found in opened(request):
        yield found


@pytest.fixture(params=BUILT_IN)
async def built_in(request: pytest.FixtureRequest) -> AsyncIterator[ModelLibrary]:
    """The libraries that cannot change."""
    async for found in opened(request):
        yield found.library()


@pytest.fixture(params=OLLAMA)
async def ollama_adapter(request: pytest.FixtureRequest) -> AsyncIterator[OllamaEmbedder | OllamaLanguageModel]:
    """Ollama's two adapters."""
    async for found in opened(request):
        assert isinstance(found, (OllamaEmbedder, OllamaLanguageModel))
        yield found


async def used(adapter: OllamaEmbedder | OllamaLanguageModel) -> None:
    """One request, as the service makes it."""
    if isinstance(adapter, OllamaEmbedder):
        await adapter.embed(["a text"], Purpose.QUERY)
    else:
        question = Question("What is wrong?", (Passage(1, "Printer", "The printer is offline."),))
        assert [event async for event in adapter.answer(question)]


async def test_the_served_model_is_listed_once_and_marked(adapter: Embedder | LanguageModel) -> None:
    """Under the name that the service itself gives, suitable and allowed."""
    library = adapter.library()
    listed = await library.installed()
    (served,) = [model for model in listed if model.served]
    model = await adapter.model()
    assert (library.engine, served.name, served.digest) == (model.engine, model.name, model.digest)
    assert served.suitable
    assert served.allowed
    assert [one.name for one in listed] == sorted(one.name for one in listed)


async def test_built_in_models_are_always_loaded_and_refuse_with_the_reason(built_in: ModelLibrary) -> None:
    """Load, unload and pull alike, under any name."""
    (model,) = await built_in.installed()
    assert model.loaded is not None
    assert model.loaded.vram_bytes == 0
    for name in ("", model.name, "another"):
        for work in (built_in.load(name), built_in.unload(name), anext(built_in.pull(name))):
            with pytest.raises(ModelBuiltIn, match=model.name):
                await work


async def test_ollama_tells_size_form_and_abilities(ollama_adapter: OllamaEmbedder | OllamaLanguageModel) -> None:
    """Of every model, whoever asks; suitable are those of the service's job alone."""
    listed = {model.name: model for model in await ollama_adapter.library().installed()}
    assert {EMBEDDING_MODEL, CHAT_MODEL} <= set(listed)
    assert listed[EMBEDDING_MODEL].capabilities == ("embedding",)
    assert "completion" in listed[CHAT_MODEL].capabilities
    assert (listed[CHAT_MODEL].parameter_size, listed[CHAT_MODEL].quantization) == ("134.52M", "Q4_1")
    assert 40e6 < listed[EMBEDDING_MODEL].size_bytes < 50e6
    assert listed[EMBEDDING_MODEL].context_tokens == 512
    embeds = isinstance(ollama_adapter, OllamaEmbedder)
    assert (listed[EMBEDDING_MODEL].suitable, listed[CHAT_MODEL].suitable) == (embeds, not embeds)


async def test_a_model_is_loaded_with_the_services_own_options_so_that_its_first_request_loads_nothing(
    ollama_adapter: OllamaEmbedder | OllamaLanguageModel, ollama_server: OllamaProcess
) -> None:
    """Unloaded it is out of memory; loaded it has the pinned window and stays; a request starts no other runner."""
    library = ollama_adapter.library()
    assert (await library.unload()).loaded is None
    model = await library.load()
    assert model.served
    assert model.loaded is not None
    assert model.loaded.context_tokens == (512 if isinstance(ollama_adapter, OllamaEmbedder) else 1024)
    assert model.loaded.until is None
    assert model.loaded.size_bytes > 0
    before = ollama_server.runner_starts()
    await used(ollama_adapter)
    await library.load()
    assert ollama_server.runner_starts() == before
    assert (await library.unload(model.name)).loaded is None
    assert (await library.unload(model.name)).loaded is None


@pytest.mark.engine("ollama")
async def test_a_model_may_go_after_a_while(ollama_server: OllamaProcess) -> None:
    """`keep_alive` as it is set: when, in UTC."""
    library = OllamaLibrary(ollama_server.url, "embedding", EMBEDDING_MODEL, Pinned(256, num_thread=1, keep_alive="5m"))
    loaded = (await library.load()).loaded
    assert loaded is not None
    assert loaded.until is not None
    assert loaded.until.utcoffset() is not None
    await library.unload()
    await library.close()


async def test_a_model_that_is_not_there_or_not_fit_is_not_loaded(
    ollama_adapter: OllamaEmbedder | OllamaLanguageModel,
) -> None:
    """Named, with the remedy; a name that is none is refused before Ollama is asked."""
    library = ollama_adapter.library()
    for work in (library.load("not-here"), library.unload("not-here")):
        with pytest.raises(ModelNotInstalled, match="ollama pull not-here"):
            await work
    other = CHAT_MODEL if isinstance(ollama_adapter, OllamaEmbedder) else EMBEDDING_MODEL
    with pytest.raises(ModelUnsuitable, match=other):
        await library.load(other)
    for name in ("x" * 201, "a\nb", " x"):
        with pytest.raises(InvalidRequest):
            await library.load(name)


async def test_nothing_is_pulled_where_no_registry_is_set(ollama_adapter: OllamaEmbedder | OllamaLanguageModel) -> None:
    """The default: refused, with the setting's name."""
    library = ollama_adapter.library()
    assert library.pull_from == ""
    with pytest.raises(PullNotAllowed, match="RAGKEEP_PULL_FROM"):
        await anext(library.pull("all-minilm"))


@pytest.mark.engine("ollama")
async def test_an_engine_that_is_away_is_said_by_every_operation() -> None:
    """And not taken for an empty library."""
    library = OllamaLibrary("http://127.0.0.1:9", "embedding", EMBEDDING_MODEL, PINNED, pull_from="127.0.0.1:9")
    for work in (library.installed(), library.load(), library.unload(), anext(library.pull("x"))):
        with pytest.raises(EngineUnreachable, match=r"127\.0\.0\.1:9"):
            await work
    await library.close()


@pytest.fixture
def empty_ollama(tmp_path: Path) -> Iterator[OllamaProcess]:
    """An Ollama without any model, with a folder of its own."""
    server = OllamaProcess(tmp_path, tmp_path / "models")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.mark.engine("ollama")
async def test_a_model_is_pulled_from_the_registry_that_is_set_and_from_no_other(
    empty_ollama: OllamaProcess, registry: Registry
) -> None:
    """Ollama itself asks there; progress grows to the end; the model has its short name, and answers."""
    setting = f"http://{registry.host}/library"
    embedder = OllamaEmbedder(empty_ollama.url, "all-minilm", pinned=PINNED, pull_from=setting)
    library = embedder.library()
    assert library.pull_from == f"{registry.host}/library"
    for name in ("registry.ollama.ai/library/all-minilm", "other/all-minilm", "http://x", "a b"):
        with pytest.raises(PullNotAllowed, match=registry.host):
            await anext(library.pull(name))
    assert registry.asked == []
    with pytest.raises(ModelUnknown, match="nothing-there"):
        await last_of(library, "nothing-there")
    events = [event async for event in library.pull("all-minilm")]
    assert events[0].stage is PullStage.MANIFEST
    assert [event.stage for event in events].count(PullStage.DONE) == 1
    done = events[-1]
    assert done.stage is PullStage.DONE
    assert done.completed_bytes == done.total_bytes > 40e6
    sizes = [event.completed_bytes for event in events]
    assert sizes == sorted(sizes)
    assert any("manifests/latest" in asked for asked in registry.asked)
    assert [model.name for model in await library.installed()] == ["all-minilm:latest"]
    assert len((await embedder.embed(["a text"], Purpose.QUERY))[0]) == 384
    # Once more: nothing to download, and it stays.
    assert (await last_of(library, "all-minilm")).stage is PullStage.DONE
    await embedder.close()


@pytest.mark.engine("ollama")
async def test_leaving_a_pull_ends_the_download_and_repeating_it_goes_on(
    empty_ollama: OllamaProcess, registry: Registry
) -> None:
    """Ollama hangs up on the registry; what came before is kept, and asked for no more."""
    library = OllamaLibrary(empty_ollama.url, "embedding", "all-minilm", PINNED, pull_from=f"http://{registry.host}")
    registry.slow = True
    async with contextlib.aclosing(library.pull("all-minilm")) as events:
        async for event in events:
            if event.stage is PullStage.DOWNLOADING and event.completed_bytes > 100_000:
                break
    assert await asyncio.to_thread(registry.left.wait, 20)
    assert await library.installed() == []
    registry.slow = False
    events = [event async for event in library.pull("all-minilm")]
    assert events[-1].stage is PullStage.DONE
    assert next(event for event in events if event.stage is PullStage.DOWNLOADING).completed_bytes > 100_000
    await library.close()


@pytest.mark.engine("ollama")
async def test_a_registry_that_does_not_answer_is_said(empty_ollama: OllamaProcess) -> None:
    """Ollama's own words, with addresses, are for the log."""
    library = OllamaLibrary(empty_ollama.url, "embedding", "x", PINNED, pull_from="http://127.0.0.1:9/models")
    with pytest.raises(RegistryFailed, match=r"127\.0\.0\.1:9/models") as failed:
        await last_of(library, "x")
    assert "dial" not in failed.value.message
    await library.close()


async def last_of(library: ModelLibrary, name: str) -> PullProgress:
    """A whole pull's last event."""
    return [event async for event in library.pull(name)][-1]


@pytest.mark.engine("ollama")
async def test_a_broken_model_does_not_hide_the_others(tmp_path: Path) -> None:
    """A model whose file is gone: Ollama lists it and cannot show it."""
    shutil.copytree(CACHE / "models" / "manifests", tmp_path / "models" / "manifests")
    (tmp_path / "models" / "blobs").symlink_to(CACHE / "models" / "blobs")
    names = tmp_path / "models" / "manifests" / "registry.ollama.ai" / "library"
    manifest = json.loads((names / "all-minilm" / "latest").read_text())
    for layer in manifest["layers"]:
        layer["digest"] = f"sha256:{0:064}"
    (names / "broken").mkdir()
    (names / "broken" / "latest").write_text(json.dumps(manifest))
    # Without pruning: the blobs are the cache's own.
    server = OllamaProcess(tmp_path, tmp_path / "models", OLLAMA_NOPRUNE="1")
    try:
        server.start()
        library = OllamaLibrary(server.url, "embedding", EMBEDDING_MODEL, PINNED)
        listed = {model.name: model.suitable for model in await library.installed()}
        assert listed == {EMBEDDING_MODEL: True, "broken:latest": False, CHAT_MODEL: False}
        await library.close()
    finally:
        server.stop()


@pytest.fixture
def greedy_ollama(tmp_path: Path) -> Iterator[OllamaProcess]:
    """An Ollama that wants 4,096 windows at once: by its own estimate, before anything is allocated, that fits nowhere."""
    server = OllamaProcess(tmp_path, OLLAMA_NUM_PARALLEL="4096")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.mark.engine("ollama")
async def test_a_model_that_does_not_fit_into_memory_is_told_with_its_remedies(greedy_ollama: OllamaProcess) -> None:
    """By loading and by answering alike: how much it needs, how much is free, and what makes room."""
    model = OllamaLanguageModel(greedy_ollama.url, CHAT_MODEL, Defaults(num_ctx=8192, max_tokens=8, num_thread=1))
    question = Question("What is wrong?", (Passage(1, "Printer", "The printer is offline."),))
    follow_up = Question("Why?", (), history=(Turn("What is wrong?", "The printer is offline."),))
    for work in (model.library().load(), anext(model.answer(question)), model.make_whole(follow_up)):
        with pytest.raises(ModelOutOfMemory, match="RAGKEEP_NUM_CTX") as failed:
            await work
        assert "ragkeep models unload" in failed.value.message
        assert failed.value.metadata["needs"].endswith("GiB")
        assert failed.value.metadata["free"] in failed.value.message
    await model.close()
