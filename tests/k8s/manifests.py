"""What the manifests render to, as plain objects, and the parts of them that the tests ask about."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
ROOT = Path("deploy/k8s")
OVERLAYS = ("dev", "prod", "edge")
SERVICES = ("gateway", "embedder", "retriever", "generator")
CACHE = Path(os.environ.get("RAGKEEP_CACHE", Path.home() / ".cache" / "ragkeep"))
KUBECTL = CACHE / "bin" / "kubectl"


@functools.cache
def _rendered(folder: str) -> str:
    return subprocess.run([KUBECTL, "kustomize", folder], check=True, capture_output=True, text=True).stdout


def render(folder: Path | str) -> list[Object]:
    """The objects of a kustomization; a copy that a test may change."""
    return [found for found in yaml.safe_load_all(_rendered(str(folder))) if found]


def overlay(name: str) -> list[Object]:
    """The objects of an overlay."""
    return render(ROOT / "overlays" / name)


def component_on(name: str, *components: str) -> list[Object]:
    """An overlay with components added to it, as the docs tell to: a kustomization that names both."""
    root = ROOT.resolve()
    with tempfile.TemporaryDirectory(dir=root / "overlays") as folder:
        lines = {
            "resources": [f"../{name}"],
            "components": [f"../../components/{component}" for component in components],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(lines))
        return render(folder)


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """Those of these kinds."""
    return [found for found in objects if found["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object | None:
    """The one of that kind and name."""
    return next((found for found in objects if found["kind"] == kind and found["metadata"]["name"] == name), None)


def workloads(objects: list[Object]) -> list[Object]:
    """Everything that makes pods."""
    return of_kind(objects, "Deployment", "StatefulSet", "DaemonSet", "Job")


def pod(workload: Object) -> Object:
    """The spec of the pods that a workload makes."""
    found: Object = workload["spec"]["template"]["spec"]
    return found


def containers(spec: Object) -> list[Object]:
    """All containers of a pod, sidecars too."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def container(objects: list[Object], workload: str, name: str) -> Object:
    """A container by the names of its workload and itself. Raises LookupError."""
    for found in workloads(objects):
        if found["metadata"]["name"] == workload:
            return next(one for one in containers(pod(found)) if one["name"] == name)
    raise LookupError(f"{workload}/{name}")


def environment(one: Object) -> dict[str, str]:
    """The plain values of a container's environment."""
    return {entry["name"]: str(entry["value"]) for entry in one.get("env", []) if "value" in entry}


def ports(one: Object) -> dict[str, int]:
    """A container's ports by name."""
    return {entry["name"]: entry["containerPort"] for entry in one.get("ports", [])}


def without(objects: list[Object], path: tuple[Any, ...]) -> list[Object]:
    """A copy of the objects without what lies at the path (an object's position, then keys)."""
    changed = copy.deepcopy(objects)
    del at_path(changed, path[:-1])[path[-1]]
    return changed


def at_path(tree: Any, path: tuple[Any, ...]) -> Any:
    """What lies at a path."""
    for step in path:
        tree = tree[step]
    return tree


def paths_to(tree: Any, key: str, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place where a key stands."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield (*at, name)
            yield from paths_to(value, key, (*at, name))
    elif isinstance(tree, list):
        for position, value in enumerate(tree):
            yield from paths_to(value, key, (*at, position))
