"""`ragkeep models` as its user types it, on embedded engines and on the real Ollama."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ragkeep_client.suggested_models import SUGGESTED
from tests.command import Command, running
from tests.engines.ollama import CHAT_MODEL, EMBEDDING_MODEL, OllamaProcess
from tests.ports import free_ports


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A running installation on embedded engines."""
    with running(
        tmp_path_factory.mktemp("models"), "--embedder", "e5", "--retriever", "sqlite", "--generator", "quote"
    ) as found:
        yield found


@pytest.mark.engine("e5")
@pytest.mark.engine("sqlite")
@pytest.mark.engine("quote")
class TestEmbedded:
    """On e5, SQLite and quote."""

    def test_models_are_listed_with_those_that_are_suggested(self, command: Command) -> None:
        """For people in two tables, for machines in lines."""
        out = command("models").stdout
        assert "multilingual-e5-small" in out
        assert "Chinese and English mixed" in out
        lines = command.lines("models")
        assert [next(iter(line)) for line in lines[:4]] == ["service", "model", "service", "model"]
        assert {line["suggestion"]["name"] for line in lines[4:]} == {model.name for model in SUGGESTED}  # type: ignore[index]

    @pytest.mark.parametrize("what", ["load", "unload", "pull"])
    def test_what_is_built_in_stays_as_it_is(self, command: Command, what: str) -> None:
        """Exit code 1 and the reason."""
        ran = command("models", what, "multilingual-e5-small", code=1)
        assert "built in" in ran.stderr
        assert "MODEL_BUILT_IN" in ran.stderr
        (line,) = command.lines("models", what, "llama3.2", code=1)
        assert line["error"]["reason"] == "MODEL_BUILT_IN"  # type: ignore[index]

    def test_options_before_the_subcommand_are_not_passed_over(self, command: Command) -> None:
        """`ragkeep models --json load x` would else write for people."""
        assert "--json goes after the command: ragkeep models load" in command("models", "--json", "load", "x", code=2).stderr


@pytest.mark.engine("ollama")
def test_models_of_ollama_are_loaded_and_unloaded_and_only_pulled_where_that_is_set(
    tmp_path: Path, ollama_server: OllamaProcess
) -> None:
    """`up` waits until both models are in memory."""
    found = Command(tmp_path)
    found.env |= {"RAGKEEP_NUM_THREAD": "1", "RAGKEEP_NUM_CTX": "1280"}
    first = free_ports(8)
    options = ["--ollama-url", ollama_server.url, "--embedding-model", EMBEDDING_MODEL, "--language-model", CHAT_MODEL]
    try:
        found("up", "--detach", "--ports", str(first), "--health-ports", str(first + 4), "--retriever", "sqlite", *options)
        served = {
            line["model"]["service"]: line["model"]["loaded"]  # type: ignore[index]
            for line in found.lines("models")
            if "model" in line and line["model"]["served"]  # type: ignore[index]
        }
        assert {service: loaded["where"] for service, loaded in served.items()} == {"embedder": "cpu", "generator": "cpu"}
        assert served["generator"]["context_tokens"] == 1280
        assert "window 1280" in found("models").stdout
        assert "is not loaded" in found("models", "unload", CHAT_MODEL).stdout
        assert "on CPU, window 1280" in found("models", "load", CHAT_MODEL).stdout
        assert "PULL_NOT_ALLOWED" in found("models", "pull", "llama3.2", code=1).stderr
        assert "ollama pull nothing" in found("models", "load", "nothing", code=1).stderr
    finally:
        found("down")
