"""Each object against its schema: Kubernetes' own for what is built in, the resource definitions' for cert-manager's. Unknown fields
are errors, as they are with `kubectl apply --validate=strict`."""

from __future__ import annotations

import copy
import functools
import json
from importlib import resources
from typing import Any

import jsonschema
import yaml
from referencing import Registry, Resource

from tests.k8s.manifests import CACHE, Object

VERSION = "1.37"


def problems(found: Object) -> list[str]:
    """What is wrong with an object; the path of each field first."""
    where = f"{found.get('kind')}/{found.get('metadata', {}).get('name')}"
    validator = _validator(found["apiVersion"], found["kind"])
    return [f"{where}: {error.json_path}: {error.message[:200]}" for error in validator.iter_errors(found)]


@functools.cache
def _validator(api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    custom = _custom().get((api_version, kind))
    if custom is not None:
        return jsonschema.Draft202012Validator(custom)
    group, _, version = api_version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.partition(".")[0], version) if part)
    return jsonschema.Draft202012Validator(_built_in(f"{name}.json"), registry=_definitions())


def _built_in(file: str) -> Any:
    folder = resources.files("kubernetes_validate").joinpath(f"kubernetes-json-schema/v{VERSION}.0-local-strict")
    return json.loads(folder.joinpath(file).read_text())


@functools.cache
def _definitions() -> Registry[Any]:
    definitions: Resource[Any] = Resource.from_contents(_built_in("_definitions.json"))
    return definitions @ Registry()


@functools.cache
def _custom() -> dict[tuple[str, str], Any]:
    found = {}
    for definition in yaml.load_all((CACHE / "k8s" / "cert-manager-crds.yaml").read_text(), yaml.CSafeLoader):
        if definition:
            for version in definition["spec"]["versions"]:
                key = f"{definition['spec']['group']}/{version['name']}", definition["spec"]["names"]["kind"]
                found[key] = _strict(version["schema"]["openAPIV3Schema"])
    return found


def _strict(schema: Any) -> Any:
    """The same schema, with fields that it does not name refused."""
    changed = copy.deepcopy(schema)
    if isinstance(changed, dict):
        if "properties" in changed and not changed.get("x-kubernetes-preserve-unknown-fields"):
            changed.setdefault("additionalProperties", False)
            if "metadata" in changed["properties"]:  # the API server's own: apiVersion, kind and metadata
                changed["properties"]["metadata"] = {"type": "object"}
        for key, value in changed.items():
            if key != "metadata":
                changed[key] = _strict(value)
    elif isinstance(changed, list):
        changed = [_strict(value) for value in changed]
    return changed
