"""Page tokens: where the next page begins, bound to what is listed, so that a token is never used for another list."""

from __future__ import annotations

import base64
import binascii
import hashlib

from ragkeep_runtime.errors import InvalidRequest

_SEAL = 8


def token(after: str, *listed: bytes) -> str:
    """The token of a place; empty for the end."""
    if not after:
        return ""
    return base64.urlsafe_b64encode(_digest(listed) + after.encode()).decode().rstrip("=")


def place(token: str, *listed: bytes) -> str:
    """The place of a token; empty for the beginning. Raises InvalidRequest for a token of another list, or of nobody."""
    if not token:
        return ""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        if raw[:_SEAL] == _digest(listed):
            return raw[_SEAL:].decode()
    except (binascii.Error, UnicodeError, ValueError):
        pass
    raise InvalidRequest("The page token is not one of this list: begin without one.", field="page_token")


def _digest(listed: tuple[bytes, ...]) -> bytes:
    digest = hashlib.sha256()
    for part in listed:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()[:_SEAL]
