"""Who may call: the contract's access rules, the peer's certificate and the policy file, put together. Fails closed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from ragkeep.access.v1 import access_pb2
from ragkeep_runtime.errors import NotAllowed, PeerUnknown, TenantNotAllowed

TENANT_KEY = "ragkeep-tenant"
ANY = "*"
_ROLE_NAMES = {number: name.removeprefix("ROLE_").lower() for name, number in access_pb2.Role.items() if number}


@dataclass(frozen=True, slots=True)
class Rule:
    """The access rule of one method."""

    peers: frozenset[str]  # names; "*" is any caller the policy knows
    roles: frozenset[str]  # one of them is needed by a caller admitted by "*"


def rules_of(services: Iterable[ServiceDescriptor]) -> dict[str, Rule]:
    """The rules by method path. Raises ValueError for a method without one: better no server than an open one."""
    rules = {}
    for service in services:
        for method in service.methods:
            options = method.GetOptions()
            access = options.Extensions[access_pb2.access]
            if not access.peers or (ANY in access.peers and not access.roles) or 0 in access.roles:
                raise ValueError(f"{method.full_name} has no complete access rule")
            roles = frozenset(_ROLE_NAMES[role] for role in access.roles)
            rules[f"/{service.full_name}/{method.name}"] = Rule(frozenset(access.peers), roles)
    return rules


def peer_name(context: grpc.aio.ServicerContext[object, object], trust_domain: str) -> str:
    """The path of the caller's SPIFFE id. Raises PeerUnknown where there is not exactly one URI of the trust domain."""
    auth = context.auth_context()
    uris = list(auth.get("peer_uri", ()))
    prefix = f"spiffe://{trust_domain}/"
    if list(auth.get("transport_security_type", ())) != [b"ssl"] or len(uris) != 1:
        raise PeerUnknown("The caller's certificate does not hold exactly one SPIFFE URI.")
    uri = uris[0].decode("ascii", "replace")
    name = uri.removeprefix(prefix)
    if name == uri or not name:
        raise PeerUnknown(f"The caller's certificate is not of the trust domain {trust_domain}.")
    return name


class _CallerEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    tenants: list[Annotated[str, StringConstraints(min_length=1, max_length=128)]]
    roles: list[str]


class _PolicyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    callers: dict[str, _CallerEntry]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller may do, and for whom."""

    tenants: frozenset[str]  # "*": any
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class Policy:
    """The callers that are known, by name (`caller/<namespace>/<name>`)."""

    callers: Mapping[str, Grant] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | None) -> Policy:
        """The policy of a file; None: nobody is known. Raises ValueError, naming what is wrong, or OSError."""
        if path is None:
            return cls()
        try:
            parsed = _PolicyFile.model_validate(json.loads(path.read_bytes()))
        except (ValidationError, ValueError) as error:
            raise ValueError(f"the policy file {path.name} is wrong: {error}") from None
        callers = {}
        for name, entry in parsed.callers.items():
            unknown = set(entry.roles) - set(_ROLE_NAMES.values())
            if unknown or not name.startswith("caller/"):
                raise ValueError(f"the policy file {path.name} has unknown roles or a wrong name: {name}, {sorted(unknown)}")
            callers[name] = Grant(frozenset(entry.tenants), frozenset(entry.roles))
        return cls(callers)


@dataclass(frozen=True, slots=True)
class Admission:
    """A caller let in."""

    peer: str
    tenant: str
    roles: frozenset[str]


class AccessTable:
    """Decides on every call of one server."""

    def __init__(self, rules: Mapping[str, Rule], policy: Policy) -> None:
        self.rules = dict(rules)
        self.policy = policy

    def admits_every_peer(self, method: str) -> bool:
        """Health is for every peer with a certificate of this installation. It says nothing but "serving", and a stranger
        whose health watch is refused would be told UNAVAILABLE by its own channel instead of why it is not admitted."""
        return method.startswith("/grpc.health.v1.Health/")

    def admit(self, method: str, peer: str, metadata: Mapping[str, str]) -> Admission:
        """Lets the caller in, or raises NotAllowed or TenantNotAllowed."""
        if self.admits_every_peer(method):
            return Admission(peer, "", frozenset())
        rule = self.rules.get(method)
        if rule is not None and peer in rule.peers:
            return Admission(peer, "", frozenset())
        grant = self.policy.callers.get(peer)
        if rule is None or ANY not in rule.peers or grant is None:
            raise NotAllowed(f"The peer {peer} may not call {method.rpartition('/')[2]}.")
        if not grant.roles & rule.roles:
            raise NotAllowed(f"The peer {peer} needs one of the roles {', '.join(sorted(rule.roles))}.")
        return Admission(peer, _tenant(grant, metadata.get(TENANT_KEY, "")), grant.roles)


def _tenant(grant: Grant, asked: str) -> str:
    if asked:
        # Metadata is ASCII: other characters come percent-encoded.
        asked = unquote(asked, errors="replace")
        if len(asked) > 128 or (asked not in grant.tenants and ANY not in grant.tenants):
            raise TenantNotAllowed("The caller is not bound to the tenant that it names.")
        return asked
    if len(grant.tenants) != 1 or ANY in grant.tenants:
        raise TenantNotAllowed(
            f"The caller has several tenants: name one of them in the metadata {TENANT_KEY} (the Python client's tenant=)."
        )
    return next(iter(grant.tenants))
