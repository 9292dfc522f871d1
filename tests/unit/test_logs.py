"""What a process's log holds, and what it must not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

FAILING = """
from ragkeep_runtime.logs import configure_logs, get_logger
configure_logs("test", "info")
def answer(question):
    raise ValueError("the defect")
try:
    answer("a question that nobody else may read")
except ValueError:
    get_logger().exception("call_failed")
"""
FULL = """
import logging
from ragkeep_runtime.logs import configure_logs, get_logger
configure_logs("test", "info")
get_logger().info("event")
logging.getLogger("library").warning("event")
print("went on")
"""


def test_a_traceback_names_places_and_never_the_values_of_variables() -> None:
    """A question is a local variable of every handler."""
    ran = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, check=True)
    line = json.loads(ran.stderr)
    assert line["event"] == "call_failed"
    assert line["exception"][0]["exc_value"] == "the defect"
    assert [frame["name"] for frame in line["exception"][0]["frames"]] == ["<module>", "answer"]
    assert "nobody else may read" not in ran.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
def test_a_full_disk_costs_the_line_and_not_the_call() -> None:
    """What is being served does not fail because its log line cannot be written."""
    with open("/dev/full", "w") as full:
        ran = subprocess.run([sys.executable, "-c", FULL], stdout=subprocess.PIPE, stderr=full, text=True, check=True)
    assert ran.stdout == "went on\n"
