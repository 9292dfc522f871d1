"""`ragkeep import` as its user types it: several files, standard input, dry runs, rejected rows, and being broken off."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_command import Command
from tests.ports import free_ports
from tests.waiting import until

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite")]
HEADER = "ticket_id,title,description,solution,category\n"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A running installation with nothing in it."""
    found = Command(tmp_path_factory.mktemp("import"))
    first = free_ports(8)
    try:
        ports = ("--ports", str(first), "--health-ports", str(first + 4))
        found("up", "--detach", *ports, "--embedder", "e5", "--retriever", "sqlite", "--generator", "quote")
        yield found
    finally:
        found("down")


def rows(count: int, first: int = 0) -> str:
    return "".join(
        f"T-{n},Printer {n} is offline,It does not print.,Restart it.,Printing\n" for n in range(first, first + count)
    )


def imported(lines: list[dict[str, object]]) -> dict[str, Any]:
    return next(line["imported"] for line in lines if "imported" in line)  # type: ignore[return-value]


def start(command: Command, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("ragkeep")), *arguments],
        env=command.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stored(command: Command, tenant: str) -> int:
    return sum(
        line["collection"]["documents"]  # type: ignore[index]
        for line in command.lines("collections", "--tenant", tenant)
    )


def test_a_folder_is_imported_file_by_file(command: Command, tmp_path: Path) -> None:
    """A line for each file and one for all; a file that cannot be read does not keep the others from it, and the code says so."""
    (tmp_path / "1.csv").write_text(HEADER + rows(3))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "2.tsv").write_text((HEADER + rows(2, 3)).replace(",", "\t"))
    (tmp_path / "3.jsonl").write_text(
        '{"ticket_id": "T-9", "title": "t", "description": "d", "solution": "s", "category": "c"}'
    )
    lines = command.lines("import", str(tmp_path), "--tenant", "folder")
    files = [line["file"] for line in lines if "file" in line]
    assert [(Path(one["file"]).name, one["format"], one["created"]) for one in files] == [  # type: ignore[index]
        ("1.csv", "csv", 3), ("3.jsonl", "jsonl", 1), ("2.tsv", "tsv", 2),
    ]  # fmt: skip
    assert imported(lines)["created"] == 6
    assert imported(lines)["files"] == 3
    (tmp_path / "0.csv").write_text("")
    lines = command.lines("import", str(tmp_path), "--tenant", "folder", code=1)
    assert imported(lines)["unchanged"] == 6
    assert [line["error"]["reason"] for line in lines if "error" in line] == ["FILES_FAILED"]  # type: ignore[index]


def test_standard_input_is_a_source(command: Command) -> None:
    """Its format has to be said; when it is closed or has nothing in it, that is said."""
    assert "2 created" in command("import", "-", "--format", "csv", "--tenant", "stdin", stdin=HEADER + rows(2)).stdout
    assert "--format" in command("import", "-", code=1, stdin=HEADER).stderr
    assert "empty" in command("import", "-", "--format", "csv", code=1, stdin="").stderr
    assert "no row" in command("import", "-", "--format", "jsonl", code=1, stdin="\n").stderr


def test_what_closes_standard_input_in_the_middle_of_a_row_costs_that_row(command: Command) -> None:
    """The whole rows before it are there."""
    ran = command("import", "-", "--format", "csv", "--tenant", "closed", stdin=HEADER + rows(2) + "T-9,title,descr")
    assert "2 created" in ran.stdout
    assert "1 rejected" in ran.stdout
    assert "line 4" in ran.stderr


def test_a_dry_run_changes_nothing(command: Command, tmp_path: Path) -> None:
    """It says what the import then does."""
    file = tmp_path / "a.csv"
    file.write_text(HEADER + rows(4) + "T-1,other,d,s,c\nT-9,,d,s,c\n")
    dry = imported(command.lines("import", str(file), "--dry-run", "--tenant", "dry"))
    assert dry["dry_run"] is True
    assert stored(command, "dry") == 0
    assert "Dry run, nothing is changed: 4 created" in command("import", str(file), "--dry-run", "--tenant", "dry").stdout
    real = imported(command.lines("import", str(file), "--tenant", "dry"))
    assert {**real, "dry_run": True} == dry
    assert (real["created"], real["rejected"]) == (4, 2)


def test_rejected_rows_are_corrected_and_imported(command: Command, tmp_path: Path) -> None:
    """The file holds the rows as they stood and why; once they are mended it is a source like any other."""
    file, bad = tmp_path / "a.csv", tmp_path / "bad.csv"
    file.write_text(HEADER + rows(2) + 'T-5,,d,s,c\nT-6,"t\nt",d,s\n')
    ran = command("import", str(file), "--rejected", str(bad), "--tenant", "rejected")
    assert str(bad) in ran.stderr
    text = bad.read_text()
    assert "FIELD_MISSING" in text
    assert "has 4 columns" in text
    bad.write_text(text.replace("T-5,,", "T-5,title,").replace("d,s\n", "d,s,c\n"))
    ran = command("import", str(bad), "--rejected", str(tmp_path / "none.csv"), "--tenant", "rejected")
    assert "2 created" in ran.stdout
    assert not (tmp_path / "none.csv").exists()
    assert "_reason" not in ran.stderr


def test_a_rejected_row_is_imported_as_its_file_was_and_replaces_nothing(command: Command, tmp_path: Path) -> None:
    """The line that is shown has the options that the rows need; a repeated id stays rejected until it is decided about."""
    file, bad = tmp_path / "a.csv", tmp_path / "bad.csv"
    file.write_text("Nr,title,description,solution,Queue\nT-1,good,d,s,c\nT-1,other,d,s,c\nT-2,,d,s,c\n")
    options = ["--mapping", "nr=ticket_id", "--mapping", "queue=category", "--groups", "it staff", "--tenant", "again"]
    lines = command.lines("import", str(file), "--rejected", str(bad), *options)
    line = next(one["rejected_file"] for one in lines if "rejected_file" in one)["import"]  # type: ignore[index]
    assert shlex.split(line) == ["ragkeep", "import", str(bad), *options]
    assert line in command("import", str(file), "--rejected", str(bad), *options).stderr
    bad.write_text(bad.read_text().replace("T-2,,", "T-2,mended,"))
    # Without the groups it would be open to all.
    said = [
        one["rejected"] for one in command.lines("import", str(bad), *options[:4], *options[6:], code=1) if "rejected" in one
    ]
    assert all("--groups 'it staff'" in one["message"] for one in said)  # type: ignore[index]
    assert len(said) == 2
    done = imported(command.lines(*shlex.split(line)[1:], "--rejected", str(tmp_path / "worse.csv")))
    assert (done["created"], done["updated"], done["rejected"], done["with_groups"]) == (1, 0, 1, 1)
    assert "good" in command("documents", "get", "T-1", "--tenant", "again").stdout
    worse = (tmp_path / "worse.csv").read_text()
    (tmp_path / "worse.csv").write_text(worse.replace(worse.splitlines()[1].partition('",')[0] + '"', ""))
    assert imported(command.lines("import", str(tmp_path / "worse.csv"), *options))["updated"] == 1


def test_only_what_was_taken_is_counted_as_for_groups(command: Command, tmp_path: Path) -> None:
    """Not a document that the gateway rejects, as for its id."""
    file = tmp_path / "a.csv"
    file.write_text(HEADER + f"{'T' * 600},t,d,s,c\nT-1,t,d,s,c\n")
    done = imported(command.lines("import", str(file), "--groups", "it", "--tenant", "counted"))
    assert (done["created"], done["rejected"], done["with_groups"]) == (1, 1, 1)


def test_other_column_names_are_mapped(command: Command, tmp_path: Path) -> None:
    """By the command line or a file; a name that no file has is noted."""
    file, names = tmp_path / "a.csv", tmp_path / "names"
    file.write_text("Nr,Subject,description,solution,Queue\nT-1,t,d,s,c\n")
    names.write_text("subject = title\nqueue = category\n")
    arguments = ("import", str(file), "--mapping", str(names), "--mapping", "nr=ticket_id", "--tenant", "mapped")
    assert "1 created" in command(*arguments).stdout
    assert "absent" in command(*arguments, "--mapping", "absent=description").stderr
    ran = command("import", str(file), "--mapping", "nr=number", code=1)
    assert "ticket_id, title" in ran.stderr


def test_a_file_of_another_collection_is_refused_once(command: Command, tmp_path: Path) -> None:
    """CSV by its header, JSON lines by the first of them: which collection, what it needs, what was found, the way out."""
    (tmp_path / "m.csv").write_text("id,page\nM-1,3\n")
    (tmp_path / "m.jsonl").write_text('{"id": "M-1", "page": 3}\n' * 30)
    for name in ("m.csv", "m.jsonl"):
        lines = command.lines("import", str(tmp_path / name), code=1)
        assert not any("rejected" in line for line in lines)
        assert lines[-1]["error"]["reason"] == "COLUMNS_MISSING"  # type: ignore[index]
        message = lines[-1]["error"]["message"]  # type: ignore[index]
        for words in ("service-tickets needs", "ticket_id, title", "page", "--collection", "--mapping"):
            assert words in message


def test_the_environment_names_the_collection(command: Command, tmp_path: Path) -> None:
    """Of every command, where no option says another."""
    (tmp_path / "a.csv").write_text(HEADER + rows(1))
    command("collections", "create", "ServiceTicket", "--name", "environ")
    command.env["RAGKEEP_COLLECTION"] = "environ"
    try:
        done = imported(command.lines("import", str(tmp_path / "a.csv")))
        assert (done["collection"], done["tenant"]) == ("environ", "demo")
        assert len(command("export").stdout.splitlines()) == 1
        assert len(command.lines("documents", "list", "--collection", "service-tickets", "--tenant", "unheard")) == 0
        assert len(command.lines("documents", "list")) == 1
    finally:
        del command.env["RAGKEEP_COLLECTION"]


def test_an_unknown_collection_is_refused_before_anything_is_read(command: Command, tmp_path: Path) -> None:
    """With the way out."""
    file = tmp_path / "a.csv"
    file.write_text("id,title\n1,x\n")
    assert "COLLECTION_UNKNOWN" in command("import", str(file), "--collection", "unheard", code=1).stderr


def test_what_is_exported_is_imported_unchanged(command: Command, tmp_path: Path) -> None:
    """Every type, empty text, blanks, groups and odd characters; also after all of it was deleted."""
    (tmp_path / "notes.yaml").write_text(
        "name: notes\nfields:\n  title: {type: text, searchable: true, required: true}\n  remark: {type: text}\n"
        "  team: {type: keyword, filterable: true}\n  cost: {type: number}\n  open: {type: boolean}\n  at: {type: timestamp}\n"
    )
    command("collections", "create", str(tmp_path / "notes.yaml"))
    documents: list[dict[str, object]] = [
        {"id": "1", "title": "Lamp \u2028\x85\x07 👩\u200d👧", "remark": "", "team": " x ", "cost": 0.1, "open": False},
        {"id": 2, "title": "Door", "at": "2026-01-31T20:00:00.123456+08:00", "groups": ["hr", "it"]},
        {"id": "3", "fields": {"title": " a\r\nb ", "cost": 1e300}},
    ]
    file, out, again = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "again.jsonl"))
    file.write_text("\n".join(map(json.dumps, documents)))
    there = ("--collection", "notes", "--tenant", "export")
    assert imported(command.lines("import", str(file), *there))["created"] == 3
    command("export", "notes", "-o", str(out), "--tenant", "export")
    assert imported(command.lines("import", str(out), *there))["unchanged"] == 3
    command("documents", "delete", "--all", "--yes", *there)
    assert imported(command.lines("import", str(out), *there))["created"] == 3
    command("export", "notes", "-o", str(again), "--tenant", "export")
    assert again.read_bytes() == out.read_bytes()


def test_an_import_that_was_killed_is_resumed_by_running_it_again(command: Command, tmp_path: Path) -> None:
    """What had arrived is unchanged, and the rest is created."""
    file = tmp_path / "a.csv"
    file.write_text(HEADER + rows(100))
    running = start(command, "import", str(file), "--tenant", "killed")
    arrived = until(lambda: stored(command, "killed"))
    running.kill()
    running.communicate()
    assert 0 < arrived <= 100
    counts = imported(command.lines("import", str(file), "--tenant", "killed"))
    assert counts["unchanged"] >= arrived
    assert counts["unchanged"] + counts["created"] == 100
    assert stored(command, "killed") == 100


def test_ctrl_c_says_how_far_it_came(command: Command) -> None:
    """Also while it waits for standard input; exit code 130, and running it again goes on."""
    running = start(command, "import", "-", "--format", "csv", "--tenant", "cancelled", "--json")
    assert running.stdin is not None
    assert running.stdout is not None
    try:
        running.stdin.write(HEADER + rows(9) + "T-1,rejected,because,of its,id\n")
        running.stdin.flush()
        # It waits for more now, and yet says what it knows.
        assert "DUPLICATE_ID" in running.stdout.readline()
        running.send_signal(signal.SIGINT)
        # Nobody closes its standard input.
        running.wait(300)
        out, err = running.stdout.read(), running.stderr.read() if running.stderr else ""
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 130, err
    assert "Cancelled as far as line" in err
    assert "Run the same command again" in err
    assert '"rejected": 1' in out


def test_memory_does_not_grow_with_the_file(command: Command, tmp_path: Path) -> None:
    """The command's own peak at 40 times the rows is no higher than 1.15 times; bench/import_memory.py takes a million."""
    peaks = []
    for count in (1_000, 40_000):
        file = tmp_path / f"{count}.csv"
        file.write_text(HEADER + rows(count))
        running = start(command, "import", str(file), "--dry-run", "--tenant", "memory", "--json")
        assert running.stdout is not None
        out = running.stdout.read()
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        running.communicate()
        assert imported([json.loads(line) for line in out.splitlines()])["created"] == count
        peaks.append(usage.ru_maxrss)
    assert peaks[1] < 1.15 * peaks[0]
