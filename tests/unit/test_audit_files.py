"""The audit log's files: what a crash, a full disk or another hand leaves, and what age takes."""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
import os
import resource
import shutil
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ragkeep_gateway.audit.files import AuditFiles
from ragkeep_runtime.audit.heads import HEADS_SUFFIX
from ragkeep_runtime.audit.verify import Wrong, day_files, verify
from tests.unit.test_audit_chain import KEYS, SIGNING, Clock, proven, write

# It ends as a line does, and is nested deeper than any reader goes.
DEEP = b'{"a":' + b"[" * 200_000 + b',"mac":"' + b"0" * 64 + b'"}\n'


def opened(folder: Path, clock: Clock | None = None) -> tuple[AuditFiles, list[dict[str, object]]]:
    """The log taken over again, and what had to be repaired."""
    files = AuditFiles(folder, "gateway-0", KEYS.lines, SIGNING, heads=folder / "heads", clock=clock or Clock())
    return files, files.open()


def lines(folder: Path) -> list[dict[str, object]]:
    """What stands there."""
    return [json.loads(line) for path in day_files(folder / "gateway-0") for line in path.read_text().splitlines()]


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    """Lines, heads and folders."""
    write(tmp_path)
    for path in tmp_path.rglob("*"):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted or path.name == "heads", path


def test_a_line_has_number_time_and_replica(tmp_path: Path) -> None:
    """Time in UTC with microseconds; UTF-8 as it is."""
    write(tmp_path, lines=3)
    found = lines(tmp_path)
    assert [line["seq"] for line in found] == [1, 2, 3]
    assert {line["replica"] for line in found} == {"gateway-0"}
    assert found[0]["time"] == "2026-11-24T23:59:51.000000Z"
    assert "问题 2" in day_files(tmp_path / "gateway-0")[0].read_text()


@pytest.mark.parametrize(
    "torn",
    [b'{"seq":31,"time":"2026', b"\0" * 4096, b'{"seq":31}\n', b"\0" * 100 + b"\n", DEEP],
    ids=["half", "zeros", "no mac", "zeros ended", "deep"],
)
def test_a_torn_end_is_cut_off_kept_and_recorded(tmp_path: Path, torn: bytes) -> None:
    """What a crash left behind the last whole line; and the log goes on as one that can be proven."""
    write(tmp_path)
    path = day_files(tmp_path / "gateway-0")[-1]
    with path.open("ab") as file:
        file.write(torn)
    files, repaired = opened(tmp_path, Clock(dt.datetime(2026, 11, 25, 1, tzinfo=dt.UTC)))
    assert [(one["what"], one["bytes"]) for one in repaired] == [("torn", len(torn))]
    assert (path.parent / str(repaired[0]["kept"])).read_bytes() == torn
    files.append(repaired)
    files.close()
    verdict = proven(tmp_path)
    assert verdict.fault is None
    assert verdict.repaired == [31]


def test_an_end_that_is_whole_is_left_alone(tmp_path: Path) -> None:
    """No repair where there was no crash, and the next line is the next number."""
    write(tmp_path)
    files, repaired = opened(tmp_path, Clock(dt.datetime(2026, 11, 25, 1, tzinfo=dt.UTC)))
    assert repaired == []
    files.append([{"kind": "started", "key": KEYS.name}])
    files.close()
    assert proven(tmp_path).last == 31


def test_two_processes_do_not_write_the_same_log(tmp_path: Path) -> None:
    """The second one is told to take a name of its own."""
    files, _ = opened(tmp_path)
    with pytest.raises(ValueError, match="RAGKEEP_AUDIT_REPLICA"):
        opened(tmp_path)
    files.close()


def _beyond_the_limit(folder: Path, answers: multiprocessing.SimpleQueue[object]) -> None:
    files, _ = opened(folder, Clock(dt.datetime(2026, 11, 25, 1, tzinfo=dt.UTC)))
    size = day_files(folder / "gateway-0")[-1].stat().st_size
    # What a full disk does in the middle of a line: 100 bytes fit, the rest does not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
    try:
        files.append([{"kind": "asked", "documents": ["T-1" * 50]}])
        answers.put("written")
    except OSError as error:
        answers.put(error.strerror)
    answers.put(day_files(folder / "gateway-0")[-1].stat().st_size - size)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    files.append([{"kind": "asked", "documents": ["T-2"]}])
    files.close()


def test_a_write_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """The kernel takes part of a line and refuses the rest; the log stands as it stood, and goes on when there is room."""
    write(tmp_path)
    answers: multiprocessing.SimpleQueue[object] = multiprocessing.get_context("fork").SimpleQueue()
    process = multiprocessing.get_context("fork").Process(target=_beyond_the_limit, args=(tmp_path, answers))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert answers.get() == os.strerror(27)  # EFBIG
    assert answers.get() == 0
    assert lines(tmp_path)[-1]["documents"] == ["T-2"]
    assert proven(tmp_path).fault is None


def test_a_new_day_that_cannot_begin_is_an_error_and_begins_later(tmp_path: Path) -> None:
    """Midnight on a full disk: nothing is lost, and nothing is said to be missing."""
    clock = Clock(dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC))
    files, _ = opened(tmp_path, clock)
    files.append([{"kind": "started", "key": KEYS.name}])
    clock.now += dt.timedelta(days=1)
    blocked = tmp_path / "gateway-0" / "2026-11-25.jsonl"
    blocked.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        files.append([{"kind": "asked"}])
    blocked.rmdir()
    files.append([{"kind": "asked"}])
    files.close()
    assert [line["kind"] for line in lines(tmp_path)] == ["started", "asked"]
    assert proven(tmp_path).fault is None


def test_a_file_that_was_closed_under_the_log_is_opened_again(tmp_path: Path) -> None:
    """The descriptor is gone; nothing is written elsewhere, and nothing is lost."""
    files, _ = opened(tmp_path)
    files.append([{"kind": "started", "key": KEYS.name}])
    os.close(files._file)
    files.append([{"kind": "asked", "documents": ["T-1"]}])
    files.close()
    assert [line.get("documents") for line in lines(tmp_path)] == [None, ["T-1"]]
    assert proven(tmp_path).fault is None


def test_a_folder_that_is_gone_is_an_error_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    """Unmounted, then back: what was written before is still there."""
    files, _ = opened(tmp_path)
    files.append([{"kind": "started", "key": KEYS.name}])
    (tmp_path / "gateway-0").rename(tmp_path / "away")
    with pytest.raises(OSError, match="No such file"):
        files.append([{"kind": "asked"}])
    (tmp_path / "away").rename(tmp_path / "gateway-0")
    files.append([{"kind": "asked"}])
    files.close()
    assert [line["kind"] for line in lines(tmp_path)] == ["started", "asked"]
    assert proven(tmp_path).fault is None


@pytest.mark.parametrize("deed", ["removed", "cut", "appended"])
def test_another_hand_at_the_open_file_is_recorded_and_found(tmp_path: Path, deed: str) -> None:
    """While the process runs: it says so in its next line, and verify names the place."""
    files, _ = opened(tmp_path)
    files.append([{"kind": "started", "key": KEYS.name}])
    files.append([{"kind": "asked"}])
    path = day_files(tmp_path / "gateway-0")[-1]
    if deed == "removed":
        path.unlink()
    elif deed == "cut":
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    else:
        with path.open("ab") as file:
            file.write(path.read_bytes().splitlines(keepends=True)[0])
    files.append([{"kind": "asked"}])
    files.close()
    assert [line["kind"] for line in lines(tmp_path)][-2:] == ["repaired", "asked"]
    fault = proven(tmp_path).fault
    assert fault is not None
    expected = {"removed": (Wrong.REMOVED, 1), "cut": (Wrong.REMOVED, 2), "appended": (Wrong.DUPLICATED, 3)}
    assert (fault.what, fault.sequence) == expected[deed]


def test_old_days_go_and_the_rest_is_still_proven(tmp_path: Path) -> None:
    """A signed cut says up to which line age removed them; without it, or with a later one, verify would name it."""
    clock = Clock(dt.datetime(2026, 10, 1, 12, tzinfo=dt.UTC))
    files, _ = opened(tmp_path, clock)
    files.append([{"kind": "started", "key": KEYS.name}])
    for _ in range(40):
        clock.now += dt.timedelta(days=1)
        files.append([{"kind": "asked"}, {"kind": "finished"}])
    removed = files.remove_old(30)
    files.append([{"kind": "acted", "files": removed}])
    files.head()
    files.close()
    assert len(day_files(tmp_path / "gateway-0")) == 30
    assert removed[0] == "2026-10-01.jsonl"
    verdict = proven(tmp_path)
    assert verdict.fault is None
    assert verdict.first == 1 + 2 * 10 + 1
    assert proven(tmp_path, key=False).fault is None
    # One day more than age took:
    day_files(tmp_path / "gateway-0")[0].unlink()
    fault = proven(tmp_path).fault
    assert fault is not None
    assert fault.what is Wrong.REMOVED


def test_what_was_cut_off_an_old_day_goes_with_it(tmp_path: Path) -> None:
    """It is text of that day; what was cut off a day that stays, stays, and what an earlier version left goes too."""
    clock = Clock(dt.datetime(2026, 10, 1, 12, tzinfo=dt.UTC))
    for day in range(2):
        files, repaired = opened(tmp_path, clock)
        assert len(repaired) == day
        files.append([{"kind": "started", "key": KEYS.name}])
        files.close()
        with day_files(tmp_path / "gateway-0")[-1].open("ab") as file:
            file.write(b"mallory asked")
        clock.now += dt.timedelta(days=20)
    files, _ = opened(tmp_path, clock)
    left = tmp_path / "gateway-0" / "2026-09-01.torn-2"
    left.write_bytes(b"mallory asked")
    assert files.remove_old(30) == ["2026-10-01.jsonl", "2026-09-01.torn-2", "2026-10-01.torn-1"]
    files.close()
    assert [path.name for path in (tmp_path / "gateway-0").glob("*.torn-*")] == ["2026-10-21.torn-1"]
    assert proven(tmp_path).fault is None


def test_nothing_is_removed_before_its_time(tmp_path: Path) -> None:
    """And today's file never."""
    clock = Clock(dt.datetime(2026, 10, 1, 12, tzinfo=dt.UTC))
    files, _ = opened(tmp_path, clock)
    files.append([{"kind": "started", "key": KEYS.name}])
    clock.now += dt.timedelta(days=29)
    assert files.remove_old(30) == []
    clock.now += dt.timedelta(days=400)
    assert files.remove_old(30) == []
    files.close()


def test_a_log_whose_days_all_went_goes_on_from_the_cut(tmp_path: Path) -> None:
    """The numbers do not begin anew."""
    write(tmp_path)
    clock = Clock(dt.datetime(2027, 3, 1, tzinfo=dt.UTC))
    files, _ = opened(tmp_path, clock)
    files.append([{"kind": "started", "key": KEYS.name}])
    files.remove_old(30)
    files.close()
    assert proven(tmp_path).first == 31
    assert proven(tmp_path).fault is None


def test_a_clock_that_was_set_back_does_not_split_the_chain(tmp_path: Path) -> None:
    """Lines go on into the newest file."""
    write(tmp_path)
    files, _ = opened(tmp_path, Clock(dt.datetime(2026, 11, 20, tzinfo=dt.UTC)))
    files.append([{"kind": "started", "key": KEYS.name}])
    files.close()
    assert [path.name for path in day_files(tmp_path / "gateway-0")] == ["2026-11-24.jsonl", "2026-11-25.jsonl"]
    assert proven(tmp_path).last == 31


def test_a_head_that_was_not_written_whole_does_not_spoil_the_others(tmp_path: Path) -> None:
    """The next one is written over it."""
    write(tmp_path)
    path = next((tmp_path / "heads" / "gateway-0").glob("2026-11-25*"))
    with path.open("ab") as file:
        file.write(b'{"replica":"gate')
    assert proven(tmp_path).heads == 2
    files, _ = opened(tmp_path, Clock(dt.datetime(2026, 11, 25, 1, tzinfo=dt.UTC)))
    files.append([{"kind": "started", "key": KEYS.name}])
    files.head()
    files.close()
    assert proven(tmp_path).heads == 3


def gone(folder: Path) -> list[tuple[object, ...]]:
    """What a start finds missing."""
    files, repaired = opened(folder, Clock(dt.datetime(2026, 11, 25, 1, tzinfo=dt.UTC)))
    files.append([*repaired, {"kind": "started", "key": KEYS.name}])
    files.head()
    files.close()
    return [(one["what"], one["file"], one["head"]) for one in repaired]


@pytest.mark.parametrize("deed", ["a line", "a file", "the folder"])
def test_lines_that_went_while_nobody_wrote_are_told_at_the_start(tmp_path: Path, deed: str) -> None:
    """Once, on record; the log goes on, and verify names the place."""
    write(tmp_path)
    last = day_files(tmp_path / "gateway-0")[-1]
    if deed == "a line":
        last.write_bytes(b"".join(last.read_bytes().splitlines(keepends=True)[:-1]))
    elif deed == "a file":
        last.unlink()
    else:
        shutil.rmtree(tmp_path / "gateway-0")
    assert gone(tmp_path) == [("lines missing", "2026-11-25.jsonl", 30)]
    assert gone(tmp_path) == []
    assert [line["what"] for line in lines(tmp_path) if line["kind"] == "repaired"] == ["lines missing"]
    assert proven(tmp_path).fault is not None


def test_lines_that_were_changed_while_nobody_wrote_are_told_at_the_start(tmp_path: Path) -> None:
    """Though there are as many as before, and the last one is as it was."""
    write(tmp_path)
    last = day_files(tmp_path / "gateway-0")[-1]
    last.write_bytes(last.read_bytes().replace(b"T-20", b"T-99"))
    assert gone(tmp_path) == [("lines changed", "2026-11-25.jsonl", 30)]
    assert gone(tmp_path) == []


def test_heads_that_are_none_keep_nobody_from_starting(tmp_path: Path) -> None:
    """Nothing can be told from them; a log that nobody touched says nothing."""
    write(tmp_path)
    assert gone(tmp_path) == []
    heads = tmp_path / "heads" / "gateway-0"
    (heads / f"9998-01-01{HEADS_SUFFIX}").mkdir()
    (heads / f"9999-01-01{HEADS_SUFFIX}").symlink_to("nowhere")
    assert gone(tmp_path) == []
    failing = heads / f"9999-01-02{HEADS_SUFFIX}"
    failing.symlink_to("/proc/self/mem")  # a file that is there, and whose reading fails
    assert gone(tmp_path) == []
    failing.unlink()
    for path in heads.glob("2026*"):
        path.write_bytes(b"junk\n[]\n" + b"[" * 100_000)
    assert gone(tmp_path) == []


def test_heads_that_are_not_ours_or_older_neither_alarm_nor_silence(tmp_path: Path) -> None:
    """Who can only add to the folder of heads: one that nobody signed, one of a file elsewhere, an old one in a later file."""
    write(tmp_path, head_every=7)
    heads = tmp_path / "heads" / "gateway-0"
    old = next(heads.glob("2026-11-24*")).read_bytes().splitlines(keepends=True)[0]
    later = {"sequence": 10**9, "time": "2027-01-01T00:00:00.000000Z"}
    (heads / f"2027-01-01{HEADS_SUFFIX}").write_bytes(json.dumps(json.loads(old) | later).encode() + b"\n")
    (heads / f"2027-01-02{HEADS_SUFFIX}").write_bytes(old)
    files, repaired = opened(tmp_path)
    files.close()
    assert repaired == []
    last = day_files(tmp_path / "gateway-0")[-1]
    last.write_bytes(b"".join(last.read_bytes().splitlines(keepends=True)[:-1]))
    assert gone(tmp_path) == [("lines missing", "2026-11-25.jsonl", 30)]


def test_a_head_that_an_earlier_key_signed_still_tells(tmp_path: Path) -> None:
    """The signing key was replaced while lines went."""
    write(tmp_path)
    day_files(tmp_path / "gateway-0")[-1].unlink()
    heads, signing = tmp_path / "heads", Ed25519PrivateKey.generate()
    for signers, told in (((), []), ((SIGNING.public_key(),), ["lines missing"])):
        files = AuditFiles(tmp_path, "gateway-0", KEYS.lines, signing, heads=heads, earlier_signers=signers, clock=Clock())
        assert [one["what"] for one in files.open()] == told
        files.close()


def test_the_log_of_another_replica_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    """A folder that was copied under another name does not verify."""
    write(tmp_path)
    shutil.copytree(tmp_path / "gateway-0", tmp_path / "gateway-1")
    fault = verify(tmp_path / "gateway-1", keys={KEYS.name: KEYS.lines}).fault
    assert fault is not None
    assert (fault.what, fault.sequence) == (Wrong.CHANGED, 1)
