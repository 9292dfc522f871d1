"""The READMEs of the overlays say what is asked for: their sums are those of what is rendered."""

from __future__ import annotations

import re

import pytest

from tests.k8s.manifests import OVERLAYS, ROOT, Object, containers, of_kind, overlay, pod, workloads

pytestmark = pytest.mark.engine("kustomize")
_UNITS = {"Gi": 2.0**30, "Mi": 2.0**20, "m": 0.001, "": 1.0}
FOR = {"dev": (100_000, 10), "prod": (10_000_000, 1_000), "edge": (100_000, 50)}


def quantity(text: object) -> float:
    """A Kubernetes quantity as a number: cores, bytes, or pieces."""
    number, unit = re.fullmatch(r"([0-9.]+)(Gi|Mi|m|)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]


def replicas(objects: list[Object], workload: Object) -> int:
    """How many there are at least."""
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        if scaler["spec"]["scaleTargetRef"]["name"] == workload["metadata"]["name"]:
            return int(scaler["spec"]["minReplicas"])
    return int(workload["spec"].get("replicas", 1))


def total(objects: list[Object], of: str, resource: str) -> float:
    """Requests or limits of a resource over all pods."""
    return sum(
        replicas(objects, workload) * quantity(one["resources"].get(of, {}).get(resource, 0))
        for workload in workloads(objects)
        for one in containers(pod(workload))
    )


def disk(objects: list[Object]) -> float:
    """All claims."""
    claims = [claim["spec"]["resources"]["requests"]["storage"] for claim in of_kind(objects, "PersistentVolumeClaim")]
    found = sum(quantity(claim) for claim in claims)
    for workload in workloads(objects):
        for claim in workload["spec"].get("volumeClaimTemplates", []):
            found += replicas(objects, workload) * quantity(claim["spec"]["resources"]["requests"]["storage"])
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_readme_says_what_is_asked_for(name: str) -> None:
    """For how many documents and users, and the sums of cores, memory, GPUs and disk."""
    page = (ROOT / "overlays" / name / "README.md").read_text()
    objects = overlay(name)
    documents, users = FOR[name]
    words = f"{documents // 10**6} million" if documents >= 10**6 else f"{documents:,}"
    assert f"**{words} documents and {users:,} users**" in page
    for of in ("requests", "limits"):
        (row,) = re.findall(rf"^\| {of}, all pods \|(.*)\|$", page, re.MULTILINE)
        cells = [cell.strip() for cell in row.split("|")]
        expected = [f"{total(objects, of, 'cpu'):g}", f"{total(objects, of, 'memory') / 2**30:.10g} GiB"]
        if name == "prod":
            expected.append(f"{total(objects, 'limits', 'nvidia.com/gpu'):g}")
        assert cells[: len(expected)] == expected, of
        if of == "requests":
            assert cells[-1] == f"{disk(objects) / 2**30:g} GiB"


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_window_of_all_answers_fits_into_what_ollama_is_given(name: str) -> None:
    """Weights + window × answers × bytes a token + buffers, as the README computes it, within the request (or a GPU of 16 GB)."""
    objects = overlay(name)
    (generator,) = [one for one in workloads(objects) if one["metadata"]["name"] == "generator"]
    (ollama,) = [one for one in containers(pod(generator)) if one["name"] == "ollama"]
    env = {entry["name"]: entry["value"] for entry in ollama["env"]}
    weights, token = (1.3e9, 32 * 1024) if name == "edge" else (2.0e9, 112 * 1024)
    needs = weights + int(env["OLLAMA_CONTEXT_LENGTH"]) * int(env["OLLAMA_NUM_PARALLEL"]) * token + 0.4 * 2**30
    assert needs < (16e9 if name == "prod" else quantity(ollama["resources"]["requests"]["memory"]))
