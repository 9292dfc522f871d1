"""What all tests share: engines by fixture, and a last word on what ran on which engine."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.counted import COUNTED

pytest_plugins = [
    "tests.collector",
    "tests.engines.ollama",
    "tests.engines.registry",
    "tests.engines.weaviate",
    "tests.leaks",
    "tests.let_go",
    "tests.stack",
    "tests.threats",
    "tests.https",
]

# A run that a shell began in the background ignores Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

_RAN: Counter[str] = Counter()
_SKIPPED: list[tuple[str, str]] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Counts each test under the engines that it names."""
    report = yield
    engines = {mark.args[0] for mark in item.iter_markers("engine")} or {"no engine"}
    if report.when == "call" and report.outcome != "skipped":
        _RAN.update(engines)
    elif report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _SKIPPED.append((item.nodeid, reason))
        if os.environ.get("CI") == "true":
            # A skip that hides in CI is a defect.
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The last lines say what ran on which engine, what was skipped and why."""
    terminalreporter.section("engines")
    for engine, count in sorted(_RAN.items()):
        terminalreporter.write_line(f"{engine}: {count} tests ran")
    for what, count in sorted(COUNTED.items()):
        terminalreporter.write_line(f"{what}: {count}")
    if not _SKIPPED:
        terminalreporter.write_line("skipped: none")
    for test, reason in _SKIPPED:
        terminalreporter.write_line(f"skipped: {test}: {reason}")
