"""When a process that died starts again, and how logs stay small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ragkeep_client.commands.status import duration
from ragkeep_client.supervision import LONGEST_S, STEADY_S, Backoff, former, how_it_ended, keep_small


def test_waits_double_up_to_a_minute_and_never_end() -> None:
    """A process that cannot start costs little, and comes back once it can."""
    backoff = Backoff()
    assert [backoff.after(0.5) for _ in range(9)] == [1, 2, 4, 8, 16, 32, LONGEST_S, LONGEST_S, LONGEST_S]


def test_a_process_that_ran_for_a_minute_starts_again_at_once() -> None:
    """One death a day is no reason to wait long."""
    backoff = Backoff()
    for _ in range(5):
        backoff.after(0.5)
    assert backoff.after(STEADY_S) == 1
    assert backoff.after(3) == 2


@pytest.mark.parametrize(
    ("code", "words"), [(0, "ended with exit code 0"), (3, "exit code 3"), (-9, "SIGKILL"), (-99, "signal 99")]
)
def test_an_end_is_told_in_words(code: int, words: str) -> None:
    """Exit codes and signals."""
    assert words in how_it_ended(code)


WRITER = """
import itertools, select, sys
for number in itertools.count():
    print(number, flush=True)
    if select.select([sys.stdin], [], [], 0)[0]:
        break
print("end", flush=True)
"""


def test_a_log_that_is_written_to_all_the_time_is_cut_and_goes_on(tmp_path: Path) -> None:
    """Only the lines of the instant of a cut may be lost or broken."""
    log = tmp_path / "x.log"
    kept: list[bytes] = []
    with log.open("ab") as writing:
        writer = subprocess.Popen([sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=writing)
        while len(kept) < 3:
            if keep_small(log, limit=4096):
                kept.append(former(log).read_bytes())
        assert writer.stdin is not None
        writer.stdin.close()
        assert writer.wait(300) == 0
    assert all(len(one) > 4096 for one in kept)
    assert kept[0].startswith(b"0\n1\n2\n")
    assert log.read_bytes().endswith(b"end\n")
    lines = [int(line) for one in kept for line in one.splitlines()[1:-1]]
    assert lines == sorted(set(lines))
    assert former(log).stat().st_mode & 0o777 == 0o600


def test_a_small_log_is_left_alone(tmp_path: Path) -> None:
    """And one that is not there."""
    log = tmp_path / "x.log"
    assert not keep_small(log)
    log.write_bytes(b"line\n")
    assert not keep_small(log, limit=5)
    assert keep_small(log, limit=4)
    assert (log.read_bytes(), former(log).read_bytes()) == (b"", b"line\n")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0, "0 s"), (59, "59 s"), (60, "1 min"), (3661, "1 h 1 min"), (90061, "1 d 1 h"), (86401, "1 d")],
)
def test_a_duration_is_its_two_largest_units(seconds: int | None, words: str) -> None:
    """People do not read 90061 s."""
    assert duration(seconds) == words
