"""Who may call what: rules from the contract, grants from the policy file, and nothing by default."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from ragkeep.embedder.v1 import embedder_pb2
from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_runtime.access import AccessTable, Admission, Known, Person, rules_of
from ragkeep_runtime.errors import NotAllowed, TenantNotAllowed, TokenInvalid
from ragkeep_runtime.policy import Grant, Policy

ASK = "/ragkeep.gateway.v1.RagService/Ask"
IMPORT = "/ragkeep.gateway.v1.RagService/ImportDocuments"
EMBED = "/ragkeep.embedder.v1.EmbedderService/Embed"


def _table(**callers: Grant) -> AccessTable:
    services = [
        gateway_pb2.DESCRIPTOR.services_by_name["RagService"],
        embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
    ]
    return AccessTable(rules_of(services), Policy({f"caller/x/{name}": grant for name, grant in callers.items()}))


def test_a_method_without_a_rule_stops_the_server_from_starting() -> None:
    """Better no server than an open one."""
    file = descriptor_pb2.FileDescriptorProto(name="open.proto", package="open")
    file.message_type.add(name="M")
    service = file.service.add(name="S")
    service.method.add(name="Do", input_type=".open.M", output_type=".open.M")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match=r"open\.S\.Do has no complete access rule"):
        rules_of([pool.FindServiceByName("open.S")])


def test_a_named_peer_is_admitted_without_a_role() -> None:
    """The gateway may embed; nobody else may."""
    table = _table(a=Grant(frozenset({"demo"}), frozenset({"reader", "editor", "admin"})))
    assert table.admit(EMBED, "gateway", {}).tenant == ""
    for stranger in ("retriever", "caller/x/a", "gateway/", "Gateway", ""):
        with pytest.raises(NotAllowed):
            table.admit(EMBED, stranger, {})


def test_a_known_caller_needs_one_of_the_roles() -> None:
    """A reader asks and does not import."""
    table = _table(a=Grant(frozenset({"demo"}), frozenset({"reader"})))
    assert table.admit(ASK, "caller/x/a", {}).tenant == "demo"
    with pytest.raises(NotAllowed, match="editor"):
        table.admit(IMPORT, "caller/x/a", {})
    with pytest.raises(NotAllowed):
        table.admit(ASK, "caller/x/b", {})
    with pytest.raises(NotAllowed):
        table.admit("/ragkeep.gateway.v1.RagService/Unheard", "caller/x/a", {})


def test_the_tenant_is_one_of_the_callers_own() -> None:
    """Metadata picks from the set; it never widens it."""
    table = _table(
        one=Grant(frozenset({"demo"}), frozenset({"reader"})),
        two=Grant(frozenset({"a", "b"}), frozenset({"reader"})),
        any=Grant(frozenset({"*"}), frozenset({"reader"})),
    )
    assert table.admit(ASK, "caller/x/two", {"ragkeep-tenant": "b"}).tenant == "b"
    assert table.admit(ASK, "caller/x/any", {"ragkeep-tenant": "%E5%BC%A0%E4%B8%89"}).tenant == "张三"
    for peer, metadata in [
        ("one", {"ragkeep-tenant": "a"}),
        ("two", {}),
        ("any", {}),
        ("any", {"ragkeep-tenant": "x" * 129}),
        ("any", {"ragkeep-tenant": "*"}),
        ("any", {"ragkeep-tenant": "%2A"}),
    ]:
        with pytest.raises(TenantNotAllowed):
            table.admit(ASK, f"caller/x/{peer}", metadata)


def test_health_is_for_every_peer_of_the_installation() -> None:
    """Load balancing watches health; refusing it would hide from a stranger why it is not admitted."""
    table = _table(a=Grant(frozenset({"demo"}), frozenset()))
    for peer in ("gateway", "caller/x/a", "caller/other/app"):
        assert table.admit("/grpc.health.v1.Health/Watch", peer, {})


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        '{"callers": {"gateway": {"tenants": ["a"], "roles": ["reader"]}}}',
        '{"callers": {"caller/a/b": {"tenants": ["a"], "roles": ["king"]}}}',
        '{"callers": {"caller/a/b": {"tenants": [""], "roles": ["reader"]}}}',
        '{"callers": {"caller/a/b": {"roles": ["reader"]}}}',
        '{"callers": {}, "more": 1}',
    ],
)
def test_a_wrong_policy_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    """Nothing is guessed from a file that is not understood in full."""
    file = tmp_path / "policy.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"policy\.json"):
        Policy.read(file)


def test_a_policy_file_is_read(tmp_path: Path) -> None:
    """Callers get their tenants and roles; no file means nobody."""
    file = tmp_path / "policy.json"
    file.write_text(json.dumps({"callers": {"caller/local/cli": {"tenants": ["demo"], "roles": ["reader"]}}}))
    assert Policy.read(file).callers["caller/local/cli"] == Grant(frozenset({"demo"}), frozenset({"reader"}))
    assert Policy.read(None).callers == {}


def _person(*roles: str, tenant: str = "demo", groups: tuple[str, ...] = ("g",)) -> Person:
    return Person("li.wei", tenant, frozenset(roles), frozenset(groups))


CREATE = "/ragkeep.gateway.v1.RagService/CreateCollection"
BEARER = {"authorization": "Bearer x"}


def _with_person(
    person: Person,
    *,
    operator: str | None = None,
    denied: tuple[str, ...] = (),
    denied_people: tuple[str, ...] = (),
    denied_tokens: tuple[str, ...] = (),
    **callers: Grant,
) -> AccessTable:
    rules = rules_of([gateway_pb2.DESCRIPTOR.services_by_name["RagService"]])
    known = {f"caller/x/{name}": grant for name, grant in callers.items()}
    policy = Policy(
        known,
        frozenset(denied),
        operator,
        denied_people=frozenset(denied_people),
        denied_tokens=frozenset(denied_tokens),
    )
    return AccessTable(rules, policy, lambda _: person)


def test_a_person_comes_in_without_a_certificate() -> None:
    """Over HTTPS: tenant, roles and groups are the token's."""
    found = _with_person(_person("reader")).admit(ASK, None, BEARER)
    assert found == Admission("", "demo", frozenset({"reader"}), "li.wei", frozenset({"g"}))
    for metadata in ({}, {"authorization": "Basic x"}, {"authorization": "Bearer "}):
        with pytest.raises(TokenInvalid):
            _with_person(_person("reader")).admit(ASK, None, metadata)
    with pytest.raises(NotAllowed):
        _with_person(_person("reader")).admit(IMPORT, None, BEARER)
    with pytest.raises(TenantNotAllowed):
        _with_person(_person("reader")).admit(ASK, None, BEARER | {"ragkeep-tenant": "other"})


def test_a_service_and_its_person_must_both_be_allowed() -> None:
    """Roles are those that both have, the tenant is one of the service's, the groups are the person's."""
    app = Grant(frozenset({"demo"}), frozenset({"reader"}), None)
    found = _with_person(_person("reader", "admin"), app=app).admit(ASK, "caller/x/app", BEARER)
    assert (found.roles, found.groups, found.subject) == ({"reader"}, {"g"}, "li.wei")
    with pytest.raises(NotAllowed):  # the person may, the service may not
        _with_person(_person("editor"), app=app).admit(IMPORT, "caller/x/app", BEARER)
    with pytest.raises(NotAllowed):  # the service may, the person may not
        _with_person(_person("editor"), app=app).admit(ASK, "caller/x/app", BEARER)
    with pytest.raises(TenantNotAllowed):
        _with_person(_person("reader", tenant="other"), app=app).admit(ASK, "caller/x/app", BEARER)
    with pytest.raises(NotAllowed):  # not known to the policy
        _with_person(_person("reader"), app=app).admit(ASK, "caller/x/stranger", BEARER)


def test_a_service_for_people_alone_does_not_act_for_itself() -> None:
    """A front end that forgets to hand the token on is refused, not given its own wider rights."""
    app = Grant(frozenset({"demo"}), frozenset({"reader"}), None, people_only=True)
    assert _with_person(_person("reader"), app=app).admit(ASK, "caller/x/app", BEARER)
    with pytest.raises(TokenInvalid, match="people alone"):
        _with_person(_person("reader"), app=app).admit(ASK, "caller/x/app", {})


def test_a_token_is_refused_where_none_is_taken() -> None:
    """Not passed over: the call would have another identity than the caller means."""
    table = _table(a=Grant(frozenset({"demo"}), frozenset({"reader"})))
    with pytest.raises(TokenInvalid, match="takes no tokens"):
        table.admit(ASK, "caller/x/a", BEARER)


def test_the_denied_stay_out_whatever_else_is_said() -> None:
    """A grant, or being a service of ours, does not help."""
    app = Grant(frozenset({"demo"}), frozenset({"reader"}))
    table = _with_person(_person("reader"), denied=("caller/x/app",), app=app)
    for metadata in ({}, BEARER):
        with pytest.raises(NotAllowed, match="denied"):
            table.admit(ASK, "caller/x/app", metadata)


@pytest.mark.parametrize("subject", ["li.wei", "li.wei "])
def test_a_denied_person_stays_out_with_a_token_that_is_right(subject: str) -> None:
    """By a service or alone, in whatever tenant; and has a name by which it goes on record. Others come in."""
    app = Grant(frozenset({"*"}), frozenset({"reader"}))
    person = Person(subject, "demo", frozenset({"reader"}), frozenset())
    table = _with_person(person, denied_people=("li.wei",), app=app)
    for peer in (None, "caller/x/app"):
        known = Known()
        with pytest.raises(NotAllowed, match="denied"):
            table.admit(ASK, peer, BEARER, known)
        assert known == Known(subject, "demo")
    assert _with_person(person, denied_people=("mallory",), app=app).admit(ASK, None, BEARER)
    assert table.admit(ASK, "caller/x/app", {"ragkeep-tenant": "demo"})  # for itself: nobody is denied


def test_a_denied_token_opens_nothing_and_its_person_stays_in() -> None:
    """By a service or alone, whatever subject; the person's other tokens, and those without an id, are taken."""
    app = Grant(frozenset({"*"}), frozenset({"reader"}))
    stolen = Person("li.wei", "demo", frozenset({"reader"}), frozenset(), "t-1")
    for peer in (None, "caller/x/app"):
        known = Known()
        with pytest.raises(NotAllowed, match="token is denied"):
            _with_person(stolen, denied_tokens=("t-1",), app=app).admit(ASK, peer, BEARER, known)
        assert known == Known("li.wei", "demo", "t-1")
    for token in ("t-2", ""):
        found = _with_person(replace(stolen, token=token), denied_tokens=("t-1",), app=app).admit(ASK, None, BEARER)
        assert found.token == token


def test_what_is_the_operators_is_for_its_admins_alone() -> None:
    """An admin of another tenant would rule over all; a service of every tenant acts for the operator as it is."""
    admin = Grant(frozenset({"demo"}), frozenset({"admin"}))
    everywhere = Grant(frozenset({"*"}), frozenset({"admin"}))
    tenant = {"ragkeep-tenant": "demo"}
    assert _with_person(_person("admin"), operator="demo", a=admin).admit(CREATE, "caller/x/a", {})
    assert _with_person(_person("admin"), operator="demo").admit(CREATE, None, BEARER)
    assert _with_person(_person("admin"), a=everywhere).admit(CREATE, "caller/x/a", tenant)
    for operator in (None, "ops"):
        table = _with_person(_person("admin"), operator=operator, a=admin, b=everywhere)
        for peer, metadata in (("caller/x/a", {}), (None, BEARER), ("caller/x/b", BEARER)):
            with pytest.raises(NotAllowed, match="operator"):
                table.admit(CREATE, peer, metadata)
