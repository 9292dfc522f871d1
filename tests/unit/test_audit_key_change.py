"""A secret that was replaced: what it wrote is proven with it, whatever age took, and it writes nothing that counts any more."""

from __future__ import annotations

import datetime as dt
from itertools import permutations
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ragkeep_client.audit_proof import Given, prove
from ragkeep_gateway.audit.files import AuditFiles
from ragkeep_gateway.audit.opening import earlier_keys
from ragkeep_runtime.audit.chain import Keys
from ragkeep_runtime.audit.heads import public_hex
from ragkeep_runtime.audit.verify import Fault, Wrong, verify
from tests.unit.test_audit_chain import SIGNING, Clock

SECRETS = (b"a" * 32, b"b" * 32, b"c" * 32)
KEYS = [Keys.of(secret) for secret in SECRETS]
LINES = {keys.name: keys.lines for keys in KEYS}


def _written(folder: Path, clock: Clock, *keys: Keys, signing: Ed25519PrivateKey = SIGNING) -> AuditFiles:
    """A gateway starts with each in turn, a day later."""
    for one in keys:
        files = AuditFiles(folder, "gateway-0", one.lines, signing, clock=clock)
        files.open()
        files.append([{"kind": "started", "key": one.name}])
        files.append([{"kind": "asked"}])
        clock.now += dt.timedelta(days=1)
        files.append([{"kind": "asked"}])  # the second day of each begins without saying which key it is
        files.head()
        files.close()
    return files


def _fault(folder: Path, lines: dict[str, bytes]) -> Fault | None:
    return verify(folder / "gateway-0", keys=lines, signers=[SIGNING.public_key()]).fault


def test_lines_of_several_keys_are_proven_in_any_order_that_they_are_given(tmp_path: Path) -> None:
    """From the beginning, and where age took the line that names the first of them."""
    clock = Clock(dt.datetime(2026, 10, 1, 12, tzinfo=dt.UTC))
    _written(tmp_path, clock, *KEYS)
    orders = [dict(order) for order in permutations(LINES.items())]
    assert [_fault(tmp_path, order) for order in orders] == [None] * 6
    files = AuditFiles(tmp_path, "gateway-0", KEYS[2].lines, SIGNING, clock=clock)
    files.open()
    files.remove_old(3)  # the first day goes: what is left begins with a line of the first key that does not say so
    files.close()
    assert [_fault(tmp_path, order) for order in orders] == [None] * 6
    fault = _fault(tmp_path, dict(list(LINES.items())[1:]))
    assert fault is not None
    assert (fault.what, fault.sequence) == (Wrong.CHANGED, 3)
    assert "earlier key that is not given" in fault.why


def test_a_key_that_was_replaced_does_not_come_back(tmp_path: Path) -> None:
    """Whoever had it could go on with it: a line that takes it up again is named."""
    clock = Clock(dt.datetime(2026, 10, 1, 12, tzinfo=dt.UTC))
    _written(tmp_path, clock, KEYS[0], KEYS[0], KEYS[1])
    assert _fault(tmp_path, LINES) is None
    _written(tmp_path, clock, KEYS[0])
    fault = _fault(tmp_path, LINES)
    assert fault is not None
    assert (fault.what, fault.sequence) == (Wrong.CHANGED, 10)
    assert f"{KEYS[0].name} was replaced in line 7" in fault.why


def test_who_has_the_secret_signs_no_cut_where_signers_are_named(tmp_path: Path) -> None:
    """With a signing key of the site's own, a cut signed by the key that the secret gives takes no lines away."""
    own = Ed25519PrivateKey.generate()
    clock = Clock(dt.datetime(2026, 10, 1, 12, tzinfo=dt.UTC))
    _written(tmp_path, clock, KEYS[0], signing=own)
    derived = Ed25519PrivateKey.from_private_bytes(KEYS[0].signing)
    files = AuditFiles(tmp_path, "gateway-0", KEYS[0].lines, derived, heads=tmp_path / "theirs", clock=clock)
    files.open()
    files.remove_old(1)
    files.close()
    (tmp_path / "secret").write_bytes(SECRETS[0])
    ((verdict, _),) = prove(
        tmp_path / "gateway-0", Given([tmp_path / "secret"], [public_hex(own)], []), lambda _name, _lines: None
    )
    assert verdict.fault is not None
    assert verdict.fault.what == "removed"


def test_earlier_keys_are_read_by_a_name_with_a_star(tmp_path: Path) -> None:
    """Secrets give lines, and signers only where heads are signed with what they give; public keys in PEM give signers."""
    own = Ed25519PrivateKey.generate().public_key()
    (tmp_path / "earlier-1").write_bytes(SECRETS[0])
    (tmp_path / "earlier-2").write_bytes(SECRETS[1])
    pem = own.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "earlier-3.pem").write_bytes(pem)
    found = earlier_keys(tmp_path / "earlier-*", derived=False)
    assert found.lines == dict(list(LINES.items())[:2])
    assert found.signers == (own,)
    assert len(earlier_keys(tmp_path / "earlier-*", derived=True).signers) == 3
    assert earlier_keys(tmp_path / "earlier-2", derived=False).lines == {KEYS[1].name: KEYS[1].lines}
    assert earlier_keys(tmp_path / "none-*", derived=True) == earlier_keys(None, derived=True)
    with pytest.raises(OSError, match="none"):
        earlier_keys(tmp_path / "none", derived=True)
    (tmp_path / "earlier-3.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n")  # pragma: allowlist secret
    with pytest.raises(ValueError, match=r"earlier-3\.pem is not the public part"):
        earlier_keys(tmp_path / "earlier-*", derived=True)
    (tmp_path / "earlier-3.pem").write_text("short")
    with pytest.raises(ValueError, match=r"earlier-3\.pem has 5 bytes"):
        earlier_keys(tmp_path / "earlier-*", derived=True)
