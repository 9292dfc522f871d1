"""A pytest plugin: what SECURITY.md's table calls shown must have been shown where it was collected, and not skipped on the way."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "SECURITY.md"
_TEST = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)?)`")
_COLUMNS = 4


def rows(page: str) -> list[list[str]]:
    """The cells of each row of the threat model's table."""
    table = page.partition("## Threat model")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def named(cells: list[list[str]]) -> set[str]:
    """Every test of the table: a function, or all of a file."""
    return {test for row in cells for test in _TEST.findall(row[-1])}


def not_shown(tests: Iterable[str], collected: Iterable[str], passed: Iterable[str], failed: Iterable[str]) -> list[str]:
    """Those of the table that were collected, and not every one of whose cases passed. Arguments are node ids."""
    gone = set(failed) | (set(collected) - set(passed))
    return sorted(test for test in tests if any(_is_of(case, test) for case in gone))


def _is_of(case: str, test: str) -> bool:
    return case == test or case.startswith((f"{test}[", f"{test}::")) or case.partition("[")[0] == test


class Threats:
    """Counts what became of the cases of one session."""

    def __init__(self) -> None:
        self.tests = named(rows(PAGE.read_text())) if PAGE.exists() else set()
        self.collected: set[str] = set()
        self.passed: set[str] = set()
        self.failed: set[str] = set()
        self.missing: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """What is left to run."""
        self.collected = {item.nodeid for item in items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Passed is a call that did; an expected failure is none."""
        if report.when == "call" and report.passed and not hasattr(report, "wasxfail"):
            self.passed.add(report.nodeid)
        elif not report.passed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A session that was cut short says nothing; one that ended fails where something was not shown."""
        ended = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not session.shouldstop
        if session.config.option.collectonly or session.shouldfail or not ended:
            return
        self.missing = not_shown(self.tests, self.collected, self.passed, self.failed)
        if self.missing:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Named where there are any."""
        for test in self.missing:
            terminalreporter.write_line(f"SECURITY.md says that it is shown, and it did not pass: {test}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """One for the session."""
    config.pluginmanager.register(Threats(), "threats")
