"""CI's second look: at a few tests of a whole session, told by name, never where a secret leaked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
INTERRUPTED = "def test_stop():\n    raise KeyboardInterrupt\n"


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Without plugins, which take their time to load, but for the one that keeps how a session ended."""
    env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, text=True, capture_output=True)


def second_look(folder: Path) -> tuple[int, str]:
    """Its exit code, and why there was none."""
    found = run(folder, str(ROOT / "scripts" / "second_look.py"), ".")
    said = found.stdout.splitlines()[-1] if found.stdout else found.stderr
    return found.returncode, said.removeprefix("No second look: ")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Tests that do not always pass."""
    (tmp_path / "test_it.py").write_text(UNSTABLE)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p tests.leaks --basetemp tmp\n")
    return tmp_path


def test_what_passes_alone_is_told_by_name(project: Path) -> None:
    """With the place of its failure; the run goes on."""
    assert run(project, "-m", "pytest", ".").returncode == 1
    assert second_look(project)[0] == 0
    told = (project / ".pytest_cache" / "second-look").read_text()
    assert told == "Failed once, passed alone (its failure is above): test_it.py::test_unstable\n"


def test_what_fails_again_has_failed(project: Path) -> None:
    """Though another one passed."""
    (project / "always").touch()
    assert run(project, "-m", "pytest", ".").returncode == 1
    assert second_look(project)[0] == 1
    assert not (project / ".pytest_cache" / "second-look").exists()


def test_a_session_that_did_not_end_has_no_second_look(project: Path) -> None:
    """It was interrupted, or never began: nobody knows of the tests that it left out."""
    assert second_look(project) == (1, "the tests did not run to their end.")
    (project / "test_later.py").write_text(INTERRUPTED)
    assert run(project, "-m", "pytest", ".").returncode == 2
    assert second_look(project) == (1, "the tests did not run to their end.")


def test_a_file_that_cannot_be_read_has_no_second_look(project: Path) -> None:
    """Though reading it works the second time, nothing else was run the first time."""
    (project / "test_broken.py").write_text("raise ValueError")
    assert run(project, "-m", "pytest", "--continue-on-collection-errors", ".").returncode == 1
    (project / "test_broken.py").write_text("def test_fine(): pass")
    assert second_look(project) == (1, "it was no test that failed.")


@pytest.mark.parametrize(
    ("session", "failed", "why"),
    [
        ({"exit": 1, "leaked": False}, 4, "4 tests failed, more than 3."),
        ({"exit": 1, "leaked": False}, 0, "it was no test that failed."),
        ({"exit": 1, "leaked": True}, 1, "a secret was found in an output."),
        ({"exit": 3, "leaked": False}, 1, "the tests did not run to their end."),
    ],
)
def test_there_is_no_second_look_at_more_than_a_few_tests(
    project: Path, session: dict[str, int], failed: int, why: str
) -> None:
    """Nor at what is no test, nor where a secret leaked."""
    left = {"ragkeep/session": session, "cache/lastfailed": {f"test_it.py::test_{number}": True for number in range(failed)}}
    for name, value in left.items():
        file = project / ".pytest_cache" / "v" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    assert second_look(project) == (1, why)


def test_a_leak_of_a_session_is_kept(project: Path) -> None:
    """A private key in a log: the session fails, and there is no second look."""
    (project / "test_it.py").write_text(UNSTABLE + LEAKING)
    assert run(project, "-m", "pytest", ".").returncode == 1
    assert second_look(project) == (1, "a secret was found in an output.")
    shutil.rmtree(project / "tmp")  # else this session has leaked too


LEAKING = """
def test_leaking(tmp_path):
    (tmp_path / "a.log").write_text("-----BEGIN " + "PRIVATE KEY-----")
"""
