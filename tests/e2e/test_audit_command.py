"""`ragkeep audit` as its user types it: show, verify, export; and the proof without any service."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragkeep_runtime.audit.verify import day_files, heads_in
from tests.command import Command, running

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
ENGINES = ("--embedder", "e5", "--retriever", "sqlite", "--generator", "quote")


@pytest.fixture(scope="module")
def ragkeep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A running installation in which something was asked."""
    with running(tmp_path_factory.mktemp("audit"), *ENGINES) as found:
        found("ask", "打印机脱机了怎么办？")
        found("search", "VPN error 809")
        found("search", "=1+1", "--tenant", "other")
        found("search", "VPN", "--collection", "nowhere", code=1)
        yield found


def data(ragkeep: Command) -> Path:
    """Its data folder."""
    return Path(ragkeep.env["RAGKEEP_DATA"])


def test_what_was_asked_is_shown(ragkeep: Command) -> None:
    """In words, and with --json as the lines stand."""
    shown = ragkeep("audit", "show", "--kind", "asked", "--rpc", "Ask").stdout
    assert "打印机脱机了怎么办？" in shown
    assert "documents=T-" in shown
    lines = [json.loads(line) for line in ragkeep("audit", "show", "--kind", "asked", "--json", "-n", "0").stdout.splitlines()]
    (asked,) = [line for line in lines if line.get("question") == "VPN error 809"]
    assert asked["documents"][0] == "T-1042"
    by_document = ragkeep.lines("audit", "show", "--document", "T-1042", "--rpc", "Search")
    assert asked["request_id"] in {line["request_id"] for line in by_document}
    assert [line["seq"] for line in ragkeep.lines("audit", "show", "--request", asked["request_id"], "--kind", "asked")] == [
        asked["seq"]
    ]
    found = ragkeep.lines("audit", "show", "--outcome", "COLLECTION_UNKNOWN")
    assert [(line["kind"], line["collection"]) for line in found] == [("finished", "nowhere")]
    assert "No line" in ragkeep("audit", "show", "--subject", "nobody").stderr


def test_times_and_kinds_that_are_none_are_wrong_usage(ragkeep: Command) -> None:
    """Before anything is asked, with what would be right."""
    for wrong in ("yesterday", "2026-11-25T08:00", "5x"):
        assert wrong in ragkeep("audit", "show", "--since", wrong, code=2).stderr
    ragkeep("audit", "show", "--kind", "nothing", code=2)
    ragkeep("audit", "verify", "--key", "x", code=2)
    ragkeep("audit", "verify", str(data(ragkeep)), code=2)
    assert ragkeep("audit", "show", "--since", "1h", "--before", "2030-01-01T00:00:00+01:00", "-n", "1").stdout


def test_following_shows_what_comes(ragkeep: Command) -> None:
    """Until Ctrl-C."""
    program = str(Path(sys.executable).with_name("ragkeep"))
    process = subprocess.Popen(
        [program, "audit", "show", "--follow", "--json", "-n", "1", "--rpc", "Search"], env=ragkeep.env, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout
        assert json.loads(process.stdout.readline())["method"].endswith("/Search")
        ragkeep("search", "shown while following")
        while json.loads(process.stdout.readline()).get("question") != "shown while following":
            pass
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)
    assert process.returncode == 130


def test_the_gateway_proves_its_log(ragkeep: Command) -> None:
    """And says up to where signed heads prove it."""
    assert "are as they were written; signed heads prove it up to line" in ragkeep("audit", "verify").stdout
    (verdict,) = [line["verdict"] for line in ragkeep.lines("audit", "verify")]
    assert verdict["fault"] is None  # type: ignore[index]


def test_a_copy_is_proven_without_a_service_and_a_change_is_named(ragkeep: Command, tmp_path: Path) -> None:
    """By the secret, or by the public key alone; what was done to it, by the line's number, with exit code 1."""
    copy, key = tmp_path / "copy", str(data(ragkeep) / "audit-key")
    ragkeep("audit", "verify")  # signs a head over all there is
    shutil.copytree(data(ragkeep) / "audit", copy)
    public = re.findall(r'"public_key": "([0-9a-f]{64})"', (data(ragkeep) / "logs" / "gateway.log").read_text())[0]
    ragkeep("audit", "verify", str(copy), "--key", key)
    (path,) = day_files(copy / "local")
    whole = path.read_bytes()
    # The line about the proof itself is behind the last head: without the secret nothing proves it.
    beyond = ragkeep("audit", "verify", str(copy), "--public-key", public, code=1).stdout
    assert "not proven: no signed head knows of them" in beyond
    path.write_bytes(whole[: heads_in(copy / "local")[-1].size])
    assert "signed heads prove it" in ragkeep("audit", "verify", str(copy), "--public-key", public).stdout
    path.write_bytes(whole)
    path.write_bytes(whole.replace(b"caller/local/cli", b"caller/local/me!", 1))
    place = whole[: whole.index(b"caller/local/cli")].count(b"\n") + 1
    assert f"line {place} was changed" in ragkeep("audit", "verify", str(copy), "--key", key, code=1).stdout
    ragkeep("audit", "verify", str(copy), "--public-key", public, code=1)
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4] + lines[5:]))
    assert "line 5 was removed" in ragkeep("audit", "verify", str(copy), "--key", key, code=1).stdout
    path.write_bytes(b"".join(lines[:3]))
    assert "line 4 was removed" in ragkeep("audit", "verify", str(copy), "--key", key, code=1).stdout
    # Who cuts the heads beside them too is found out by what the gateway said in its own log.
    kept = [path.rename(path.with_suffix(".away")) for path in (copy / "local").glob("*.heads.jsonl")]
    assert "there is no signed head yet" in ragkeep("audit", "verify", str(copy), "--key", key).stdout
    said = str(data(ragkeep) / "logs" / "gateway.log")
    assert "line 4 was removed" in ragkeep("audit", "verify", str(copy), "--key", key, "--heads", said, code=1).stdout
    for one in kept:
        one.rename(one.with_suffix(".jsonl"))
    path.write_bytes(b"".join([*lines[:4], lines[5], lines[4], *lines[6:]]))
    found = ragkeep.lines("audit", "verify", str(copy), "--key", key, code=1)
    assert found[0]["verdict"]["fault"]["what"] == "reordered"  # type: ignore[index]
    assert found[0]["verdict"]["fault"]["sequence"] == 5  # type: ignore[index]


def test_a_wrong_key_or_folder_is_said(ragkeep: Command, tmp_path: Path) -> None:
    """Not taken for a log that was changed."""
    audit = str(data(ragkeep) / "audit")
    (tmp_path / "short").write_text("short")
    (tmp_path / "other").write_text("x" * 40)
    assert "AUDIT_KEY_UNUSABLE" in ragkeep("audit", "verify", audit, "--key", str(tmp_path / "short"), code=1).stderr
    assert "AUDIT_KEY_UNUSABLE" in ragkeep("audit", "verify", audit, "--public-key", "zz", code=1).stderr
    assert "AUDIT_FOLDER_UNUSABLE" in ragkeep("audit", "verify", str(tmp_path), "--public-key", "00" * 32, code=1).stderr
    assert (
        "line 1 is of a key that is missing"
        in ragkeep("audit", "verify", audit, "--key", str(tmp_path / "other"), code=1).stdout
    )


def test_an_export_holds_the_lines_and_a_manifest_of_heads(ragkeep: Command, tmp_path: Path) -> None:
    """As they stand, with the file's digest; nothing is replaced without --force."""
    file, manifest_file = tmp_path / "log.jsonl", tmp_path / "log.jsonl.manifest.json"
    ragkeep("audit", "export", str(file), "--kind", "asked")
    lines = file.read_text().splitlines()
    assert {json.loads(line)["kind"] for line in lines} == {"asked"}
    stored = day_files(data(ragkeep) / "audit" / "local")[0].read_text().splitlines()
    assert set(lines) < set(stored)
    manifest = json.loads(manifest_file.read_text())
    assert manifest["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert manifest["lines"] == len(lines)
    assert manifest["limited_to"] == {"kinds": ["asked"]}
    assert manifest["replicas"]["local"]["heads"][-1]["signature"]
    assert file.stat().st_mode & 0o777 == manifest_file.stat().st_mode & 0o777 == 0o600
    assert "FILE_EXISTS" in ragkeep("audit", "export", str(file), code=1).stderr
    key = str(data(ragkeep) / "audit-key")
    limited = ragkeep("audit", "verify", str(file), "--key", key, code=1).stderr
    assert "limited to some (kinds)" in limited
    ragkeep("audit", "export", str(file), "--force")
    assert "are as they were written; signed heads prove it" in ragkeep("audit", "verify", str(file), "--key", key).stdout
    file.write_bytes(b"".join(line for line in file.read_bytes().splitlines(keepends=True) if b"VPN error 809" not in line))
    assert "was removed" in ragkeep("audit", "verify", str(file), "--key", key, code=1).stdout


def test_a_spreadsheet_gets_no_formula(ragkeep: Command, tmp_path: Path) -> None:
    """A question that begins with = is text there."""
    file = tmp_path / "log.csv"
    ragkeep("audit", "export", str(file), "--csv", "--of-tenant", "other")
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert "'=1+1" in {row["question"] for row in rows}
    assert {row["tenant"] for row in rows} == {"other"}


def test_a_person_without_the_role_reads_nothing(ragkeep: Command, tmp_path: Path) -> None:
    """A token of a reader, then of an auditor, who sees the lines of his tenant alone."""
    token = tmp_path / "token"
    for role, code in (("reader", 1), ("auditor", 0)):
        token.write_text(ragkeep("token", "anna", "--role", role, "--tenant", "other").stdout)
        ragkeep.env["RAGKEEP_TOKEN_FILE"] = str(token)
        try:
            ran = ragkeep("audit", "show", "--json", "-n", "0", code=code)
            proven = ragkeep("audit", "verify", code=code)
        finally:
            del ragkeep.env["RAGKEEP_TOKEN_FILE"]
        assert code == 0 or "NOT_ALLOWED" in ran.stderr
    assert proven.stdout.strip() == "✓ local: every line is as it was written"  # numbers are the operator's
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {line["tenant"] for line in lines} == {"other"}
    assert "=1+1" in {line.get("question") for line in lines}
