"""A file that is followed: taken over when it changes, kept as it was where the new one is broken."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ragkeep_runtime.following import COMPLAIN_S, FollowedFile, look_always


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _number(content: bytes) -> int:
    return int(content)


def _followed(tmp_path: Path) -> tuple[Path, _Clock, FollowedFile[int]]:
    path, clock = tmp_path / "number", _Clock()
    path.write_text("1")
    return path, clock, FollowedFile(path, _number, what="number", clock=clock)


def _replace(path: Path, content: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(content)
    os.replace(new, path)


def test_a_change_is_taken_over_within_a_second(tmp_path: Path) -> None:
    """Not at every call: a look is a call of stat."""
    path, clock, followed = _followed(tmp_path)
    _replace(path, "2")
    assert followed.current() == 1
    clock.now += 1
    assert followed.current() == 2


@pytest.mark.parametrize("broken", ["", "two", None])
def test_a_broken_file_leaves_the_old_one_in_force_and_is_complained_about(tmp_path: Path, broken: str | None) -> None:
    """Once a minute while it stays broken; a mended one is taken over."""
    path, clock, followed = _followed(tmp_path)
    if broken is None:
        path.unlink()
    else:
        _replace(path, broken)
    with capture_logs() as logs:
        for _ in range(10):
            clock.now += 1
            assert followed.current() == 1
        assert [(one["event"], one["log_level"]) for one in logs] == [("file_not_taken_over", "error")]
        clock.now += COMPLAIN_S
        assert followed.current() == 1
    assert len(logs) == 2
    _replace(path, "3")
    clock.now += 1
    assert followed.current() == 3


def test_a_file_that_is_broken_from_the_start_is_an_error(tmp_path: Path) -> None:
    """A process does not start without what it needs, and says which file is wrong."""
    path = tmp_path / "number"
    with pytest.raises(OSError, match="number"):
        FollowedFile(path, _number, what="number")
    path.write_text("x")
    with pytest.raises(ValueError, match=r"the file number \(number\) is wrong"):
        FollowedFile(path, _number, what="number")


def test_a_look_reads_what_changed_without_waiting(tmp_path: Path) -> None:
    """What a process does each second; a call need not come."""
    path, _, followed = _followed(tmp_path)
    _replace(path, "two")
    with capture_logs() as logs:
        followed.look()
        followed.look()
    assert [one["event"] for one in logs] == ["file_not_taken_over"]
    _replace(path, "2")
    followed.look()
    assert followed.current() == 2


def test_the_one_in_force_may_be_put_back(tmp_path: Path) -> None:
    """The same file, moved away and back: that all is well again is told too."""
    path, _, followed = _followed(tmp_path)
    path.rename(tmp_path / "kept")
    path.write_text("two")
    with capture_logs() as logs:
        followed.look()
        (tmp_path / "kept").replace(path)
        followed.look()
        followed.look()
    assert [one["event"] for one in logs] == ["file_not_taken_over", "file_taken_over"]
    assert followed.current() == 1


def test_a_file_that_may_be_absent_is_taken_when_it_comes(tmp_path: Path) -> None:
    """Not missed before; a broken one that comes is complained about, and one that goes again stays in force."""
    path, clock = tmp_path / "number", _Clock()
    followed = FollowedFile(path, _number, what="number", absent=lambda: 0, clock=clock)
    with capture_logs() as logs:
        followed.look()
        assert (followed.current(), logs) == (0, [])
        path.write_text("one")
        for _ in range(3):
            followed.look()
        assert [one["event"] for one in logs] == ["file_not_taken_over"]
        _replace(path, "1")
        followed.look()
        path.unlink()
        followed.look()
    assert followed.current() == 1
    assert [one["event"] for one in logs] == ["file_not_taken_over", "file_taken_over", "file_not_taken_over"]


async def test_one_look_that_fails_does_not_keep_the_others_from_theirs() -> None:
    """A defect in one is logged, and all go on."""
    seen: list[str] = []
    both = asyncio.Event()

    def fails() -> None:
        seen.append("fails")
        raise RuntimeError

    def works() -> None:
        seen.append("works")
        if len(seen) == 4:
            both.set()

    with capture_logs() as logs:
        looking = asyncio.create_task(look_always([fails, works]))
        await both.wait()
        looking.cancel()
    assert seen == ["fails", "works"] * 2
    assert [one["event"] for one in logs] == ["files_not_looked_at"] * 2
