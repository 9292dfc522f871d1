"""The policy file: which callers are known, for which tenants, with which roles, groups and quotas, and who is denied."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ragkeep.access.v1 import access_pb2

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ANY = "*"
ROLES = {number: name.removeprefix("ROLE_").lower() for name, number in access_pb2.Role.items() if number}

_SERVICES = frozenset({"gateway", "embedder", "retriever", "generator", "weaviate"})
_Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
_Claim = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_TOLD = 5  # faults of a file, where it is said on one line
_Limit = Annotated[int, Field(ge=0, le=10**15)]


class _QuotasEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    documents: _Limit | None = None
    questions_per_minute: _Limit | None = None
    concurrent_streams: _Limit | None = None
    tokens_per_day: _Limit | None = None


class _CallerEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    tenants: list[_Name]
    roles: list[str]
    groups: list[_Name] = []
    people_only: bool = False
    quotas: _QuotasEntry = _QuotasEntry()


class _TenantEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    quotas: _QuotasEntry = _QuotasEntry()


class _PolicyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    operator_tenant: _Name | None = None
    denied: list[_Name] = []
    denied_people: list[_Claim] = []
    denied_tokens: list[_Claim] = []
    callers: dict[str, _CallerEntry]
    tenants: dict[str, _TenantEntry] = {}


@dataclass(frozen=True, slots=True)
class Quotas:
    """How much is allowed; None: any amount."""

    documents: int | None = None
    questions_per_minute: int | None = None
    concurrent_streams: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller may do, and for whom."""

    tenants: frozenset[str]  # "*": any
    roles: frozenset[str]
    groups: frozenset[str] | None = frozenset()  # of documents that it sees beside open ones; None: every document
    people_only: bool = False  # it acts for people alone, never for itself
    quotas: Quotas = Quotas()  # of this caller, beside its tenant's


@dataclass(frozen=True, slots=True)
class Policy:
    """Callers by name (`caller/<namespace>/<name>`), and the rest of the file."""

    callers: Mapping[str, Grant] = field(default_factory=dict)
    denied: frozenset[str] = frozenset()  # names of peers that are refused, whatever else the policy says
    operator_tenant: str | None = None  # whose admins manage tenants and collections
    tenants: Mapping[str, Quotas] = field(default_factory=dict)  # "*": those that are not named
    denied_people: frozenset[str] = frozenset()  # subjects of tokens that are refused, however long they are valid
    denied_tokens: frozenset[str] = frozenset()  # ids (`jti`) of tokens that are refused, whoever they speak of

    @classmethod
    def parse(cls, content: bytes) -> Policy:
        """The policy that a file holds. Raises PolicyWrong."""
        _check_keys(content)
        try:
            parsed = _PolicyFile.model_validate_json(content)
        except ValidationError as error:
            raise PolicyWrong(_words(one) for one in error.errors(include_input=False, include_url=False)) from None
        faults = [*_faults_of_denied(parsed.denied)]
        faults += _faults_of_claims("denied_people", "subject", parsed.denied_people)
        faults += _faults_of_claims("denied_tokens", "id", parsed.denied_tokens)
        faults += [fault for name, entry in parsed.callers.items() for fault in _faults_of_caller(name, entry)]
        if faults:
            raise PolicyWrong(faults)
        return cls(
            {name: _grant(entry) for name, entry in parsed.callers.items()},
            frozenset(parsed.denied),
            parsed.operator_tenant,
            {name: Quotas(**entry.quotas.model_dump()) for name, entry in parsed.tenants.items()},
            frozenset(parsed.denied_people),
            frozenset(parsed.denied_tokens),
        )

    @classmethod
    def read(cls, path: Path | None) -> Policy:
        """The policy of a file; None: nobody is known. Raises ValueError, naming file and fault, or OSError."""
        if path is None:
            return cls()
        try:
            return cls.parse(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"the policy file {path.name} is wrong: {error}") from None

    def quotas_of(self, tenant: str) -> Quotas:
        """The tenant's own, else those for every tenant."""
        return self.tenants.get(tenant) or self.tenants.get(ANY) or Quotas()


class PolicyWrong(ValueError):
    """A policy file that is not taken, with all that is wrong in it and where; nothing of it is secret."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        more = f"; and {len(self.faults) - _TOLD} more" if len(self.faults) > _TOLD else ""
        super().__init__("; ".join(self.faults[:_TOLD]) + more)


def _words(error: ErrorDetails) -> str:
    where = ".".join(str(part) for part in error["loc"])
    return f"{where[:300]}: {error['msg']}" if where else error["msg"]


def _check_keys(content: bytes) -> None:
    """Raises PolicyWrong for a key that stands twice in an object: of two lists of denied callers one would be lost unseen."""

    def check(pairs: list[tuple[str, object]]) -> None:
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise PolicyWrong([f"the key {twice[:128]!r} stands twice in one object"])

    try:
        json.loads(content, object_pairs_hook=check)
    except PolicyWrong:
        raise
    except (ValueError, RecursionError):
        return  # what is no JSON at all is said better by what reads it next


def _faults_of_denied(names: Iterable[str]) -> Iterator[str]:
    # One that is written in another way would deny nobody, and nobody would notice.
    for name in names:
        if name not in _SERVICES and not re.fullmatch(r"caller/[^\s/]+/[^\s/]+", name):
            yield f"denied: {name[:128]} is no name of a peer: caller/<namespace>/<name>, or a service of ragkeep"


def _faults_of_claims(key: str, what: str, claims: Iterable[str]) -> Iterator[str]:
    for claim in claims:
        if not claim.isprintable() or claim != claim.strip():
            yield f"{key}: {claim[:128]!r} is no {what} of a token: printable characters, no blank at either end"


def _faults_of_caller(name: str, entry: _CallerEntry) -> Iterator[str]:
    unknown = sorted(role[:64] for role in set(entry.roles) - set(ROLES.values()))
    if not name.startswith("caller/"):
        yield f"callers.{name[:128]}: a wrong name: callers are caller/<namespace>/<name>"
    if unknown:
        yield f"callers.{name[:128]}.roles: unknown roles: {', '.join(unknown)}; there are {', '.join(ROLES.values())}"
    if ANY in entry.groups and len(entry.groups) > 1:
        yield f"callers.{name[:128]}.groups: the group * stands alone, for every document"


def _grant(entry: _CallerEntry) -> Grant:
    groups = None if entry.groups == [ANY] else frozenset(entry.groups)
    quotas = Quotas(**entry.quotas.model_dump())
    return Grant(frozenset(entry.tenants), frozenset(entry.roles), groups, entry.people_only, quotas)
