"""Lines to paste into a shell, for a folder that runs."""

from __future__ import annotations

import json
import os
import shlex
from importlib.util import find_spec
from pathlib import Path

from ragkeep_client.certificates import CLI_FILE, TRUST_DOMAIN, Certificates
from ragkeep_client.folder import DEFAULT, TENANT, DataFolder

QUESTION = "打印机脱机了怎么办？"


def data_option(folder: DataFolder) -> str:
    """What the command needs to find the folder again; empty where it does so by itself."""
    default = folder.path == DEFAULT.expanduser().absolute() or "RAGKEEP_DATA" in os.environ
    return "" if default else f" --data {shlex.quote(str(folder.path))}"


def ask_line(folder: DataFolder) -> str:
    """Asks with the command."""
    return f"ragkeep ask{data_option(folder)} {shlex.quote(QUESTION)}"


def grpcurl_line(folder: DataFolder, gateway: str) -> str:
    """Asks with grpcurl: the command's certificate, the gateway's own name verified, the protos of this installation."""
    certificates = Certificates(folder.certificates)
    cert, key = certificates.files(CLI_FILE)
    parts = [
        ["-cacert", str(certificates.ca), "-cert", str(cert), "-key", str(key)],
        ["-authority", f"gateway.{TRUST_DOMAIN}", "-H", f"ragkeep-tenant: {TENANT}"],
        ["-import-path", str(protos()), "-proto", "ragkeep/gateway/v1/gateway.proto"],
        ["-d", json.dumps({"question": QUESTION}, ensure_ascii=False)],
        [gateway, "ragkeep.gateway.v1.RagService/Ask"],
    ]
    return "grpcurl " + " \\\n    ".join(shlex.join(part) for part in parts)


def curl_line(folder: DataFolder, https: str) -> str:
    """Asks over HTTPS as a person: a token of an hour, and the folder's own authority."""
    parts = [
        ["-sN", "--cacert", str(Certificates(folder.certificates).ca)],
        ["-H", "content-type: application/json"],
        ["-d", json.dumps({"question": QUESTION}, ensure_ascii=False), f"{https}/chat/stream"],
    ]
    token = f'-H "authorization: Bearer $(ragkeep token me{data_option(folder)} 2>/dev/null)"'
    return "curl " + " \\\n    ".join([token, *(shlex.join(part) for part in parts)])


def protos() -> Path:
    """The folder that the contract's files are below; they are installed beside their stubs."""
    found = find_spec("ragkeep.gateway.v1")
    assert found is not None  # noqa: S101 - a part of this distribution
    assert found.submodule_search_locations is not None  # noqa: S101
    return Path(next(iter(found.submodule_search_locations))).parents[2]
