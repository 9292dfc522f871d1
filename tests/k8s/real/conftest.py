"""A cluster for each overlay, deployed into as docs/deploy-kubernetes.md says, with nodes as the overlay's README asks for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.k8s.manifests import OVERLAYS, ROOT, Object
from tests.k8s.real.cluster import Cluster, eventually, node

NODES: dict[str, list[Object]] = {
    "dev": [node("one", cpu=4, memory_gib=16)],
    "prod": [
        *(node(f"cpu-{zone}", zone=zone, cpu=32, memory_gib=128) for zone in "abc"),
        *(node(f"gpu-{zone}", zone=zone, cpu=16, memory_gib=64, gpus=1) for zone in "abc"),
    ],
    "edge": [node("box", arch="arm64", cpu=8, memory_gib=16)],
}


@dataclass
class Deployed:
    """An overlay that was applied."""

    name: str
    cluster: Cluster
    said: str  # what kubectl apply printed
    warned: str  # on stderr: the API server's warnings
    pods_ready_s: float


@pytest.fixture(scope="session", params=OVERLAYS)
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Each overlay on a cluster of its own."""
    cluster = Cluster(tmp_path_factory.mktemp(f"cluster-{request.param}"))
    try:
        cluster.start()
        cluster.add_nodes(NODES[request.param])
        yield deploy(cluster, request.param)
    finally:
        cluster.stop()


def deploy(cluster: Cluster, overlay: str) -> Deployed:
    """Authority, what pods find beforehand, the overlay; waits until each workload is as many as it should be."""
    authority = cluster.kubectl("apply", "-k", str(ROOT / "authority"))
    cluster.kubectl("-n", "cert-manager", "wait", "--for=condition=Ready", "--timeout=300s", "certificate/ragkeep-ca")
    cluster.kubectl("apply", "-f", str(ROOT / "base" / "namespace.yaml"))
    trust_and_keys(cluster)
    began = time.monotonic()
    applied = cluster.kubectl("apply", "-k", str(ROOT / "overlays" / overlay))
    for workload in (
        "statefulset/weaviate",
        "statefulset/gateway",
        "deployment/embedder",
        "deployment/generator",
        "deployment/retriever",
    ):
        cluster.kubectl("-n", "ragkeep", "rollout", "status", "--timeout=300s", workload)
    cluster.kubectl("-n", "ragkeep", "wait", "--for=condition=Ready", "--timeout=300s", "certificate", "--all")
    return Deployed(overlay, cluster, applied.stdout, authority.stderr + applied.stderr, time.monotonic() - began)


def trust_and_keys(cluster: Cluster) -> None:
    """The trust bundle from the authority's certificate, a key for Weaviate, and one for the audit log."""
    bundle = cluster.folder / "ca.crt"
    bundle.write_bytes(cluster.secret("ragkeep-ca", "cert-manager")["tls.crt"])
    key = cluster.folder / "api-key"
    key.write_text("a-key-of-the-test")
    cluster.kubectl("-n", "ragkeep", "create", "configmap", "ragkeep-trust", f"--from-file={bundle}")
    cluster.kubectl("-n", "ragkeep", "create", "secret", "generic", "weaviate-api-key", f"--from-file={key}")
    audit = [f"--from-literal={name}={'k' * 64}" for name in ("key", "signing-key.pem")]
    cluster.kubectl("-n", "ragkeep", "create", "secret", "generic", "ragkeep-audit", *audit)
    eventually(lambda: _policies_are_known(cluster), "the admission policies' expressions are checked")


def _policies_are_known(cluster: Cluster) -> bool:
    policies = cluster.get("validatingadmissionpolicies")
    return all(one.get("status", {}).get("observedGeneration") == one["metadata"]["generation"] for one in policies)
