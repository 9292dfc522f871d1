"""Identity providers for tests: keys of every kind, and tokens that are right or wrong in one way."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER, AUDIENCE = "https://id.clinic.example", "ragkeep"


class Issuer:
    """Signs with one key; `algorithm` is HS256, RS256, ES256 or EdDSA."""

    def __init__(self, algorithm: str = "ES256", kid: str = "k1") -> None:
        self.algorithm, self.kid = algorithm, kid
        makers: Mapping[str, Any] = {
            "HS256": lambda: "a secret of at least thirty-two bytes, " + kid,
            "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }
        self.key = makers[algorithm]()

    def jwk(self) -> dict[str, Any]:
        """The public key as a JWKS holds it."""
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        found = json.loads(algorithm.to_jwk(self.key.public_key()))
        return {**found, "kid": self.kid, "use": "sig", "alg": self.algorithm}

    def write(self, path: Path, *others: Issuer) -> None:
        """The file that the gateway is given: a JWKS, or the secret. Whole or not at all."""
        new = path.with_name(path.name + ".new")
        if self.algorithm == "HS256":
            new.write_text(self.key)
        else:
            new.write_text(json.dumps({"keys": [self.jwk(), *(other.jwk() for other in others)]}))
        new.replace(path)

    def token(self, *, headers: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A right token of somebody who reads in the tenant demo, but for the claims given; None leaves a claim out."""
        now = int(time.time())
        wanted: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "li.wei",
            "tenant": "demo",
            "roles": ["reader"],
            "iat": now,
            # Longer than any session of tests: some are made when a file of tests is read.
            "exp": now + 86_400,
        } | claims
        wanted = {name: value for name, value in wanted.items() if value is not None}
        head = {"kid": self.kid, **(headers or {})}
        head = {name: value for name, value in head.items() if value is not None}
        return jwt.encode(wanted, self.key, algorithm=self.algorithm, headers=head)


def settings_for(path: Path, issuer: Issuer) -> dict[str, str]:
    """What the gateway is to be told to trust the issuer, whose file is at `path`."""
    name = "RAGKEEP_JWT_SECRET" if issuer.algorithm == "HS256" else "RAGKEEP_JWT_JWKS"
    return {name: str(path), "RAGKEEP_JWT_ISSUER": ISSUER, "RAGKEEP_JWT_AUDIENCE": AUDIENCE}


def wrong_tokens(issuer: Issuer, **claims: Any) -> dict[str, str]:
    """By what is wrong with it: a token of a right person that must not be taken. Put together by hand where a library that is
    good for signing refuses to make it."""
    now = int(time.time())
    good = issuer.token(**claims)
    header, body, signature = good.split(".")
    flipped = bytearray(base64.urlsafe_b64decode(signature + "=="))
    flipped[0] ^= 1
    other = json.loads(base64.urlsafe_b64decode(body + "==")) | {"roles": ["admin", "reader"], "tenant": "other"}
    stranger = Issuer(issuer.algorithm, kid=issuer.kid)
    if issuer.algorithm == "HS256":
        stranger.key = "another secret of at least thirty-two bytes"
    return {
        "malformed": "not.a.token",
        "one part": "token",
        "expired": issuer.token(**claims | {"exp": now - 3600}),
        "not yet valid": issuer.token(**claims | {"nbf": now + 86_000}),
        "tampered": f"{header}.{_part(other)}.{signature}",
        "a bit of the signature": f"{header}.{body}.{_coded(bytes(flipped))}",
        "no signature": f"{header}.{body}.",
        "another key": stranger.token(**claims),
        "another audience": issuer.token(**claims | {"aud": "elsewhere"}),
        "another issuer": issuer.token(**claims | {"iss": "https://elsewhere.example"}),
        "no audience": issuer.token(**claims | {"aud": None}),
        "no expiry": issuer.token(**claims | {"exp": None}),
        "no subject": issuer.token(**claims | {"sub": None}),
        "no tenant": issuer.token(**claims | {"tenant": None}),
        "alg none": f"{_part({'alg': 'none', 'typ': 'JWT'})}.{body}.",
        "alg None": f"{_part({'alg': 'None', 'typ': 'JWT'})}.{body}.",
        "alg none, signed": f"{_part({'alg': 'none', 'typ': 'JWT'})}.{body}.{signature}",
    }


def _coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _part(value: Mapping[str, Any]) -> str:
    return _coded(json.dumps(value, separators=(",", ":")).encode())
