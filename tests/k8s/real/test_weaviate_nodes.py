"""Three real Weaviates with the settings that prod gives them, each in a network namespace of its own: the same ports on three
addresses, as three pods have them."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.process import binary
from tests.k8s.manifests import Object, container, named, overlay

pytestmark = [pytest.mark.engine("weaviate")]
# Made, used and taken away by this test alone.
BRIDGE, NETWORK = "rkbr0", "10.213.77"


def ip(*args: str) -> None:
    """iproute2."""
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)


class Node:
    """One Weaviate in a namespace."""

    def __init__(self, number: int, env: dict[str, str], args: list[str], folder: Path) -> None:
        self.name, self.address = f"rkw{number}", f"{NETWORK}.{number + 1}"
        self._env, self._args, self._log = env, args, folder / f"node-{number}.log"
        self._process: subprocess.Popen[bytes] | None = None
        ip("netns", "add", self.name)
        ip("link", "add", f"{self.name}h", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", f"{self.name}h", "master", BRIDGE, "up")
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "link", "set", "eth0", "up")

    def start(self) -> None:
        """Runs it."""
        with self._log.open("ab") as log:
            command = ["ip", "netns", "exec", self.name, str(binary("weaviate")), *self._args]
            self._process = subprocess.Popen(command, env={"PATH": os.environ["PATH"], **self._env}, stdout=log, stderr=log)

    def stop(self) -> None:
        """Ends it, and its namespace."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    def inside(self, *command: str) -> str:
        """What a command in the namespace prints: only from there is its loopback reached."""
        done = subprocess.run(["ip", "netns", "exec", self.name, *command], capture_output=True, text=True, check=False)
        return done.stdout

    def nodes(self, key: str) -> list[Object]:
        """The cluster as this node sees it."""
        said = self.inside("curl", "-s", "-m", "3", "-H", f"Authorization: Bearer {key}", "http://127.0.0.1:8080/v1/nodes")
        found: list[Object] = json.loads(said or "{}").get("nodes") or []
        return found


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """As the StatefulSet of prod starts them; the name of their Service is the address of the first one here."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    folder = tmp_path_factory.mktemp("nodes")
    objects = overlay("prod")
    weaviate = container(objects, "weaviate", "weaviate")
    replicas = (named(objects, "StatefulSet", "weaviate") or {})["spec"]["replicas"]
    found: list[Node] = []
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{NETWORK}.254/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for number in range(replicas):
            env = {entry["name"]: entry["value"] for entry in weaviate["env"] if "value" in entry}
            env |= {
                "CLUSTER_HOSTNAME": f"weaviate-{number}",
                "CLUSTER_JOIN": f"{NETWORK}.1",
                "PERSISTENCE_DATA_PATH": str(folder / f"data-{number}"),
                "AUTHENTICATION_APIKEY_ALLOWED_KEYS": "a-key",
                "GOMEMLIMIT": "1GiB",
            }
            found.append(Node(number, env, weaviate["args"], folder))
        for node in found:
            node.start()
        yield found
    finally:
        for node in found:
            node.stop()
        subprocess.run(["ip", "link", "del", BRIDGE], check=False, capture_output=True)


def test_three_nodes_find_each_other_by_prods_settings(nodes: list[Node]) -> None:
    """Each sees three that are healthy, under the names that RAFT_JOIN lists."""
    until = time.monotonic() + 120
    seen: list[list[Object]] = []
    while time.monotonic() < until:
        seen = [node.nodes("a-key") for node in nodes]
        if all(len(one) == 3 and {node["status"] for node in one} == {"HEALTHY"} for one in seen):
            break
        time.sleep(1)
    for one in seen:
        assert sorted(node["name"] for node in one) == ["weaviate-0", "weaviate-1", "weaviate-2"]
        assert {node["status"] for node in one} == {"HEALTHY"}


def test_rest_listens_on_loopback_alone_and_the_rest_is_what_the_policies_guard(nodes: list[Node]) -> None:
    """What a neighbour could reach if no NetworkPolicy stood before it: never REST; gRPC and the cluster's ports, as the docs say."""
    listening = nodes[0].inside("ss", "-Hltn")
    reachable = {
        int(line.split()[3].rpartition(":")[2]) for line in listening.splitlines() if not line.split()[3].startswith("127.")
    }
    assert 8080 not in reachable
    assert reachable <= {50051, 7102, 7103, 8300, 8301}
    with pytest.raises(OSError):  # noqa: PT011 - refused
        urllib.request.urlopen(f"http://{nodes[0].address}:8080/v1/meta", timeout=3)


def test_without_the_key_nobody_is_answered(nodes: list[Node]) -> None:
    """Anonymous access is off."""
    said = nodes[0].inside("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:8080/v1/schema")
    assert said == "401"
