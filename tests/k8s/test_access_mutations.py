"""Who gets in and what is on record, broken on purpose, one thing at a time: the rule that is named for it says so."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest

from tests.k8s.manifests import Object, component_on, container, named, of_kind, overlay, pod, workloads
from tests.k8s.rules import RULES

pytestmark = pytest.mark.engine("kustomize")
Break = Callable[[list[Object]], None]


def gateway(objects: list[Object]) -> Object:
    """Its container."""
    return container(objects, "gateway", "gateway")


def variable(name: str, value: str | None) -> Break:
    """A variable of the gateway with another value, or without one: taken away."""

    def change(objects: list[Object]) -> None:
        env = gateway(objects)["env"]
        (found,) = [entry for entry in env if entry["name"] == name]
        env.remove(found)
        if value is not None:
            env.append({"name": name, "value": value})

    return change


def added(name: str, value: str) -> Break:
    """A variable of the gateway that was not there."""

    def change(objects: list[Object]) -> None:
        gateway(objects)["env"].append({"name": name, "value": value})

    return change


def gateways(number: int | None) -> Break:
    """As many replicas; None: not said."""

    def change(objects: list[Object]) -> None:
        found = named(objects, "StatefulSet", "gateway")
        assert found
        found["spec"]["replicas"] = number
        if number is None:
            del found["spec"]["replicas"]

    return change


def an_autoscaler_of_gateways(objects: list[Object]) -> None:
    """Beside those of the services."""
    target = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "gateway"}
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 6}
    objects.append({"kind": "HorizontalPodAutoscaler", "metadata": {"name": "gateway"}, "spec": spec})


def mount(name: str, /, **changes: Any) -> Break:
    """A mount of the gateway, changed."""

    def change(objects: list[Object]) -> None:
        (found,) = [one for one in gateway(objects)["volumeMounts"] if one["name"] == name]
        found.update(changes)

    return change


def volume(workload: str, name: str, /, **changes: Any) -> Break:
    """The source of a volume, changed."""

    def change(objects: list[Object]) -> None:
        (found,) = [one for one in workloads(objects) if one["metadata"]["name"] == workload]
        (source,) = [one for one in pod(found)["volumes"] if one["name"] == name]
        (source.get("secret") or source["configMap"]).update(changes)

    return change


def without_volume_claims(objects: list[Object]) -> None:
    """The gateway's disk is gone with its pod."""
    found = named(objects, "StatefulSet", "gateway")
    assert found
    del found["spec"]["volumeClaimTemplates"]
    pod(found)["volumes"].append({"name": "data", "emptyDir": {}})


def dropped(kind: str, name: str) -> Break:
    """An object that is not there."""

    def change(objects: list[Object]) -> None:
        found = named(objects, kind, name)
        assert found
        objects.remove(found)

    return change


def service(name: str, /, **changes: Any) -> Break:
    """A Service, changed."""

    def change(objects: list[Object]) -> None:
        found = named(objects, "Service", name)
        assert found
        found["spec"].update(changes)

    return change


def https_port(name: str, /, **changes: Any) -> Break:
    """The HTTPS port of a Service, changed."""

    def change(objects: list[Object]) -> None:
        found = named(objects, "Service", name)
        assert found
        (port,) = [one for one in found["spec"]["ports"] if one["name"] == "https"]
        port.update(changes)

    return change


def settings_from(source: Object) -> Break:
    """The settings of tokens, from elsewhere."""

    def change(objects: list[Object]) -> None:
        gateway(objects)["envFrom"] = [source]

    return change


def no_https_port(objects: list[Object]) -> None:
    """The container's port."""
    ports = gateway(objects)["ports"]
    ports[:] = [port for port in ports if port["name"] != "https"]


def annotation(name: str, key: str, value: str | None) -> Break:
    """An annotation for Prometheus, changed or taken away."""

    def change(objects: list[Object]) -> None:
        (found,) = [one for one in workloads(objects) if one["metadata"]["name"] == name]
        annotations = found["spec"]["template"]["metadata"]["annotations"]
        del annotations[f"prometheus.io/{key}"]
        if value is not None:
            annotations[f"prometheus.io/{key}"] = value

    return change


def not_scraped(name: str) -> Break:
    """A service whose annotations are gone."""

    def change(objects: list[Object]) -> None:
        (found,) = [one for one in workloads(objects) if one["metadata"]["name"] == name]
        del found["spec"]["template"]["metadata"]["annotations"]

    return change


def policy_under_a_hashed_name(objects: list[Object]) -> None:
    """As kustomize would name it by itself."""
    found = named(objects, "ConfigMap", "ragkeep-policy")
    assert found
    found["metadata"]["name"] = "ragkeep-policy-7h2k9"


def the_embedder_has(secret: str) -> Break:
    """A secret of the gateway in another pod."""

    def change(objects: list[Object]) -> None:
        (found,) = [one for one in workloads(objects) if one["metadata"]["name"] == "embedder"]
        pod(found)["volumes"].append({"name": "more", "secret": {"secretName": secret, "defaultMode": 0o440}})

    return change


BROKEN: list[tuple[str, str, Break]] = [
    ("files", "the audit key may be missing", volume("gateway", "audit", optional=True)),
    ("files", "the policy may be missing", volume("gateway", "policy", optional=True)),
    ("files", "the policy is mounted as a file", mount("policy", subPath="policy.json")),
    ("files", "the keys of tokens are mounted as a file", mount("jwks", subPath="jwks.json")),
    ("files", "the site's certificate is mounted as a file", mount("https", subPath="tls.crt")),
    ("files", "the gateway may write to the audit key", mount("audit", readOnly=False)),
    ("files", "everybody reads the audit key", volume("gateway", "audit", defaultMode=0o444)),
    ("files", "everybody reads Weaviate's key", volume("retriever", "weaviate-key", defaultMode=0o644)),
    ("files", "the policy has another name with each change", policy_under_a_hashed_name),
    (
        "files",
        "settings of tokens may be missing",
        settings_from({"configMapRef": {"name": "ragkeep-people", "optional": True}}),
    ),
    ("files", "a secret in the environment", settings_from({"secretRef": {"name": "ragkeep-people"}})),
    ("files", "the embedder has the audit key", the_embedder_has("ragkeep-audit")),
    ("files", "the embedder has the keyring", the_embedder_has("ragkeep-keyring")),
    ("files", "the embedder has the site's certificate", the_embedder_has("gateway-https")),
    ("audit", "no audit log", variable("RAGKEEP_AUDIT_FOLDER", None)),
    ("audit", "an audit log that goes with the pod", variable("RAGKEEP_AUDIT_FOLDER", "/tmp/audit")),
    ("audit", "an audit log on no volume of its own", without_volume_claims),
    ("audit", "no audit key", variable("RAGKEEP_AUDIT_KEY", None)),
    ("audit", "the audit key of another place", variable("RAGKEEP_AUDIT_KEY", "/var/lib/ragkeep/key")),
    ("audit", "the audit key of another secret", volume("gateway", "audit", secretName="gateway-tls")),
    ("audit", "a volume that cannot be written to", mount("data", readOnly=True)),
    ("audit", "no signing key of its own", variable("RAGKEEP_AUDIT_SIGNING_KEY", None)),
    ("audit", "replaced keys of another place", variable("RAGKEEP_AUDIT_EARLIER_KEYS", "/var/lib/ragkeep/earlier-*")),
    ("audit", "one name for all replicas", added("RAGKEEP_AUDIT_REPLICA", "gateway")),
    ("audit", "one gateway answers for itself alone", variable("RAGKEEP_GATEWAY_REPLICAS_AT", None)),
    ("audit", "only gateways that are ready", variable("RAGKEEP_GATEWAY_REPLICAS_AT", "dns:///gateway:50061")),
    ("audit", "gateways at another port", variable("RAGKEEP_GATEWAY_REPLICAS_AT", "dns:///gateway-replicas:50062")),
    ("audit", "no Service of all gateways", dropped("Service", "gateway-replicas")),
    ("audit", "one address for all gateways", service("gateway-replicas", clusterIP="10.0.0.7")),
    ("audit", "those that are not ready are left out", service("gateway-replicas", publishNotReadyAddresses=False)),
    ("audit", "a Service of other pods", service("gateway-replicas", selector={"app.kubernetes.io/name": "embedder"})),
    ("shares", "more gateways than they know of", gateways(3)),
    ("shares", "fewer gateways than they believe", variable("RAGKEEP_REPLICAS", "2")),
    ("shares", "nobody tells them", variable("RAGKEEP_REPLICAS", None)),
    ("shares", "their number is not said", gateways(None)),
    ("shares", "an autoscaler changes their number", an_autoscaler_of_gateways),
    ("people", "no HTTPS address", variable("RAGKEEP_HTTP_LISTEN", None)),
    ("people", "HTTPS elsewhere", variable("RAGKEEP_HTTP_LISTEN", "0.0.0.0:443")),
    ("people", "the certificate of the services", variable("RAGKEEP_HTTP_CERT", "/etc/ragkeep/tls/tls.crt")),
    ("people", "no key of the site", variable("RAGKEEP_HTTP_KEY", None)),
    ("people", "no keys of tokens", variable("RAGKEEP_JWT_JWKS", None)),
    ("people", "the keys of tokens from another config map", volume("gateway", "jwks", name="ragkeep-trust")),
    ("people", "the site's certificate from another secret", volume("gateway", "https", secretName="gateway-tls")),
    ("people", "settings of tokens from elsewhere", settings_from({"configMapRef": {"name": "ragkeep-trust"}})),
    ("people", "no port", no_https_port),
    ("people", "no Service", dropped("Service", "gateway-https")),
    ("people", "a headless Service", service("gateway-https", clusterIP="None")),
    ("people", "a Service of other pods", service("gateway-https", selector={"app.kubernetes.io/part-of": "ragkeep"})),
    ("people", "a Service to the gRPC port", https_port("gateway-https", targetPort="grpc")),
    ("people", "another port of the headless Service", https_port("gateway", port=443)),
    ("sealing", "no keyring is named", variable("RAGKEEP_KEYRING", None)),
    ("sealing", "a keyring that an image brings", variable("RAGKEEP_KEYRING", "/opt/keyring.json")),
    ("sealing", "a keyring from another secret", volume("gateway", "keyring", secretName="ragkeep-audit")),
    ("files", "the keyring is mounted as a file", mount("keyring", subPath="keyring.json")),
    ("files", "the keyring may be missing", volume("gateway", "keyring", optional=True)),
    ("files", "everybody reads the keyring", volume("gateway", "keyring", defaultMode=0o644)),
    ("metrics", "one is not scraped", not_scraped("retriever")),
    ("metrics", "metrics on the gRPC port", annotation("gateway", "port", "50061")),
    ("metrics", "no port", annotation("embedder", "port", None)),
    ("metrics", "another path", annotation("generator", "path", "/stats")),
    ("metrics", "not switched on", annotation("generator", "scrape", "false")),
]


@functools.cache
def _objects() -> list[Object]:
    return component_on("dev", "people", "sealing", "metrics")


@pytest.mark.parametrize(("rule", "what", "change"), BROKEN, ids=[f"{rule}: {what}" for rule, what, _ in BROKEN])
def test_what_is_broken_is_noticed(rule: str, what: str, change: Break) -> None:
    """By the rule that is named for it, which has nothing to say before."""
    objects = copy.deepcopy(_objects())
    assert RULES[rule](objects) == []
    change(objects)
    assert RULES[rule](objects), what


def test_without_the_components_nothing_of_them_is_there() -> None:
    """No HTTPS port, no keyring, no scraping: what is not chosen is not open."""
    for name in ("dev", "prod", "edge"):
        objects = overlay(name)
        assert "https" not in {port["name"] for port in gateway(objects)["ports"]}
        assert not [one for one in of_kind(objects, "Service") if one["metadata"]["name"] == "gateway-https"]
        assert "keyring" not in {one["name"] for one in gateway(objects)["volumeMounts"]}
        assert not [one for one in workloads(objects) if "annotations" in one["spec"]["template"]["metadata"]]
