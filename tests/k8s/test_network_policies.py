"""The NetworkPolicies against the contract: exactly what is needed gets through, and nothing else in either direction."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from ragkeep.access.v1 import access_pb2
from tests.k8s.manifests import OVERLAYS, Object, component_on, named, of_kind, overlay, workloads
from tests.k8s.network import (
    CALLER,
    HTTPS_CLIENT,
    INTERNET,
    INTRUDER,
    PROMETHEUS,
    STRANGER,
    allowed,
    needed,
    sent,
    services_of_the_contract,
    taken,
)

pytestmark = pytest.mark.engine("cyclonus")
# All that open a way.
COMPONENTS = ("tracing", "people", "metrics")


@pytest.mark.parametrize("name", OVERLAYS)
def test_exactly_the_pairs_of_the_contract_get_through(name: str) -> None:
    """No more and no less, as an evaluator of its own sees it: together, and on the sender's end and the receiver's alone."""
    objects = overlay(name)
    _exactly_what_is_needed(objects)


def test_with_tracing_the_collector_is_reached_too() -> None:
    """The component opens the way to the collector, and to DNS for those that did not need it before."""
    objects = component_on("dev", "tracing")
    _exactly_what_is_needed(objects)
    assert ("embedder", "collector", 4317, "TCP") in allowed(objects)


def test_with_people_https_is_reached_by_pods_that_are_marked_and_nothing_else() -> None:
    """An ingress controller reaches the HTTPS port alone; a caller's label does not open it, nor the other way round."""
    objects = component_on("dev", "people")
    _exactly_what_is_needed(objects)
    found = allowed(objects)
    assert {pair for pair in found if HTTPS_CLIENT in pair[:2]} == {(HTTPS_CLIENT, "gateway", 8443, "TCP")}
    assert {(to, port) for sender, to, port, _ in found if sender == CALLER} == {("gateway", 50061)}


def test_with_metrics_prometheus_reaches_the_health_ports_alone() -> None:
    """Of the four services; a Prometheus of another namespace is nobody."""
    objects = component_on("prod", "people", "metrics", "tracing")
    _exactly_what_is_needed(objects)
    found = allowed(objects)
    ports = {"gateway": 9161, "embedder": 9162, "retriever": 9163, "generator": 9164}
    assert {pair for pair in found if PROMETHEUS in pair[:2]} == {(PROMETHEUS, to, at, "TCP") for to, at in ports.items()}
    assert not {pair for pair in found if "other-prometheus" in pair[:2]}


def test_nothing_leaves_and_nobody_unknown_comes_in() -> None:
    """Said once more without the contract: the Internet, a pod without the label, an unknown pod in the namespace itself."""
    found = allowed(overlay("prod"))
    strangers = {INTERNET, "site", "metadata-service", "node", STRANGER, INTRUDER, "other-system", HTTPS_CLIENT, PROMETHEUS}
    assert not {pair for pair in found if pair[0] in strangers or pair[1] in strangers}
    assert {(to, port) for sender, to, port, _ in found if sender == CALLER} == {("gateway", 50061)}


def test_an_rpc_that_lets_a_new_peer_in_is_missed_until_the_policies_follow() -> None:
    """A method of the embedder that the generator may call: the comparison fails, and heals with the policy."""
    objects = overlay("dev")
    services = [*services_of_the_contract(), _new_rpc("embedder", peers=["generator"])]
    missing = needed(objects, services) - allowed(objects)
    assert missing == {("generator", "embedder", 50062, "TCP")}
    _open(objects, "embedder", "generator")
    assert allowed(objects) == needed(objects, services)


def test_a_rule_names_its_ports_and_pods_never_addresses() -> None:
    """Every rule of every policy, the components' too: a rule without ports opens all of them, and an address is no pod."""
    for policy in of_kind(component_on("prod", *COMPONENTS), "NetworkPolicy"):
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, []):
                assert rule["ports"], policy["metadata"]["name"]
                assert all(isinstance(port["port"], int) and "endPort" not in port for port in rule["ports"])
                assert rule[peers], policy["metadata"]["name"]
                assert not any("ipBlock" in peer for peer in rule[peers])


HOLES = [
    ("embedder", "egress", {"to": [{"ipBlock": {"cidr": "192.168.0.0/16"}}]}),
    ("gateway", "egress", {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"protocol": "UDP", "port": 443}]}),
    ("gateway", "egress", {"to": [{"ipBlock": {"cidr": "169.254.0.0/16"}}], "ports": [{"protocol": "TCP", "port": 80}]}),
    ("weaviate", "ingress", {"ports": [{"protocol": "TCP", "port": 9999}]}),
    ("retriever", "ingress", {"from": [{"podSelector": {}}], "ports": [{"protocol": "SCTP", "port": 50063}]}),
    ("generator", "ingress", {"from": [{"namespaceSelector": {}}], "ports": [{"protocol": "TCP", "port": 50064}]}),
    ("people", "ingress", {"from": [{"namespaceSelector": {}}], "ports": [{"protocol": "TCP", "port": 8443}]}),
    (
        "people",
        "ingress",
        {
            "from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"ragkeep.internal/https-client": "true"}}}],
            "ports": [{"protocol": "TCP", "port": 50061}],
        },
    ),
    (
        "metrics-gateway",
        "ingress",
        {
            "from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}],
            "ports": [{"protocol": "TCP", "port": 9161}],
        },
    ),
]


@pytest.mark.parametrize(
    ("name", "direction", "rule"), HOLES, ids=[f"{name}-{number}" for number, (name, _, _) in enumerate(HOLES)]
)
def test_a_hole_is_noticed(name: str, direction: str, rule: Object) -> None:
    """A network of the site, any address, a port more, another protocol, everybody, anybody's Prometheus: each is more than what is
    needed."""
    objects = component_on("dev", *COMPONENTS)
    found = named(objects, "NetworkPolicy", name)
    assert found
    found["spec"].setdefault(direction, []).append(rule)
    if direction == "egress":
        found["spec"]["policyTypes"] = ["Ingress", "Egress"]
    expected = {
        pair for pair in needed(objects, services_of_the_contract()) if _ours(objects, pair[0 if direction == "egress" else 1])
    }
    assert (sent if direction == "egress" else taken)(objects) > expected


def test_without_any_one_policy_the_comparison_fails() -> None:
    """Each policy is needed: dropped, either something gets through that should not, or something does not that should."""
    objects = component_on("dev", *COMPONENTS)
    expected = needed(objects, services_of_the_contract())
    policies = of_kind(objects, "NetworkPolicy")
    assert len(policies) >= 13
    for policy in policies:
        left = [one for one in objects if one is not policy]
        assert allowed(left) != expected, policy["metadata"]["name"]


def test_each_peer_in_a_policy_is_needed() -> None:
    """A rule of a policy that is dropped is missed as well: no rule is there for nothing."""
    objects = component_on("dev", *COMPONENTS)
    expected = needed(objects, services_of_the_contract())
    tried = 0
    for policy in of_kind(objects, "NetworkPolicy"):
        for direction in ("ingress", "egress"):
            for rule in list(policy["spec"].get(direction, [])):
                policy["spec"][direction].remove(rule)
                assert allowed(objects) != expected, (policy["metadata"]["name"], direction, rule)
                policy["spec"][direction].append(rule)
                tried += 1
    assert tried >= 21
    assert allowed(objects) == expected


def _exactly_what_is_needed(objects: list[Object]) -> None:
    expected = needed(objects, services_of_the_contract())
    assert allowed(objects) == expected
    assert sent(objects) == {pair for pair in expected if _ours(objects, pair[0])}
    assert taken(objects) == {pair for pair in expected if _ours(objects, pair[1])}


def _ours(objects: list[Object], name: str) -> bool:
    return any(one["metadata"]["name"] == name for one in workloads(objects))


def _new_rpc(server: str, peers: list[str]) -> object:
    """A service as a change of the contract would bring it."""
    file = descriptor_pb2.FileDescriptorProto(name="new.proto", package=f"ragkeep.{server}.v2", syntax="proto3")
    file.message_type.add(name="Nothing")
    method = file.service.add(name="NewService").method.add(name="New", input_type="Nothing", output_type="Nothing")
    method.options.Extensions[access_pb2.access].peers.extend(peers)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(descriptor_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(access_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return pool.FindServiceByName(f"ragkeep.{server}.v2.NewService")


def _open(objects: list[Object], server: str, peer: str) -> None:
    """What a person would write into the policies."""
    port = {"protocol": "TCP", "port": 50062}
    found = named(objects, "NetworkPolicy", server)
    assert found
    found["spec"]["ingress"].append(
        {"from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": peer}}}], "ports": [port]}
    )
    objects.append(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": f"{peer}-out", "namespace": "ragkeep"},
            "spec": {
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": peer}},
                "policyTypes": ["Egress"],
                "egress": [{"to": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": server}}}], "ports": [port]}],
            },
        }
    )
