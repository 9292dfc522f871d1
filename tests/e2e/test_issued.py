"""A certificate for another process, as its user makes it: let in, made anew, turned away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragkeep_client import Client
from ragkeep_client.folder import DataFolder
from ragkeep_runtime.errors import NotAllowed, RagkeepError
from ragkeep_runtime.tls import Identity
from tests.command import Command, running

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
BOT = "caller/helpdesk/bot"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A running installation."""
    with running(tmp_path_factory.mktemp("issued")) as found:
        yield found


async def _search(command: Command, folder: Path, tenant: str) -> int:
    """How many passages the process finds; the policy is taken over within a second."""
    address = DataFolder(command.folder / "data").gateway()
    identity = Identity(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
    async with Client(address, identity, tenant=tenant) as client:
        return len(await client.search("VPN error 809"))


async def _until_let_in(command: Command, folder: Path, tenant: str) -> int:
    while True:
        try:
            return await _search(command, folder, tenant)
        except NotAllowed:
            await asyncio.sleep(0.2)


async def test_another_process_is_let_in_with_one_command(command: Command) -> None:
    """Files that only their owner reads, a line in the policy, and the running gateway answers."""
    (line,) = command.lines("certs", "issue", "helpdesk/bot", "--tenant", "demo", "--role", "reader")
    issued = line["issued"]
    assert isinstance(issued, dict)
    folder = command.folder / "data" / "callers" / "helpdesk-bot"
    assert (issued["name"], issued["policy"], issued["key"]) == (BOT, "changed", str(folder / "tls.key"))
    assert (folder / "tls.key").stat().st_mode & 0o777 == 0o600
    assert await _until_let_in(command, folder, "demo") > 0
    with pytest.raises(RagkeepError) as refused:
        await _search(command, folder, "other")
    assert refused.value.reason == "TENANT_NOT_ALLOWED"


async def test_it_is_made_anew_without_a_change_of_what_it_may(command: Command) -> None:
    """The same command: another key, the same entry, and what somebody added to it stays."""
    policy = command.folder / "data" / "policy.json"
    arguments = ("certs", "issue", "clinic/portal", "--tenant", "demo", "--role", "reader", "--role", "editor")
    command(*arguments)
    found = json.loads(policy.read_text())
    found["callers"]["caller/clinic/portal"]["groups"] = ["icu"]
    policy.write_text(json.dumps(found))
    folder = command.folder / "data" / "callers" / "clinic-portal"
    before = (folder / "tls.key").read_bytes()
    (line,) = command.lines(*arguments)
    assert line["issued"]["policy"] == "as it was"  # type: ignore[index]
    assert (folder / "tls.key").read_bytes() != before
    entry = json.loads(policy.read_text())["callers"]["caller/clinic/portal"]
    assert entry == {"tenants": ["demo"], "roles": ["reader", "editor"], "groups": ["icu"]}


async def test_without_a_role_it_stays_outside_and_the_way_in_is_shown(command: Command) -> None:
    """The line to add is right as it stands: a policy with it lets the process in."""
    policy = command.folder / "data" / "policy.json"
    said = command("certs", "issue", "caller/lab/robot", "--out", str(command.folder / "robot")).stdout
    with pytest.raises(NotAllowed):
        await _search(command, command.folder / "robot", "demo")
    shown = json.loads("{" + said.splitlines()[-1].strip().replace("TENANT", "demo") + "}")
    found = json.loads(policy.read_text())
    policy.write_text(json.dumps(found | {"callers": found["callers"] | shown}))
    assert await _until_let_in(command, command.folder / "robot", "demo") > 0


def test_what_would_do_harm_is_refused(command: Command) -> None:
    """Another's key is not written over; a denied caller, a broken policy and odd names get nothing."""
    policy = command.folder / "data" / "policy.json"
    good = policy.read_text()
    taken = command.folder / "data" / "callers" / "helpdesk-bot"
    command("certs", "issue", "helpdesk/bot", "--tenant", "demo", "--role", "reader")
    key = (taken / "tls.key").read_bytes()
    assert "FILE_EXISTS" in command("certs", "issue", "helpdesk/other", "--out", str(taken), code=1).stderr
    assert (taken / "tls.key").read_bytes() == key
    for name in ("local/cli", "bot", "a/b/c", "../x", "A/b", "a/ b", "*/*"):
        command("certs", "issue", name, code=2)
    assert "--role" in command("certs", "issue", "a/b", "--tenant", "demo", code=2).stderr
    try:
        policy.write_text(json.dumps(json.loads(good) | {"denied": ["caller/x/old"]}))
        said = command("certs", "issue", "x/old", "--tenant", "demo", "--role", "reader", code=1).stderr
        assert "CALLER_DENIED" in said
        policy.write_text("{")
        assert "POLICY_WRONG" in command("certs", "issue", "x/new", "--tenant", "demo", "--role", "reader", code=1).stderr
        assert policy.read_text() == "{"
    finally:
        policy.write_text(good)
    assert not (command.folder / "data" / "callers" / "x-old").exists()
