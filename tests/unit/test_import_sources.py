"""What SOURCE… names, and the file of rejected rows."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragkeep_client.documents import TICKET_FIELDS, Columns, Found
from ragkeep_client.intake import Begun, Ended, Event, Intake, Item
from ragkeep_client.mapping import Mapping
from ragkeep_client.output import CommandError
from ragkeep_client.rejected import RejectedFile
from ragkeep_client.rows import BadRow, Row, UnreadableFile
from ragkeep_client.source import OpenFile, Source, find_sources
from tests.reading import read

HEADER = "ticket_id,title,description,solution,category\n"
AB = ("a", "b")


def names(sources: list[Source], folder: Path) -> list[str]:
    return [str(source.path.relative_to(folder)) for source in sources if source.path]


def test_a_folder_stands_for_the_files_below_it_that_have_a_known_suffix(tmp_path: Path) -> None:
    """Sorted; hidden ones, other suffixes and linked folders are passed over; a file that is named twice is read once."""
    for name in ("b.csv", "a.TSV", "sub/c.jsonl", "sub/d.ndjson", "e.txt", ".hidden.csv", ".git/f.csv", "z.csv.bak"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "same.csv").symlink_to(tmp_path / "b.csv")
    found = find_sources([tmp_path, tmp_path / "b.csv"], None)
    assert names(found, tmp_path) == ["a.TSV", "b.csv", "sub/c.jsonl", "sub/d.ndjson"]
    assert [source.format for source in found] == ["tsv", "csv", "jsonl", "jsonl"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "NOTHING_TO_IMPORT"),
        ("file.txt", "FORMAT_UNKNOWN"),
        ("absent.txt", "FILE_UNREADABLE"),
        ("-", "FORMAT_UNKNOWN"),
    ],
)
def test_what_cannot_be_a_source_is_refused_with_a_way_out(tmp_path: Path, name: str, reason: str) -> None:
    """Before anything is imported."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    with pytest.raises(UnreadableFile) as refused:
        find_sources([tmp_path / name if name != "-" else Path(name)], None)
    assert refused.value.reason == reason
    assert find_sources([tmp_path / "file.txt", Path("-")], "csv")[1].path is None


def test_a_file_that_is_not_there_a_folder_and_a_device_are_unreadable(tmp_path: Path) -> None:
    """The error names the path; a named pipe that nobody writes to is not waited for."""
    os.mkfifo(tmp_path / "pipe.csv")
    for wrong in (tmp_path / "absent.csv", tmp_path, tmp_path / "pipe.csv", Path("/dev/null")):
        with pytest.raises(UnreadableFile) as raised:
            Source(wrong, "csv").open()
        assert str(wrong) in raised.value.message
        assert raised.value.reason == "FILE_UNREADABLE"


@contextmanager
def nobody() -> Iterator[None]:
    """As a user who may read what others may; who runs as root may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_without_read_permission_is_refused(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """And a folder, whose other files would else be thought to be all; and what lies in one."""
    file, folder = tmp_path / "closed.csv", tmp_path / "closed"
    file.touch()
    folder.mkdir()
    run = tmp_path_factory.getbasetemp()
    for path in (run, *run.parents):
        if path.stat().st_uid == os.geteuid() and (path == run or "pytest" in path.name):
            path.chmod(path.stat().st_mode | 0o755)
    tmp_path.chmod(0o755)
    file.chmod(0)
    folder.chmod(0)
    try:
        with nobody():
            for attempt in (
                lambda: Source(file, "csv").open(),
                lambda: find_sources([folder], None),
                lambda: find_sources([folder / "inside"], None),
            ):
                with pytest.raises(UnreadableFile, match="Permission denied") as refused:
                    attempt()
                assert refused.value.reason == "FILE_UNREADABLE"
    finally:
        folder.chmod(0o700)


async def events(intake: Intake) -> list[Event]:
    async with aclosing(intake.events()) as found:
        return [event async for event in found]


def intake(*paths: Path) -> Intake:
    columns = Columns.of("service-tickets", TICKET_FIELDS)
    return Intake(find_sources(paths, None), columns, Mapping(columns.known))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (['{"id": "1", "page": 3}'], "COLUMNS_MISSING"),
        (['{"id": "M-1", "fields": {"body": "x"}, "groups": []}'] * 3, "COLUMNS_MISSING"),
        (["nothing", '{"ticket_id": "T-1", "page": 3}'], "COLUMNS_MISSING"),
        (['{"id": "1", "title": "t"}'] * 9, ""),
        (['{"id": "1", "title": "t"}'] * 10, "COLUMNS_MISSING"),
        (['{"ticket_id": "1", "title": "t", "description": "d"}', '{"solution": "s", "category": "c"}'] * 10, ""),
        (["nothing"] * 20, ""),
    ],
)
async def test_json_lines_of_another_collection_fail_once(tmp_path: Path, lines: list[str], reason: str) -> None:
    """Where the first rows have none of the columns that are needed, or ten of them lack the same; else each is looked at."""
    (tmp_path / "1.jsonl").write_text("\n".join(lines))
    found = await events(intake(tmp_path))
    last = found[-1]
    assert isinstance(last, Ended)
    assert (last.problem.reason if last.problem else "") == reason
    assert sum(isinstance(event, Item) for event in found) == (0 if reason else len(lines))
    if last.problem:
        for words in ("The collection service-tickets needs", "ticket_id, title", "--collection", "--mapping", "found: "):
            assert words in last.problem.message


async def test_a_file_that_cannot_be_imported_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    """Each file has its own end; an id may come once over all of them."""
    (tmp_path / "1.csv").write_text(HEADER + "T-1,t,d,s,c\nT-2,t,d,s,c\n")
    (tmp_path / "2.csv").write_text("")
    (tmp_path / "3.jsonl").write_text(
        '{"ticket_id": "T-1", "title": "x", "description": "d", "solution": "s", "category": "c"}'
    )
    found = await events(intake(tmp_path))
    assert [type(event) for event in found] == [Begun, Item, Item, Ended, Ended, Begun, Item, Ended]
    problems = [event.problem.reason if event.problem else "" for event in found if isinstance(event, Ended)]
    assert problems == ["", "COLUMNS_MISSING", ""]
    again = found[-2]
    assert isinstance(again, Item)
    assert "in line 2 of" in getattr(again.found, "message", "")
    assert "1.csv" in getattr(again.found, "message", "")


async def test_a_file_that_is_written_to_while_it_is_read_says_so(tmp_path: Path) -> None:
    """What was read of it is taken nevertheless."""
    path = tmp_path / "1.csv"
    path.write_text(HEADER + "".join(f"T-{n},t,d,s,c\n" for n in range(200)))
    found: list[Event] = []
    async with aclosing(intake(path).events()) as some:
        async for event in some:
            if not found:
                with path.open("a") as out:
                    out.write("T-200,t,d,s,c\n")
            found.append(event)
    assert sum(isinstance(event, Item) and isinstance(event.found, Found) for event in found) == 201
    last = found[-1]
    assert isinstance(last, Ended)
    assert last.problem is not None
    assert last.problem.reason == "FILE_CHANGED"


async def test_no_more_is_read_than_is_taken(tmp_path: Path) -> None:
    """A few rows ahead of the one that is looked at, whatever the file's size."""
    path = tmp_path / "1.csv"
    path.write_text(HEADER + "".join(f"T-{n},t,d,s,{'c' * 900}\n" for n in range(5000)))
    async with aclosing(intake(path).events()) as some:
        assert isinstance(await anext(some), Begun)
        item = await anext(some)
    assert isinstance(item, Item)
    begun_file = path.stat().st_size
    assert item.bytes_read < begun_file / 10


def test_waiting_for_standard_input_ends_when_it_is_told_to() -> None:
    """Ctrl-C need not wait for whoever holds the other end of the pipe."""
    reading, writing = os.pipe()
    stop = threading.Event()
    opened = OpenFile(reading, stop, own=True)
    timer = threading.Timer(0.1, stop.set)
    timer.start()
    assert opened.read(10) == b""
    timer.join()
    opened.close()
    os.close(writing)


def rejected(path: Path, file_path: Path, content: bytes, needed: tuple[str, ...] = AB, format_: str = "csv") -> RejectedFile:
    """The file of those of a file's rows whose first cell is "bad", and of those that are none."""
    file, rows = read(file_path, content, needed, format_)
    out = RejectedFile(path, [Source(file_path, format_)])
    for row in rows:
        if isinstance(row, BadRow):
            out.write(file, row.raw, f"{row.reason}: {row.message}")
        elif row.cells.get("a") == "bad":
            out.write(file, row.raw, 'X: because of "this"')
    out.close()
    return out


@pytest.mark.parametrize(
    ("format_", "content", "expected"),
    [
        ("csv", b'a,b\nbad,"x\n""y"\nok,1\nbad,2', b'_reason,a,b\n"X: because of ""this""",bad,"x\n""y"\n"X: because of ""this""",bad,2\n'),
        ("csv", b'a;b\nbad;1,5\n', b'_reason;a;b\n"X: because of ""this""";bad;1,5\n'),
        ("tsv", b"a\tb\r\nbad\tx\r\n", b'_reason\ta\tb\r\n"X: because of ""this"""\tbad\tx\r\n'),
        ("csv", b"\xef\xbb\xbfa,b\nbad,x\n", b'\xef\xbb\xbf_reason,a,b\n"X: because of ""this""",bad,x\n'),
        ("csv", "a,b,c\nbad,密码忘记了,打印机\n".encode("gb18030"), '_reason,a,b,c\n"X: because of ""this""",bad,密码忘记了,打印机\n'.encode("gb18030")),
        ("csv", b"a,b\nok,1\nbad\n", b'_reason,a,b\n"ROW_INVALID: The row has 1 columns, and the header has 2.",bad\n'),
        ("csv", b'_reason,a,b\n"old, reason",bad,x\nolder,bad,y\n', b'_reason,a,b\n"X: because of ""this""",bad,x\n"X: because of ""this""",bad,y\n'),
        ("jsonl", b'{"a": "bad", "b": [1]}\n{"a": "ok"}', b'{"_reason": "X: because of \\"this\\"", "a": "bad", "b": [1]}\n'),
        ("jsonl", b'{"_reason": "old \\"one\\"", "a": "bad"}', b'{"_reason": "X: because of \\"this\\"", "a": "bad"}\n'),
        ("jsonl", b"[1]\n", None),
        ("jsonl", b' {}\n{"a": \n', None),
    ],
)  # fmt: skip
def test_rejected_rows_stand_as_they_stood_with_the_reason_before_them(
    tmp_path: Path, format_: str, content: bytes, expected: bytes | None
) -> None:
    """In the input's own format, encoding and line ends; what is no row at all is kept too. The file is its owner's."""
    if expected is None:
        content = b'{"a": "ok"}\n' + content
    path = tmp_path / "rejected"
    out = rejected(path, tmp_path / "in", content, format_=format_)
    if expected is not None:
        assert path.read_bytes() == expected
        assert list(out.written) == [path]
        assert path.stat().st_mode & 0o777 == 0o600
    else:
        assert path.read_bytes().count(b"_reason") == 1
    # It can be read again: the same rows, with the reason's column passed over.
    file, rows = read(tmp_path / "again", path.read_bytes(), AB, format_)
    assert len(rows) == sum(out.written.values())
    assert "_reason" not in file.ignored


def test_rows_of_another_kind_go_to_a_file_beside_it(tmp_path: Path) -> None:
    """Another format, another header; each can be imported as it is."""
    path = tmp_path / "rejected.csv"
    out = RejectedFile(path, [])
    for number, (content, format_) in enumerate(
        [(b"a,b\nx,1\n", "csv"), (b'{"a": 1}', "jsonl"), (b"b,a\nx,1\n", "csv"), (b"a,b\ny,1\n", "csv")]
    ):
        file, rows = read(tmp_path / f"in-{number}", content, AB, format_)
        for row in rows:
            assert isinstance(row, Row)
            out.write(file, row.raw, "X: y")
    out.close()
    assert {one.name: rows for one, rows in out.written.items()} == {
        "rejected.csv": 2, "rejected-2.jsonl": 1, "rejected-3.csv": 1,
    }  # fmt: skip
    assert path.read_text() == '_reason,a,b\n"X: y",x,1\n"X: y",y,1\n'


def test_the_file_of_rejected_rows_never_overwrites_anything_else(tmp_path: Path) -> None:
    """Not an input, not another file; an earlier one of its own is replaced, and is gone where nothing is rejected."""
    path = tmp_path / "file.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(CommandError, match="no file of rejected rows"):
        RejectedFile(path, [])
    own = tmp_path / "own.csv"
    own.write_text("_reason,a,b\nx,1,2\n")
    with pytest.raises(CommandError, match="imported itself"):
        RejectedFile(own, [Source(own, "csv")])
    assert own.read_text() == "_reason,a,b\nx,1,2\n"
    RejectedFile(own, []).close()
    assert not own.exists()
    with pytest.raises(CommandError, match="cannot be written"):
        RejectedFile(tmp_path / "absent" / "file.csv", [])


def test_a_full_disk_is_said_where_rejected_rows_are_written(tmp_path: Path) -> None:
    """With the way out; what was written until then is there."""
    content = b"a,b\n" + b"x,1\n" * 30_000
    file, rows = read(tmp_path / "in", content, AB)
    with small_disk(tmp_path / "disk") as disk:
        out = RejectedFile(disk / "rejected.csv", [])

        def write_all() -> None:
            for row in rows:
                out.write(file, row.raw, "X: y")

        with pytest.raises(CommandError, match=r"No space left|File too large") as full:
            write_all()
        assert full.value.reason == "REJECTED_FILE_UNUSABLE"
        out.close()
        assert (disk / "rejected.csv").read_bytes().startswith(b"_reason,a,b\n")


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """64 KiB: a file system of its own for root, else a limit of this process."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(path)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
    try:
        yield path
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(path)], capture_output=True, check=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_closed_standard_input_is_said(tmp_path: Path) -> None:
    """A process that was started without one."""
    code = (
        "from pathlib import Path; from ragkeep_client.source import Source\n"
        "try: Source(None, 'csv').open()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    ran = subprocess.run(["sh", "-c", '"$0" -c "$1" <&-', sys.executable, code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "UnreadableFile Standard input is closed."


_CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
_BAD = st.sampled_from([b"only one", b"a,b,c", b"\xff,x", b'"open', b'"a"b,c', b"\0,"])
_LINES = st.lists(st.tuples(_CELL, _CELL).filter(any) | _BAD, min_size=1, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(lines=_LINES, end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_what_is_rejected_is_read_again_as_it_was(tmp_path: Path, lines: list[tuple[str, str] | bytes], end: str) -> None:
    """Whatever the rows hold: each comes back with its cells, or with what was wrong with it; also when rejected twice."""
    written = b"a,b" + end.encode()
    for line in lines:
        quoted = ",".join('"' + cell.replace('"', '""') + '"' for cell in line).encode() if isinstance(line, tuple) else line
        written += quoted + end.encode()
    path = tmp_path / "in.csv"
    told: list[list[object]] = []
    for _ in range(3):
        file, rows = read(path, written, AB)
        told.append([{"a": row.cells["a"], "b": row.cells["b"]} if isinstance(row, Row) else row.reason for row in rows])
        out = RejectedFile(tmp_path / "out.csv", [])
        for row in rows:
            out.write(file, row.raw, 'X: "why", and so on')
        out.close()
        written = (tmp_path / "out.csv").read_bytes() if rows else written
    assert told[0] == told[1] == told[2]
