"""What `ragkeep audit verify FOLDER` claims: nothing that it did not prove, and no replica is passed over."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ragkeep_client.audit import AuditVerdict
from ragkeep_client.audit_proof import Given, prove
from ragkeep_client.audit_view import tell_verdict
from ragkeep_client.output import Output
from ragkeep_gateway.audit.files import AuditFiles
from ragkeep_runtime.audit.chain import Keys
from ragkeep_runtime.audit.heads import CUTS, public_hex
from ragkeep_runtime.audit.verify import day_files
from tests.unit.test_audit_chain import SIGNING, Clock

SECRET = b"k" * 32
KEYS = Keys.of(SECRET)


@pytest.fixture(params=["beside", "elsewhere"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two replicas' logs over two days, with heads beside the lines, or in a folder of their own."""
    (tmp_path / "key").write_bytes(SECRET)
    heads = tmp_path / "heads" if request.param == "elsewhere" else None
    for name in ("gateway-0", "gateway-1"):
        files = AuditFiles(tmp_path / "log", name, KEYS.lines, SIGNING, heads=heads, clock=Clock())
        files.open()
        files.append([{"kind": "started", "key": KEYS.name}])
        for _ in range(20):
            files.append([{"kind": "asked", "subject": "mallory"}])
        files.head()
        files.close()
    return tmp_path / "log"


def proven(log: Path, *, key: bool = True) -> dict[str, tuple[AuditVerdict, bool]]:
    """The verdicts by replica, and whether each is told as all well."""
    heads = [path] if (path := log.parent / "heads").exists() else []
    given = Given([log.parent / "key"] if key else [], [public_hex(SIGNING)], heads)
    found = prove(log, given, lambda _name, _lines: None)
    return {one.replica: (one, tell_verdict(Output(True), one, with_key=with_key)) for one, with_key in found}


def well(log: Path, *, key: bool = True) -> dict[str, bool]:
    """Whether each is told as all well."""
    return {name: told for name, (_, told) in proven(log, key=key).items()}


@pytest.mark.parametrize("key", [True, False])
def test_replicas_that_are_as_they_were_are_proven(log: Path, key: bool) -> None:
    """With the secret, or by heads that know of the last line."""
    assert well(log, key=key) == {"gateway-0": True, "gateway-1": True}


@pytest.mark.parametrize("key", [True, False])
def test_a_replica_that_is_gone_is_named(log: Path, key: bool) -> None:
    """Its lines alone, or its whole folder where heads of it are kept elsewhere."""
    for path in day_files(log / "gateway-1"):
        path.unlink()
    fault = proven(log, key=key)["gateway-1"][0].fault
    assert fault is not None
    assert (fault.what, fault.sequence) == ("removed", 1)
    for path in log.glob("gateway-1/*.heads.jsonl"):
        path.unlink()
    assert well(log, key=key) == {"gateway-0": True, "gateway-1": False}
    if (log.parent / "heads").exists():
        shutil.rmtree(log / "gateway-1")
        assert well(log, key=key) == {"gateway-0": True, "gateway-1": False}
        shutil.rmtree(log / "gateway-0")
        assert well(log, key=key) == {"gateway-0": False, "gateway-1": False}


@pytest.mark.parametrize("left", ["an empty file", "a cut alone"])
def test_a_log_without_a_line_is_not_well(log: Path, left: str) -> None:
    """A gateway writes a line when it starts, and age leaves the newest day: who emptied the folder is not told that all is well."""
    for path in log.parent.rglob("gateway-0/*.jsonl"):
        path.unlink()
    (log / "gateway-0" / ("2026-11-24.jsonl" if left == "an empty file" else CUTS)).touch()
    for folder in (log, log / "gateway-0"):
        found = {one.replica: one for one, _ in prove(folder, Given([log.parent / "key"], [], []), lambda _name, _lines: None)}
        fault = found["gateway-0"].fault
        assert fault is not None
        assert (fault.what, fault.sequence) == ("removed", 1)


def test_one_replicas_folder_is_proven_alone(log: Path) -> None:
    """Who names it does not hear of the others."""
    heads = [path] if (path := log.parent / "heads").exists() else []
    found = list(prove(log / "gateway-0", Given([log.parent / "key"], [], heads), lambda _name, _lines: None))
    assert [(one.replica, one.fault) for one, _ in found] == [("gateway-0", None)]


def test_without_the_secret_nothing_is_claimed_beyond_the_last_head(log: Path) -> None:
    """Not where there is no head, and not of lines behind it: that ends with exit code 1, though no fault was found."""
    kept = {path: path.read_bytes() for path in log.parent.rglob("gateway-0/*.heads.jsonl")}
    for path in kept:
        path.unlink()
    newest = day_files(log / "gateway-0")[-1]
    newest.write_bytes(newest.read_bytes().replace(b"mallory", b"nobody0"))
    verdict, told = proven(log, key=False)["gateway-0"]
    assert (verdict.fault, verdict.head_sequence, told) == (None, 0, False)
    assert well(log)["gateway-0"] is False  # the secret tells that they were changed
    newest.write_bytes(newest.read_bytes().replace(b"nobody0", b"mallory"))
    for path, data in kept.items():
        path.write_bytes(data)
    assert well(log, key=False)["gateway-0"] is True
    files = AuditFiles(log, "gateway-0", KEYS.lines, SIGNING, heads=log.parent / "none", clock=Clock())
    files.open()
    files.append([{"kind": "asked"}])
    files.close()
    assert well(log, key=False) == {"gateway-0": False, "gateway-1": True}
    assert well(log) == {"gateway-0": True, "gateway-1": True}
