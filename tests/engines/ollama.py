"""The real Ollama, with the two small models that `make engines` made."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.engines.process import CACHE, EngineProcess, binary
from tests.ports import free_port
from tests.waiting import until

CHAT_MODEL = "smollm2:135m"
EMBEDDING_MODEL = "all-minilm:latest"


class OllamaProcess(EngineProcess):
    """`ollama serve` on a free port."""

    def __init__(self, folder: Path, models: Path = CACHE / "models", **more: str) -> None:
        port = free_port()
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

    def completions(self) -> int:
        """How many answers and embeddings the runners were asked for so far."""
        return self.log.read_text(errors="replace").count('msg="completion request"')

    def used_s(self) -> float:
        """Seconds of a core that the engine's runners have used so far: a loaded machine does not change how many a work takes."""
        found = 0.0
        for child in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                found += times.user + times.system
        return found

    def works(self) -> None:
        """Waits until the runners have computed something from now on; the test's own time limit ends this."""
        before = self.used_s()
        until(lambda: self.used_s() > before + 0.05)

    def becomes_idle(self, within_s: float) -> bool:
        """Whether the runners stop before they have used that many seconds of a core more."""
        began = now = self.used_s()
        while now - began <= within_s:
            time.sleep(0.5)
            before, now = now, self.used_s()
            if now - before < 0.02:
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
