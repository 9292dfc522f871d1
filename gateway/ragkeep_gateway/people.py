"""People: a JWT is verified, and its claims say who asks. Signatures are PyJWT's work; what is demanded of them is ours.

The algorithm is never the token's choice: it follows from the key. A secret is for HS256 alone, a public key for the one
algorithm of its kind, so neither `none` nor a public key used as a secret gets anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ragkeep_gateway.settings import Settings
from ragkeep_runtime.access import Person
from ragkeep_runtime.errors import TokenExpired, TokenInvalid
from ragkeep_runtime.following import FollowedFile
from ragkeep_runtime.policy import ROLES

MAX_TOKEN_BYTES, MAX_GROUPS, MIN_SECRET_BYTES, MIN_RSA_BITS = 16 * 1024, 256, 32, 2048


@dataclass(frozen=True, slots=True)
class Key:
    """What a signature is checked with."""

    algorithm: str
    key: Any
    id: str = ""  # `kid`; empty: it has none


@dataclass(frozen=True, slots=True)
class Claims:
    """Where an identity provider puts what we need. A name may be a path: `realm_access.roles`."""

    subject: str = "sub"
    tenant: str = "tenant"
    roles: str = "roles"
    groups: str = "groups"
    role_prefix: str = ""  # only roles that begin with it are ours, without it


def secret_of(content: bytes) -> list[Key]:
    """The file of a shared secret. Raises ValueError."""
    secret = content.strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"the secret has {len(secret)} bytes; at least {MIN_SECRET_BYTES} are needed")
    return [Key("HS256", secret)]


def keys_of(content: bytes) -> list[Key]:
    """The public keys of a JWKS. Raises ValueError where there is none that can be used, or a secret one."""
    try:
        entries = json.loads(content)["keys"]
        found = [key for entry in entries if (key := _key(entry)) is not None]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, jwt.PyJWTError) as error:
        raise ValueError(str(error) if isinstance(error, _Unfit) else f"it is not a JWKS ({type(error).__name__})") from None
    if not found:
        raise ValueError("it holds no RSA, P-256 or Ed25519 key for signatures")
    if len({key.id for key in found}) != len(found):
        raise ValueError("two keys have the same kid, or none has one")
    return found


class _Unfit(ValueError):
    pass


def _key(entry: Mapping[str, Any]) -> Key | None:
    """A key for signatures; None for one of another use or kind."""
    if entry["kty"] == "oct" or "d" in entry:
        # A file that is handed round must not hold what signs.
        raise _Unfit("it holds a secret or private key; only public keys belong there")
    # A provider's file holds keys for encryption and other algorithms too.
    ours = ("RS256", "ES256", "EdDSA", "Ed25519", None)
    if entry.get("use", "sig") != "sig" or entry["kty"] not in ("RSA", "EC", "OKP") or entry.get("alg") not in ours:
        return None
    key = jwt.PyJWK.from_dict(dict(entry)).key
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise _Unfit(f"an RSA key has {key.key_size} bits; at least {MIN_RSA_BITS} are needed")
        algorithm = "RS256"
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        algorithm = "ES256"
    elif isinstance(key, ed25519.Ed25519PublicKey):
        algorithm = "EdDSA"
    else:
        return None
    return Key(algorithm, key, str(entry.get("kid", "")))


class People:
    """Verifies tokens."""

    def __init__(
        self,
        keys: FollowedFile[list[Key]] | Callable[[], list[Key]],
        *,
        issuer: str,
        audience: str,
        leeway_s: float = 30,
        claims: Claims | None = None,
    ) -> None:
        self._keys = keys.current if isinstance(keys, FollowedFile) else keys
        self.look: Callable[[], object] = keys.look if isinstance(keys, FollowedFile) else keys  # whether the file changed
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_s
        self._claims = claims or Claims()

    def verify(self, token: str) -> Person:
        """Who the token speaks of. Raises TokenInvalid or TokenExpired; the message never holds a part of the token."""
        key = self._key_for(token)
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway_s,
                options={"require": ["exp", "aud", "iss"], "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError:
            raise TokenExpired("The token has expired. Get a new one from your identity provider.") from None
        except jwt.ImmatureSignatureError:
            raise TokenExpired("The token is not valid yet. Do the clocks agree?") from None
        except jwt.MissingRequiredClaimError as error:
            raise TokenInvalid(f"The token lacks the claim {error.claim}.") from None
        except jwt.InvalidAudienceError:
            raise TokenInvalid("The token is for another audience than this installation.") from None
        except jwt.InvalidIssuerError:
            raise TokenInvalid("The token comes from another issuer than this installation trusts.") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise TokenInvalid("The token's signature or form is wrong.") from None
        return self._person(claims)

    def _key_for(self, token: str) -> Key:
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenInvalid(f"The token is longer than {MAX_TOKEN_BYTES} bytes.")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise TokenInvalid("The token is not a JWT.") from None
        if "crit" in header:
            raise TokenInvalid("The token demands an extension that is not known here.")
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm == "Ed25519":  # RFC 9864's name of it
            algorithm = "EdDSA"
        fitting = [key for key in self._keys() if key.algorithm == algorithm]
        if kid is not None and any(key.id for key in fitting):
            fitting = [key for key in fitting if key.id == kid]
        if len(fitting) != 1:
            raise TokenInvalid("The token is signed with a key or an algorithm that this installation does not know.")
        return fitting[0]

    def _person(self, claims: Mapping[str, Any]) -> Person:
        names = self._claims
        subject, tenant = _claim(claims, names.subject), _claim(claims, names.tenant)
        if not isinstance(subject, str) or not 0 < len(subject) <= 256 or not subject.isprintable():
            raise TokenInvalid(f"The token's claim {names.subject} is not a name of 1 to 256 characters.")
        if not isinstance(tenant, str) or not 0 < len(tenant) <= 128 or not tenant.isprintable() or tenant == "*":
            raise TokenInvalid(f"The token's claim {names.tenant} is not a tenant of 1 to 128 characters.")
        roles = {
            role.removeprefix(names.role_prefix) for role in _names(claims, names.roles) if role.startswith(names.role_prefix)
        }
        # A group named * would be every document; in a token it is a name like none.
        groups = {group for group in _names(claims, names.groups) if group != "*"}
        if len(groups) > MAX_GROUPS or any(not 0 < len(group) <= 128 for group in groups):
            raise TokenInvalid(f"The token's claim {names.groups} holds more than {MAX_GROUPS} groups, or one that is no name.")
        token = claims.get("jti", "")
        if not isinstance(token, str) or len(token) > 256 or not token.isprintable():
            raise TokenInvalid("The token's claim jti is not an id of at most 256 characters.")
        # An identity provider has roles for other systems too: what is not ours is passed over.
        return Person(subject, tenant, frozenset(roles & set(ROLES.values())), frozenset(groups), token)


def people_of(settings: Settings) -> People | None:
    """As the settings say; None where no tokens are taken. Raises ValueError or OSError."""
    if settings.jwt_secret is not None and settings.jwt_jwks is not None:
        raise ValueError("RAGKEEP_JWT_SECRET and RAGKEEP_JWT_JWKS are both set; tokens are of one kind")
    if settings.jwt_jwks is not None:
        keys = FollowedFile(settings.jwt_jwks, keys_of, what="jwt_jwks")
    elif settings.jwt_secret is not None:
        keys = FollowedFile(settings.jwt_secret, secret_of, what="jwt_secret")
    else:
        return None
    if not settings.jwt_issuer or not settings.jwt_audience:
        raise ValueError("RAGKEEP_JWT_ISSUER and RAGKEEP_JWT_AUDIENCE are needed where tokens are taken")
    claims = Claims(
        subject=settings.jwt_subject_claim,
        tenant=settings.jwt_tenant_claim,
        roles=settings.jwt_roles_claim,
        groups=settings.jwt_groups_claim,
        role_prefix=settings.jwt_role_prefix,
    )
    return People(
        keys, issuer=settings.jwt_issuer, audience=settings.jwt_audience, leeway_s=settings.jwt_leeway_s, claims=claims
    )


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of that name; else what the path leads to, from object to object."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _names(claims: Mapping[str, Any], path: str) -> list[str]:
    """A list of names, or one text with blanks between them; none where the claim is absent. Raises TokenInvalid."""
    found = _claim(claims, path)
    if found is None:
        return []
    if isinstance(found, str):
        return found.split()
    if isinstance(found, list) and all(isinstance(one, str) for one in found):
        return found
    raise TokenInvalid(f"The token's claim {path} is not a list of names.")
