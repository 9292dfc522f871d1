"""Who may call what: rules from the contract, grants from the policy file, and nothing by default."""

import json
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from ragkeep.embedder.v1 import embedder_pb2
from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_runtime.access import AccessTable, Grant, Policy, rules_of
from ragkeep_runtime.errors import NotAllowed, TenantNotAllowed

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
    for peer, metadata in [("one", {"ragkeep-tenant": "a"}), ("two", {}), ("any", {}), ("any", {"ragkeep-tenant": "x" * 129})]:
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
