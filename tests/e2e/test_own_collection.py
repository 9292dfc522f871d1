"""A collection of one's own, as its user types it: make, import, list, export, delete, change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_command import Command
from tests.ports import free_ports

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
SAMPLE = Path("examples/service_tickets.csv")


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A running installation whose folder is as an older ragkeep left it."""
    found = Command(tmp_path_factory.mktemp("own"))
    first = free_ports(8)
    policy = found.folder / "data" / "policy.json"
    policy.parent.mkdir(mode=0o700)
    grant = {"tenants": ["*"], "roles": ["reader", "editor"]}
    policy.write_text(json.dumps({"callers": {"caller/local/cli": grant}}))
    try:
        ran = found("up", "--detach", "--ports", str(first), "--health-ports", str(first + 4))
        assert "it may manage all there is" in ran.stdout + ran.stderr
        yield found
    finally:
        found("down")


@pytest.fixture(scope="module")
def tickets(command: Command) -> str:
    """A collection like the preset, of another name, with twenty tickets of the sample in it."""
    command("collections", "create", "ServiceTicket", "--name", "mine")
    few = command.folder / "few.csv"
    few.write_text("".join(SAMPLE.read_text().splitlines(keepends=True)[:30]))
    assert ", into mine of demo\n" in command("import", str(few), "--collection", "mine").stdout
    return "mine"


def test_a_schema_file_is_shown_changed_and_taken_again(command: Command, tickets: str, tmp_path: Path) -> None:
    """`show` writes what `update` reads; what may be changed is, and it says when documents must be imported again."""
    shown = command("collections", "show", tickets).stdout
    assert shown.startswith("# ")
    file = tmp_path / "mine.yaml"
    file.write_text(shown)
    assert "revision 1" in command("collections", "update", str(file)).stdout
    file.write_text(shown.replace("cjk_characters: 350", "cjk_characters: 300"))
    ran = command("collections", "update", str(file))
    assert "revision 2" in ran.stdout
    assert "imported again" in ran.stderr
    file.write_text(shown.replace("category: {type: keyword", "category: {type: text"))
    assert "COLLECTION_FIXED" in command("collections", "update", str(file), code=1).stderr
    assert "was created" in command("collections", "create", "-", "--name", "copied", stdin=shown).stdout
    assert "was there already" in command("collections", "create", "-", "--name", "copied", stdin=shown).stdout
    other = shown.replace("cjk_characters: 350", "cjk_characters: 300")
    ran = command("collections", "create", "-", "--name", "copied", stdin=other, code=1)
    assert "COLLECTION_EXISTS" in ran.stderr
    assert "update it, or choose another name" in ran.stderr
    listed = [" ".join(line.split()) for line in command("collections").stdout.splitlines()]
    place = listed.index("copied: 0 documents of demo")
    assert listed[place + 1 : place + 6] == [
        "ticket_id keyword, searchable, filterable, required",
        "title text, searchable, required, title",
        "description text, searchable, required",
        "solution text, searchable, required",
        "category keyword, searchable, filterable, required",
    ]
    assert {"mine", "copied"} <= {line["collection"]["name"] for line in command.lines("collections")}  # type: ignore[index]
    command("collections", "delete", "copied")
    assert "after the command" in command("collections", "--tenant", "x", "show", "mine", code=2).stderr
    assert "COLLECTION_IN_USE" in command("collections", "delete", tickets, code=1).stderr


def test_documents_are_listed_shown_and_exported(command: Command, tickets: str, tmp_path: Path) -> None:
    """For people and for machines; the file is for its owner alone, and nothing half-written stays."""
    lines = command.lines("documents", "list", "--collection", tickets, "--all")
    ids = {line["document"]["id"] for line in lines}  # type: ignore[index]
    assert len(ids) == len(lines) > 20
    shown = command("documents", "list", "--collection", tickets, "--limit", "2")
    assert len(shown.stdout.splitlines()) == 2
    assert "export" in shown.stderr
    assert "ticket_id: T-1001" in command("documents", "get", "T-1001", "--collection", tickets).stdout
    assert "DOCUMENT_UNKNOWN" in command("documents", "get", "T-9", "--collection", tickets, code=1).stderr
    file = tmp_path / "mine.jsonl"
    command("export", tickets, "-o", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    exported = [json.loads(line) for line in file.read_text().splitlines()]
    assert {one["id"] for one in exported} == ids
    assert set(exported[0]) == {"id", "fields", "groups"}
    assert command("export", tickets).stdout == file.read_text()
    assert "FILE_UNREADABLE" in command("export", tickets, "-o", str(tmp_path / "no" / "x"), code=1).stderr
    assert "COLLECTION_UNKNOWN" in command("export", "unheard", "-o", str(tmp_path / "x"), code=1).stderr
    ran = command("export", tickets, "-o", str(file), "--tenant", "nobody", code=1)
    assert "FILE_EXISTS" in ran.stderr
    assert "--force" in ran.stderr
    assert len(file.read_text().splitlines()) == len(ids)
    assert "--output" in command("export", tickets, "--json", code=2).stderr
    command("export", tickets, "-o", str(file), "--tenant", "nobody", "--force")
    assert file.read_text() == ""
    assert [one.name for one in tmp_path.iterdir()] == ["mine.jsonl"]


def test_a_deletion_says_what_it_removed(command: Command, tickets: str) -> None:
    """Nobody is asked in a pipe; a dry run and a deletion name the same; what was not there is told."""
    arguments = ["documents", "delete", "--collection", tickets]
    for wrong in ([], ["T-1", "--all"]):
        # Typer's box breaks the sentence.
        said = " ".join(command(*arguments, *wrong, code=2).stderr.replace("│", " ").split())
        assert "exactly one of ids, --filter and --all" in said
    assert "NOT_CONFIRMED" in command(*arguments, "--all", code=1, stdin="").stderr
    chosen = ["--filter", "category=账号管理"]
    dry = command.lines(*arguments, *chosen, "--dry-run")
    gone = command.lines(*arguments, *chosen, "--yes")
    names = [[line["deleted"]["document_id"] for line in some if "deleted" in line] for some in (dry, gone)]  # type: ignore[index]
    assert names[0] == names[1] != []
    ran = command("search", "账号", "--collection", tickets, "--tenant", "demmo", *chosen)
    assert ran.stdout == f"Nothing was found in {tickets} of demmo.\n"
    # A mistyped tenant does not look like an honest no; one with documents is not said to have none.
    mistyped = f"The tenant demmo has no documents in {tickets} that you may see."
    assert mistyped in ran.stderr
    for asking in (("ask", "账号?"), ("chat",)):
        assert mistyped in command(*asking, "--collection", tickets, "--tenant", "demmo", stdin="账号?\n").stderr
    assert {"no_documents": {"collection": tickets}} in command.lines("ask", "x", "--collection", tickets, "--tenant", "demmo")
    right = command("ask", "账号?", "--collection", tickets, "--filter", "category=nowhere")
    assert "has no documents" not in right.stderr
    ran = command(*arguments, names[0][0])
    assert ran.stdout == "Nothing was deleted: there is no such document.\n"
    assert names[0][0] in ran.stderr
    command(*arguments, "--all", "--yes")
    assert "no document" in command("documents", "list", "--collection", tickets).stdout
    command("collections", "delete", tickets)
    assert "COLLECTION_UNKNOWN" in command("documents", "list", "--collection", tickets, code=1).stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"name: x\nfields: {t: string}\n", "SCHEMA_INVALID"),
        (b"\0", "SCHEMA_INVALID"),
        (b"name: x\nfields:\n  t: {type: text, searchable: true, sealed: true}\n", "SEALING_UNAVAILABLE"),
        (b"name: x\nfields: {t: text}\n", "TEMPLATE_INVALID"),
        (b"name: X\nfields:\n  t: {type: text, searchable: true}\n", "INVALID_REQUEST"),
    ],
)
def test_a_wrong_schema_fails_with_a_sentence(command: Command, tmp_path: Path, content: bytes, reason: str) -> None:
    """Exit code 1 and the reason, for machines too."""
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    lines = command.lines("collections", "create", str(file), code=1)
    assert lines[0]["error"]["reason"] == reason  # type: ignore[index]
