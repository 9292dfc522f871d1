"""Runs a pod's containers as processes of this machine, with what the API server holds: its secrets and config maps become folders,
its volumes become folders, its addresses become free loopback ports. What a container runs must be on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.k8s.real.cluster import Cluster


class Kubelet:
    """One for an installation: pods find each other by the same replaced addresses."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        # Pieces of text in environments and mounted files: as they are in the pod, and as they are here.
        self.addresses: dict[str, str] = {}

    def pod(self, name: str, namespace: str = "ragkeep") -> Pod:
        """The running pod of a workload, with its volumes laid out."""
        (spec,) = [
            one["spec"]
            for one in self.cluster.get("pods", namespace=namespace, selector=f"app.kubernetes.io/name={name}")
            if one["status"]["phase"] == "Running" and "deletionTimestamp" not in one["metadata"]
        ]
        folder = self.folder / namespace / name
        volumes = {volume["name"]: self._lay_out(volume, folder / volume["name"], namespace) for volume in spec["volumes"]}
        return Pod(self, f"{name}-0", namespace, spec, volumes)

    def here(self, text: str) -> str:
        """A text with the addresses of this machine."""
        longest_first = "|".join(re.escape(there) for there in sorted(self.addresses, key=len, reverse=True))
        return re.sub(rf"({longest_first})(?![0-9])", lambda match: self.addresses[match[1]], text) if longest_first else text

    def _lay_out(self, volume: dict[str, Any], folder: Path, namespace: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        if "secret" in volume:
            for key, value in self.cluster.secret(volume["secret"]["secretName"], namespace).items():
                (folder / key).write_bytes(value)
        if "configMap" in volume:
            found = self.cluster.get("configmap", volume["configMap"]["name"], namespace)
            for key, value in found["data"].items():
                (folder / key).write_text(value)
        return folder


class Pod:
    """A pod whose volumes lie in folders."""

    def __init__(self, kubelet: Kubelet, name: str, namespace: str, spec: dict[str, Any], volumes: dict[str, Path]) -> None:
        self._kubelet = kubelet
        self._name = name
        self._namespace = namespace
        self._spec = spec
        self._volumes = volumes

    def container(self, name: str) -> dict[str, Any]:
        """Its specification."""
        return next(one for one in [*self._spec.get("initContainers", []), *self._spec["containers"]] if one["name"] == name)

    def path(self, container: str, inside: str) -> Path:
        """Where a path of the container is here; the mounted files have this machine's addresses and paths in them."""
        for mount in self.container(container)["volumeMounts"]:
            if inside == mount["mountPath"] or inside.startswith(mount["mountPath"] + "/"):
                return self._volumes[mount["name"]] / inside[len(mount["mountPath"]) :].lstrip("/")
        raise LookupError(f"{inside} is not mounted in {container}")

    def environment(self, container: str) -> dict[str, str]:
        """Its variables, with paths and addresses of this machine."""
        found: dict[str, str] = {}
        for source in self.container(container).get("envFrom", []):
            name = source["configMapRef"]["name"]
            found |= self._kubelet.cluster.get("configmap", name, self._namespace)["data"]
        for entry in self.container(container).get("env", []):
            value = entry["value"] if "value" in entry else self._from(entry["valueFrom"])
            value = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], value)
            found[entry["name"]] = self._kubelet.here(self._paths(container, value))
        return found

    def rewrite(self, container: str, mount: str) -> None:
        """The files of a mount, with paths and addresses of this machine."""
        for file in self.path(container, mount).iterdir():
            file.write_text(self._kubelet.here(self._paths(container, file.read_text())))

    def _paths(self, container: str, text: str) -> str:
        # In one go: what is put in must not be replaced again (a folder of /tmp, for example).
        mounts = {mount["mountPath"]: str(self._volumes[mount["name"]]) for mount in self.container(container)["volumeMounts"]}
        any_mount = "|".join(re.escape(path) for path in sorted(mounts, key=len, reverse=True))
        return re.sub(rf"({any_mount})(?=[/}}\s]|$)", lambda match: mounts[match[1]], text)

    def _from(self, source: dict[str, Any]) -> str:
        if "secretKeyRef" in source:
            ref = source["secretKeyRef"]
            return self._kubelet.cluster.secret(ref["name"], self._namespace)[ref["key"]].decode()
        if "fieldRef" in source:
            return {"metadata.name": self._name}[source["fieldRef"]["fieldPath"]]
        resources = self.container(source["resourceFieldRef"]["containerName"])["resources"]
        of, _, kind = source["resourceFieldRef"]["resource"].partition(".")
        return str(resources[of][kind]).replace("Gi", "GiB").replace("Mi", "MiB")
