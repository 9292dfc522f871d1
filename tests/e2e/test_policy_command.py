"""`ragkeep policy check`: what a gateway would make of a policy file, before it reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ragkeep_client.folder import DataFolder
from ragkeep_runtime.policy import Policy, PolicyWrong
from tests.command import Command

BOT, PORTAL = "caller/helpdesk/bot", "caller/helpdesk/portal"
GOOD = {
    "operator_tenant": "ops",
    "denied": ["caller/helpdesk/old-bot"],
    "denied_people": ["mallory"],
    "denied_tokens": ["5f0c1d9a"],
    "callers": {
        BOT: {"tenants": ["helpdesk"], "roles": ["reader"]},
        PORTAL: {"tenants": ["*"], "roles": ["editor", "reader"], "groups": ["*"], "people_only": True},
    },
    "tenants": {"helpdesk": {"quotas": {"documents": 10}}},
}


@pytest.fixture
def ragkeep(tmp_path: Path) -> Command:
    """The command; nothing runs."""
    return Command(tmp_path)


def test_a_right_file_is_told_with_what_it_grants(ragkeep: Command, tmp_path: Path) -> None:
    """For people and for machines; the file stays as it is."""
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(GOOD))
    (line,) = ragkeep.lines("policy", "check", str(file))
    assert line["policy"] == {
        "file": str(file),
        "operator_tenant": "ops",
        "denied": ["caller/helpdesk/old-bot"],
        "denied_people": ["mallory"],
        "denied_tokens": ["5f0c1d9a"],
        "callers": {
            BOT: {"tenants": ["helpdesk"], "roles": ["reader"], "groups": [], "people_only": False},
            PORTAL: {"tenants": ["*"], "roles": ["editor", "reader"], "groups": ["*"], "people_only": True},
        },
        "tenants": ["helpdesk"],
    }
    told = ragkeep("policy", "check", str(file)).stdout
    assert f"{BOT}  in helpdesk as reader\n" in told
    assert f"{PORTAL}  in * as editor, reader, sees every document, for people alone\n" in told
    assert "people denied: mallory\n" in told
    assert "tokens denied: 5f0c1d9a\n" in told
    assert file.read_text() == json.dumps(GOOD)


def test_all_that_is_wrong_is_told_at_once(ragkeep: Command, tmp_path: Path) -> None:
    """Each with its place, as the gateway would refuse it; its names move no cursor of a terminal."""
    file = tmp_path / "policy.json"
    wrong = {
        "denied": ["old-bot"],
        "callers": {BOT: {"tenants": ["a"], "roles": ["king"]}, "portal\x1b[2J": {"tenants": ["a"], "roles": ["reader"]}},
    }
    file.write_text(json.dumps(wrong))
    *faults, error = ragkeep.lines("policy", "check", str(file), code=1)
    with pytest.raises(PolicyWrong) as refused:
        Policy.parse(file.read_bytes())
    assert [one["fault"] for one in faults] == list(refused.value.faults)
    assert [str(one["fault"]).partition(":")[0] for one in faults] == [
        "denied",
        f"callers.{BOT}.roles",
        "callers.portal\x1b[2J",
    ]
    assert error["error"]["reason"] == "POLICY_WRONG"  # type: ignore[index]
    told = ragkeep("policy", "check", str(file), code=1).stderr
    assert "king" in told
    assert "\x1b[2J" not in told


@pytest.mark.parametrize(
    ("content", "places"), [("{", ["Invalid JSON"]), ('{"callers": {}, "tenant": 1, "x": 2}', ["tenant", "x"])]
)
def test_what_is_no_policy_at_all_is_told_too(ragkeep: Command, tmp_path: Path, content: str, places: list[str]) -> None:
    """Broken JSON by its place, keys that are not known by their names."""
    file = tmp_path / "policy.json"
    file.write_text(content)
    *faults, _ = ragkeep.lines("policy", "check", str(file), code=1)
    assert [str(one["fault"]).partition(":")[0] for one in faults] == places


def test_without_a_file_it_is_the_data_folders(ragkeep: Command, tmp_path: Path) -> None:
    """And one that is not there is said."""
    (line,) = ragkeep.lines("policy", "check", code=1)
    assert line["error"]["reason"] == "FILE_UNREADABLE"  # type: ignore[index]
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    folder.ensure_policy("caller/local/cli")
    (line,) = ragkeep.lines("policy", "check")
    assert list(line["policy"]["callers"]) == ["caller/local/cli"]  # type: ignore[index]
