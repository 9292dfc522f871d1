"""The READMEs of the overlays say what is asked for: their sums are those of what is rendered."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ragkeep_gateway.audit.files import AuditFiles
from ragkeep_gateway.audit.log import AuditLog
from ragkeep_gateway.audit.record import Audit
from ragkeep_gateway.settings import Settings
from ragkeep_runtime.audit.chain import Keys
from ragkeep_runtime.call import Call, current_call
from tests.k8s.manifests import OVERLAYS, ROOT, Object, containers, of_kind, overlay, pod, workloads

pytestmark = pytest.mark.engine("kustomize")
_UNITS = {"Gi": 2.0**30, "Mi": 2.0**20, "m": 0.001, "": 1.0}
# Between two questions of a user, in minutes, as the READMEs say it.
EVERY = {"dev": 10, "prod": 10, "edge": 20}
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


async def _bytes_of_a_question(folder: Path) -> float:
    """In the audit log: `asked` and `finished` as the gateway writes them, of a person who comes through a service, with five sources."""
    keys = Keys.of(b"k" * 32)
    files = AuditFiles(folder, "gateway-0", keys.lines, Ed25519PrivateKey.generate())
    audit_log = AuditLog(files, keys)
    await audit_log.start()
    before = files.until.size
    method, request = "/ragkeep.gateway.v1.RagService/Ask", "0192f3a1-7c55-7d3e-9a10-5b6c7d8e9f00"
    roles = frozenset({"reader", "unsealer"})
    current_call.set(
        Call(
            method,
            "caller/helpdesk/portal",
            "helpdesk",
            roles,
            request,
            0.0,
            subject="a.person@helpdesk.example",
            token="5f0c1d9a-7c55-4d3e-9a10-5b6c7d8e9f00",
            groups=frozenset({"all"}),
        )
    )
    for number in range(20):
        question = f"问题 {number}: 打印机脱机了怎么办？" * 3
        async with Audit(audit_log).asking(collection="service-tickets", question=question, model="llama3.2") as record:
            await record.shown([f"service-ticket-{number}-{one:08}" for one in range(5)], trace_id="0" * 32)
            record.did(prompt_tokens=1800, completion_tokens=220, finish="stop", model="llama3.2", tokens=2020)
    await asyncio.sleep(0)
    await audit_log.close()
    return (files.until.size - before) / 20


@pytest.mark.parametrize("name", OVERLAYS)
async def test_the_audit_log_fits_on_the_gateways_volume(name: str, tmp_path: Path) -> None:
    """All users ask at the README's pace, day and night, as long as files are kept, and one gateway does all the work: a third of its
    volume is left. The README's figure of a question is what is written."""
    a_question = await _bytes_of_a_question(tmp_path)
    assert 1300 < a_question < 1500
    _documents, users = FOR[name]
    days = int(Settings.model_fields["audit_days"].default)
    needs = users * 24 * 60 / EVERY[name] * days * a_question
    gateway = next(one for one in workloads(overlay(name)) if one["metadata"]["name"] == "gateway")
    (claim,) = gateway["spec"]["volumeClaimTemplates"]
    assert needs < quantity(claim["spec"]["resources"]["requests"]["storage"]) * 2 / 3
    page = (ROOT / "overlays" / name / "README.md").read_text()
    said = re.search(r"([0-9.]+) (GB|MB)[^.]* in (?:the )?30 days", page.replace("\n", " "))
    assert said, "the README says what 30 days take"
    assert 0.9 < float(said[1]) * {"GB": 1e9, "MB": 1e6}[said[2]] / (needs / a_question * 1450) < 1.1
