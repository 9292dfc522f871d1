"""A Kubernetes control plane as processes of the test run, on free loopback ports, ended by their own ids.

API server, scheduler, controllers and cert-manager's controllers are the real ones. Nodes are kwok's: a pod that lands on one is
said to run; no image is started and no probe is asked.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.engines.process import binary
from tests.k8s.manifests import CACHE, Object
from tests.ports import free_port

T = TypeVar("T")
USERS = {
    "admin": "system:masters",
    "system:kube-scheduler": "",
    "system:kube-controller-manager": "",
    "kwok": "system:masters",
    # As the pods of cert-manager have it; admission.yaml of the authority asks for this name.
    "system:serviceaccount:cert-manager:cert-manager": "system:masters",
}
CERT_MANAGER = "system:serviceaccount:cert-manager:cert-manager"


class Cluster:
    """Start it, give it nodes, talk to it by kubectl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._api, self._etcd, self._peer = free_port(), free_port(), free_port()
        self._tokens = {user: secrets.token_hex(16) for user in USERS}

    def start(self) -> None:
        """Brings it up with cert-manager's resource definitions, and its controllers."""
        self._keys()
        self._run_etcd_and_api_server()
        self._wait_for_api_server()
        for user in USERS:
            self._kubeconfig(user)
        self._run_controllers()
        self.kubectl("apply", "--server-side", "-f", str(CACHE / "k8s" / "cert-manager-crds.yaml"))
        self.kubectl("wait", "--for=condition=Established", "--timeout=300s", "crd", "--all")
        self.kubectl("create", "namespace", "cert-manager")
        self._run("cert-manager", str(binary("cert-manager")), str(self.config(CERT_MANAGER)))
        # A storage class as a cluster has one; kwok binds its claims.
        self.apply([_STORAGE])

    def stop(self) -> None:
        """Ends all, last started first."""
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def config(self, user: str = "admin") -> Path:
        """The kubeconfig of a user."""
        return self.folder / f"{user.replace(':', '-')}.kubeconfig"

    def kubectl(
        self, *args: str, input: str | None = None, check: bool = True, user: str = "admin"
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl; fails with what it said."""
        command = [str(binary("kubectl")), "--kubeconfig", str(self.config(user)), *args]
        done = subprocess.run(command, input=input, capture_output=True, text=True, check=False, timeout=500)
        if check and done.returncode:
            pytest.fail(f"kubectl {' '.join(args)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return done

    def apply(self, objects: Sequence[Object], *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """kubectl apply of these objects."""
        return self.kubectl("apply", *options, "-f", "-", input=yaml.safe_dump_all(objects), check=check)

    def get(self, kind: str, name: str = "", namespace: str = "ragkeep", selector: str = "") -> Any:
        """An object, or the list of those of a kind."""
        args = [
            "get",
            kind,
            "--namespace",
            namespace,
            "-o",
            "json",
            *([name] if name else []),
            *(["-l", selector] if selector else []),
        ]
        found = json.loads(self.kubectl(*args).stdout)
        return found if name else found["items"]

    def secret(self, name: str, namespace: str = "ragkeep") -> dict[str, bytes]:
        """What a secret holds."""
        return {key: base64.b64decode(value) for key, value in self.get("secret", name, namespace)["data"].items()}

    def pods(self, name: str) -> list[Any]:
        """The pods of a workload that are not on their way out."""
        found = self.get("pods", selector=f"app.kubernetes.io/name={name}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def add_nodes(self, nodes: Sequence[Object]) -> None:
        """Fake nodes; waits until they are ready."""
        self.apply(nodes)
        self.kubectl("wait", "--for=condition=Ready", "--timeout=300s", "node", "--all")

    def _keys(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        (self.folder / "sa.key").write_bytes(private)
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (self.folder / "sa.pub").write_bytes(public)
        rows = [
            f"{token},{user},{number}{f',{USERS[user]}' if USERS[user] else ''}"
            for number, (user, token) in enumerate(self._tokens.items())
        ]
        (self.folder / "tokens.csv").write_text("\n".join(rows) + "\n")

    def _run(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            base = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=base, cwd=self.folder)

    def _run_etcd_and_api_server(self) -> None:
        clients, peers = f"http://127.0.0.1:{self._etcd}", f"http://127.0.0.1:{self._peer}"
        self._run(
            "etcd", str(binary("etcd")), "--data-dir", "etcd", "--unsafe-no-fsync", "--log-level", "warn",
            "--listen-client-urls", clients, "--advertise-client-urls", clients, "--listen-peer-urls", peers,
            "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}",
        )  # fmt: skip
        self._run(
            "kube-apiserver", str(binary("kube-apiserver")), f"--etcd-servers={clients}", f"--secure-port={self._api}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--cert-dir=certs", "--allow-privileged=true",
            "--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=sa.pub",
            "--service-account-signing-key-file=sa.key", "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC", "--token-auth-file=tokens.csv", "--endpoint-reconciler-type=none",
        )  # fmt: skip

    def _wait_for_api_server(self) -> None:
        until = time.monotonic() + 60
        request = urllib.request.Request(
            f"https://127.0.0.1:{self._api}/readyz", headers={"Authorization": f"Bearer {self._tokens['admin']}"}
        )
        import ssl

        while time.monotonic() < until:
            try:
                context = ssl.create_default_context(cafile=str(self.folder / "certs" / "apiserver.crt"))
                with urllib.request.urlopen(request, timeout=2, context=context) as response:
                    if response.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        pytest.fail("the API server did not start:\n" + (self.folder / "kube-apiserver.log").read_text()[-3000:])

    def _kubeconfig(self, user: str) -> None:
        cluster = {
            "server": f"https://127.0.0.1:{self._api}",
            "certificate-authority": str(self.folder / "certs" / "apiserver.crt"),
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        self.config(user).write_text(yaml.safe_dump(content))

    def _run_controllers(self) -> None:
        def auth(user: str) -> list[str]:
            return [f"--{use}kubeconfig={self.config(user)}" for use in ("", "authentication-", "authorization-")]

        self._run(
            "kube-controller-manager", str(binary("kube-controller-manager")), *auth("system:kube-controller-manager"),
            f"--secure-port={free_port()}", "--bind-address=127.0.0.1", "--cert-dir=certs-controllers", "--leader-elect=false",
            "--service-account-private-key-file=sa.key", "--root-ca-file=certs/apiserver.crt",
            "--use-service-account-credentials=true", "--horizontal-pod-autoscaler-sync-period=2s",
        )  # fmt: skip
        self._run(
            "kube-scheduler", str(binary("kube-scheduler")), *auth("system:kube-scheduler"),
            f"--secure-port={free_port()}", "--bind-address=127.0.0.1", "--cert-dir=certs-scheduler", "--leader-elect=false",
        )  # fmt: skip
        port = free_port()
        self._run(
            "kwok", str(binary("kwok")), f"--kubeconfig={self.config('kwok')}", "--manage-all-nodes=false",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake", "--node-ip=127.0.0.1", "--cidr=10.0.0.0/16",
            "--node-lease-duration-seconds=40", f"--server-address=127.0.0.1:{port}", f"--node-port={port}",
            f"--config={CACHE / 'k8s' / 'kwok-stages.yaml'}",
        )  # fmt: skip


_STORAGE: Object = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "kwok-volume", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": "kwok.x-k8s.io/volume",
    "volumeBindingMode": "Immediate",
}


def node(name: str, *, zone: str = "a", arch: str = "amd64", cpu: int = 32, memory_gib: int = 128, gpus: int = 0) -> Object:
    """A fake node as the cloud's or the administrator's labels describe it; one with a GPU carries the usual taint."""
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/arch": arch,
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/zone": zone,
    }
    resources = {"cpu": str(cpu), "memory": f"{memory_gib}Gi", "pods": "110", "ephemeral-storage": "500Gi"}
    found: Object = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "spec": {},
        "status": {"capacity": resources, "allocatable": resources},
    }
    if gpus:
        labels["nvidia.com/gpu.present"] = "true"
        resources["nvidia.com/gpu"] = str(gpus)
        found["spec"]["taints"] = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
    return found


def warnings(stderr: str) -> list[str]:
    """The API server's warnings, as kubectl shows them (what kubectl logs of itself is none)."""
    return [line for line in stderr.splitlines() if line.startswith("Warning:")]


def eventually(check: Callable[[], T | None], what: str, seconds: float = 60) -> T:
    """The first thing that the check returns that is true. Fails with what was waited for."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = check()
        if found:
            return found
        time.sleep(0.2)
    pytest.fail(f"after {seconds:.0f} s still not: {what}")
