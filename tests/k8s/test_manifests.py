"""What each overlay renders to: against the schemas, against the settings of the code, and against the rules of the design."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.k8s.manifests import (
    OVERLAYS,
    ROOT,
    Object,
    component_on,
    container,
    containers,
    environment,
    named,
    of_kind,
    overlay,
    pod,
    render,
)
from tests.k8s.rules import RULES
from tests.k8s.schemas import problems

pytestmark = pytest.mark.engine("kustomize")


@functools.cache
def everything() -> dict[str, list[Object]]:
    """All that can be applied: the overlays, the overlays with each component that fits, the caller, the loader of models."""
    found = {name: overlay(name) for name in OVERLAYS}
    found["dev+tracing"] = component_on("dev", "tracing")
    found["dev+autoscaling"] = component_on("dev", "autoscaling")
    found["dev+autoscaling+queue"] = component_on("dev", "autoscaling", "autoscaling-queue")
    found["prod+gpu-embedder"] = component_on("prod", "gpu-embedder")
    found["dev+people"] = component_on("dev", "people")
    found["edge+metrics"] = component_on("edge", "metrics")
    found["dev+sealing"] = component_on("dev", "sealing")
    found["prod+people+sealing+metrics+tracing"] = component_on("prod", "people", "sealing", "metrics", "tracing")
    found["authority"] = render(ROOT / "authority")
    found["caller"] = render(ROOT / "caller")
    found["models"] = render(ROOT / "models")
    return found


def test_every_object_is_valid() -> None:
    """By Kubernetes' own schemas and those of cert-manager's resources, with unknown fields refused."""
    checked = 0
    for name, objects in everything().items():
        for found in objects:
            assert problems(found) == [], name
            checked += 1
    assert checked > 280


def test_every_component_and_overlay_is_among_those_checked() -> None:
    """A folder that is added is tested, too."""
    words = " ".join(everything())
    components = {path.name for path in (ROOT / "components").iterdir()}
    assert {name for name in components if name not in words} <= {"autoscaling-queue"}
    assert {path.name for path in (ROOT / "overlays").iterdir()} == set(OVERLAYS)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_keeps_the_rule(name: str, rule: object) -> None:
    """Each rule of tests/k8s/rules.py on each overlay."""
    assert callable(rule)
    assert rule(overlay(name)) == []


@pytest.mark.parametrize(
    "name",
    [
        "dev+tracing",
        "dev+autoscaling",
        "dev+autoscaling+queue",
        "prod+gpu-embedder",
        "dev+people",
        "edge+metrics",
        "dev+sealing",
        "prod+people+sealing+metrics+tracing",
    ],
)
def test_an_overlay_with_components_keeps_every_rule(name: str) -> None:
    """What a component adds or changes is held to the same, its variables to the settings classes."""
    for rule in RULES.values():
        assert rule(everything()[name]) == []


def test_a_gpu_that_all_replicas_hold_does_not_keep_a_rollout_waiting() -> None:
    """Where each pod has a GPU of its own, a new pod comes after an old one; and there are never more pods than GPUs in prod."""
    objects = everything()["prod+gpu-embedder"]
    for name in ("generator", "embedder"):
        found = named(objects, "Deployment", name) or {}
        assert found["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}, name
    scaler = named(objects, "HorizontalPodAutoscaler", "generator") or {}
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 3)


def test_no_name_is_there_twice() -> None:
    """Of one kind and namespace."""
    for name, objects in everything().items():
        keys = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects]
        assert len(keys) == len(set(keys)), name


def test_all_that_a_pod_mounts_is_there_or_is_made_as_the_docs_say() -> None:
    """Secrets, config maps and claims: rendered, issued by a Certificate, or named in docs/deploy-kubernetes.md."""
    page = Path("docs/deploy-kubernetes.md").read_text()
    for name, objects in everything().items():
        there = {one["metadata"]["name"] for one in of_kind(objects, "ConfigMap", "Secret", "PersistentVolumeClaim")}
        there |= {one["spec"]["secretName"] for one in of_kind(objects, "Certificate")}
        if name in ("caller", "models"):
            there |= {one["metadata"]["name"] for one in of_kind(overlay("dev"), "PersistentVolumeClaim")}
        for workload in of_kind(objects, "Deployment", "StatefulSet", "Pod"):
            spec = workload["spec"] if workload["kind"] == "Pod" else pod(workload)
            for volume in spec.get("volumes", []):
                wanted = (
                    volume.get("secret", {}).get("secretName")
                    or volume.get("configMap", {}).get("name")
                    or volume.get("persistentVolumeClaim", {}).get("claimName")
                )
                assert not wanted or wanted in there or f" {wanted} " in page, (name, workload["metadata"]["name"], wanted)
            for one in containers(spec):
                for source in one.get("envFrom", []):
                    wanted = source["configMapRef"]["name"]
                    assert wanted in there or f" {wanted} " in page, (name, workload["metadata"]["name"], wanted)


def test_prod_puts_generators_on_gpu_nodes_and_nothing_else() -> None:
    """A GPU, its toleration and its node for the generator's Ollama; every other pod keeps away from those nodes."""
    objects = overlay("prod")
    generator = pod(named(objects, "Deployment", "generator") or {})
    assert container(objects, "generator", "ollama")["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert [one["key"] for one in generator["tolerations"]] == ["nvidia.com/gpu"]
    assert _node_rule(generator) == ("nvidia.com/gpu.present", "Exists")
    for kind, name in (
        ("Deployment", "embedder"),
        ("Deployment", "retriever"),
        ("StatefulSet", "gateway"),
        ("StatefulSet", "weaviate"),
    ):
        spec = pod(named(objects, kind, name) or {})
        assert _node_rule(spec) == ("nvidia.com/gpu.present", "DoesNotExist"), name
        assert "tolerations" not in spec, name
    weaviate = named(objects, "StatefulSet", "weaviate") or {}
    assert weaviate["spec"]["replicas"] == 3


def test_the_component_puts_the_embedder_on_a_gpu() -> None:
    """Over what prod says of it: its affinity is replaced, not added to."""
    objects = component_on("prod", "gpu-embedder")
    spec = pod(named(objects, "Deployment", "embedder") or {})
    assert _node_rule(spec) == ("nvidia.com/gpu.present", "Exists")
    assert container(objects, "embedder", "ollama")["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_edge_runs_the_small_model_on_arm() -> None:
    """Every pod on arm64, and llama3.2:1b."""
    objects = overlay("edge")
    for workload in of_kind(objects, "Deployment", "StatefulSet"):
        assert pod(workload)["nodeSelector"] == {"kubernetes.io/arch": "arm64"}
    assert environment(container(objects, "generator", "generator"))["RAGKEEP_MODEL"] == "llama3.2:1b"


def test_autoscalers_act_on_what_is_there() -> None:
    """One each for the services, none for the gateway, whose replicas share the quotas; no number of replicas is left that an apply
    would set back; queue depth where it counts."""
    for name, objects in (("dev", component_on("dev", "autoscaling")), ("prod", overlay("prod"))):
        scalers = of_kind(objects, "HorizontalPodAutoscaler")
        assert {one["metadata"]["name"] for one in scalers} == {"embedder", "retriever", "generator"}
        for one in scalers:
            target = one["spec"]["scaleTargetRef"]
            found = named(objects, target["kind"], target["name"])
            assert found, (name, target)
            assert "replicas" not in found["spec"], (name, target)
            signals = {metric["type"] for metric in one["spec"]["metrics"]}
            queue = name == "prod" and target["name"] in ("embedder", "generator")
            assert signals == ({"Pods"} if queue else {"Resource"}), (name, target)
            if queue:
                assert one["spec"]["metrics"][0]["pods"]["metric"]["name"] == "ragkeep_engine_queue_depth"


_SHOWN = """
from ragkeep_runtime.gate import Gate
from ragkeep_runtime.metrics import configure_metrics, watch_queue
text = configure_metrics("generator")
gate = Gate("ollama", concurrent=1, waiting=1)
watch_queue(gate)
print(text().decode())
"""


def test_autoscalers_go_by_a_metric_that_the_services_show() -> None:
    """By the name that stands in Prometheus' text of a process, which an adapter offers as a metric of pods."""
    shown = subprocess.run([sys.executable, "-c", _SHOWN], capture_output=True, text=True, check=True).stdout
    names = {
        metric["pods"]["metric"]["name"]
        for one in of_kind(overlay("prod"), "HorizontalPodAutoscaler")
        for metric in one["spec"]["metrics"]
        if metric["type"] == "Pods"
    }
    assert names
    for name in names:
        assert re.search(rf'^{name}{{.*queue="ollama".*}} 0', shown, re.MULTILINE), name
        assert f"seriesQuery: '{name}{{" in Path("docs/metrics.md").read_text()


def test_the_example_caller_is_admitted_by_the_gateways_policy() -> None:
    """Its pod carries the label that the policy asks for; its environment is what the command reads."""
    from ragkeep_client.connect import Remote

    (workload,) = of_kind(render(ROOT / "caller"), "Deployment")
    assert workload["spec"]["template"]["metadata"]["labels"]["ragkeep.internal/caller"] == "true"
    env = environment(pod(workload)["containers"][0])
    assert {f"RAGKEEP_{name.upper()}" for name in Remote.model_fields} >= set(env) - {"RAGKEEP_TENANT"}
    assert env["RAGKEEP_GATEWAY"] == "dns:///gateway.ragkeep.svc:50061"


def _node_rule(spec: Object) -> tuple[str, str]:
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    (rule,) = term["matchExpressions"]
    return rule["key"], rule["operator"]
