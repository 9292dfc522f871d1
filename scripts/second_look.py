"""Runs the tests that failed last once more, alone in a new session: a few among thousands, on machines that others share.

What passes then is written to .pytest_cache/second-look, for `.ci/run` to tell last: such a test found something that happens
seldom, and is often right. There is no second look where many failed, nor where a secret was found in an output.
Usage: second_look.py PATH ... (those of the first run)
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MOST = 3
_CACHE = Path(".pytest_cache")


def failed(cache: Path) -> list[str]:
    """The tests that failed last, by their ids; empty where none did or none ran."""
    try:
        return sorted(json.loads((cache / "v/cache/lastfailed").read_text()))
    except FileNotFoundError:
        return []


def leaked(cache: Path) -> bool:
    """Whether the last session found a planted secret (`tests/leaks.py`)."""
    try:
        return bool(json.loads((cache / "v/ragkeep/leaked").read_text()))
    except FileNotFoundError:
        return False


def refusal(cache: Path) -> str:
    """Why there is no second look; empty where there is one."""
    if leaked(cache):
        return "a secret was found in an output"
    if not (tests := failed(cache)):
        return "it was no test that failed"
    return f"{len(tests)} tests failed, more than {MOST}" if len(tests) > MOST else ""


def main(paths: list[str]) -> int:
    """The exit code: 0 where all passed."""
    if why := refusal(_CACHE):
        print(f"No second look: {why}.")
        return 1
    tests = failed(_CACHE)
    print("A second look at:", *tests, sep="\n  ")
    code = subprocess.run([sys.executable, "-m", "pytest", "--last-failed", *paths], check=False).returncode  # noqa: S603 - our own arguments
    if code == 0:
        with (_CACHE / "second-look").open("a") as told:
            told.writelines(f"Failed once, passed alone (its failure is above): {test}\n" for test in tests)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
