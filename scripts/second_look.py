"""Runs the tests that failed last once more, alone in a new session: a few among thousands, on machines that others share.

What passes then is written to .pytest_cache/second-look, for `.ci/run` to tell last: such a test found something that happens
seldom, and is often right. There is no second look where many failed, where the session did not run to its end, or where a
secret was found in an output.
Usage: second_look.py PATH ... (those of the first run)
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MOST = 3
_CACHE = Path(".pytest_cache")


def kept(cache: Path, name: str) -> Any:
    """What the last session left under that name; None: nothing."""
    try:
        return json.loads((cache / "v" / name).read_text())
    except FileNotFoundError:
        return None


def failed(cache: Path) -> list[str]:
    """The tests that failed last, by their ids."""
    return sorted(kept(cache, "cache/lastfailed") or ())


def refusal(cache: Path) -> str:
    """Why there is no second look; empty where there is one."""
    session = kept(cache, "ragkeep/session")  # tests/leaks.py writes it, last of all
    if session is None or session["exit"] != 1:
        return "the tests did not run to their end"
    if session["leaked"]:
        return "a secret was found in an output"
    tests = failed(cache)
    if not tests or not all("::" in test for test in tests):
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
