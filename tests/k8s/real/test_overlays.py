"""Each overlay on a real API server: applied without an error or a warning, every pod where it belongs, every certificate issued."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.k8s.manifests import component_on, containers, overlay, pod, workloads
from tests.k8s.real.cluster import warnings
from tests.k8s.real.conftest import Deployed
from tests.k8s.services import IDENTITIES
from tests.k8s.test_sizing import replicas

pytestmark = [pytest.mark.engine("kubernetes")]


def test_it_is_applied_without_a_warning(deployed: Deployed) -> None:
    """Pod Security only warns of a bad Deployment: so no warning at all is allowed. A second apply changes nothing."""
    assert warnings(deployed.warned) == []
    assert len(deployed.said.splitlines()) == len(overlay(deployed.name))
    before = _generations(deployed)
    again = deployed.cluster.kubectl("apply", "-k", f"deploy/k8s/overlays/{deployed.name}")
    assert warnings(again.stderr) == []
    assert _generations(deployed) == before
    different = deployed.cluster.kubectl("diff", "-k", f"deploy/k8s/overlays/{deployed.name}", check=False)
    assert different.returncode == 0, different.stdout


def test_every_object_passes_strict_validation_on_the_server(deployed: Deployed) -> None:
    """A dry run with unknown and repeated fields refused, custom resources too."""
    done = deployed.cluster.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-k", f"deploy/k8s/overlays/{deployed.name}"
    )
    assert warnings(done.stderr) == []


def test_the_admission_policies_have_no_expression_that_cannot_be_typed(deployed: Deployed) -> None:
    """The API server checks each expression against the types of what it matches."""
    for policy in deployed.cluster.get("validatingadmissionpolicies"):
        warnings = policy.get("status", {}).get("typeChecking", {}).get("expressionWarnings", [])
        assert warnings == [], policy["metadata"]["name"]


def test_every_pod_runs_where_it_belongs(deployed: Deployed) -> None:
    """Generators on GPU nodes and nothing else there (prod), Weaviates on nodes of their own, all on the one node else."""
    cluster = deployed.cluster
    objects = overlay(deployed.name)
    where: dict[str, list[str]] = {}
    for workload in workloads(objects):
        name = workload["metadata"]["name"]
        found = cluster.pods(name)
        assert len(found) == replicas(objects, workload), name
        assert {one["status"]["phase"] for one in found} == {"Running"}, name
        where[name] = sorted(one["spec"]["nodeName"] for one in found)
    if deployed.name == "prod":
        assert len(set(where["generator"])) == 2
        assert all(node.startswith("gpu-") for node in where["generator"])
        assert where["weaviate"] == ["cpu-a", "cpu-b", "cpu-c"]
        for name in ("gateway", "embedder", "retriever"):
            assert all(node.startswith("cpu-") for node in where[name])
            assert len(set(where[name])) == len(where[name]), f"{name} is not spread over zones"
    else:
        assert {node for nodes in where.values() for node in nodes} == {"one" if deployed.name == "dev" else "box"}


def test_what_runs_is_what_was_rendered(deployed: Deployed) -> None:
    """The API server's defaults change no image, command, environment or security of a container."""
    for workload in workloads(overlay(deployed.name)):
        for live in deployed.cluster.pods(workload["metadata"]["name"]):
            for wanted, found in zip(containers(pod(workload)), containers(live["spec"]), strict=True):
                for key in ("name", "image", "command", "args", "securityContext"):
                    assert found.get(key) == wanted.get(key)
                assert _env(found) == _env(wanted)
            assert not [one for one in live["spec"]["volumes"] if one["name"].startswith("kube-api-access")]


def test_every_certificate_is_issued_as_the_design_says(deployed: Deployed) -> None:
    """One SPIFFE URI, the service's DNS name, empty subject, a day, an elliptic key that fits, signed by the authority."""
    bundle = x509.load_pem_x509_certificate((deployed.cluster.folder / "ca.crt").read_bytes())
    for service in IDENTITIES:
        secret = deployed.cluster.secret(f"{service}-tls")
        leaf = x509.load_pem_x509_certificate(secret["tls.crt"])
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://ragkeep.internal/{service}"]
        dns = names.get_values_for_type(x509.DNSName)
        assert dns[0] == f"{service}.ragkeep.internal"
        assert len(dns) == (5 if service == "gateway" else 1)
        assert len(leaf.subject) == 0
        lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc
        assert 23.9 < lifetime.total_seconds() / 3600 < 24.1
        leaf.verify_directly_issued_by(bundle)
        key = serialization.load_pem_private_key(secret["tls.key"], None)
        assert key.public_key() == leaf.public_key()
        status = deployed.cluster.get("certificate", service)["status"]
        assert status["renewalTime"] < status["notAfter"]


def test_claims_are_bound_and_each_replica_has_its_own(deployed: Deployed) -> None:
    """The audit log's volumes, Weaviate's, and the models."""
    claims = deployed.cluster.get("persistentvolumeclaims")
    assert {one["status"]["phase"] for one in claims} == {"Bound"}
    gateways, weaviates = (2, 3) if deployed.name == "prod" else (1, 1)
    names = sorted(one["metadata"]["name"] for one in claims)
    assert names == sorted(
        [*(f"data-gateway-{n}" for n in range(gateways)), *(f"data-weaviate-{n}" for n in range(weaviates)), "models"]
    )


def _generations(deployed: Deployed) -> dict[str, int]:
    """Grows where a specification changes, and with it pods are replaced."""
    found = [
        one for kind in ("deployments", "statefulsets", "certificates", "networkpolicies") for one in deployed.cluster.get(kind)
    ]
    return {f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["generation"] for one in found}


def _env(container: Any) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", sorted(entry.get("valueFrom", {}))) for entry in container.get("env", [])}


@pytest.mark.parametrize(
    ("deployed", "components"),
    [
        ("dev", ("tracing",)),
        ("dev", ("autoscaling", "autoscaling-queue")),
        ("dev", ("people", "sealing", "metrics")),
        ("prod", ("gpu-embedder", "tracing", "people", "sealing", "metrics")),
        ("edge", ("autoscaling",)),
    ],
    indirect=["deployed"],
)
def test_a_component_is_taken_over_what_runs(deployed: Deployed, components: tuple[str, ...]) -> None:
    """By the server, over the overlay as it was applied: no field is wrong or cannot be changed, and nothing is warned of."""
    objects = component_on(deployed.name, *components)
    done = deployed.cluster.apply(objects, "--dry-run=server", "--validate=strict")
    assert warnings(done.stderr) == []
    assert len(done.stdout.splitlines()) == len(objects)
