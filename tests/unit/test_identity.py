"""The certificate files of a process: followed where Kubernetes keeps them, never taken half."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from ragkeep_runtime.tls import Identity
from tests.pki import Authority


def mount(folder: Path, version: str, identity: Identity) -> None:
    """As the kubelet writes a secret: a new folder, then one link is swapped."""
    new = folder / f"..{version}"
    new.mkdir(parents=True)
    for name, source in (("tls.crt", identity.cert), ("tls.key", identity.key), ("ca.crt", identity.ca)):
        (new / name).write_bytes(source.read_bytes())
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    (folder / "..data_tmp").symlink_to(new.name)
    (folder / "..data_tmp").replace(folder / "..data")


def test_a_swapped_secret_is_seen(tmp_path: Path) -> None:
    """The files' own paths stay the same, and their times may be the same too."""
    authority, folder = Authority(tmp_path / "pki"), tmp_path / "mount"
    identity = Identity(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
    mount(folder, "1", authority.service("gateway"))
    stamp, read = identity.stamp(), identity.read()
    assert identity.stamp() == stamp
    mount(folder, "2", authority.service("gateway"))
    for path in (folder / "..2").iterdir():
        os.utime(path, ns=(stamp[0][0], stamp[0][0]))
    assert identity.stamp() != stamp
    assert identity.read() != read


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    """As between an issuer's two steps."""
    authority = Authority(tmp_path)
    one, other = authority.service("gateway"), authority.service("embedder")
    with pytest.raises(ssl.SSLError):
        Identity(one.cert, other.key, one.ca).read()


def test_files_that_change_while_they_are_read_are_refused(tmp_path: Path) -> None:
    """What was read may be of two generations: the next look takes it."""
    authority = Authority(tmp_path)
    identity = authority.service("gateway")

    class Restless(Identity):
        """Something writes all the time."""

        def stamp(self) -> tuple[tuple[int, int], ...]:
            os.utime(self.cert)
            return super().stamp()

    with pytest.raises(OSError, match="changed while"):
        Restless(identity.cert, identity.key, identity.ca).read()
