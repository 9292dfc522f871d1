"""AES-256-GCM for one tenant's values: sealed, opened, and told apart without being shown.

A tenant's key is HKDF-SHA256 of a keyring key and the tenant's salt, so no key opens another tenant's values, and none of a
tenant whose salt is gone. What belongs together (tenant, collection, document, field) is bound as associated data: a ciphertext
that is moved elsewhere does not open there.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.message import DecodeError

from ragkeep.types.v1.types_pb2 import SealedValue, Value
from ragkeep_gateway.values import plain
from ragkeep_runtime.errors import SealedValueDamaged, SealingKeyMissing
from ragkeep_runtime.keyring import KEY_BYTES, Keyring

_NONCE_BYTES = 12
_SEALING, _FINGERPRINT = b"ragkeep sealed value 1", b"ragkeep fingerprint 1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value belongs, in its tenant."""

    collection: str
    document_id: str
    field: str


@dataclass(slots=True)
class TenantSealer:
    """For one tenant, with one state of the keyring."""

    keyring: Keyring
    tenant: str
    salt: bytes = field(repr=False)
    _ciphers: dict[str, AESGCM] = field(default_factory=dict, repr=False)
    _fingerprint_key: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if len(self.salt) < KEY_BYTES:
            # All tenants would have the same key.
            raise ValueError("the tenant's record has no salt")

    def seal(self, place: Place, value: Value) -> SealedValue:
        """The value, encrypted with the active key."""
        nonce = os.urandom(_NONCE_BYTES)
        plaintext = value.SerializeToString(deterministic=True)
        ciphertext = self._cipher(self.keyring.active).encrypt(nonce, plaintext, self._bound(_SEALING, place))
        return SealedValue(key_id=self.keyring.active, nonce=nonce, ciphertext=ciphertext)

    def open(self, place: Place, sealed: SealedValue) -> Value:
        """The value. Raises SealingKeyMissing, or SealedValueDamaged for what was not sealed for just this place."""
        if sealed.key_id and sealed.key_id not in self.keyring.keys:
            raise SealingKeyMissing(
                f"The field {place.field} is sealed with the key {sealed.key_id}, which the keyring does not hold. Put it back "
                "from a backup of the keyring; without it the value is lost.",
                metadata={"key_id": sealed.key_id, "field": place.field},
            )
        try:
            if len(sealed.nonce) != _NONCE_BYTES:
                raise InvalidTag
            opened = self._cipher(sealed.key_id).decrypt(sealed.nonce, sealed.ciphertext, self._bound(_SEALING, place))
            return Value.FromString(opened)
        except (InvalidTag, KeyError, DecodeError):
            # Nothing of the engine's words or the value goes along.
            raise SealedValueDamaged(
                f"The sealed value of the field {place.field} cannot be opened: it was changed, or is of another tenant, "
                "document or field. Import the document again.",
                metadata={"field": place.field},
            ) from None

    def fingerprint(self, place: Place, value: Value) -> bytes:
        """The same for the same value in the same place whatever key seals it, and tells nothing of it: an HMAC."""
        if not self._fingerprint_key:
            self._fingerprint_key = _derived(self.keyring.fingerprint, self.salt, _FINGERPRINT)
        content = json.dumps([value.WhichOneof("kind"), plain(value)], ensure_ascii=False, separators=(",", ":"))
        return hmac.digest(self._fingerprint_key, self._bound(_FINGERPRINT, place) + content.encode(), hashlib.sha256)

    def _cipher(self, key_id: str) -> AESGCM:
        if key_id not in self._ciphers:
            self._ciphers[key_id] = AESGCM(_derived(self.keyring.keys[key_id], self.salt, _SEALING))
        return self._ciphers[key_id]

    def _bound(self, purpose: bytes, place: Place) -> bytes:
        """Each part with its length before it: no two places read alike."""
        parts = (self.tenant, place.collection, place.document_id, place.field)
        return purpose + b"".join(len(data := part.encode()).to_bytes(4, "big") + data for part in parts)


def _derived(secret: bytes, salt: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, purpose).derive(secret)
