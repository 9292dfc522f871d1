"""SECURITY.md: every row of its table names tests that exist, and a session in which one was not shown fails."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.threats import PAGE, named, not_shown, rows

ROOT = PAGE.parent


def names_in(path: Path) -> set[str]:
    """The names of a file's tests."""
    tree = ast.parse(path.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions) and node.name.startswith("test_")}


def test_every_row_says_who_what_by_what_and_names_tests_that_exist() -> None:
    """Four cells, none empty; a test is a function of its file, or the file with tests in it."""
    table = rows(PAGE.read_text())
    assert len(table) >= 20
    for row in table:
        assert len(row) == 4, row
        assert all(row), row
        assert named([row]), row
        assert row[-1].count("`") == 2 * len(named([row])), row
    for test in named(table):
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file(), test
        assert name in names_in(ROOT / file) if name else names_in(ROOT / file), test


def test_what_is_not_protected_is_said() -> None:
    """At least what the threat model leaves out."""
    page = PAGE.read_text().partition("## What is not protected")[2]
    for word in ("Weaviate's nodes", "root user", "Backups", "Model weights", "Side channels", "prompt injection"):
        assert word in page


@pytest.mark.parametrize(
    ("passed", "failed", "expected"),
    [
        ({"tests/a.py::test_x[1]", "tests/a.py::test_x[2]"}, set(), []),
        ({"tests/a.py::test_x[1]"}, set(), ["tests/a.py::test_x"]),
        ({"tests/a.py::test_x[1]", "tests/a.py::test_x[2]"}, {"tests/a.py::test_x[2]"}, ["tests/a.py::test_x"]),
    ],
)
def test_each_case_of_a_named_test_counts(passed: set[str], failed: set[str], expected: list[str]) -> None:
    """One that was skipped is not shown; one that was not collected says nothing."""
    tests = {"tests/a.py::test_x", "tests/b.py::test_y", "tests/c.py"}
    assert not_shown(tests, {"tests/a.py::test_x[1]", "tests/a.py::test_x[2]"}, passed, failed) == expected


@pytest.mark.parametrize(("mark", "code"), [("", 0), ("@pytest.mark.skip", 1), ("@pytest.mark.xfail", 1)])
def test_a_session_that_skips_a_named_test_fails(tmp_path: Path, mark: str, code: int) -> None:
    """Though nothing failed; here with a page of its own."""
    (tmp_path / "tests").mkdir()
    body = "assert False" if "xfail" in mark else "pass"
    (tmp_path / "tests" / "test_x.py").write_text(f"import pytest\n{mark}\ndef test_it():\n    {body}\n")
    (tmp_path / "SECURITY.md").write_text(
        "## Threat model\n| a | b | c | d |\n|---|---|---|---|\n| a | b | c | `tests/test_x.py::test_it` |\n"
    )
    (tmp_path / "page.py").write_text(
        "import tests_threats as threats\nfrom pathlib import Path\nthreats.PAGE = Path('SECURITY.md')\n"
        "def pytest_configure(config):\n    config.pluginmanager.register(threats.Threats(), 'threats')\n"
    )
    (tmp_path / "tests_threats.py").write_text((ROOT / "tests" / "threats.py").read_text())
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "page",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        ".",
        "-c",
        "/dev/null",
    ]
    ran = subprocess.run(
        [*command, "tests"], capture_output=True, text=True, timeout=300, cwd=tmp_path, env={"PYTHONPATH": "."}
    )
    assert ran.returncode == code, ran.stdout + ran.stderr
    assert ("SECURITY.md says" in ran.stdout) is bool(code)
