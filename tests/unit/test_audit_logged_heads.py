"""Heads that a log server holds: read out of whatever a collector made of the gateway's lines, and they prove what was cut off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ragkeep_client.audit_proof import Given, prove
from ragkeep_client.output import CommandError
from ragkeep_runtime.audit.heads import Head, signed
from ragkeep_runtime.audit.logged_heads import EVENT, event_of, heads_of_log
from ragkeep_runtime.audit.verify import day_files, heads_in
from tests.unit.test_audit_chain import SIGNING, write


def _line(head: Head) -> str:
    return json.dumps(event_of(head) | {"event": EVENT, "service": "gateway", "timestamp": head.time, "peer": "caller/a/b"})


def _attributes(head: Head) -> str:
    facts = {"time": "the collector's", **json.loads(_line(head))}
    pairs = [
        {"key": key, "value": {"intValue": str(one)} if type(one) is int else {"stringValue": one}}
        for key, one in facts.items()
    ]
    record = {"timeUnixNano": "1", "body": {"stringValue": ""}, "attributes": pairs}
    resource = {"attributes": [{"key": "k8s.pod.name", "value": {"stringValue": "gateway-0"}}]}
    return json.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": [{"scope": {}, "logRecords": [record]}]}]})


def _body(head: Head) -> str:
    record = {"timeUnixNano": "1", "body": {"stringValue": _line(head)}}
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record, record]}]}]})


FORMS: dict[str, Callable[[Head], str]] = {
    "a gateway's own": _line,
    "kubectl logs --prefix": lambda head: f"[pod/gateway-0/gateway] {_line(head)}",
    "a container runtime's": lambda head: f"2026-11-25T00:00:00.1Z stderr F {_line(head)}",
    "behind labels": lambda head: f'2026-11-25T00:00:00Z {{app="gateway", pod="gateway-0"}} {_line(head)}',
    "as text inside JSON": lambda head: json.dumps({"log": _line(head) + "\n", "stream": "stderr", "time": "another"}),
    "as an object": lambda head: json.dumps({"time": "another", "message": json.loads(_line(head))}),
    "OTLP, the line as body": _body,
    "OTLP, taken apart": _attributes,
    "heads as they are kept": lambda head: head.line().decode().rstrip("\n"),
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with heads, and what the log server holds in `form`."""
    write(tmp_path, head_every=7)
    return tmp_path


def _held(log: Path, form: Callable[[Head], str], more: tuple[Head, ...] = ()) -> Path:
    path, heads = log / "server.log", heads_in(log / "heads" / "gateway-0")
    others = [
        "no JSON",
        "{",
        '{"event":"documents_imported","signature":"x"}',
        '{"event":"x","b":"' + "[" * 90_000,
        "[]",
        "\0\ud800",
    ]
    texts = [form(head) for head in (*heads, *more)]
    path.write_bytes(
        "\n".join(line for pair in zip(texts, (others * 9)[: len(texts)], strict=True) for line in pair).encode(
            "utf-8", "surrogatepass"
        )
    )
    return path


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_heads_are_found_among_other_lines(log: Path, form: Callable[[Head], str]) -> None:
    """Each once, as it was signed."""
    assert sorted(heads_of_log(_held(log, form)), key=lambda head: head.line()) == sorted(
        heads_in(log / "heads" / "gateway-0"), key=lambda head: head.line()
    )


def test_an_exports_manifest_holds_them_too(log: Path) -> None:
    """It is one JSON text over many lines."""
    heads = heads_in(log / "heads" / "gateway-0")
    manifest: dict[str, Any] = {"replicas": {"gateway-0": {"heads": [json.loads(head.line()) for head in heads]}}}
    (log / "m.json").write_text(json.dumps(manifest, indent=1))
    assert heads_of_log(log / "m.json") == heads


def _proven(log: Path, *heads: Path, notes: list[str] | None = None) -> Any:
    (log / "key").write_bytes(b"k" * 32)
    given = Given([log / "key"], [], heads)
    ((verdict, _),) = prove(log / "gateway-0", given, lambda _name, _lines: None, [].append if notes is None else notes.append)
    return verdict


def test_a_tail_that_was_cut_with_its_heads_is_proven_from_the_log_server(log: Path) -> None:
    """Whoever has the folder's rights cuts lines and heads; what the gateway said elsewhere tells by how much."""
    server = _held(log, _line)
    assert _proven(log, server).fault is None
    path = day_files(log / "gateway-0")[-1]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-3]))
    assert _proven(log).fault is None  # nothing here knows of them
    fault = _proven(log, server).fault
    assert (fault.what, fault.sequence) == ("removed", 28)
    assert "knows of line 30" in fault.why


def test_heads_of_other_sites_are_left_out_and_said(log: Path) -> None:
    """A collector's log holds those of a site whose replica has the same name; where there are no others, that is an error."""
    other = signed(
        Head("gateway-0", 900, "00" * 32, "2026-11-25T00:00:00Z", "2026-11-25.jsonl", 1, "00" * 32),
        Ed25519PrivateKey.generate(),
    )
    notes: list[str] = []
    assert _proven(log, _held(log, _line, (other,)), notes=notes).fault is None
    assert ["1 were left out" in note for note in notes] == [True]
    (log / "theirs.log").write_text(_line(other))
    with pytest.raises(CommandError, match="none of them signed by a key that is given"):
        _proven(log, log / "theirs.log")
    (log / "none.log").write_text("{}\n")
    with pytest.raises(CommandError, match="There are no heads in"):
        _proven(log, log / "none.log")


@pytest.mark.parametrize("name", ["sequence", "mac", "file", "size", "sha256", "said", "replica"])
def test_a_head_that_was_changed_on_the_log_server_proves_nothing(log: Path, name: str) -> None:
    """Its signature no longer fits; one that lacks a fact is none."""
    (head, *_) = heads_in(log / "heads" / "gateway-0")
    facts = json.loads(_line(head))
    changed = facts | {name: 1 if type(facts[name]) is int else "x"}
    (log / "one.log").write_text(json.dumps(changed))
    (found,) = heads_of_log(log / "one.log")
    assert not found.is_signed_by([SIGNING.public_key()])
    (log / "one.log").write_text(json.dumps({key: one for key, one in facts.items() if key != name}))
    assert heads_of_log(log / "one.log") == []
