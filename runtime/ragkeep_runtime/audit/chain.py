"""One line of the audit log: JSON that ends with an HMAC over itself and over the HMAC of the line before.

A line is `{"seq":7,…,"mac":"<64 hex digits>"}`. What is authenticated are its bytes as they stand: HMAC-SHA256(key, the former
line's HMAC, the line without its mac). So there is no second way to write the same line, and nothing to normalise.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

# What the first line of a replica follows.
BEGINNING = bytes(32)
MIN_KEY_BYTES = 32
# Every document that a call can show, 32 searches of 100, fits with ids of 256 characters.
MAX_LINE_BYTES = 4 * 1024 * 1024
_MAC = re.compile(rb',"mac":"([0-9a-f]{64})"\}\n?\Z')


class LineTooLong(ValueError):
    """Nothing of it is written."""


class LineDamaged(ValueError):
    """It is not a line of this log."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line as it was read; whether it is true, its key says."""

    facts: Mapping[str, Any]
    body: bytes  # the line without its mac
    mac: bytes

    @property
    def sequence(self) -> int:
        """Its number in its replica, from 1."""
        return int(self.facts["seq"])


@dataclass(frozen=True, slots=True)
class Keys:
    """What the secret file gives: one key for lines, one for questions, one that heads may be signed with, and a name."""

    lines: bytes
    questions: bytes
    signing: bytes
    name: str  # says which key it is, not what it is

    @classmethod
    def read(cls, path: Path) -> Keys:
        """From a secret file. Raises OSError, or ValueError where it is too short."""
        secret = path.read_bytes().strip()
        if len(secret) < MIN_KEY_BYTES:
            raise ValueError(f"the audit key {path.name} has {len(secret)} bytes; at least {MIN_KEY_BYTES} are needed")
        return cls.of(secret)

    @classmethod
    def of(cls, secret: bytes) -> Keys:
        """Keys for different ends are different, though they come from one secret."""

        def derived(end: str) -> bytes:
            return HKDF(hashes.SHA256(), 32, salt=None, info=f"ragkeep audit {end}".encode()).derive(secret)

        return cls(derived("lines"), derived("questions"), derived("heads"), derived("name").hex()[:16])

    def question(self, text: str) -> str:
        """What stands for a question that is not to be written."""
        return hmac.new(self.questions, text.encode(errors="replace"), hashlib.sha256).hexdigest()


def mac_of(key: bytes, before: bytes, body: bytes) -> bytes:
    """The HMAC of a line after the one whose HMAC is `before`."""
    return hmac.digest(key, before + body, "sha256")


def write_line(key: bytes, before: bytes, facts: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """(the line with its end, its HMAC). Raises LineTooLong."""
    body = json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    if len(body) > MAX_LINE_BYTES:
        raise LineTooLong(f"a line has at most {MAX_LINE_BYTES} bytes; this one has {len(body)}")
    mac = mac_of(key, before, body)
    return body[:-1] + b',"mac":"' + mac.hex().encode() + b'"}\n', mac


def read_line(raw: bytes) -> Line:
    """A line, with or without its end. Raises LineDamaged."""
    found = _MAC.search(raw)
    if found is None:
        raise LineDamaged("it does not end with an HMAC")
    body = raw[: found.start()] + b"}"
    try:
        facts = json.loads(body)
    except (ValueError, RecursionError):  # nested without end, as no line of ours is
        raise LineDamaged("it is not JSON") from None
    if (
        not isinstance(facts, dict)
        or type(facts.get("seq")) is not int
        or not 0 < facts["seq"] < 1 << 63
        or not all(isinstance(facts.get(name), str) for name in ("time", "replica", "kind"))
    ):
        raise LineDamaged("it has no number, time, replica or kind")
    return Line(facts, body, bytes.fromhex(found[1].decode()))
