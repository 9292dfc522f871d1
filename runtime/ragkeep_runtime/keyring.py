"""The keyring: the keys that sealed fields are encrypted with, a JSON file. The gateway follows it; `ragkeep keys` writes it.

    {"active": "k-20260301-9f2c", "keys": {"k-20260301-9f2c": "<32 bytes in base64>"}, "fingerprint": "<32 bytes in base64>"}

New values are sealed with the active key; the others open what they sealed. Whether a value changed is told by the fingerprint
secret, which stays when keys are rotated.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

KEY_BYTES, MAX_KEYS, MAX_FILE_BYTES = 32, 256, 256 * 1024
_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_NAMES = {"active", "keys", "fingerprint"}


@dataclass(frozen=True, slots=True)
class Keyring:
    """Keys by id. Its repr, and what it raises, never hold a secret."""

    active: str
    keys: Mapping[str, bytes] = field(repr=False)
    fingerprint: bytes = field(repr=False)

    def with_key(self, key_id: str, *, active: bool) -> Keyring:
        """With a new random key. Raises ValueError where there is one of this id, or the id is none."""
        _check_id(key_id)
        if key_id in self.keys:
            raise ValueError(f"there is a key {key_id} already")
        keys = {**self.keys, key_id: secrets.token_bytes(KEY_BYTES)}
        if len(keys) > MAX_KEYS:
            raise ValueError(f"it would hold more than {MAX_KEYS} keys; remove those that nothing uses")
        return replace(self, keys=keys, active=key_id if active else self.active)

    def activated(self, key_id: str) -> Keyring:
        """With another active key. Raises ValueError where there is none of this id."""
        self._check_there(key_id)
        return replace(self, active=key_id)

    def without(self, key_id: str) -> Keyring:
        """Without a key. Raises ValueError where there is none of this id, or it is the active one."""
        self._check_there(key_id)
        if key_id == self.active:
            raise ValueError(f"the key {key_id} is the active one; make another one active first")
        return replace(self, keys={one: key for one, key in self.keys.items() if one != key_id})

    def _check_there(self, key_id: str) -> None:
        if key_id not in self.keys:
            raise ValueError(f"there is no key {key_id[:63]!r}; there are: {', '.join(self.keys)}")


def new_key_id() -> str:
    """An id that tells the day, and that no other has."""
    return f"k-{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(2)}"


def new_keyring(key_id: str) -> Keyring:
    """With one key, active. Raises ValueError where the id is none."""
    _check_id(key_id)
    return Keyring(key_id, {key_id: secrets.token_bytes(KEY_BYTES)}, secrets.token_bytes(KEY_BYTES))


def dump_keyring(keyring: Keyring) -> bytes:
    """The file."""
    keys = {key_id: _text(key) for key_id, key in keyring.keys.items()}
    found = {"active": keyring.active, "keys": keys, "fingerprint": _text(keyring.fingerprint)}
    return json.dumps(found, indent=1).encode() + b"\n"


def parse_keyring(content: bytes) -> Keyring:
    """The keyring of a file. Raises ValueError, whose words may be logged."""
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES} bytes")
    try:
        found = json.loads(content, object_pairs_hook=_once)
    except _TwiceError:
        raise ValueError("a name stands in it twice") from None
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict) or set(found) != _NAMES:
        raise ValueError(f"it must be an object with just {', '.join(sorted(_NAMES))}")
    active, keys = found["active"], found["keys"]
    if not isinstance(keys, dict) or not 1 <= len(keys) <= MAX_KEYS:
        raise ValueError(f"keys must be an object with 1 to {MAX_KEYS} keys by id")
    for key_id in keys:
        _check_id(key_id)
    if not isinstance(active, str) or active not in keys:
        raise ValueError("active must be the id of one of the keys")
    parsed = {key_id: _secret(key, f"the key {key_id}") for key_id, key in keys.items()}
    fingerprint = _secret(found["fingerprint"], "fingerprint")
    # One secret for two purposes would be a mistake of copying.
    if len({*parsed.values(), fingerprint}) != len(parsed) + 1:
        raise ValueError("two of its secrets are the same")
    return Keyring(active, parsed, fingerprint)


class _TwiceError(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError
    return found


def _check_id(key_id: object) -> None:
    if not isinstance(key_id, str) or not _ID.fullmatch(key_id):
        raise ValueError("a key's id has up to 63 of a-z, 0-9, _ and -, and begins with a letter or digit")


def _secret(text: object, what: str) -> bytes:
    try:
        found = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != KEY_BYTES:
        raise ValueError(f"{what} must be {KEY_BYTES} bytes in base64")
    return found


def _text(secret: bytes) -> str:
    return base64.b64encode(secret).decode()
