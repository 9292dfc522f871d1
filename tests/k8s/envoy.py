"""The real Envoy on the proxies' rendered configuration, with files and addresses of this machine in place of the pod's."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

from ragkeep_runtime.tls import Identity
from tests.k8s.manifests import Object, of_kind

ENVOY = Path(sys.executable).with_name("envoy")


def mount(folder: Path, files: dict[str, bytes]) -> None:
    """Lays files out as the kubelet does with a secret: in a folder of their own behind the link `..data`, which is replaced as a whole
    when they change; what is read are links through it."""
    folder.mkdir(parents=True, exist_ok=True)
    behind = folder / f"..{uuid.uuid4().hex}"
    behind.mkdir()
    for name, content in files.items():
        (behind / name).write_bytes(content)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    half = folder / "..data_tmp"
    half.symlink_to(behind.name)
    half.replace(folder / "..data")


def configured(objects: list[Object], name: str, folder: Path, identity: Identity, changes: dict[str, str]) -> Path:
    """Writes the configuration of a proxy (`weaviate` or `retriever`) as its config map has it, and returns envoy.yaml. `changes` are
    pieces of text: the pod's ports and names, and what they are here."""
    (data,) = [one["data"] for one in of_kind(objects, "ConfigMap") if one["metadata"]["name"].startswith(f"{name}-proxy")]
    tls, trust, config = folder / "tls", folder / "trust", folder / "config"
    config.mkdir(parents=True, exist_ok=True)
    mount(tls, {"tls.crt": identity.cert.read_bytes(), "tls.key": identity.key.read_bytes()})
    mount(trust, {"ca.crt": identity.ca.read_bytes()})
    paths = {"/etc/ragkeep/tls": str(tls), "/etc/ragkeep/trust": str(trust), "/etc/envoy": str(config)}
    for file, text in data.items():
        for old, new in (paths | changes).items():
            text = text.replace(old, new)
        (config / file).write_text(text)
    return config / "envoy.yaml"
