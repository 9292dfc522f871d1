"""The real Envoy on the proxies' rendered configuration, with files and addresses of this machine in place of the pod's."""

from __future__ import annotations

import sys
from pathlib import Path

from ragkeep_runtime.tls import Identity
from tests.k8s.manifests import Object, of_kind

ENVOY = Path(sys.executable).with_name("envoy")


def configured(objects: list[Object], name: str, folder: Path, identity: Identity, changes: dict[str, str]) -> Path:
    """Writes the configuration of a proxy (`weaviate` or `retriever`) as its config map has it, and returns envoy.yaml. `changes` are
    pieces of text: the pod's ports and names, and what they are here."""
    (data,) = [one["data"] for one in of_kind(objects, "ConfigMap") if one["metadata"]["name"].startswith(f"{name}-proxy")]
    tls, trust, config = folder / "tls", folder / "trust", folder / "config"
    for made in (tls, trust, config):
        made.mkdir(parents=True, exist_ok=True)
    (tls / "tls.crt").write_bytes(identity.cert.read_bytes())
    (tls / "tls.key").write_bytes(identity.key.read_bytes())
    (trust / "ca.crt").write_bytes(identity.ca.read_bytes())
    paths = {"/etc/ragkeep/tls": str(tls), "/etc/ragkeep/trust": str(trust), "/etc/envoy": str(config)}
    for file, text in data.items():
        for old, new in (paths | changes).items():
            text = text.replace(old, new)
        (config / file).write_text(text)
    return config / "envoy.yaml"
