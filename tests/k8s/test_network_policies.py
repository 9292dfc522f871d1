"""The NetworkPolicies against the contract: exactly what is needed gets through, and nothing else in either direction."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from ragkeep.access.v1 import access_pb2
from tests.k8s.manifests import OVERLAYS, Object, component_on, named, of_kind, overlay
from tests.k8s.network import CALLER, INTERNET, INTRUDER, STRANGER, allowed, needed, services_of_the_contract

pytestmark = pytest.mark.engine("cyclonus")


@pytest.mark.parametrize("name", OVERLAYS)
def test_exactly_the_pairs_of_the_contract_get_through(name: str) -> None:
    """No more and no less, as an evaluator of its own sees it, on the sender's end and the receiver's."""
    objects = overlay(name)
    assert allowed(objects) == needed(objects, services_of_the_contract())


def test_with_tracing_the_collector_is_reached_too() -> None:
    """The component opens the way to the collector, and to DNS for those that did not need it before."""
    objects = component_on("dev", "tracing")
    found = allowed(objects)
    assert found == needed(objects, services_of_the_contract())
    assert ("embedder", "collector", 4317, "TCP") in found


def test_nothing_leaves_and_nobody_unknown_comes_in() -> None:
    """Said once more without the contract: the Internet, a pod without the label, an unknown pod in the namespace itself."""
    found = allowed(overlay("prod"))
    strangers = {INTERNET, STRANGER, INTRUDER, "other-system"}
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


def test_without_any_one_policy_the_comparison_fails() -> None:
    """Each policy is needed: dropped, either something gets through that should not, or something does not that should."""
    objects = overlay("dev")
    expected = needed(objects, services_of_the_contract())
    policies = of_kind(objects, "NetworkPolicy")
    assert len(policies) >= 7
    for policy in policies:
        left = [one for one in objects if one is not policy]
        assert allowed(left) != expected, policy["metadata"]["name"]


def test_each_peer_in_a_policy_is_needed() -> None:
    """A rule of a policy that is dropped is missed as well: no rule is there for nothing."""
    objects = overlay("dev")
    expected = needed(objects, services_of_the_contract())
    tried = 0
    for policy in of_kind(objects, "NetworkPolicy"):
        for direction in ("ingress", "egress"):
            for rule in list(policy["spec"].get(direction, [])):
                policy["spec"][direction].remove(rule)
                assert allowed(objects) != expected, (policy["metadata"]["name"], direction, rule)
                policy["spec"][direction].append(rule)
                tried += 1
    assert tried >= 12
    assert allowed(objects) == expected


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
