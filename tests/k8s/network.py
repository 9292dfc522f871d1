"""Who may talk to whom: what the contract, the engines and DNS need, and what an independent evaluator (cyclonus) says that the
NetworkPolicies let through, on both ends."""

from __future__ import annotations

import importlib
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.descriptor import ServiceDescriptor

from ragkeep_runtime.access import ANY, rules_of
from tests.k8s.manifests import CACHE, SERVICES, Object, at_path, container, named, of_kind, paths_to, pod, ports, workloads
from tests.k8s.services import default_port

# (from, to, port, protocol)
Pair = tuple[str, str, int, str]
NAMESPACE = "ragkeep"
CALLER, STRANGER, INTRUDER, DNS, INTERNET = "caller", "stranger", "intruder", "kube-dns", "internet"
COLLECTOR, HTTPS_CLIENT, PROMETHEUS = "collector", "https-client", "prometheus"


def services_of_the_contract() -> list[ServiceDescriptor]:
    """Every service of every proto."""
    found: list[ServiceDescriptor] = []
    for proto in sorted(Path("protos").rglob("*.proto")):
        module = ".".join(proto.relative_to("protos").with_name(proto.stem + "_pb2").parts)
        found += importlib.import_module(module).DESCRIPTOR.services_by_name.values()
    return found


def needed(objects: list[Object], services: Iterable[ServiceDescriptor]) -> set[Pair]:
    """The pairs that the access rules need, with the engine behind its proxies, and DNS; people, tracing and metrics where they are on."""
    pairs: set[Pair] = set()
    for service in services:
        server = service.full_name.split(".")[1]  # ragkeep.<server>.v1.…
        for rule in rules_of([service]).values():
            for peer in rule.peers:
                pairs.add((CALLER if peer == ANY else peer, server, default_port(server, "listen"), "TCP"))
    weaviate = named(objects, "Service", "weaviate")
    assert weaviate
    pairs |= {("retriever", "weaviate", port["port"], "TCP") for port in weaviate["spec"]["ports"]}
    cluster = container(objects, "weaviate", "weaviate")["ports"]
    pairs |= {("weaviate", "weaviate", port["containerPort"], port.get("protocol", "TCP")) for port in cluster}
    # Names are looked up by who dials one: channels of the gateway, the proxy beside the retriever, Weaviate's nodes.
    looking_up = {"gateway", "retriever", "weaviate"}
    for service_name in SERVICES:
        env = {entry["name"]: entry.get("value", "") for entry in container(objects, service_name, service_name)["env"]}
        endpoint = env.get("RAGKEEP_OTLP_ENDPOINT", "")
        if endpoint:
            pairs.add((service_name, COLLECTOR, int(endpoint.rpartition(":")[2]), "TCP"))
            looking_up.add(service_name)
        listen = env.get("RAGKEEP_HTTP_LISTEN", "")
        if listen:
            pairs.add((HTTPS_CLIENT, service_name, int(listen.rpartition(":")[2]), "TCP"))
    # Whoever shows metrics says so in an annotation.
    for workload in workloads(objects):
        annotations = workload["spec"]["template"]["metadata"].get("annotations", {})
        if annotations.get("prometheus.io/scrape") == "true":
            name = workload["metadata"]["name"]
            pairs.add((PROMETHEUS, name, default_port(name, "health_listen"), "TCP"))
    return pairs | {(name, DNS, 53, protocol) for name in looking_up for protocol in ("TCP", "UDP")}


def allowed(objects: list[Object]) -> set[Pair]:
    """What gets through from or to a pod of ragkeep, of everything that could be tried: sent, and taken."""
    return _evaluate(objects, of_kind(objects, "NetworkPolicy"), ends=(0, 1))


def sent(objects: list[Object]) -> set[Pair]:
    """What pods of ragkeep may send, whoever would take it."""
    return _evaluate(objects, _one_way(objects, "Egress", "egress"), ends=(0,))


def taken(objects: list[Object]) -> set[Pair]:
    """What pods of ragkeep take, whoever may send it."""
    return _evaluate(objects, _one_way(objects, "Ingress", "ingress"), ends=(1,))


def _one_way(objects: list[Object], kind: str, rules: str) -> list[Object]:
    """The policies as if there were only this direction."""
    found = []
    for policy in of_kind(objects, "NetworkPolicy"):
        spec = policy["spec"]
        if kind in spec["policyTypes"]:
            kept = {"podSelector": spec["podSelector"], "policyTypes": [kind], rules: spec.get(rules, [])}
            found.append({**policy, "spec": kept})
    return found


def _evaluate(objects: list[Object], policies: list[Object], ends: tuple[int, ...]) -> set[Pair]:
    pods = _pods(objects)
    tried = sorted((at, protocol) for at in _every_port(objects) for protocol in ("TCP", "UDP", "SCTP"))
    question = {
        "policies": policies,
        "pods": pods,
        "ports": [{"port": at, "protocol": protocol} for at, protocol in tried],
    }
    answer = subprocess.run(
        [CACHE / "bin" / "network-policies"], input=json.dumps(question), capture_output=True, text=True, check=True
    )
    ours = {one["name"] for one in pods if one["namespace"] == NAMESPACE}
    found = {(one["from"], one["to"], one["port"], one["protocol"]) for one in json.loads(answer.stdout)}
    return {pair for pair in found if any(pair[end] in ours for end in ends)}


def _pods(objects: list[Object]) -> list[dict[str, Any]]:
    """One pod of each workload; beside them those that may come, those that look like them, DNS, and addresses outside."""

    def one(name: str, namespace: str, labels: dict[str, str]) -> dict[str, Any]:
        names = {"kubernetes.io/metadata.name": namespace}
        return {"name": name, "namespace": namespace, "namespaceLabels": names, "labels": labels}

    found = [
        one(workload["metadata"]["name"], NAMESPACE, workload["spec"]["template"]["metadata"]["labels"])
        for workload in workloads(objects)
    ]
    found += [
        one(INTRUDER, NAMESPACE, {"app.kubernetes.io/name": "intruder", "app.kubernetes.io/part-of": "ragkeep"}),
        one(CALLER, "helpdesk", {"ragkeep.internal/caller": "true"}),
        one(STRANGER, "helpdesk", {"app.kubernetes.io/name": "gateway"}),
        one(DNS, "kube-system", {"k8s-app": "kube-dns"}),
        one("other-system", "kube-system", {"k8s-app": "other"}),
        one(COLLECTOR, "observability", {"app.kubernetes.io/name": "collector"}),
        one(HTTPS_CLIENT, "ingress", {"ragkeep.internal/https-client": "true"}),
        one(PROMETHEUS, "observability", {"app.kubernetes.io/name": "prometheus"}),
        one("other-prometheus", "helpdesk", {"app.kubernetes.io/name": "prometheus"}),
    ]
    for number, entry in enumerate(found):
        entry["ip"] = f"10.1.0.{number + 1}"
    outside = {INTERNET: "203.0.113.7", "site": "192.168.10.20", "metadata-service": "169.254.169.254", "node": "172.16.0.9"}
    return [
        *found,
        *({"name": name, "namespace": "", "namespaceLabels": {}, "labels": {}, "ip": ip} for name, ip in outside.items()),
    ]


def _every_port(objects: list[Object]) -> set[int]:
    """All that anything listens on, Ollama's and Weaviate's own included, and what an intruder would try."""
    found = {22, 25, 53, 80, 443, 4317, 6443, 8080, 8443, 11434, 50051}
    # Whatever a policy opens is tried, and a port that nobody thought of.
    for policy in of_kind(objects, "NetworkPolicy"):
        for path in paths_to(policy, "port"):
            found |= {at_path(policy, path)} - {None}
        for path in paths_to(policy, "endPort"):
            found |= {at_path(policy, path)}
    found.add(40_007)
    for workload in workloads(objects):
        spec = pod(workload)
        for one in [*spec.get("initContainers", []), *spec["containers"]]:
            found |= set(ports(one).values())
    for config in of_kind(objects, "ConfigMap"):
        envoy = yaml.safe_load(config.get("data", {}).get("envoy.yaml", "{}"))
        for listener in envoy.get("static_resources", {}).get("listeners", []):
            found.add(listener["address"]["socket_address"]["port_value"])
    return found
