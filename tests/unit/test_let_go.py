"""One failure is one failure: the tests after it do not fail for what it left open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INNER = """
import gc, socket
import pytest

class Open:
    def __init__(self):
        self.itself, self.socket = self, socket.socket()

@pytest.fixture
def fails_at_its_start():
    found = Open()
    raise RuntimeError

@pytest.fixture
def fails_at_its_end():
    found = Open()
    yield
    raise RuntimeError

def test_failing():
    found = Open()
    raise KeyError

def test_without_its_fixture(fails_at_its_start):
    pass

def test_whose_fixture_fails_at_its_end(fails_at_its_end):
    pass

def test_after_them():
    gc.collect()
"""


def test_what_a_failed_test_had_open_fails_no_other(tmp_path: Path) -> None:
    """Wherever it failed: setup, call, teardown."""
    (tmp_path / "test_inner.py").write_text(INNER)
    options = ["-q", "-p", "no:asyncio", "-p", "no:cacheprovider", "-W", "error", "-c", "/dev/null"]
    options = ["-q", "-p", "tests.let_go", "-p", "no:asyncio", "-p", "no:cacheprovider", "-W", "error", "-c", "/dev/null"]
    command = [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert "1 failed, 2 passed, 2 errors" in ran.stdout, ran.stdout + ran.stderr
