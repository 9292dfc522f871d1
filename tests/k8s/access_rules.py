"""Rules of who gets in and what is on record: secrets and followed files, the audit log, people, sealed fields, metrics."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.k8s.manifests import (
    SERVICES,
    Object,
    container,
    containers,
    environment,
    named,
    of_kind,
    pod,
    ports,
    workloads,
)
from tests.k8s.services import default_port

Rule = Callable[[list[Object]], list[str]]
# Secrets that are the gateway's alone.
OF_THE_GATEWAY = ("gateway-tls", "gateway-https", "ragkeep-audit", "ragkeep-keyring")
READABLE_BY_THE_GROUP = 0o440


def files(objects: list[Object]) -> list[str]:
    """Secrets and config maps are there or the pod does not start; they are mounted as folders, so that a change arrives."""
    wrong = []
    for workload in workloads(objects):
        name, spec = workload["metadata"]["name"], pod(workload)
        from_outside = {volume["name"] for volume in spec["volumes"] if {"secret", "configMap"} & set(volume)}
        for volume in spec["volumes"]:
            source = volume.get("secret") or volume.get("configMap") or {}
            if source.get("optional") or "items" in source:
                wrong.append(f"{name}: {volume['name']} may be missing, or is there in parts")
            if "secret" in volume:
                if source.get("defaultMode") != READABLE_BY_THE_GROUP:
                    wrong.append(f"{name}: everybody in the pod reads the secret {volume['name']}")
                if source["secretName"] in OF_THE_GATEWAY and name != "gateway":
                    wrong.append(f"{name}: has the gateway's secret {source['secretName']}")
        for one in containers(spec):
            for mount in one["volumeMounts"]:
                if mount["name"] in from_outside and not mount.get("readOnly"):
                    wrong.append(f"{name}/{one['name']}: may write to {mount['name']}")
                if "subPath" in mount or "subPathExpr" in mount:
                    wrong.append(f"{name}/{one['name']}: {mount['mountPath']} is a file that no change reaches")
            for source in one.get("envFrom", []):
                if "secretRef" in source or source["configMapRef"].get("optional"):
                    wrong.append(f"{name}/{one['name']}: has a secret in its environment, or settings that may be missing")
    for config in of_kind(objects, "ConfigMap"):
        if config["metadata"]["name"].startswith("ragkeep-policy-"):
            wrong.append("ragkeep-policy: another name with each change, so that it is not followed")
    return wrong


def audit(objects: list[Object]) -> list[str]:
    """Every gateway keeps its log on its own volume, with the key from a secret; without it it does not start."""
    wrong = []
    gateway = container(objects, "gateway", "gateway")
    env = environment(gateway)
    stateful = named(objects, "StatefulSet", "gateway")
    if not stateful:
        return ["gateway: has no StatefulSet, so no volume of its own"]
    claims = {claim["metadata"]["name"] for claim in stateful["spec"].get("volumeClaimTemplates", [])}
    kept = [mount["mountPath"] for mount in gateway["volumeMounts"] if mount["name"] in claims and not mount.get("readOnly")]
    folder = env.get("RAGKEEP_AUDIT_FOLDER", "")
    if not any(folder.startswith(f"{path}/") for path in kept):
        wrong.append("gateway: its audit log is not on its volume")
    if env.get("RAGKEEP_AUDIT_KEY") != f"{_mounted(objects, 'secret', 'ragkeep-audit')}/key":
        wrong.append("gateway: the audit log's key is not the secret's")
    if env.get("RAGKEEP_AUDIT_SIGNING_KEY") != f"{_mounted(objects, 'secret', 'ragkeep-audit')}/signing-key.pem":
        wrong.append("gateway: who reads the lines' key could sign heads")
    if env.get("RAGKEEP_AUDIT_EARLIER_KEYS") != f"{_mounted(objects, 'secret', 'ragkeep-audit')}/earlier-*":
        wrong.append("gateway: keys that were replaced are not looked for in the secret")
    if "RAGKEEP_AUDIT_REPLICA" in env:
        wrong.append("gateway: its replicas write under one name")
    at = re.fullmatch(r"dns:///([a-z-]+):(\d+)", env.get("RAGKEEP_GATEWAY_REPLICAS_AT", ""))
    service = named(objects, "Service", at[1]) if at else None
    spec = service["spec"] if service else {}
    if (
        spec.get("clusterIP") != "None"
        or spec.get("publishNotReadyAddresses") is not True
        or spec.get("selector") != {"app.kubernetes.io/name": "gateway"}
        or [str(port["port"]) for port in spec.get("ports", [])] != [at and at[2]]
        or int(at[2] if at else 0) != default_port("gateway", "listen")
    ):
        wrong.append("gateway: an auditor is not shown the logs of all replicas, of one that is not ready too")
    return wrong


def shares(objects: list[Object]) -> list[str]:
    """Each gateway keeps its share of the quotas: RAGKEEP_REPLICAS is the number that there are, and nothing else changes that."""
    wrong = []
    stateful = named(objects, "StatefulSet", "gateway")
    assert stateful
    number, said = (
        stateful["spec"].get("replicas"),
        environment(container(objects, "gateway", "gateway")).get("RAGKEEP_REPLICAS"),
    )
    if number is None or str(number) != said:
        wrong.append(f"gateway: there are {number}, and each keeps the share of one of {said}")
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        if scaler["spec"]["scaleTargetRef"]["name"] == "gateway":
            wrong.append("gateway: an autoscaler changes their number, and nobody tells them")
    return wrong


def people(objects: list[Object]) -> list[str]:
    """All of the HTTPS edge or nothing: port, certificate of the site, the provider's keys, the settings of tokens, both Services."""
    gateway = container(objects, "gateway", "gateway")
    env = environment(gateway)
    there = (
        any(name.startswith(("RAGKEEP_HTTP_", "RAGKEEP_JWT_")) for name in env)
        or "https" in ports(gateway)
        or named(objects, "Service", "gateway-https") is not None
        or named(objects, "NetworkPolicy", "people") is not None
    )
    if not there:
        return []
    wrong = []
    https = _mounted(objects, "secret", "gateway-https")
    expected = {
        "RAGKEEP_HTTP_LISTEN": "0.0.0.0:8443",
        "RAGKEEP_HTTP_CERT": f"{https}/tls.crt",
        "RAGKEEP_HTTP_KEY": f"{https}/tls.key",
        "RAGKEEP_JWT_JWKS": f"{_mounted(objects, 'configMap', 'ragkeep-jwks')}/jwks.json",
    }
    wrong += [f"gateway: {name} is not {value}" for name, value in expected.items() if env.get(name) != value]
    if gateway.get("envFrom") != [{"configMapRef": {"name": "ragkeep-people"}}]:
        wrong.append("gateway: issuer and audience of tokens come from nowhere")
    if ports(gateway).get("https") != 8443:
        wrong.append("gateway: its HTTPS port is not the one that it listens on")
    for name in ("gateway", "gateway-https"):
        service = named(objects, "Service", name)
        spec = service["spec"] if service else {}
        at = [(port["port"], port["targetPort"]) for port in spec.get("ports", []) if port["name"] == "https"]
        if at != [(8443, "https")] or spec.get("selector") != {"app.kubernetes.io/name": "gateway"}:
            wrong.append(f"the Service {name} does not lead to the HTTPS port")
        if name == "gateway-https" and "clusterIP" in spec:
            wrong.append("the Service gateway-https has no one address")
    return wrong


def sealing(objects: list[Object]) -> list[str]:
    """The keyring as a file that is followed, from the gateway's own secret; or none."""
    env = environment(container(objects, "gateway", "gateway"))
    workload = named(objects, "StatefulSet", "gateway")
    there = any(one["name"] == "keyring" for one in pod(workload)["volumes"]) if workload else False
    if "RAGKEEP_KEYRING" not in env and not there:
        return []
    at = f"{_mounted(objects, 'secret', 'ragkeep-keyring')}/keyring.json"
    return [] if env.get("RAGKEEP_KEYRING") == at else [f"gateway: the keyring is not {at}"]


def metrics(objects: list[Object]) -> list[str]:
    """Who is scraped says where: its health port, and a path that is served there. All four services or none."""
    wrong = []
    served = set(re.findall(r'add_get\("(/\w+)"', Path("runtime/ragkeep_runtime/health.py").read_text()))
    scraped = {}
    for workload in workloads(objects):
        annotations = workload["spec"]["template"]["metadata"].get("annotations", {})
        found = {
            key.removeprefix("prometheus.io/"): value for key, value in annotations.items() if key.startswith("prometheus.io/")
        }
        if found:
            scraped[workload["metadata"]["name"]] = found
    opened = any(policy["metadata"]["name"].startswith("metrics-") for policy in of_kind(objects, "NetworkPolicy"))
    if not scraped and not opened:
        return []
    if set(scraped) != set(SERVICES):
        wrong.append("not all services are scraped, or others are")
    for service in SERVICES:
        port = str(default_port(service, "health_listen"))
        if scraped.get(service) != {"scrape": "true", "port": port, "path": "/metrics"} or "/metrics" not in served:
            wrong.append(f"{service}: its metrics are looked for elsewhere than on its health port")
    return wrong


def _mounted(objects: list[Object], kind: str, name: str) -> str:
    """Where the gateway has a secret or a config map."""
    workload = named(objects, "StatefulSet", "gateway")
    volumes = pod(workload)["volumes"] if workload else []
    found = {one["name"] for one in volumes if name in (one.get(kind, {}).get("secretName"), one.get(kind, {}).get("name"))}
    mounts = container(objects, "gateway", "gateway")["volumeMounts"]
    return next((one["mountPath"] for one in mounts if one["name"] in found), f"(no mount of {name})")


ACCESS_RULES: dict[str, Rule] = {rule.__name__: rule for rule in (files, audit, shares, people, sealing, metrics)}
