"""The policy that `ragkeep up` makes, and what becomes of an older one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ragkeep_client.folder import DataFolder
from ragkeep_runtime.access import Policy

CLI = "caller/local/cli"


def test_the_command_may_manage_collections(tmp_path: Path) -> None:
    """In a folder that is new: any tenant, every role that the command needs; and the runtime reads it."""
    folder = DataFolder(tmp_path)
    assert not folder.ensure_policy(CLI)
    grant = Policy.read(folder.policy).callers[CLI]
    assert (grant.tenants, grant.roles) == ({"*"}, {"reader", "editor", "admin"})
    assert not folder.ensure_policy(CLI)


def test_an_older_folder_is_given_what_it_lacked(tmp_path: Path) -> None:
    """Once, and other callers stay."""
    folder = DataFolder(tmp_path)
    other = {"tenants": ["a"], "roles": ["reader"]}
    folder.policy.write_text(
        json.dumps({"callers": {CLI: {"tenants": ["*"], "roles": ["reader", "editor"]}, "caller/x/y": other}})
    )
    assert folder.ensure_policy(CLI)
    found = json.loads(folder.policy.read_text())["callers"]
    assert found == {CLI: {"tenants": ["*"], "roles": ["reader", "editor", "admin"]}, "caller/x/y": other}
    assert not folder.ensure_policy(CLI)


@pytest.mark.parametrize(
    "policy",
    [
        {"callers": {CLI: {"tenants": ["*"], "roles": ["reader"]}}},
        {"callers": {CLI: {"tenants": ["demo"], "roles": ["reader", "editor"]}}},
        {"callers": {}},
        {"callers": []},
        [],
    ],
)
def test_a_policy_that_somebody_changed_is_left_alone(tmp_path: Path, policy: object) -> None:
    """Even one that is wrong: the gateway says so."""
    folder = DataFolder(tmp_path)
    folder.policy.write_text(json.dumps(policy))
    assert not folder.ensure_policy(CLI)
    assert json.loads(folder.policy.read_text()) == policy
