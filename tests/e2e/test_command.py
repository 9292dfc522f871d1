"""The command as its user types it: up, import, search, ask, down, on the embedded engines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import SAMPLE, Command, running

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A running installation with the sample in it."""
    with running(tmp_path_factory.mktemp("e2e")) as found:
        yield found


def test_keys_are_for_their_owner_alone(command: Command) -> None:
    """0600, in a folder that is closed to others."""
    keys = list((command.folder / "data").rglob("*.key"))
    assert len(keys) >= 5
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


def test_a_second_import_reports_every_ticket_unchanged(command: Command) -> None:
    """And quickly: nothing is embedded."""
    assert "120 unchanged" in command("import", str(SAMPLE)).stdout


def test_an_answer_shows_its_sources_first_and_says_that_it_quotes(command: Command) -> None:
    """The right ticket leads; the label is in the terminal."""
    out = command("ask", "忘记域密码了，密码也过期了，怎么重置？").stdout
    assert out.startswith("[1] T-1001")
    assert "自助门户" in out
    assert "Quoted from the documents" in out


def test_an_unanswerable_question_gets_an_honest_no(command: Command) -> None:
    """In both languages."""
    assert "not in the documents" in command("ask", "How do I bake a chocolate cake for eight people?").stdout
    assert "没有找到" in command("ask", "红烧肉怎么做才能肥而不腻？").stdout


def test_json_is_a_line_per_event_and_nothing_else(command: Command) -> None:
    """On stdout; what is for people goes to stderr."""
    events = command.lines("ask", "VPN error 809")
    text = json.dumps(events, ensure_ascii=False)
    assert "T-1042" in text
    assert "网络与VPN" in text
    found = command.lines("search", "VPN error 809", "--limit", "3")
    assert "T-1042" in json.dumps(found)


def test_a_filter_narrows_a_search(command: Command) -> None:
    """Only the category, in Chinese."""
    text = json.dumps(command.lines("search", "登录", "--filter", "category=账号管理", "--limit", "50"), ensure_ascii=False)
    assert "账号管理" in text
    assert "打印与外设" not in text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("search", "x", "--collection", "unheard"), "COLLECTION_UNKNOWN"),
        (("search", "x", "--filter", "nofield=1"), "FILTER_FIELD_UNKNOWN"),
        (("ask", " "), "QUESTION_EMPTY"),
        (("ask", "长" * 8001), "QUESTION_TOO_LONG"),
    ],
)
def test_errors_are_stable_for_machines_and_helpful_for_people(
    command: Command, arguments: tuple[str, ...], reason: str
) -> None:
    """A reason in JSON, a sentence on the terminal; never a traceback; exit code 1 or 2."""
    for more in ((), ("--json",)):
        ran = subprocess.run(
            [str(Path(sys.executable).with_name("ragkeep")), *arguments, *more],
            env=command.env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode in (1, 2)
        assert "Traceback" not in ran.stdout + ran.stderr
        assert reason in ran.stdout + ran.stderr or not more


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\0\1\2\3" * 100, ""),
        (b"ticket_id,title\nT-1,x\n", "solution"),
        (b"ticket_id,title,description,solution,category\n", ""),
    ],
    ids=["empty", "binary", "column", "no-row"],
)
def test_a_file_that_is_no_ticket_file_fails_with_a_sentence(
    command: Command, tmp_path: Path, content: bytes, words: str
) -> None:
    """What is needed and what was found."""
    file = tmp_path / "tickets.csv"
    file.write_bytes(content)
    ran = command("import", str(file), code=1)
    assert words in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


def test_encodings_are_recognised_and_a_bad_row_is_rejected_alone(command: Command, tmp_path: Path) -> None:
    """GB18030 and UTF-8 with BOM are read; a broken byte costs its own row."""
    header, row = "ticket_id,title,description,solution,category\n", "{},忘记密码,无法登录,自助门户,账号管理\n"
    for encoding in ("gb18030", "utf-8-sig"):
        file = tmp_path / f"{encoding}.csv"
        file.write_bytes((header + "".join(row.format(f"{encoding}-{n}") for n in range(5))).encode(encoding))
        assert "5 created" in command("import", str(file), "--tenant", "encodings").stdout
    broken = tmp_path / "broken.csv"
    lines = [header.encode(), row.format("B-1").encode(), b"B-2,\xff\xfe\xff,x,y,z\n", row.format("B-3").encode()]
    broken.write_bytes(b"".join(lines))
    ran = command("import", str(broken), "--tenant", "encodings")
    assert "2 created" in ran.stdout
    assert "1 rejected" in ran.stdout
    assert "3" in ran.stdout + ran.stderr


@pytest.mark.parametrize("limit", ["0", "1001", "many"])
def test_wrong_usage_is_exit_code_2(command: Command, limit: str) -> None:
    """Found before anything is asked of the gateway."""
    assert "--limit" in command("search", "x", "--limit", limit, code=2).stderr


def test_without_a_running_installation_the_way_out_is_told(tmp_path: Path) -> None:
    """And nothing is waited for."""
    ran = Command(tmp_path)("ask", "x", code=1)
    assert "ragkeep up" in ran.stdout + ran.stderr


def test_an_unwritable_folder_and_a_second_up_are_refused(command: Command, tmp_path: Path) -> None:
    """Clearly, and nothing is harmed."""
    file = tmp_path / "file"
    file.write_text("not a folder")
    ran = command("up", "--detach", "--data", str(file / "data"), code=1)
    assert str(file) in ran.stdout + ran.stderr
    ran = command("up", "--detach", code=1)
    assert "Traceback" not in ran.stderr
    assert "T-1042" in command("search", "VPN error 809").stdout


def test_down_says_so_when_nothing_runs(tmp_path: Path) -> None:
    """And that is no failure."""
    Command(tmp_path)("down")
