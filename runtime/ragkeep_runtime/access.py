"""Who may call: the contract's access rules, the peer's certificate, the policy file and the person's token, put together.

Fails closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import unquote

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from ragkeep.access.v1 import access_pb2
from ragkeep_runtime.call import Call
from ragkeep_runtime.errors import NotAllowed, PeerUnknown, TenantNotAllowed, TokenInvalid
from ragkeep_runtime.following import FollowedFile
from ragkeep_runtime.policy import ANY, ROLES, Grant, Policy

TENANT_KEY, TOKEN_KEY = "ragkeep-tenant", "authorization"


@dataclass(frozen=True, slots=True)
class Rule:
    """The access rule of one method."""

    peers: frozenset[str]  # names; "*" is any caller the policy knows
    roles: frozenset[str]  # one of them is needed by a caller admitted by "*"
    operator: bool = False  # and it must act for the operator


def rules_of(services: Iterable[ServiceDescriptor]) -> dict[str, Rule]:
    """The rules by method path. Raises ValueError for a method without one: better no server than an open one."""
    rules = {}
    for service in services:
        for method in service.methods:
            options = method.GetOptions()
            access = options.Extensions[access_pb2.access]
            if not access.peers or (ANY in access.peers and not access.roles) or 0 in access.roles:
                raise ValueError(f"{method.full_name} has no complete access rule")
            roles = frozenset(ROLES[role] for role in access.roles)
            rules[f"/{service.full_name}/{method.name}"] = Rule(frozenset(access.peers), roles, access.operator)
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


@dataclass(frozen=True, slots=True)
class Person:
    """Who a verified token speaks of."""

    subject: str
    tenant: str
    roles: frozenset[str]
    groups: frozenset[str]
    token: str = ""  # the token's id, its `jti`; empty: it has none


@dataclass(frozen=True, slots=True)
class Admission:
    """A caller let in."""

    peer: str  # empty where a person came without one, over HTTPS
    tenant: str
    roles: frozenset[str]
    subject: str = ""  # the person; empty: the peer acts for itself
    groups: frozenset[str] | None = frozenset()  # None: every document
    operator: bool = False  # it acts for the operator: in the tenant that the policy names, or in every tenant
    token: str = ""  # the id of the person's token


@dataclass(slots=True)
class Known:
    """What is certain of a caller so far: by a verified token, or a certificate of one tenant. Empty: nothing."""

    subject: str = ""
    tenant: str = ""
    token: str = ""  # its id


class AccessTable:
    """Decides on every call of one server."""

    def __init__(
        self,
        rules: Mapping[str, Rule],
        policy: Policy | FollowedFile[Policy],
        verify: Callable[[str], Person] | None = None,  # raises TokenInvalid or TokenExpired; None: nobody comes by token
    ) -> None:
        self.rules = dict(rules)
        self._policy = policy
        self._verify = verify

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy if isinstance(self._policy, Policy) else self._policy.current()

    def admits_every_peer(self, method: str) -> bool:
        """Health is for every peer with a certificate of this installation. It says nothing but "serving", and a stranger
        whose health watch is refused would be told UNAVAILABLE by its own channel instead of why it is not admitted."""
        return method.startswith("/grpc.health.v1.Health/")

    def admit(self, method: str, peer: str | None, metadata: Mapping[str, str], known: Known | None = None) -> Admission:
        """Lets the caller in, or raises NotAllowed, TenantNotAllowed, TokenInvalid or TokenExpired.

        `peer` is the name of a certificate; None: there is none, as over HTTPS, and only a person may come in. `known` is
        told who it is as soon as that is certain, so that who is refused afterwards has a name.
        """
        return self._decide(method, peer, metadata, known or Known(), self._person)

    def readmit(self, call: Call) -> None:
        """Raises NotAllowed or TenantNotAllowed where a call that was let in would not be now, or with less than it has.

        The person is who was verified then: the token is not looked at again.
        """
        groups = call.groups or frozenset()
        person = Person(call.subject, call.tenant, call.roles, groups, call.token) if call.subject else None
        found = self._decide(call.method, call.peer or None, call.metadata, Known(), lambda _: person)
        if found.tenant != call.tenant:
            raise TenantNotAllowed("The policy gives the caller another tenant now.")
        fewer = found.groups is not None and (call.groups is None or not call.groups <= found.groups)
        if fewer or not call.roles <= found.roles or call.operator > found.operator:
            raise NotAllowed("The policy lets the caller do or see less than when this call began.")

    def _decide(
        self,
        method: str,
        peer: str | None,
        metadata: Mapping[str, str],
        known: Known,
        person_of: Callable[[Mapping[str, str]], Person | None],
    ) -> Admission:
        policy, rule = self.policy, self.rules.get(method)  # once: it may be replaced between two looks
        if peer is not None:
            if self.admits_every_peer(method):
                return Admission(peer, "", frozenset())
            if peer in policy.denied:
                raise NotAllowed(f"The peer {peer} is denied by the policy.")
            if rule is not None and peer in rule.peers:
                return Admission(peer, "", frozenset())
        if peer is None and TOKEN_KEY not in metadata:
            raise TokenInvalid("A token is needed: Authorization: Bearer, and a JWT of your identity provider.")
        grant = None if peer is None else policy.callers.get(peer)
        # Before a token is looked at: who is not known here learns nothing about it.
        if rule is None or ANY not in rule.peers or (peer is not None and grant is None):
            raise NotAllowed(f"{_who(peer)} may not call {method.rpartition('/')[2]}.")
        if grant is not None and len(grant.tenants) == 1 and ANY not in grant.tenants:
            (known.tenant,) = grant.tenants
        if grant is not None and not grant.roles & rule.roles:
            raise NotAllowed(f"The peer {peer} needs one of the roles {', '.join(sorted(rule.roles))}.")
        person = person_of(metadata)
        if person is not None:
            known.subject, known.tenant, known.token = person.subject, person.tenant, person.token
            if person.subject.strip() in policy.denied_people:
                raise NotAllowed("The person is denied by the policy.")
            if person.token and person.token.strip() in policy.denied_tokens:
                raise NotAllowed("The token is denied by the policy.")
        admitted = _for_itself(peer, grant, metadata) if person is None else _for_person(peer, grant, person, metadata)
        known.tenant = admitted.tenant
        if not admitted.roles & rule.roles:
            raise NotAllowed(f"One of the roles {', '.join(sorted(rule.roles))} is needed, of the person and of the service.")
        operator = _is_operator(policy, admitted, grant)
        if rule.operator and not operator:
            raise NotAllowed("This is for the operator: an admin of the tenant that the policy names as operator_tenant.")
        return replace(admitted, operator=operator)

    def _person(self, metadata: Mapping[str, str]) -> Person | None:
        given = metadata.get(TOKEN_KEY)
        if given is None:
            return None
        scheme, _, token = given.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise TokenInvalid("The authorization is not of the form: Bearer, and a JWT.")
        if self._verify is None:
            raise TokenInvalid("This installation takes no tokens: RAGKEEP_JWT_SECRET or RAGKEEP_JWT_JWKS is not set.")
        return self._verify(token.strip())


def _is_operator(policy: Policy, admitted: Admission, grant: Grant | None) -> bool:
    if not admitted.subject and grant is not None and ANY in grant.tenants:
        return True  # it may act in every tenant as it is
    return policy.operator_tenant is not None and admitted.tenant == policy.operator_tenant


def _who(peer: str | None) -> str:
    return "A person" if peer is None else f"The peer {peer}"


def _for_itself(peer: str | None, grant: Grant | None, metadata: Mapping[str, str]) -> Admission:
    if grant is None or peer is None:
        raise TokenInvalid("A token is needed: Authorization: Bearer, and a JWT of your identity provider.")
    if grant.people_only:
        raise TokenInvalid(f"The policy lets {peer} act for people alone: hand on a JWT in the metadata {TOKEN_KEY}.")
    return Admission(peer, _tenant(grant, metadata.get(TENANT_KEY, "")), grant.roles, "", grant.groups)


def _for_person(peer: str | None, grant: Grant | None, person: Person, metadata: Mapping[str, str]) -> Admission:
    """Both must be allowed: the tenants agree, the roles are those that both have, the groups are the person's."""
    asked = unquote(metadata.get(TENANT_KEY, ""), errors="replace")
    bound = grant is None or person.tenant in grant.tenants or ANY in grant.tenants
    if not bound or asked not in ("", person.tenant):
        raise TenantNotAllowed("The person's tenant is not one of the caller's, or not the one that it names.")
    roles = person.roles if grant is None else person.roles & grant.roles
    return Admission(peer or "", person.tenant, roles, person.subject, person.groups, token=person.token)


def _tenant(grant: Grant, asked: str) -> str:
    if asked:
        # Metadata is ASCII: other characters come percent-encoded.
        asked = unquote(asked, errors="replace")
        if asked == ANY or len(asked) > 128 or (asked not in grant.tenants and ANY not in grant.tenants):
            raise TenantNotAllowed("The caller is not bound to the tenant that it names.")
        return asked
    if len(grant.tenants) != 1 or ANY in grant.tenants:
        raise TenantNotAllowed(
            f"The caller has several tenants: name one of them in the metadata {TENANT_KEY} (the Python client's tenant=)."
        )
    return next(iter(grant.tenants))
