"""A whole export proven elsewhere: what can be done to its lines is found as in a gateway's folder."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragkeep_client.audit import AuditVerdict
from ragkeep_client.audit_export import manifest_of
from ragkeep_client.audit_proof import Given, prove
from ragkeep_client.output import CommandError
from ragkeep_gateway.audit.files import AuditFiles
from ragkeep_runtime.audit.heads import CUTS, public_hex, read_heads
from ragkeep_runtime.audit.verify import day_files, heads_in
from tests.unit.test_audit_chain import KEYS, SIGNING, Clock

SECRET = b"k" * 32


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Of two gateways over four days, of which the first went by age; a clock that was set back on the third."""
    (tmp_path / "key").write_bytes(SECRET)
    lines: list[tuple[str, bytes]] = []
    replicas: dict[str, Any] = {}
    for name in ("gateway-0", "gateway-1"):
        clock = Clock(dt.datetime(2026, 10, 1, 12, tzinfo=dt.UTC))
        files = AuditFiles(tmp_path / "log", name, KEYS.lines, SIGNING, clock=clock)
        files.open()
        files.append([{"kind": "started", "key": KEYS.name}])
        for hours in (24, 24, -24, 24, 24):
            files.append([{"kind": "asked", "subject": "李伟"}, {"kind": "finished"}])
            files.head()
            clock.now += dt.timedelta(hours=hours)
        files.append([{"kind": "asked", "subject": "li"}])
        files.head()
        files.remove_old(3)
        files.close()
        heads = [*read_heads(files.folder / CUTS), *heads_in(files.folder)]
        assert heads[0].cut
        replicas[name] = {"lines": 9, "heads": [json.loads(head.line()) for head in heads]}
        kept = [line for path in day_files(files.folder) for line in path.read_bytes().splitlines(keepends=True)]
        lines += [(json.loads(line)["seq"], line) for line in kept]
    found = tmp_path / "elsewhere" / "log.jsonl"
    found.parent.mkdir()
    found.write_bytes(b"".join(line for _, line in sorted(lines, key=lambda one: one[0])))
    manifest = {"limited_to": {}, "unreachable": [], "replicas": replicas}
    manifest_of(found).write_text(json.dumps(manifest, indent=1))
    return found


def _verdicts(export: Path, *, key: bool = True) -> dict[str, AuditVerdict]:
    given = Given([export.parent.parent / "key"] if key else [], [public_hex(SIGNING)], [])
    return {one.replica: one for one, _ in prove(export, given, lambda _name, _lines: None)}


def _faults(export: Path) -> dict[str, tuple[str, int] | None]:
    return {name: one.fault and (one.fault.what, one.fault.sequence) for name, one in _verdicts(export).items()}


@pytest.mark.parametrize("key", [True, False])
def test_a_whole_export_is_proven_elsewhere(export: Path, key: bool) -> None:
    """By every HMAC or by signed heads alone, from the cut on; nothing is left of what it was laid out in."""
    found = _verdicts(export, key=key)
    assert [(name, one.fault, one.last == one.head_sequence) for name, one in found.items()] == [
        ("gateway-0", None, True),
        ("gateway-1", None, True),
    ]
    assert {one.first for one in found.values()} == {4}
    assert sorted(path.name for path in export.parent.iterdir()) == ["log.jsonl", "log.jsonl.manifest.json"]


DEEDS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str, int]] = {
    "a line is changed": (lambda lines: [lines[0].replace("李伟".encode(), b"nobody"), *lines[1:]], "changed", 4),
    "a line is gone": (lambda lines: [*lines[:2], *lines[3:]], "removed", 5),
    "lines change places": (lambda lines: [lines[2], *lines[1:2], lines[0], *lines[3:]], "reordered", 4),
    "the end is cut off": (lambda lines: lines[:-4], "removed", 11),
    "a line is no line": (lambda lines: [*lines[:1], b"{}\n", *lines[1:]], "changed", 5),
    "a line is of no day": (lambda lines: [*lines[:1], lines[2].replace(b"2026-", b"../x-"), *lines[1:]], "changed", 5),
    "the last line is torn": (lambda lines: [*lines[:-2], lines[-2][:-1]], "torn", 12),
}


@pytest.mark.parametrize(("deed", "what", "sequence"), DEEDS.values(), ids=DEEDS)
def test_what_was_done_to_it_is_named(
    export: Path, deed: Callable[[list[bytes]], list[bytes]], what: str, sequence: int
) -> None:
    """With the number of the line in its replica."""
    lines = export.read_bytes().splitlines(keepends=True)
    export.write_bytes(b"".join(deed(lines)))
    assert _faults(export)["gateway-0"] == (what, sequence)


def test_a_replica_that_was_left_out_is_named(export: Path) -> None:
    """Its heads are in the manifest."""
    export.write_bytes(b"".join(line for line in export.read_bytes().splitlines(keepends=True) if b"gateway-1" not in line))
    assert _faults(export) == {"gateway-0": None, "gateway-1": ("removed", 1)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"limited_to": {"kinds": ["asked"]}}, "limited to some \\(kinds\\)"),
        ({"unreachable": [{"address": "gw:1", "reason": "NOT_READY"}]}, "without gw:1"),
        ({"replicas": {"gateway-0": {"heads": []}}}, "without signed heads"),
        ({"replicas": {}}, "without signed heads"),
        ({"replicas": []}, "without signed heads"),
        ({"replicas": 7}, "no manifest"),
    ],
)
def test_an_export_that_is_not_whole_is_not_said_to_be_wrong(export: Path, change: dict[str, Any], said: str) -> None:
    """Lines are missing on purpose: why is said, and no line is accused."""
    manifest = json.loads(manifest_of(export).read_text())
    manifest_of(export).write_text(json.dumps(manifest | change))
    with pytest.raises(CommandError, match=said):
        _verdicts(export)
    manifest_of(export).unlink()
    with pytest.raises(CommandError, match="No such file"):
        _verdicts(export)
