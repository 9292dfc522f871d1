"""What is decided about models without an engine: words of errors, names of registries, the warm-up, what is suggested."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from ragkeep_client.suggested_models import GB, SUGGESTED, WINDOW
from ragkeep_embedder.settings import Settings as EmbedderSettings
from ragkeep_generator.settings import Settings as GeneratorSettings
from ragkeep_ollama.errors import failed, full_name, is_too_long, out_of_memory
from ragkeep_ollama.registry import registry_of
from ragkeep_runtime.errors import EngineUnreachable, ModelOutOfMemory, NotReady, PullNotAllowed
from ragkeep_runtime.model_library import BuiltIn, InstalledModel
from ragkeep_runtime.warm_up import WarmUp

MODEL = InstalledModel("m", "d", 1, "", "", ("completion",), 0, None, served=True, allowed=True, suitable=True)


@pytest.mark.parametrize(
    "words",
    [
        "model requires more system memory (720.1 GiB) than is available (21.3 GiB)",
        "llama runner process has terminated: cudaMalloc failed: out of memory",
        "llama runner process has terminated: CUDA error: out of memory",
        "unable to allocate CUDA0 buffer",
        "memory layout cannot be allocated with num_gpu = 33",
        "llama_init_from_model: failed to allocate compute pp buffers",
        "insufficient memory - required allocations: {}",
        "ErrorOutOfDeviceMemory",
    ],
)
def test_every_way_in_which_ollama_runs_out_of_memory_is_recognised(words: str) -> None:
    """On CPU and graphics cards; it is never taken for a text that is too long, and never told in these words."""
    assert not is_too_long(words)
    error = failed("http://x", "llama3.1:8b", 500, words, num_ctx=65536, service="generator")
    assert isinstance(error, ModelOutOfMemory)
    assert words not in error.message
    for remedy in ("RAGKEEP_NUM_CTX (now 65536)", "ragkeep models unload", "more quantized"):
        assert remedy in error.message


def test_other_words_are_no_lack_of_memory() -> None:
    """Neither a full window nor a crash."""
    assert out_of_memory("m", "the input length exceeds the context length", 512) is None
    assert is_too_long("the input length exceeds the context length")
    assert out_of_memory("m", "llama runner process has terminated: signal: killed", 512) is None


@pytest.mark.parametrize(
    ("setting", "shown", "plain"),
    [
        ("registry.ollama.ai", "registry.ollama.ai", False),
        ("https://models.example:8443/team", "models.example:8443/team", False),
        ("http://127.0.0.1:5000/library/", "127.0.0.1:5000/library", True),
        ("http://[::1]:5000", "[::1]:5000", True),
        ("http://localhost:5000", "localhost:5000", True),
    ],
)
def test_a_registry_is_a_host_and_perhaps_a_namespace(setting: str, shown: str, plain: bool) -> None:
    """TLS unless it says http on this machine."""
    found = registry_of(setting)
    assert found is not None
    assert (str(found), found.plain) == (shown, plain)


def test_no_registry_is_the_default() -> None:
    """An empty setting, or a blank one."""
    for settings in (EmbedderSettings, GeneratorSettings):
        assert settings.model_fields["pull_from"].default == ""
    assert registry_of("") is None
    assert registry_of("  ") is None


@pytest.mark.parametrize(
    "setting", ["http://models.example", "http://10.0.0.1:5000", "ftp://x", "a b", "host/name/more", "user@host", "host:port"]
)
def test_a_setting_that_is_no_registry_is_named_at_the_start(setting: str) -> None:
    """Plain HTTP to another machine among them."""
    with pytest.raises(ValueError, match=r"must be|http://"):
        registry_of(setting)
    paths = {"tls_cert": Path("x"), "tls_key": Path("x"), "tls_ca": Path("x")}
    with pytest.raises(ValueError, match="pull_from") as failed:
        EmbedderSettings(**paths, pull_from=setting)  # type: ignore[arg-type]
    assert "Value error" not in str(failed.value)


@pytest.mark.parametrize(
    ("setting", "name", "reference", "here"),
    [
        ("registry.ollama.ai", "llama3.2", "registry.ollama.ai/library/llama3.2:latest", "llama3.2:latest"),
        ("registry.ollama.ai", "team/m:1", "registry.ollama.ai/team/m:1", "team/m:1"),
        ("models.example/team", "m:8b-Q4_K_M", "models.example/team/m:8b-Q4_K_M", "m:8b-Q4_K_M"),
        ("models.example/team", "team/m", "models.example/team/m:latest", "team/m:latest"),
    ],
)
def test_a_name_is_looked_for_in_the_registry_alone(setting: str, name: str, reference: str, here: str) -> None:
    """And keeps its short form here."""
    registry = registry_of(setting)
    assert registry is not None
    assert registry.reference(name) == (reference, here)
    if setting == "registry.ollama.ai":
        assert registry.lists_as(reference) == here


@pytest.mark.parametrize("name", ["evil.example/team/m", "other/m", "http://x/y", "a/b/c", "m:1:2", "../m", "m@sha256:0", ""])
def test_a_name_never_leads_to_another_registry(name: str) -> None:
    """Nor out of the setting's namespace."""
    registry = registry_of("models.example/team")
    assert registry is not None
    with pytest.raises(PullNotAllowed, match=r"models\.example/team"):
        registry.reference(name)


@pytest.mark.parametrize(
    ("name", "full"),
    [("a", "a:latest"), ("a:1", "a:1"), ("host:5000/x/a", "host:5000/x/a:latest"), ("host:5000/x/a:1", "host:5000/x/a:1")],
)
def test_a_models_name_without_a_tag_is_latest(name: str, full: str) -> None:
    """A registry's port is no tag."""
    assert full_name(name) == full


class SlowLibrary(BuiltIn):
    """Loads when it is let."""

    def __init__(self) -> None:
        super().__init__("slow", MODEL)
        self.go = asyncio.Event()
        self.loads = 0
        self.fails: Exception | None = None

    async def load(self, name: str = "") -> InstalledModel:
        """Counts."""
        self.loads += 1
        if self.fails is not None:
            raise self.fails
        await self.go.wait()
        return MODEL


async def nothing() -> str:
    """What readiness asks of a warm engine."""
    return "asked"


async def test_readiness_waits_for_the_model_and_loads_it_once() -> None:
    """While it loads checks say so; afterwards they ask the engine as before."""
    library = SlowLibrary()
    warm_up = WarmUp(library, then=nothing, patience_s=0.01)
    for _ in range(3):
        with pytest.raises(NotReady, match="loaded"):
            await warm_up()
    library.go.set()
    assert await warm_up() == "asked"
    assert await warm_up() == "asked"
    assert library.loads == 1
    await warm_up.close()


async def test_a_load_that_failed_is_told_and_not_repeated_at_every_check() -> None:
    """Unless the engine was away, which may end at any moment."""
    library = SlowLibrary()
    library.fails = ModelOutOfMemory("too large")
    warm_up = WarmUp(library, then=nothing)
    for _ in range(3):
        with pytest.raises(ModelOutOfMemory, match="too large"):
            await warm_up()
    assert library.loads == 1
    library.fails = EngineUnreachable("away")
    warm_up = WarmUp(library, then=nothing)
    for _ in range(2):
        with pytest.raises(EngineUnreachable):
            await warm_up()
    library.fails = None
    library.go.set()
    assert await warm_up() == "asked"


async def test_what_is_built_in_is_warm() -> None:
    """Its refusal to be loaded is no reason to wait."""
    assert await WarmUp(BuiltIn("e5", MODEL), then=nothing)() == "asked"


async def test_a_load_under_way_ends_with_the_process() -> None:
    """Closing does not wait for it."""
    warm_up = WarmUp(SlowLibrary(), then=nothing, patience_s=0.01)
    with pytest.raises(NotReady):
        await warm_up()
    await asyncio.wait_for(warm_up.close(), 5)


def test_the_page_has_every_suggested_model_with_what_it_needs() -> None:
    """Class of machine, download, cache and need, as the arithmetic says."""
    page = Path("docs/models.md").read_text()
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `([^`]+)` \|.*$", page, re.MULTILINE)}
    for model in SUGGESTED:
        cache = model.cache_bytes(WINDOW[model.kind])
        cells = [cell.strip() for cell in rows[model.name].strip("|").split("|")]
        assert cells[1:] == [
            f"{model.machine_gib()} GB",
            model.parameters,
            model.quantization,
            f"{model.weights_gb:.2f}",
            f"{cache / GB:.2f}" if cache else "–",
            f"{model.needs_bytes() / GB:.2f}",
            model.good_for,
        ]
    assert set(rows) >= {model.name for model in SUGGESTED}


@pytest.mark.parametrize(("name", "gib"), [("llama3.2:1b", 2), ("llama3.2", 4), ("llama3.1:8b", 8)])
def test_the_classes_are_those_that_people_know(name: str, gib: int) -> None:
    """1B: 2 GB, 3B: 4 GB, 8B: 8 GB."""
    (model,) = [one for one in SUGGESTED if one.name == name]
    assert model.machine_gib() == gib
