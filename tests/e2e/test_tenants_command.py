"""`ragkeep tenants`, as its user types it."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import SAMPLE, Command, running
from tests.terminal import Terminal
from tests.waiting import until

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
RAGKEEP = str(Path(sys.executable).with_name("ragkeep"))


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A running installation with the sample in the tenant demo."""
    engines = ("--embedder", "e5", "--retriever", "sqlite", "--generator", "quote")
    with running(tmp_path_factory.mktemp("tenants"), *engines) as found:
        yield found


def listed(command: Command) -> dict[str, Any]:
    """What `ragkeep tenants --json` says of each."""
    return {line["tenant"]["name"]: line["tenant"] for line in command.lines("tenants") if "tenant" in line}  # type: ignore[index]


def few(command: Command, count: int) -> Path:
    """A file with the first tickets of the sample."""
    path = command.folder / "few.csv"
    with SAMPLE.open(newline="") as whole, path.open("w", newline="") as part:
        rows = csv.DictReader(whole)
        writer = csv.DictWriter(part, rows.fieldnames or ())
        writer.writeheader()
        writer.writerows(itertools.islice(rows, count))
    return path


def reason(command: Command, *arguments: str) -> str:
    """Why it failed."""
    (line,) = [line for line in command.lines(*arguments, code=1) if "error" in line]
    return str(line["error"]["reason"])  # type: ignore[index]


def test_a_tenants_life(command: Command) -> None:
    """From create to delete, in JSON and in words; each step shows in the list and in what its callers get."""
    (made,) = command.lines("tenants", "create", "clinic")
    assert made["created"]["name"] == "clinic"  # type: ignore[index]
    assert reason(command, "tenants", "create", "clinic") == "TENANT_EXISTS"
    command("import", str(few(command, 10)), "--tenant", "clinic")
    assert listed(command)["clinic"]["documents"] == {"service-tickets": 10}
    assert "clinic: 10 documents, active" in command("tenants").stdout

    assert "not served any more" in command("tenants", "deactivate", "clinic").stdout
    assert reason(command, "ask", "printer", "--tenant", "clinic") == "TENANT_INACTIVE"
    assert "clinic: 10 documents, deactivated" in command("tenants", "list").stdout
    command("search", "printer", "--tenant", "demo")
    command("tenants", "activate", "clinic")
    command("search", "printer", "--tenant", "clinic")

    assert reason(command, "tenants", "delete", "clinic") == "NOT_CONFIRMED"
    assert listed(command)["clinic"]["active"] is True
    deleted = command("tenants", "delete", "clinic", "--yes")
    assert "service-tickets: 10 documents" in deleted.stdout
    assert "Backups" in deleted.stderr
    assert "clinic" not in listed(command)
    assert listed(command)["demo"]["documents"] == {"service-tickets": 120}
    assert reason(command, "tenants", "delete", "clinic", "--yes") == "TENANT_UNKNOWN"
    assert reason(command, "tenants", "activate", "clinic") == "TENANT_UNKNOWN"


def test_a_person_is_asked_before_a_tenant_goes(command: Command) -> None:
    """No is no, and nothing was touched; yes deletes it."""
    command("tenants", "create", "ward")
    with Terminal([RAGKEEP, "tenants", "delete", "ward"], command.env) as terminal:
        terminal.until("cannot be undone")
        terminal.press("n\n")
        terminal.until("Nothing was deleted")
        assert terminal.wait() == 130
    assert listed(command)["ward"]["active"] is True
    with Terminal([RAGKEEP, "tenants", "delete", "ward"], command.env) as terminal:
        terminal.until("cannot be undone")
        terminal.press("y\n")
        terminal.until("The tenant ward is gone")
        assert terminal.wait() == 0
    assert "ward" not in listed(command)


def test_an_import_over_the_quota_names_the_rows_and_the_list_shows_it(command: Command) -> None:
    """The policy file is followed while all runs; rejected rows can be imported once there is room."""
    policy = Path(command.env["RAGKEEP_DATA"]) / "policy.json"
    rest = {key: value for key, value in json.loads(policy.read_text()).items() if key != "tenants"}
    policy.write_text(json.dumps(rest | {"tenants": {"small": {"quotas": {"documents": 8, "tokens_per_day": 5}}}}))
    command("tenants", "create", "small")
    until(lambda: listed(command)["small"]["quotas"]["documents"])
    rejected = command.folder / "rejected.csv"
    ran = command("import", str(few(command, 10)), "--tenant", "small", "--rejected", str(rejected))
    assert "8 created" in ran.stdout + ran.stderr
    assert ran.stderr.count("QUOTA_EXCEEDED") == 2
    text = command("tenants").stdout
    assert "small: 8 documents of at most 8" in text
    assert "5 tokens a day" in text
    policy.write_text(json.dumps(rest))
    until(lambda: listed(command)["small"]["quotas"]["documents"] is None)
    command("import", str(rejected), "--tenant", "small")
    assert listed(command)["small"]["documents"] == {"service-tickets": 10}


def test_an_option_before_the_command_is_refused(command: Command) -> None:
    """It would be passed over."""
    assert "goes after the command" in command("tenants", "--json", "create", "x", code=2).stderr
