"""Logs are read by time over all processes, and followed over rotation."""

from __future__ import annotations

import json
from pathlib import Path

from ragkeep_client.log_lines import Follower, clock, keys, last, parse, traceback
from ragkeep_client.supervision import former, keep_small


def event(second: int, name: str, **keys: object) -> str:
    return json.dumps({"event": name, "timestamp": f"2026-01-01T00:00:{second:02}Z", "level": "info", **keys}) + "\n"


def test_lines_of_all_processes_come_by_time_and_older_parts_are_read(tmp_path: Path) -> None:
    """What was moved aside is still the log."""
    one, other = tmp_path / "one.log", tmp_path / "other.log"
    former(one).write_text(event(1, "a"))
    one.write_text(event(3, "c") + event(5, "e"))
    other.write_text(event(2, "b") + "no JSON\n" + event(4, "d"))
    logs = {"one": one, "other": other, "none": tmp_path / "none.log"}
    ends = dict.fromkeys(logs, 10**9)
    names = [line.event["event"] if line.event else line.text for line in last(logs, 10, ends)]
    assert names == ["a", "b", "no JSON", "c", "d", "e"]
    assert [line.service for line in last(logs, 2, ends)] == ["other", "one"]
    assert last(logs, 0, ends) == []


def test_lines_after_the_given_end_are_not_read(tmp_path: Path) -> None:
    """They are the follower's: each line is shown once."""
    log = tmp_path / "x.log"
    log.write_text(event(1, "a"))
    follower = Follower("x", log)
    log.write_text(event(1, "a") + event(2, "b"))
    assert [line.text for line in last({"x": log}, 10, {"x": follower.begins})] == [event(1, "a").strip()]
    assert [line.text for line in follower.lines()] == [event(2, "b").strip()]
    follower.close()


def test_a_follower_goes_on_over_cut_and_replaced_logs(tmp_path: Path) -> None:
    """Both ways of rotating, and a log that comes into being later; half a line waits for its other half."""
    log = tmp_path / "x.log"
    follower = Follower("x", log)
    assert follower.lines() == []
    seen = []

    def write(text: str) -> None:
        with log.open("a") as file:
            file.write(text)

    write("1\n2")
    seen += follower.lines()
    write("2\n")
    seen += follower.lines()
    write("3\n" * 3)
    seen += follower.lines()
    assert keep_small(log, limit=1)
    write("4\n")
    seen += follower.lines()
    write("5\n")
    log.replace(former(log))
    write("6\n")
    seen += follower.lines()
    write("7\n")
    seen += follower.lines()
    follower.close()
    assert [line.text for line in seen] == ["1", "22", "3", "3", "3", "4", "5", "6", "7"]


def test_a_line_is_shown_with_its_keys_and_a_defect_with_its_places() -> None:
    """Texts with spaces are quoted; the traceback's last place comes first."""
    frames = [{"filename": "a.py", "lineno": 1, "name": "outer"}, {"filename": "b.py", "lineno": 2, "name": "inner"}]
    defect = [{"exc_type": "ValueError", "exc_value": "it", "frames": frames}]
    found = parse("x", event(1, "failed", how="two words", count=3, none="", exception=defect).encode())
    assert found.event is not None
    assert keys(found.event) == [("how", '"two words"'), ("count", "3"), ("none", '""')]
    assert traceback(found.event) == ["ValueError: it", "  at b.py:2 in inner", "  at a.py:1 in outer"]
    assert traceback({"exception": "as text"}) == ["as text"]


def test_odd_lines_are_shown_as_they_are() -> None:
    """Bytes that are no UTF-8, JSON that is no object, a time that is none."""
    assert parse("x", b"\xff\xfe").event is None
    assert parse("x", b"[1]").event is None
    assert clock("yesterday") == "yesterday"
    assert clock("2026-01-01T01:30:00.123456+01:00") == "01-01 00:30:00.123Z"
