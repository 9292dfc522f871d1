"""What must hold of the manifests, each rule a function from the objects to what is wrong; mutation tests break each on purpose."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from pydantic import ValidationError

from ragkeep_runtime import deadline, process
from tests.k8s.access_rules import ACCESS_RULES, Rule
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
from tests.k8s.services import IDENTITIES, SETTINGS, TRUST_DOMAIN, default_port

_ON_LOOPBACK = re.compile(r"^(http://)?127\.0\.0\.1:")


def restricted(objects: list[Object]) -> list[str]:
    """Pod Security `restricted`, and a read-only root, and no token of the API server."""
    wrong = []
    namespace = named(objects, "Namespace", "ragkeep")
    labels = namespace["metadata"].get("labels", {}) if namespace else {}
    if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
        wrong.append("the namespace does not enforce restricted")
    for workload in workloads(objects):
        name, spec = workload["metadata"]["name"], pod(workload)
        security = spec.get("securityContext", {})
        if not security.get("runAsNonRoot") or security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            wrong.append(f"{name}: runs as root or without seccomp")
        if spec.get("automountServiceAccountToken") is not False:
            wrong.append(f"{name}: has a token of the API server")
        if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")) or any(
            "hostPath" in volume for volume in spec.get("volumes", [])
        ):
            wrong.append(f"{name}: reaches into its host")
        for one in containers(spec):
            found = one.get("securityContext", {})
            if not (
                found.get("allowPrivilegeEscalation") is False
                and found.get("readOnlyRootFilesystem") is True
                and found.get("capabilities", {}).get("drop") == ["ALL"]
                and not found.get("privileged")
            ):
                wrong.append(f"{name}/{one['name']}: may become more than it is, or writes to its root")
    return wrong


def resources(objects: list[Object]) -> list[str]:
    """Requests and limits of cpu and memory everywhere; images have a version."""
    wrong = []
    for workload in workloads(objects):
        for one in containers(pod(workload)):
            where = f"{workload['metadata']['name']}/{one['name']}"
            found = one.get("resources", {})
            for kind in ("requests", "limits"):
                if not {"cpu", "memory"} <= set(found.get(kind, {})):
                    wrong.append(f"{where}: no {kind} of cpu and memory")
            tag = one["image"].rpartition("/")[2].partition(":")[2]
            if tag in ("", "latest"):
                wrong.append(f"{where}: its image has no version")
    return wrong


def spread(objects: list[Object]) -> list[str]:
    """Pods are spread over zones and nodes, and a drain takes one at a time."""
    wrong = []
    for workload in workloads(objects):
        name = workload["metadata"]["name"]
        labels = workload["spec"]["template"]["metadata"]["labels"]
        keys = {
            found["topologyKey"]
            for found in pod(workload).get("topologySpreadConstraints", [])
            if found["labelSelector"]["matchLabels"].items() <= labels.items()
        }
        if keys != {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}:
            wrong.append(f"{name}: not spread over zones and nodes")
        budget = named(objects, "PodDisruptionBudget", name)
        if not budget or not budget["spec"]["selector"]["matchLabels"].items() <= labels.items():
            wrong.append(f"{name}: no PodDisruptionBudget")
        elif budget["spec"].get("maxUnavailable") != 1 or budget["spec"].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            wrong.append(f"{name}: its PodDisruptionBudget holds a drain up")
    return wrong


def probes(objects: list[Object]) -> list[str]:
    """Startup, readiness and liveness on the plain health port, on paths that the process serves; a sidecar has a startup probe."""
    wrong = []
    served = set(re.findall(r'add_get\("(/\w+)"', Path("runtime/ragkeep_runtime/health.py").read_text()))
    for service in SERVICES:
        one = container(objects, service, service)
        if ports(one).get("health") != default_port(service, "health_listen"):
            wrong.append(f"{service}: its health port is not the one of its settings")
        for probe, path in (("startupProbe", "/livez"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
            found = one.get(probe, {}).get("httpGet", {})
            if found.get("port") != "health" or found.get("path") != path or path not in served:
                wrong.append(f"{service}: {probe} is not {path} on the health port")
    for workload in workloads(objects):
        name = workload["metadata"]["name"]
        for one in pod(workload)["containers"]:
            missing = {"startupProbe", "readinessProbe", "livenessProbe"} - set(one)
            # The kubelet looks for a port's name in the probed container alone.
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = one.get(probe, {}).get("httpGet", {}).get("port")
                if isinstance(port, str) and port not in ports(one):
                    wrong.append(f"{name}/{one['name']}: {probe} asks a port that another container names")
            wrong += [f"{name}/{one['name']}: has no {probe}" for probe in missing]
        for one in pod(workload).get("initContainers", []):
            if one.get("restartPolicy") == "Always" and "startupProbe" not in one:
                wrong.append(f"{name}/{one['name']}: the service starts before its sidecar is there")
            # Envoy ends by itself where it fails; an engine may hang.
            if one["name"] == "ollama" and "livenessProbe" not in one:
                wrong.append(f"{name}/{one['name']}: is not started anew where it hangs")
    return wrong


def ending(objects: list[Object]) -> list[str]:
    """A pod's grace is longer than preStop, drain and the longest answer; connections end in the same time."""
    wrong = []
    for service in SERVICES:
        workload = named(objects, "Deployment", service) or named(objects, "StatefulSet", service)
        assert workload
        one = container(objects, service, service)
        sleep = one.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = float(environment(one).get("RAGKEEP_DRAIN_S", 0))
        grace = pod(workload).get("terminationGracePeriodSeconds", 30)
        if not sleep:
            wrong.append(f"{service}: does not leave DNS before it drains")
        if drain <= deadline.LONGEST:
            wrong.append(f"{service}: drains for less than the longest answer")
        if grace <= sleep + drain:
            wrong.append(f"{service}: is killed before it has drained")
        if process.CONNECTION_GRACE_S <= deadline.LONGEST or grace < process.CONNECTION_GRACE_S:
            wrong.append(f"{service}: connections end before the longest answer")
    weaviate = named(objects, "StatefulSet", "weaviate")
    assert weaviate
    if "preStop" not in container(objects, "weaviate", "weaviate").get("lifecycle", {}):
        wrong.append("weaviate: does not leave DNS before it ends")
    if pod(weaviate).get("terminationGracePeriodSeconds", 30) < 120:
        wrong.append("weaviate: is killed while it writes its memory to disk")
    return wrong


def settings(objects: list[Object]) -> list[str]:
    """Ports, names and values of the environment, and commands, are those of the code."""
    wrong = []
    scripts = tomllib.loads(Path("pyproject.toml").read_text())["project"]["scripts"]
    for service, cls in SETTINGS.items():
        one = container(objects, service, service)
        env = environment(one)
        if one["command"] != [f"ragkeep-{service}"] or f"ragkeep-{service}" not in scripts:
            wrong.append(f"{service}: its command is not a console script of the project")
        known = {f"RAGKEEP_{name.upper()}" for name in cls.model_fields}
        wrong += [f"{service}: there is no setting {name}" for name in env if name not in known]
        required = {f"RAGKEEP_{name.upper()}" for name, field in cls.model_fields.items() if field.is_required()}
        wrong += [f"{service}: the setting {name} is missing" for name in required - set(env)]
        try:
            cls(_env_file=None, **{name.removeprefix("RAGKEEP_").lower(): value for name, value in env.items()})  # type: ignore[arg-type]
        except ValidationError as error:
            wrong.append(f"{service}: {error}")
        if env.get("RAGKEEP_LISTEN") != f"0.0.0.0:{default_port(service, 'listen')}":
            wrong.append(f"{service}: listens elsewhere than its settings say")
        if env.get("RAGKEEP_HEALTH_LISTEN") != f"0.0.0.0:{default_port(service, 'health_listen')}":
            wrong.append(f"{service}: its health port is elsewhere than its settings say")
        if ports(one).get("grpc") != default_port(service, "listen"):
            wrong.append(f"{service}: its gRPC port is not the one of its settings")
        found = named(objects, "Service", service)
        if not found or found["spec"].get("clusterIP") != "None":
            wrong.append(f"{service}: has no headless Service")
        elif [port["port"] for port in found["spec"]["ports"] if port["name"] == "grpc"] != [default_port(service, "listen")]:
            wrong.append(f"{service}: its Service is on another port")
    gateway = environment(container(objects, "gateway", "gateway"))
    for service in ("embedder", "retriever", "generator"):
        if gateway.get(f"RAGKEEP_{service.upper()}") != f"dns:///{service}:{default_port(service, 'listen')}":
            wrong.append(f"gateway: does not look for the {service} at its headless Service")
    return wrong


def identities(objects: list[Object]) -> list[str]:
    """A certificate a service: SPIFFE URI and DNS name of the design, a day, renewed early; mounted where the settings look."""
    wrong = []
    for service in IDENTITIES:
        found = named(objects, "Certificate", service)
        if not found:
            wrong.append(f"{service}: has no Certificate")
            continue
        spec = found["spec"]
        if spec.get("uris") != [f"spiffe://{TRUST_DOMAIN}/{service}"]:
            wrong.append(f"{service}: its certificate has not exactly its SPIFFE URI")
        names = spec.get("dnsNames", [])
        if [name for name in names if name.endswith(TRUST_DOMAIN)] != [f"{service}.{TRUST_DOMAIN}"]:
            wrong.append(f"{service}: its certificate has not exactly its own DNS name")
        if service != "gateway" and len(names) > 1:
            wrong.append(f"{service}: its certificate has names that only the gateway may have")
        if (
            spec.get("duration") != "24h"
            or spec.get("renewBefore") != "8h"
            or spec["privateKey"].get("rotationPolicy") != "Always"
        ):
            wrong.append(f"{service}: its certificate is not of a day and renewed early with a new key")
        if "commonName" in spec or spec["issuerRef"] != {"kind": "ClusterIssuer", "name": "ragkeep"}:
            wrong.append(f"{service}: its certificate has a common name or another issuer")
        workload = next((one for one in workloads(objects) if one["metadata"]["name"] == service), None)
        volumes = {volume["name"]: volume for volume in pod(workload)["volumes"]} if workload else {}
        if volumes.get("tls", {}).get("secret", {}).get("secretName") != spec["secretName"]:
            wrong.append(f"{service}: does not mount its own certificate")
        if volumes.get("trust", {}).get("configMap", {}).get("name") != "ragkeep-trust":
            wrong.append(f"{service}: does not trust the bundle")
        account = named(objects, "ServiceAccount", service)
        if not account or account.get("automountServiceAccountToken") is not False:
            wrong.append(f"{service}: has no ServiceAccount without a token")
    for service in SERVICES:
        env = environment(container(objects, service, service))
        mounts = {one["name"]: one["mountPath"] for one in container(objects, service, service)["volumeMounts"]}
        expected = {
            "RAGKEEP_TLS_CERT": f"{mounts.get('tls')}/tls.crt",
            "RAGKEEP_TLS_KEY": f"{mounts.get('tls')}/tls.key",
            "RAGKEEP_TLS_CA": f"{mounts.get('trust')}/ca.crt",
        }
        wrong += [f"{service}: {name} is not where the file is mounted" for name in expected if env.get(name) != expected[name]]
    return wrong


def engines(objects: list[Object]) -> list[str]:
    """Ollama and Weaviate on loopback, without telemetry, cloud or anonymous access; windows and slots agree with ours."""
    wrong = []
    for service in ("embedder", "generator"):
        ollama, own = environment(container(objects, service, "ollama")), environment(container(objects, service, service))
        if not _ON_LOOPBACK.match(ollama.get("OLLAMA_HOST", "")):
            wrong.append(f"{service}/ollama: listens beyond loopback")
        if own.get("RAGKEEP_OLLAMA_URL") != f"http://{ollama.get('OLLAMA_HOST')}":
            wrong.append(f"{service}: looks for Ollama elsewhere")
        if ollama.get("OLLAMA_NO_CLOUD") != "1" or ollama.get("OLLAMA_KEEP_ALIVE") != "-1":
            wrong.append(f"{service}/ollama: uses the cloud, or forgets its model")
        if not {"OLLAMA_NUM_PARALLEL", "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_CONTEXT_LENGTH"} <= set(ollama):
            wrong.append(f"{service}/ollama: leaves a size to chance")
        if ollama.get("OLLAMA_CONTEXT_LENGTH") != own.get("RAGKEEP_NUM_CTX"):
            wrong.append(f"{service}: its window is not Ollama's")
        mounts = {one["name"]: one for one in container(objects, service, "ollama")["volumeMounts"]}
        if ollama.get("OLLAMA_MODELS") != mounts["models"]["mountPath"] or not mounts["models"].get("readOnly"):
            wrong.append(f"{service}/ollama: its models are not the volume filled beforehand")
    ollama, own = (
        environment(container(objects, "generator", "ollama")),
        environment(container(objects, "generator", "generator")),
    )
    if ollama.get("OLLAMA_NUM_PARALLEL") != own.get("RAGKEEP_CONCURRENT"):
        wrong.append("generator: asks for more answers at once than Ollama writes")
    weaviate = container(objects, "weaviate", "weaviate")
    env = environment(weaviate)
    expected = {
        "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false",
        "AUTHENTICATION_APIKEY_ENABLED": "true",
        "DISABLE_TELEMETRY": "true",
        "GO_PROFILING_DISABLE": "true",
        "ASYNC_INDEXING": "true",
        "ASYNC_INDEXING_STALE_TIMEOUT": "100ms",
        "QUEUE_SCHEDULER_INTERVAL": "100ms",
        "DEFAULT_VECTORIZER_MODULE": "none",
    }
    wrong += [f"weaviate: {name} is not {value}" for name, value in expected.items() if env.get(name) != value]
    if weaviate["args"][:2] != ["--host", "127.0.0.1"]:
        wrong.append("weaviate: its REST port listens beyond loopback")
    if int(env.get("RAFT_INTERNAL_RPC_PORT", 0)) != int(env.get("RAFT_PORT", 0)) + 1:
        wrong.append("weaviate: RAFT_INTERNAL_RPC_PORT has to be the port after RAFT_PORT")
    key = next((one for one in weaviate["env"] if one["name"] == "AUTHENTICATION_APIKEY_ALLOWED_KEYS"), {})
    if "secretKeyRef" not in key.get("valueFrom", {}):
        wrong.append("weaviate: its API key is not from a secret")
    stateful = named(objects, "StatefulSet", "weaviate")
    assert stateful
    nodes = stateful["spec"]["replicas"]
    if env.get("RAFT_BOOTSTRAP_EXPECT") != str(nodes):
        wrong.append("weaviate: waits for another number of nodes than there are")
    meeting = named(objects, "Service", stateful["spec"]["serviceName"])
    if not meeting or meeting["spec"].get("publishNotReadyAddresses") is not True:
        wrong.append("weaviate: its nodes cannot find each other before they are ready")
    elif nodes > 1 and (
        env.get("RAFT_JOIN") != ",".join(f"weaviate-{number}" for number in range(nodes))
        or not env.get("CLUSTER_JOIN", "").startswith(f"{meeting['metadata']['name']}.{meeting['metadata']['namespace']}.svc")
    ):
        wrong.append("weaviate: its nodes do not find each other")
    if environment(container(objects, "retriever", "retriever")).get("RAGKEEP_WEAVIATE_REPLICAS") != str(nodes):
        wrong.append("retriever: replicates to another number of nodes than there are")
    return wrong


def _newest_tls(tls: Object) -> bool:
    """Whether a TLS context of Envoy speaks 1.3 and nothing older."""
    return set(tls.get("common_tls_context", {}).get("tls_params", {}).values()) == {"TLSv1_3"}


def proxies(objects: list[Object]) -> list[str]:
    """Both sides demand TLS 1.3 and exactly the other one's name; what is plain is on loopback, but for the health port."""
    wrong = []
    configs = {
        name: next(
            (one["data"] for one in of_kind(objects, "ConfigMap") if one["metadata"]["name"].startswith(f"{name}-proxy")), None
        )
        for name in ("weaviate", "retriever")
    }
    for name, other in (("weaviate", "retriever"), ("retriever", "weaviate")):
        data = configs[name]
        if not data:
            wrong.append(f"{name}: its proxy has no configuration")
            continue
        envoy = yaml.safe_load(data["envoy.yaml"])
        text = data["envoy.yaml"]
        peer = "only-the-retriever" if other == "retriever" else "only-weaviate"
        secrets = [yaml.safe_load(data[file])["resources"] for file in data if file != "envoy.yaml"]
        if any(len(found) != 1 for found in secrets):
            wrong.append(f"{name}: Envoy takes one secret a file")
        trust = {one["name"]: one for found in secrets for one in found}
        names = trust.get(peer, {}).get("validation_context", {}).get("match_typed_subject_alt_names")
        if (
            names != [{"san_type": "URI", "matcher": {"exact": f"spiffe://{TRUST_DOMAIN}/{other}"}}]
            or f"name: {peer}" not in text
        ):
            wrong.append(f"{name}: its proxy takes others than the {other}")
        for listener in envoy["static_resources"]["listeners"]:
            address = listener["address"]["socket_address"]["address"]
            tls = listener["filter_chains"][0].get("transport_socket", {}).get("typed_config", {})
            encrypted = tls.get("require_client_certificate") is True and _newest_tls(tls)
            if address != "127.0.0.1" and not encrypted and listener["name"] != "health":
                wrong.append(f"{name}: the proxy's listener {listener['name']} takes plaintext from the network")
        for cluster in envoy["static_resources"]["clusters"]:
            endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
            if endpoint["address"] != "127.0.0.1" and not _newest_tls(
                cluster.get("transport_socket", {}).get("typed_config", {})
            ):
                wrong.append(f"{name}: the proxy's cluster {cluster['name']} sends plaintext, or old TLS, into the network")
    retriever, weaviate = (
        yaml.safe_load(configs[name]["envoy.yaml"]) if configs[name] else {} for name in ("retriever", "weaviate")
    )
    env = environment(container(objects, "retriever", "retriever"))
    if retriever and weaviate:
        local = {
            one["name"]: one["address"]["socket_address"]["port_value"] for one in retriever["static_resources"]["listeners"]
        }
        if env.get("RAGKEEP_WEAVIATE_URL") != f"http://127.0.0.1:{local['rest']}" or env.get(
            "RAGKEEP_WEAVIATE_GRPC_PORT"
        ) != str(local["grpc"]):
            wrong.append("retriever: looks for Weaviate elsewhere than at its proxy")
        served = {
            one["name"]: one["address"]["socket_address"]["port_value"] for one in weaviate["static_resources"]["listeners"]
        }
        called = {
            one["name"]: one["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"][
                "port_value"
            ]
            for one in retriever["static_resources"]["clusters"]
        }
        if any(called[name] != served[name] for name in called):
            wrong.append("retriever: its proxy calls other ports than Weaviate's proxy serves")
        found = named(objects, "Service", "weaviate")
        if not found or {port["name"]: port["port"] for port in found["spec"]["ports"]} != called:
            wrong.append("weaviate: its Service has other ports than its proxy")
    return wrong


RULES: dict[str, Rule] = ACCESS_RULES | {
    rule.__name__: rule for rule in (restricted, resources, spread, probes, ending, settings, identities, engines, proxies)
}
