"""Completion in a real bash, as docs/command.md sets it up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPLETE = """
eval "$(ragkeep --show-completion)"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
$(complete -p ragkeep | sed -E 's/.*-F ([^ ]+).*/\\1/') ragkeep
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(folder: Path, *words: str) -> set[str]:
    """What Tab offers after these words."""
    bash = shutil.which("bash")
    assert bash, "bash is needed"
    script = folder / "complete.bash"
    script.write_text(COMPLETE)
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder), "LANG": "C.UTF-8"}
    ran = subprocess.run([bash, str(script), *words], env=env, capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("ragkeep", "sta"), {"status"}),
        (("ragkeep", "certs", ""), {"show", "renew", "issue"}),
        (("ragkeep", "logs", "ge"), {"generator"}),
        (("ragkeep", "up", "--generator", ""), {"auto", "ollama", "quote"}),
        (("ragkeep", "up", "--health"), {"--health-ports"}),
    ],
)
def test_bash_completes_commands_options_and_their_values(tmp_path: Path, words: tuple[str, ...], offered: set[str]) -> None:
    """From typer's own script; nothing of ragkeep has to run."""
    assert complete(tmp_path, *words) == offered
