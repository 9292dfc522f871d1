"""Manifests that the API server must refuse in ragkeep's namespace, and certificates that nobody may ask for: each with the message."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.k8s.manifests import ROOT, container, named, overlay, render
from tests.k8s.real.cluster import warnings
from tests.k8s.real.conftest import Deployed

pytestmark = [
    pytest.mark.engine("kubernetes"),
    pytest.mark.parametrize("deployed", ["dev"], indirect=True),
]
REFUSED = sorted(Path("tests/k8s/refused").glob("*.yaml"))


@pytest.fixture
def helpdesk(deployed: Deployed) -> Deployed:
    """With a namespace of a caller."""
    deployed.cluster.kubectl("create", "namespace", "helpdesk", check=False)
    return deployed


@pytest.mark.parametrize("file", REFUSED, ids=[file.stem for file in REFUSED])
def test_it_is_refused_and_the_message_says_why(helpdesk: Deployed, file: Path) -> None:
    """The file's first line holds what the API server has to say."""
    first = file.read_text().splitlines()[0]
    assert first.startswith("# refused: ")
    done = helpdesk.cluster.kubectl("create", "-f", str(file), "--dry-run=server", check=False)
    assert done.returncode, "it was let in"
    assert first.removeprefix("# refused: ") in done.stderr


def test_no_container_is_added_to_a_running_pod(helpdesk: Deployed) -> None:
    """kubectl debug: it would see what the pod sees, and has no limits."""
    done = helpdesk.cluster.kubectl(
        "-n", "ragkeep", "debug", "pod/gateway-0", "--image=debug:1", "--profile=restricted", "--attach=false", check=False
    )
    assert done.returncode
    assert "no container is added to a running pod of the namespace ragkeep" in done.stderr


def test_the_number_of_gateways_grows_with_their_setting_alone(helpdesk: Deployed) -> None:
    """kubectl scale knows nothing of the quotas' shares: fewer gateways are let in, more are not; both together are."""
    cluster = helpdesk.cluster
    more = cluster.kubectl("-n", "ragkeep", "scale", "statefulset/gateway", "--replicas=2", "--dry-run=server", check=False)
    assert more.returncode
    assert "replicas and RAGKEEP_REPLICAS together" in more.stderr
    cluster.kubectl("-n", "ragkeep", "scale", "statefulset/gateway", "--replicas=0", "--dry-run=server")
    found = overlay("dev")
    stateful = named(found, "StatefulSet", "gateway") or {}
    stateful["spec"]["replicas"] = 2
    refused = cluster.apply([stateful], "--dry-run=server", check=False)
    assert refused.returncode
    assert "is the number of its replicas" in refused.stderr
    env = container(found, "gateway", "gateway")["env"]
    next(entry for entry in env if entry["name"] == "RAGKEEP_REPLICAS")["value"] = "2"
    assert warnings(cluster.apply([stateful], "--dry-run=server").stderr) == []


def test_what_is_refused_is_refused_for_that_reason_alone(helpdesk: Deployed) -> None:
    """The same pod and certificate without the fault are let in: so each file has its one fault."""
    files = {file.stem: yaml.safe_load(file.read_text()) for file in REFUSED}
    good = files["no-limits"]
    good["spec"]["containers"][0]["resources"]["limits"] = {"cpu": "1", "memory": "1Gi"}
    helpdesk.cluster.apply([good], "--dry-run=server")
    service = files["external-ips"]
    del service["spec"]["externalIPs"]
    helpdesk.cluster.apply([service], "--dry-run=server")
    certificate = files["certificate-with-two-uris"]
    del certificate["spec"]["uris"][1]
    helpdesk.cluster.apply([certificate], "--dry-run=server")


def test_a_caller_of_another_namespace_gets_its_certificate(helpdesk: Deployed) -> None:
    """The example caller, applied without a warning; its certificate is of its own namespace."""
    cluster = helpdesk.cluster
    applied = cluster.kubectl("apply", "-k", str(ROOT / "caller"))
    # The namespace was made by hand before.
    assert [line for line in warnings(applied.stderr) if "last-applied-configuration" not in line] == []
    cluster.kubectl("-n", "helpdesk", "wait", "--for=condition=Ready", "--timeout=300s", "certificate/cli")
    assert "tls.crt" in cluster.secret("cli-tls", "helpdesk")
    assert len(render(ROOT / "caller")) == len(applied.stdout.splitlines())
