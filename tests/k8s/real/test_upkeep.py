"""What a platform team does every day, on prod: too many GPU pods, a drain, a rollout and its undoing, a renewal, autoscaling."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.k8s.real.cluster import Cluster, eventually
from tests.k8s.real.conftest import Deployed

pytestmark = [pytest.mark.engine("kubernetes")]


@pytest.fixture
def prod(deployed: Deployed) -> Cluster:
    """The cluster that prod was applied to."""
    return deployed.cluster


only_prod = pytest.mark.parametrize("deployed", ["prod"], indirect=True)


@only_prod
def test_a_generator_too_many_stays_pending_and_says_why(prod: Cluster) -> None:
    """Three GPUs, four generators: the fourth waits for a GPU, and runs nowhere else."""
    _autoscaler(prod, "generator", 4)
    eventually(lambda: len(prod.pods("generator")) == 4, "four generators are wanted")

    def reason() -> str:
        waiting = [one for one in prod.pods("generator") if one["status"]["phase"] == "Pending"]
        conditions = [condition for one in waiting for condition in one["status"].get("conditions", [])]
        return next(
            (one.get("message", "") for one in conditions if one["type"] == "PodScheduled" and one["status"] == "False"), ""
        )

    assert "Insufficient nvidia.com/gpu" in eventually(reason, "the scheduler says why")
    assert len([one for one in prod.pods("generator") if one["status"]["phase"] == "Running"]) == 3


@only_prod
def test_generators_are_rolled_out_where_every_gpu_is_taken(prod: Cluster) -> None:
    """Three generators on three GPUs: an old one goes before a new one comes, one at a time, to the end."""
    _autoscaler(prod, "generator", 3)
    prod.kubectl("-n", "ragkeep", "scale", "deployment/generator", "--replicas=3")
    prod.kubectl("-n", "ragkeep", "rollout", "status", "--timeout=300s", "deployment/generator")
    prod.kubectl("-n", "ragkeep", "set", "image", "deployment/generator", "generator=registry.example/ragkeep:0.1.1")
    prod.kubectl("-n", "ragkeep", "rollout", "status", "--timeout=300s", "deployment/generator")
    found = prod.pods("generator")
    assert len(found) == 3
    assert {container["image"] for one in found for container in one["spec"]["containers"]} == {
        "registry.example/ragkeep:0.1.1"
    }


@only_prod
def test_a_drain_waits_for_the_disruption_budget(prod: Cluster) -> None:
    """One embedder may be evicted; the next one not before the first has a successor that is ready."""
    first, second = sorted(one["metadata"]["name"] for one in prod.pods("embedder"))
    nodes = [f"cpu-{zone}" for zone in "abc"]
    try:
        prod.kubectl("cordon", *nodes)  # the successor has to wait
        assert _evict(prod, first).returncode == 0
        eventually(
            lambda: first not in {one["metadata"]["name"] for one in prod.pods("embedder")}, "the first is on its way out"
        )
        refused = _evict(prod, second)
        assert refused.returncode
        assert "Cannot evict pod as it would violate the pod's disruption budget" in refused.stderr
    finally:
        prod.kubectl("uncordon", *nodes)
    prod.kubectl("-n", "ragkeep", "rollout", "status", "--timeout=300s", "deployment/embedder")
    eventually(lambda: prod.get("poddisruptionbudget", "embedder")["status"]["disruptionsAllowed"] == 1, "one may go again")
    assert _evict(prod, second).returncode == 0
    prod.kubectl("-n", "ragkeep", "rollout", "status", "--timeout=300s", "deployment/embedder")


@only_prod
def test_a_node_of_weaviate_can_be_drained_and_the_next_one_only_after_it(prod: Cluster) -> None:
    """kubectl drain of one of three: its pod has no other node to go to, so the budget keeps the others."""
    try:
        prod.kubectl("drain", "cpu-a", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s")
        eventually(
            lambda: [one for one in prod.pods("weaviate") if one["status"]["phase"] == "Pending"], "a Weaviate has no node"
        )
        blocked = prod.kubectl(
            "drain", "cpu-b", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=5s", "--pod-selector",
            "app.kubernetes.io/name=weaviate", check=False,
        )  # fmt: skip
        assert blocked.returncode
        assert "disruption budget" in blocked.stderr
    finally:
        prod.kubectl("uncordon", "cpu-a", "cpu-b")
    prod.kubectl("-n", "ragkeep", "rollout", "status", "--timeout=300s", "statefulset/weaviate")


@only_prod
def test_a_rollout_replaces_pods_and_can_be_undone(prod: Cluster) -> None:
    """A new image, then the one before; never fewer ready than there were."""

    def images() -> set[str]:
        return {one["image"] for found in prod.pods("retriever") for one in found["spec"]["containers"]}

    before = images()
    prod.kubectl("-n", "ragkeep", "set", "image", "deployment/retriever", "retriever=registry.example/ragkeep:0.1.1")
    prod.kubectl("-n", "ragkeep", "rollout", "status", "--timeout=300s", "deployment/retriever")
    eventually(lambda: images() == {"registry.example/ragkeep:0.1.1"}, "the new image everywhere")
    prod.kubectl("-n", "ragkeep", "rollout", "undo", "deployment/retriever")
    prod.kubectl("-n", "ragkeep", "rollout", "status", "--timeout=300s", "deployment/retriever")
    eventually(lambda: images() == before, "the old image everywhere")


@only_prod
def test_a_changed_policy_of_callers_reaches_the_gateways_that_run(prod: Cluster, tmp_path: Path) -> None:
    """With another caller in it the config map that their pods mount holds it, and the pods are the same ones: they follow it."""
    before = {one["metadata"]["uid"] for one in prod.pods("gateway")}
    shutil.copytree("deploy", tmp_path / "deploy")
    site = tmp_path / "site"
    site.mkdir()
    lines = {
        "resources": ["../deploy/k8s/overlays/prod"],
        "namespace": "ragkeep",
        "configMapGenerator": [{"name": "ragkeep-policy", "behavior": "replace", "files": ["policy.json"]}],
    }
    (site / "kustomization.yaml").write_text(yaml.safe_dump(lines))
    policy = {"callers": {"caller/helpdesk/other": {"tenants": ["helpdesk"], "roles": ["reader"]}}}
    (site / "policy.json").write_text(json.dumps(policy))
    prod.kubectl("apply", "-k", str(site))
    prod.kubectl("-n", "ragkeep", "rollout", "status", "--timeout=300s", "statefulset/gateway")
    found = prod.pods("gateway")
    assert {one["metadata"]["uid"] for one in found} == before
    (mounted,) = {
        volume["configMap"]["name"] for one in found for volume in one["spec"]["volumes"] if volume["name"] == "policy"
    }
    assert json.loads(prod.get("configmap", mounted)["data"]["policy.json"]) == policy


@only_prod
def test_a_certificate_that_is_deleted_is_issued_anew_with_a_new_key(prod: Cluster) -> None:
    """What cert-manager does at renewal: another key in the same secret."""
    before = prod.secret("embedder-tls")
    prod.kubectl("-n", "ragkeep", "delete", "secret", "embedder-tls")

    def anew() -> bool:
        found = {one["metadata"]["name"] for one in prod.get("secrets")}
        return "embedder-tls" in found and prod.secret("embedder-tls")["tls.key"] != before["tls.key"]

    eventually(anew, "the embedder has a new key")


@only_prod
def test_autoscalers_found_their_targets(prod: Cluster) -> None:
    """Each reads the scale of its workload; what they lack is the metric alone, which no fake node measures."""

    def settled() -> bool:
        return all(
            any(one["type"] == "AbleToScale" and one["status"] == "True" for one in scaler["status"].get("conditions") or [])
            for scaler in prod.get("horizontalpodautoscalers")
        )

    eventually(settled, "every autoscaler is able to scale")
    for scaler in prod.get("horizontalpodautoscalers"):
        assert scaler["status"]["currentReplicas"] >= scaler["spec"]["minReplicas"], scaler["metadata"]["name"]
        reasons = {one["type"]: one["reason"] for one in scaler["status"]["conditions"]}
        assert reasons["ScalingActive"] in ("FailedGetPodsMetric", "FailedGetResourceMetric"), reasons


def _autoscaler(cluster: Cluster, name: str, least: int) -> None:
    patch = json.dumps({"spec": {"minReplicas": least, "maxReplicas": least}})
    cluster.kubectl("-n", "ragkeep", "patch", "horizontalpodautoscaler", name, "--type=merge", "-p", patch)


def _evict(cluster: Cluster, pod: str):
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "ragkeep"}}
    return cluster.kubectl(
        "create", "--raw", f"/api/v1/namespaces/ragkeep/pods/{pod}/eviction", "-f", "-", input=json.dumps(eviction), check=False
    )
