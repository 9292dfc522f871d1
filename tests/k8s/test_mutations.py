"""The rules find what is broken: each thing that the design asks for is taken away, one at a time, and a rule says so."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.k8s.manifests import OVERLAYS, SERVICES, Object, at_path, of_kind, overlay, paths_to, without, workloads
from tests.k8s.rules import RULES

pytestmark = pytest.mark.engine("kustomize")
Path = tuple[Any, ...]


def _inside(objects: list[Object], kinds: tuple[str, ...], key: str) -> Iterator[Path]:
    """Every place of a key in objects of these kinds."""
    for position, found in enumerate(objects):
        if found["kind"] in kinds:
            yield from paths_to(found, key, (position,))


def _named(objects: list[Object], path: Path) -> str:
    return f"{objects[path[0]]['kind']}/{objects[path[0]]['metadata']['name']}:{'.'.join(str(step) for step in path[1:])}"


PODS = ("Deployment", "StatefulSet")
# What is taken away (a key, in objects of these kinds), the rule that has to say so, and how often it is there at least.
TAKEN: list[tuple[str, tuple[str, ...], str, int]] = [
    ("securityContext", PODS, "restricted", 12),
    ("runAsNonRoot", PODS, "restricted", 5),
    ("seccompProfile", PODS, "restricted", 5),
    ("allowPrivilegeEscalation", PODS, "restricted", 9),
    ("readOnlyRootFilesystem", PODS, "restricted", 9),
    ("capabilities", PODS, "restricted", 9),
    ("automountServiceAccountToken", PODS, "restricted", 5),
    ("labels", ("Namespace",), "restricted", 1),
    ("limits", PODS, "resources", 9),
    ("requests", PODS, "resources", 9),
    ("memory", PODS, "resources", 18),
    ("topologySpreadConstraints", PODS, "spread", 5),
    ("readinessProbe", PODS, "probes", 5),
    ("livenessProbe", PODS, "probes", 7),
    ("startupProbe", PODS, "probes", 9),
    ("preStop", PODS, "ending", 5),
    ("terminationGracePeriodSeconds", PODS, "ending", 5),
    ("uris", ("Certificate",), "identities", 5),
    ("dnsNames", ("Certificate",), "identities", 5),
    ("duration", ("Certificate",), "identities", 5),
    ("renewBefore", ("Certificate",), "identities", 5),
    ("rotationPolicy", ("Certificate",), "identities", 5),
    ("automountServiceAccountToken", ("ServiceAccount",), "identities", 5),
    ("clusterIP", ("Service",), "settings", 4),
    ("unhealthyPodEvictionPolicy", ("PodDisruptionBudget",), "spread", 5),
]


@pytest.mark.parametrize(("key", "kinds", "rule", "least"), TAKEN, ids=[f"{kinds[0]}.{key}" for key, kinds, _, _ in TAKEN])
def test_what_is_taken_away_is_missed(key: str, kinds: tuple[str, ...], rule: str, least: int) -> None:
    """Wherever it stands: one run of the rule for each place."""
    objects = [one for one in overlay("dev") if one["metadata"].get("namespace") == "ragkeep" or one["kind"] == "Namespace"]
    paths = [path for path in _inside(objects, kinds, key) if _counts(objects, path, key)]
    assert len(paths) >= least
    for path in paths:
        assert RULES[rule](without(objects, path)), _named(objects, path)


def _counts(objects: list[Object], path: Path, key: str) -> bool:
    """Weaviate's Services are not a service's; a claim's size is not a container's request."""
    if key == "clusterIP":
        return objects[path[0]]["metadata"]["name"] in SERVICES
    return "volumeClaimTemplates" not in path


@pytest.mark.parametrize("kind", ["Certificate", "PodDisruptionBudget", "ServiceAccount"])
def test_an_object_that_is_dropped_is_missed(kind: str) -> None:
    """One for each of the five."""
    objects = overlay("dev")
    dropped = [one for one in of_kind(objects, kind) if one["metadata"]["namespace"] == "ragkeep"]
    assert len(dropped) == 5
    for one in dropped:
        left = [other for other in objects if other is not one]
        assert any(rule(left) for rule in RULES.values()), one["metadata"]["name"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_each_name_in_a_certificate_is_needed_and_no_other_may_be_there(name: str) -> None:
    """A name dropped, another service's name added, the wrong trust domain."""
    objects = overlay(name)
    tried = 0
    for position, found in enumerate(objects):
        if found["kind"] != "Certificate" or found["metadata"]["namespace"] != "ragkeep":
            continue
        service = found["metadata"]["name"]
        for number, dns in enumerate(found["spec"]["dnsNames"]):
            if dns.endswith("ragkeep.internal"):
                assert RULES["identities"](without(objects, (position, "spec", "dnsNames", number))), service
                tried += 1
        for uri in ("spiffe://other.internal/" + service, "spiffe://ragkeep.internal/caller/local/cli"):
            changed = copy.deepcopy(objects)
            changed[position]["spec"]["uris"] = [uri]
            assert RULES["identities"](changed), service
        changed = copy.deepcopy(objects)
        changed[position]["spec"]["dnsNames"].append(
            "gateway.ragkeep.internal" if service != "gateway" else "embedder.ragkeep.internal"
        )
        assert RULES["identities"](changed), service
    assert tried == 5


@pytest.mark.parametrize("service", SERVICES)
def test_a_setting_that_is_renamed_fails(service: str) -> None:
    """Every variable of the service's container under another name, as if the settings class had been changed alone."""
    objects = overlay("dev")
    tried = 0
    for position, found in enumerate(objects):
        if found["metadata"]["name"] != service or found["kind"] not in PODS:
            continue
        (place,) = [
            number for number, one in enumerate(found["spec"]["template"]["spec"]["containers"]) if one["name"] == service
        ]
        path = (position, "spec", "template", "spec", "containers", place)
        for number, entry in enumerate(at_path(objects, path)["env"]):
            changed = copy.deepcopy(objects)
            at_path(changed, path)["env"][number]["name"] = entry["name"] + "S"
            assert RULES["settings"](changed), entry["name"]
            tried += 1
    assert tried >= 8


# What is changed, to what, and the rule that has to say so.
CHANGED: list[tuple[str, Path, Any, str]] = [
    ("embedder", ("containers", 0, "ports", 0, "containerPort"), 50099, "settings"),
    ("embedder", ("containers", 0, "command"), ["ragkeep-embed"], "settings"),
    ("embedder", ("containers", 0, "readinessProbe", "httpGet", "path"), "/ready", "probes"),
    ("gateway", ("containers", 0, "livenessProbe", "httpGet", "port"), "grpc", "probes"),
    ("gateway", ("terminationGracePeriodSeconds",), 60, "ending"),
    ("gateway", ("hostNetwork",), True, "restricted"),
    ("generator", ("volumes", 0, "secret", "secretName"), "gateway-tls", "identities"),
    ("retriever", ("containers", 0, "image"), "ragkeep:latest", "resources"),
    ("retriever", ("containers", 0, "image"), "ragkeep", "resources"),
    ("retriever", ("containers", 0, "securityContext", "privileged"), True, "restricted"),
    ("weaviate", ("containers", 0, "args"), ["--host", "0.0.0.0"], "engines"),
    ("weaviate", ("containers", 0, "readinessProbe", "httpGet", "port"), "proxy-health", "probes"),
]


@pytest.mark.parametrize(
    ("workload", "path", "value", "rule"), CHANGED, ids=[f"{w}.{'.'.join(map(str, p))}" for w, p, _, _ in CHANGED]
)
def test_what_is_changed_is_noticed(workload: str, path: Path, value: object, rule: str) -> None:
    """A port, a command, a probe, a mount, an image: each by the rule that is named for it."""
    objects = overlay("dev")
    (found,) = [one for one in workloads(objects) if one["metadata"]["name"] == workload]
    at_path(found["spec"]["template"]["spec"], path[:-1])[path[-1]] = value
    assert RULES[rule](objects)


ENGINE_SETTINGS = {
    "ollama": "OLLAMA_HOST OLLAMA_MODELS OLLAMA_NO_CLOUD OLLAMA_NUM_PARALLEL OLLAMA_MAX_LOADED_MODELS OLLAMA_CONTEXT_LENGTH "
    "OLLAMA_KEEP_ALIVE",
    "weaviate": "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED AUTHENTICATION_APIKEY_ENABLED AUTHENTICATION_APIKEY_ALLOWED_KEYS "
    "DISABLE_TELEMETRY GO_PROFILING_DISABLE ASYNC_INDEXING ASYNC_INDEXING_STALE_TIMEOUT QUEUE_SCHEDULER_INTERVAL",
}


@pytest.mark.parametrize("engine", ENGINE_SETTINGS)
def test_each_safe_setting_of_an_engine_is_missed(engine: str) -> None:
    """Loopback, no cloud, no telemetry, the key, the queue that saves vectors: dropped one by one, in every pod that has the engine."""
    objects = overlay("prod")
    for wanted in ENGINE_SETTINGS[engine].split():
        dropped = 0
        for position, found in enumerate(objects):
            for path in paths_to(found, "env", (position,)) if found["kind"] in PODS else ():
                for number, entry in enumerate(at_path(objects, path)):
                    if entry["name"] == wanted:
                        assert RULES["engines"](without(objects, (*path, number))), (wanted, found["metadata"]["name"])
                        dropped += 1
        assert dropped == (2 if engine == "ollama" else 1), wanted


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("require_client_certificate: true", "require_client_certificate: false"),
        ("spiffe://ragkeep.internal/retriever", "spiffe://ragkeep.internal/gateway"),
        ("tls_minimum_protocol_version: TLSv1_3", "tls_minimum_protocol_version: TLSv1_2"),
        ("name: only-the-retriever", "name: anybody"),
        ("port_value: 8443", "port_value: 8445"),
        ("address: 127.0.0.1, port_value: 50051", "address: 0.0.0.0, port_value: 50051"),
    ],
)
def test_a_proxy_that_is_opened_is_noticed(old: str, new: str) -> None:
    """Without a client's certificate, for another peer, with an older TLS, on another port, in plain on the network."""
    objects = overlay("dev")
    changed = 0
    for one in of_kind(objects, "ConfigMap"):
        if one["metadata"]["name"].startswith(("weaviate-proxy", "retriever-proxy")):
            for file, text in one["data"].items():
                changed += old in text
                one["data"][file] = text.replace(old, new)
            if RULES["proxies"](objects):
                return
    assert changed
    pytest.fail(f"nobody noticed {new}")
