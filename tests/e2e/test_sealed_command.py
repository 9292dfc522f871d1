"""Sealed fields as their user types it: a keyring, a collection, what is shown to whom, export and import, a rotation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ragkeep_runtime.keyring import parse_keyring
from tests.command import Command
from tests.ports import free_ports
from tests.waiting import until_read_again

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
SCHEMA = """\
name: staff
fields:
  name: {type: text, searchable: true, required: true}
  team: {type: keyword, filterable: true}
  salary: {type: number, sealed: true, required: true}
  note: {type: text, sealed: true}
title_field: name
"""
ROWS = [
    {"id": "S-1", "fields": {"name": "Ada Lovelace", "team": "engines", "salary": 52001.5, "note": "planted-note-4411"}},
    {"id": "S-2", "fields": {"name": "Grace Hopper", "team": "compilers", "salary": 61002.5}},
]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A running installation that had no keyring when it started."""
    found = Command(tmp_path_factory.mktemp("sealed"))
    first = free_ports(8)
    try:
        found("up", "--detach", "--ports", str(first), "--health-ports", str(first + 4))
        # By default it sees all that its user could open with the folder's keyring.
        roles(found, "reader", "editor", "admin")
        yield found
    finally:
        found("down")


def keyring_of(command: Command) -> Path:
    """Of its data folder."""
    return command.folder / "data" / "keyring.json"


def roles(command: Command, *names: str) -> None:
    """Gives the command other roles; the gateway has them after a moment."""
    policy = command.folder / "data" / "policy.json"
    found = json.loads(policy.read_text())
    found["callers"]["caller/local/cli"]["roles"] = list(names)
    policy.write_text(json.dumps(found))
    until_read_again()


@pytest.fixture(scope="module")
def staff(command: Command) -> str:
    """A collection with sealed fields and two documents: made after `keys init`, without a restart."""
    schema, rows = command.folder / "staff.yaml", command.folder / "staff.jsonl"
    schema.write_text(SCHEMA)
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    ran = command("collections", "create", str(schema), code=1)
    assert "SEALING_UNAVAILABLE" in ran.stderr
    assert "ragkeep keys init" in ran.stderr
    assert "KEYRING_UNUSABLE" in command("keys", "list", code=1).stderr
    made = command("keys", "init", "--id", "first")
    assert keyring_of(command).stat().st_mode & 0o777 == 0o600
    for secret in json.loads(keyring_of(command).read_text())["keys"].values():
        assert secret not in made.stdout + made.stderr
    until_read_again()
    command("collections", "create", str(schema))
    assert ", into staff of demo\n" in command("import", str(rows), "--collection", "staff").stdout
    return "staff"


def shown(command: Command, document_id: str) -> dict[str, Any]:
    """A document's fields in JSON."""
    (line,) = command.lines("documents", "get", document_id, "--collection", "staff")
    return line["document"]["fields"]  # type: ignore[index, no-any-return]


def test_who_is_no_unsealer_sees_that_there_is_a_value(command: Command, staff: str) -> None:
    """For people, for machines, and in the list of fields."""
    assert "salary: «sealed»" in command("documents", "get", "S-1", "--collection", staff).stdout
    assert shown(command, "S-1")["salary"] == {"sealed": True}
    (found,) = command.lines("search", "Ada", "--collection", staff, "--limit", "1", "--mode", "keyword")
    assert found["source"]["fields"]["note"] == {"sealed": True}  # type: ignore[index]
    assert "salary  number, required, sealed" in command("collections").stdout
    assert "FIELD_SEALED" in command("search", "Ada", "--collection", staff, "--filter", "salary>1", code=1).stderr
    assert "sealed: true" in command("collections", "show", staff).stdout


def test_an_export_without_the_values_is_imported_without_losing_them(command: Command, staff: str, tmp_path: Path) -> None:
    """Unchanged as it is; with other words the document is new, and its sealed values are as they were."""
    file = tmp_path / "staff.jsonl"
    ran = command("export", staff, "-o", str(file))
    assert "may not see" in ran.stderr
    text = file.read_text()
    assert "52001" not in text
    assert "planted" not in text
    assert json.loads(text.splitlines()[0])["fields"]["salary"] == {"sealed": True}
    assert "2 unchanged" in command("import", str(file), "--collection", staff).stdout
    file.write_text(text.replace("Ada Lovelace", "Ada King"))
    assert "1 updated" in command("import", str(file), "--collection", staff).stdout
    ran = command("import", str(file), "--collection", staff, "--tenant", "nobody-yet", code=1)
    assert "FIELD_SEALED" in ran.stdout + ran.stderr
    roles(command, "reader", "editor", "admin", "unsealer")
    try:
        fields = shown(command, "S-1")
        assert (fields["name"], fields["salary"], fields["note"]) == ("Ada King", 52001.5, "planted-note-4411")
        assert "salary: 52001.5" in command("documents", "get", "S-1", "--collection", staff).stdout
        command("export", staff, "-o", str(tmp_path / "whole.jsonl"))
        assert "52001.5" in (tmp_path / "whole.jsonl").read_text()
        # Once more, since what is there was spelled out by who may not see it; from then on it is the same.
        for outcome in ("2 updated", "2 unchanged"):
            assert outcome in command("import", str(tmp_path / "whole.jsonl"), "--collection", staff).stdout
    finally:
        roles(command, "reader", "editor", "admin")


def test_keys_are_rotated_and_the_old_one_is_removed(command: Command, staff: str) -> None:
    """A key in use is not removed; afterwards it says which may be; what it did is in JSON."""
    assert "first  active" in command("keys", "list").stdout
    command("keys", "add", "--id", "second")
    assert "KEY_INVALID" in command("keys", "add", "--id", "second", code=1).stderr
    assert "KEY_INVALID" in command("keys", "remove", "second", code=1).stderr
    until_read_again()
    ran = command("keys", "remove", "first", code=1)
    assert "KEY_IN_USE" in ran.stderr
    assert "3 values" in ran.stderr
    assert "first: 3" in command("keys", "rotate", "--dry-run").stdout
    lines = command.lines("keys", "rotate")
    done = lines[-1]["rotated"]
    assert done["resealed_documents"] == 2  # type: ignore[index]
    assert done["values_by_key"] == {"second": 3}  # type: ignore[index]
    assert done["unused_keys"] == ["first"]  # type: ignore[index]
    assert {"progress"} < {next(iter(line)) for line in lines}
    command("keys", "remove", "first")
    listed = command.lines("keys", "list", "--usage")
    assert listed == [{"key": {"id": "second", "active": True, "values": 3}}]
    until_read_again()
    roles(command, "reader", "editor", "admin", "unsealer")
    try:
        assert shown(command, "S-2")["salary"] == 61002.5
    finally:
        roles(command, "reader", "editor", "admin")


def test_a_lost_key_is_said_and_a_copy_of_the_keyring_mends_it(command: Command, staff: str) -> None:
    """The rest is shown, exported and counted meanwhile; exit code 1 where a value could not be sealed anew."""
    whole = keyring_of(command).read_bytes()
    lost = parse_keyring(whole).active
    roles(command, "reader", "editor", "admin", "unsealer")
    try:
        command("keys", "add", "--id", "third")
        command("keys", "remove", lost, "--force")
        until_read_again()
        ran = command("documents", "get", "S-1", "--collection", staff, code=1)
        assert "SEALING_KEY_MISSING" in ran.stderr
        assert lost in ran.stderr
        listed = command.lines("documents", "list", "--collection", staff)
        assert {line["document"]["id"] for line in listed} == {"S-1", "S-2"}  # type: ignore[index]
        value = listed[0]["document"]["fields"]["salary"]  # type: ignore[index]
        assert value == {"sealed": True, "unreadable": "SEALING_KEY_MISSING", "key_id": lost}
        ran = command("keys", "rotate", code=1)
        assert "SEALING_KEY_MISSING" in ran.stderr
        assert lost in ran.stderr
        assert lost in command("keys", "list", "--usage").stderr
    finally:
        keyring_of(command).write_bytes(whole)
        until_read_again()
        assert shown(command, "S-1")["salary"] == 52001.5
        roles(command, "reader", "editor", "admin")


def test_a_keyring_is_changed_whole_or_not_at_all(tmp_path: Path) -> None:
    """By several commands at once none of whose keys is lost; never replaced; a damaged one is left alone."""
    command = Command(tmp_path)
    file = tmp_path / "elsewhere" / "keyring.json"
    option = ["--keyring", str(file)]
    command("keys", "init", *option, "--id", "a")
    assert "FILE_EXISTS" in command("keys", "init", *option, code=1).stderr
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: command("keys", "add", *option, "--id", f"k{number}"), range(6)))
    keyring = parse_keyring(file.read_bytes())
    assert set(keyring.keys) == {"a", *(f"k{number}" for number in range(6))}
    command("keys", "add", *option, "--id", "later", "--inactive")
    assert parse_keyring(file.read_bytes()).active == keyring.active
    command("keys", "activate", "later", *option)
    assert parse_keyring(file.read_bytes()).active == "later"
    assert parse_keyring(file.read_bytes()).fingerprint == keyring.fingerprint
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(file.read_bytes()[:100])
    damaged = file.read_bytes()
    for words in (["add"], ["activate", "a"], ["list"], ["remove", "a", "--force"]):
        assert "KEYRING_UNUSABLE" in command("keys", *words, *option, code=1).stderr
    assert file.read_bytes() == damaged
    assert {one.name for one in file.parent.iterdir()} == {"keyring.json", "keyring.json.lock"}
