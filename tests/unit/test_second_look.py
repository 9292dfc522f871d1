"""CI's second look: few tests, told by name, never where a secret leaked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "second_look.py"
# The second time it passes; `always` never does.
UNSTABLE = """
from pathlib import Path

def test_unstable():
    before = Path("before").exists()
    Path("before").touch()
    assert before

def test_always():
    assert not Path("always").exists()
"""


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Without plugins, which take their time to load."""
    env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, text=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Tests that do not always pass."""
    (tmp_path / "test_it.py").write_text(UNSTABLE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def remembered(project: Path, name: str, value: object) -> None:
    """As pytest keeps it from one session to the next."""
    file = project / ".pytest_cache" / "v" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def test_what_passes_alone_is_told_by_name(project: Path) -> None:
    """With the place of its failure; the run goes on."""
    assert run(project, "-m", "pytest", ".").returncode == 1
    found = run(project, str(SCRIPT), ".")
    assert found.returncode == 0, found.stdout
    told = (project / ".pytest_cache" / "second-look").read_text()
    assert told == "Failed once, passed alone (its failure is above): test_it.py::test_unstable\n"


def test_what_fails_again_has_failed(project: Path) -> None:
    """Though another one passed."""
    (project / "always").touch()
    assert run(project, "-m", "pytest", ".").returncode == 1
    assert run(project, str(SCRIPT), ".").returncode == 1
    assert not (project / ".pytest_cache" / "second-look").exists()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("cache/lastfailed", {f"test_it.py::test_{number}": True for number in range(4)}, "4 tests failed, more than 3"),
        ("cache/lastfailed", {}, "it was no test that failed"),
        ("ragkeep/leaked", 1, "a secret was found in an output"),
    ],
)
def test_there_is_no_second_look_at_more_than_a_few_tests(project: Path, name: str, value: object, why: str) -> None:
    """Nor at what is no test, nor where a secret leaked."""
    remembered(project, "cache/lastfailed", {"test_it.py::test_always": True})
    remembered(project, name, value)
    found = run(project, str(SCRIPT), ".")
    assert (found.returncode, found.stdout) == (1, f"No second look: {why}.\n")
