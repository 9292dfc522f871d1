"""The policy that `ragkeep up` makes, and what becomes of an older one."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkeep_client.folder import DataFolder
from ragkeep_runtime.policy import Policy, PolicyWrong, Quotas
from tests.counted import COUNTED

CLI = "caller/local/cli"


def _nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    names = st.sampled_from(["caller/x/a", "tenants", "roles", "groups", "quotas", "a", "*"])
    return st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)


def test_the_command_may_manage_collections(tmp_path: Path) -> None:
    """In a folder that is new: any tenant, every role that the command needs; and the runtime reads it."""
    folder = DataFolder(tmp_path)
    assert not folder.ensure_policy(CLI)
    grant = Policy.read(folder.policy).callers[CLI]
    assert (grant.tenants, grant.roles, grant.groups) == ({"*"}, {"reader", "editor", "admin", "auditor", "unsealer"}, None)
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
    everything = ["reader", "editor", "admin", "auditor", "unsealer"]
    assert found == {CLI: {"tenants": ["*"], "roles": everything, "groups": ["*"]}, "caller/x/y": other}
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


def test_a_whole_policy_is_read() -> None:
    """Callers with groups and quotas, who is denied, the operator, tenants with quotas."""
    policy = Policy.parse(
        json.dumps(
            {
                "operator_tenant": "ops",
                "denied": ["caller/x/old"],
                "denied_people": ["li.wei", "auth0|5f7c", "张 三"],
                "denied_tokens": ["5f0c", "a b"],
                "callers": {
                    "caller/x/app": {"tenants": ["a"], "roles": ["reader"], "groups": ["g"], "people_only": True},
                    "caller/x/batch": {"tenants": ["a"], "roles": ["editor"], "quotas": {"questions_per_minute": 3}},
                },
                "tenants": {"a": {"quotas": {"documents": 10}}, "*": {"quotas": {"tokens_per_day": 1000}}},
            }
        ).encode()
    )
    assert policy.operator_tenant == "ops"
    assert policy.denied == {"caller/x/old"}
    assert policy.denied_people == {"li.wei", "auth0|5f7c", "张 三"}
    assert policy.denied_tokens == {"5f0c", "a b"}
    app, batch = policy.callers["caller/x/app"], policy.callers["caller/x/batch"]
    assert (app.groups, app.people_only) == ({"g"}, True)
    assert (batch.groups, batch.quotas.questions_per_minute) == (frozenset(), 3)
    assert policy.quotas_of("a") == Quotas(documents=10)
    assert policy.quotas_of("b") == Quotas(tokens_per_day=1000)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (b"", "Invalid JSON"),
        (b"[]", "Input should be an object"),
        (b'{"callers": {"app": {"tenants": [], "roles": []}}}', "wrong name"),
        (b'{"callers": {"caller/x/a": {"tenants": ["a"], "roles": ["king"]}}}', "king"),
        (b'{"callers": {"caller/x/a": {"tenants": ["a"], "roles": [], "groups": ["*", "g"]}}}', "stands alone"),
        (b'{"callers": {}, "tenant": {}}', "tenant: Extra inputs"),
        (b'{"callers": {}, "denied": ["caller/x/a"], "denied": []}', "denied.* stands twice"),
        (b'{"callers": {"caller/x/a": {"tenants": ["a"], "roles": [], "roles": ["reader"]}}}', "roles.* stands twice"),
        (b'{"callers": {}, "denied": ["spiffe://ragkeep.internal/caller/x/a"]}', "no name of a peer"),
        (b'{"callers": {}, "denied": ["caller/x/a "]}', "no name of a peer"),
        (b'{"callers": {}, "denied": ["caller/x"]}', "no name of a peer"),
        (b'{"callers": {}, "denied": ["*"]}', "no name of a peer"),
        (b'{"callers": {}, "denied_people": "li.wei"}', "denied_people: "),
        (b'{"callers": {}, "denied_people": [""]}', "denied_people.0"),
        (b'{"callers": {}, "denied_people": ["li.wei "]}', "denied_people.* no subject"),
        (b'{"callers": {}, "denied_people": ["li\\u0000wei"]}', "denied_people.* no subject"),
        (b'{"callers": {}, "denied_tokens": [7]}', "denied_tokens.0"),
        (b'{"callers": {}, "denied_tokens": [" t"]}', "denied_tokens.* no id of a token"),
        (b"[" * 100_000, "Invalid JSON"),
        (b'{"callers": {}, "operator_tenant": ' + b"9" * 10_000 + b"}", "Invalid JSON"),
        (b'{"callers": {}, "tenants": {"a": {"quotas": {"documents": -1}}}}', "documents"),
        (b'{"callers": {}, "tenants": {"a": {"quotas": {"documents": "9"}}}}', "documents"),
    ],
)
def test_a_wrong_policy_says_where(wrong: bytes, words: str) -> None:
    """Whoever wrote it finds the place; nothing is guessed."""
    with pytest.raises(ValueError, match=words):
        Policy.parse(wrong)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), _nested, max_leaves=20))
@settings(max_examples=300, deadline=None)
def test_no_file_breaks_the_reader(content: object) -> None:
    """Whatever it holds: a policy, or what is wrong with it."""
    raw = content if isinstance(content, bytes) else json.dumps({"callers": content, "tenants": content}).encode()
    COUNTED["fuzz: policy files"] += 1
    with contextlib.suppress(PolicyWrong):
        assert isinstance(Policy.parse(raw), Policy)


_GOOD = json.dumps(
    {
        "operator_tenant": "ops",
        "denied": ["caller/x/old", "weaviate"],
        "denied_people": ["li.wei"],
        "denied_tokens": ["5f0c1d9a"],
        "callers": {"caller/x/app": {"tenants": ["a"], "roles": ["reader"], "groups": ["g"], "quotas": {"documents": 5}}},
        "tenants": {"*": {"quotas": {"tokens_per_day": 1000}}},
    }
).encode()


@given(st.lists(st.tuples(st.integers(0, len(_GOOD) - 1), st.integers(0, 255), st.booleans()), min_size=1, max_size=4))
@settings(max_examples=500, deadline=None)
def test_a_damaged_policy_is_refused_or_grants_what_stands_there(damage: list[tuple[int, int, bool]]) -> None:
    """A right file with a few bytes replaced or gone: what is read is a policy, or nothing; never a role or a group more."""
    raw = bytearray(_GOOD)
    for at, byte, replaced in damage:
        if at < len(raw):
            raw[at : at + 1] = bytes([byte]) if replaced else b""
    COUNTED["fuzz: policy files"] += 1
    with contextlib.suppress(PolicyWrong):
        policy = Policy.parse(bytes(raw))
        assert all(name.startswith("caller/") for name in policy.callers)
        assert all(grant.roles <= {"reader"} and grant.groups is not None for grant in policy.callers.values())
