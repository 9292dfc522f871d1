"""Signed statements about the log: a head (the log was this long then) and a cut (what is before this was old, and removed).

A head names the last line and the digest of its file so far, so an auditor proves with the public key alone that what was
there then is there now. Heads are kept elsewhere than the log: who cuts the log's tail does not reach them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

HEADS_SUFFIX = ".heads.jsonl"
CUTS = "cuts.jsonl"


@dataclass(frozen=True, slots=True)
class Head:
    """The log of one replica as it stood."""

    replica: str
    sequence: int  # of the last line
    mac: str  # its HMAC, hex
    time: str  # when this was said; UTC, ISO 8601
    file: str  # the day's file that the line is in
    size: int  # bytes of the file up to the end of the line
    sha256: str  # of those bytes
    cut: bool = False  # a cut: the line and all before it were removed, by age
    signature: str = ""  # Ed25519, hex, over all of the above

    def signed_bytes(self) -> bytes:
        """What is signed."""
        facts = {name: value for name, value in asdict(self).items() if name != "signature"}
        return b"ragkeep audit head\n" + json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()

    def line(self) -> bytes:
        """As it is kept."""
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    def is_signed_by(self, keys: Iterable[Ed25519PublicKey]) -> bool:
        """Whether one of the keys signed it."""
        try:
            signature = bytes.fromhex(self.signature)
        except ValueError:
            return False
        for key in keys:
            try:
                key.verify(signature, self.signed_bytes())
            except InvalidSignature:
                continue
            return True
        return False


def signed(head: Head, key: Ed25519PrivateKey) -> Head:
    """The head with its signature."""
    facts = asdict(head) | {"signature": key.sign(head.signed_bytes()).hex()}
    return Head(**facts)


def head_of(facts: Mapping[str, Any]) -> Head:
    """A head from its JSON. Raises ValueError."""
    try:
        found = Head(**facts)
    except TypeError:
        raise ValueError("it is no head") from None
    wanted = {"replica": str, "sequence": int, "mac": str, "time": str, "file": str, "size": int, "sha256": str, "cut": bool}
    if any(type(getattr(found, name)) is not kind for name, kind in (wanted | {"signature": str}).items()):
        raise ValueError("it is no head")
    return found


def read_heads(path: Path) -> list[Head]:
    """The heads of a file; a last one that was not written whole is left out. Raises ValueError for another that is none."""
    lines = path.read_bytes().split(b"\n")
    try:
        return [head_of(json.loads(line)) for line in lines[:-1]]
    except RecursionError:
        raise ValueError("it is no head") from None


def private_key(path: Path) -> Ed25519PrivateKey:
    """A signing key from its PEM file. Raises OSError or ValueError."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (TypeError, ValueError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"the signing key {path.name} is not an Ed25519 key in PEM without a password")
    return key


def public_key(text: str) -> Ed25519PublicKey:
    """A public key from the 64 hex digits that `public_hex` writes, or from PEM. Raises ValueError."""
    if "BEGIN" in text:
        key = serialization.load_pem_public_key(text.encode())
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("the public key is not an Ed25519 key")
        return key
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text.strip()))


def public_hex(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """The public key in 64 hex digits."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()
