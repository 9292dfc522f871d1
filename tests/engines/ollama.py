"""The real Ollama, with the two small models that `make engines` made."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.engines.process import CACHE, EngineProcess, binary

CHAT_MODEL = "smollm2:135m"
EMBEDDING_MODEL = "all-minilm:latest"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class OllamaProcess(EngineProcess):
    """`ollama serve` on a free port."""

    def __init__(self, folder: Path, models: Path = CACHE / "models", **more: str) -> None:
        port = _free_port()
        threads = str(max(1, (os.cpu_count() or 2) - 1))
        env = {
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "OLLAMA_MODELS": str(models),
            "OLLAMA_NO_CLOUD": "1",
            "OLLAMA_DEBUG": "1",
            "OLLAMA_CONTEXT_LENGTH": "2048",
            "OMP_NUM_THREADS": threads,
            **more,
        }
        command = [str(binary("ollama")), "serve"]
        super().__init__(command, env, f"http://127.0.0.1:{port}", "/api/version", folder / "ollama.log")

    def runner_starts(self) -> int:
        """How often a model was loaded so far."""
        return self.log.read_text().count("starting runner")

    def load(self, seconds: float = 0.3) -> float:
        """Cores that the engine's runners keep busy, measured over some time: 0 is idle."""

        def used() -> float:
            times = [child.cpu_times() for child in psutil.Process(self.pid).children(recursive=True)]
            return sum(one.user + one.system for one in times)

        before = used()
        time.sleep(seconds)
        return (used() - before) / seconds

    def becomes_idle(self, within_s: float) -> bool:
        """Whether the runners stop working in that time."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            if self.load() < 0.2:
                return True
        return False


@pytest.fixture(scope="session")
def ollama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaProcess]:
    """One Ollama for the whole run."""
    server = OllamaProcess(tmp_path_factory.mktemp("ollama"))
    try:
        server.start()
        yield server
    finally:
        server.stop()
