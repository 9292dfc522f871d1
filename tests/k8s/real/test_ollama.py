"""The real Ollama as the pods have it: the manifests' environment, and a volume of models that cannot be written."""

from __future__ import annotations

import json
import os
import shlex
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.ollama import CHAT_MODEL
from tests.engines.process import CACHE, EngineProcess, binary
from tests.k8s.manifests import container, environment, overlay
from tests.ports import free_port

pytestmark = [pytest.mark.engine("ollama")]


@pytest.fixture(scope="module")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """In a mount namespace where the models are mounted read-only, as the claim is into the pod; its home is a temporary folder."""
    if os.geteuid() != 0:
        pytest.skip("mount namespaces need root")
    folder = tmp_path_factory.mktemp("ollama-pod")
    models = folder / "models"
    models.mkdir()
    env = environment(container(overlay("dev"), "generator", "ollama"))
    address = f"127.0.0.1:{free_port()}"
    env |= {"OLLAMA_HOST": address, "OLLAMA_MODELS": str(models), "HOME": str(folder)}
    script = (
        f"mount --bind {shlex.quote(str(CACHE / 'models'))} {shlex.quote(str(models))} && "
        f"mount -o remount,ro,bind {shlex.quote(str(models))} && exec {shlex.quote(str(binary('ollama')))} serve"
    )
    process = EngineProcess(
        ["unshare", "-m", "sh", "-c", script], env, f"http://{address}", "/api/version", folder / "ollama.log"
    )
    try:
        process.start()
        yield process
    finally:
        process.stop()


def ask(ollama: EngineProcess, path: str, body: dict[str, object]) -> dict[str, object]:
    """POST; the last line of what is answered."""
    request = urllib.request.Request(ollama.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as response:
        found: dict[str, object] = json.loads(response.read().splitlines()[-1])
    return found


def test_it_serves_from_a_volume_that_it_cannot_write(ollama: EngineProcess) -> None:
    """It starts, and answers with a model of the volume."""
    answered = ask(
        ollama, "/api/generate", {"model": CHAT_MODEL, "prompt": "Hello", "stream": False, "options": {"num_predict": 3}}
    )
    assert answered["done"] is True


def test_nothing_can_be_added_to_the_volume(ollama: EngineProcess) -> None:
    """A model that would be made from one that is there is refused by the file system, and nothing is lost."""
    try:
        said = json.dumps(ask(ollama, "/api/create", {"model": "another", "from": CHAT_MODEL, "system": "Be brief."}))
    except urllib.error.HTTPError as error:
        with error:
            said = error.read().decode()
    assert "read-only file system" in said
    assert not (Path(CACHE) / "models" / "manifests" / "registry.ollama.ai" / "library" / "another").exists()
