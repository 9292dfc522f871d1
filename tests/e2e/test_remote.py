"""The command and a gateway elsewhere, named by the environment: as a caller's pod has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import Stack


def ragkeep(env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    """The command with this environment alone; a home that cannot be written, as in a pod with a read-only root."""
    base = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": "/nonexistent"}
    script = Path(sys.executable).with_name("ragkeep")
    return subprocess.run([script, *args], env=base | env, capture_output=True, text=True, check=False, timeout=300)


def remote(stack: Stack) -> dict[str, str]:
    """What a caller's pod is told."""
    return {
        "RAGKEEP_GATEWAY": stack.target("gateway"),
        "RAGKEEP_TLS_CERT": str(stack.cli.cert),
        "RAGKEEP_TLS_KEY": str(stack.cli.key),
        "RAGKEEP_TLS_CA": str(stack.cli.ca),
        "RAGKEEP_TENANT": "elsewhere",
    }


@pytest.mark.engine("e5")
@pytest.mark.engine("sqlite")
def test_the_environment_names_a_gateway_elsewhere(stack: Stack) -> None:
    """Import and search without any data folder."""
    imported = ragkeep(remote(stack), "import", "examples/service_tickets.csv", "--json")
    assert imported.returncode == 0, imported.stderr
    found = ragkeep(remote(stack), "search", "VPN error 809", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout.splitlines()[0])["source"]["document_id"] == "T-1042"


@pytest.mark.engine("e5")
@pytest.mark.engine("sqlite")
def test_what_is_missing_or_wrong_is_named_before_anything_is_asked(stack: Stack, tmp_path: Path) -> None:
    """Each file that is not named, and one that is not a certificate."""
    only_gateway = {"RAGKEEP_GATEWAY": stack.target("gateway")}
    missing = json.loads(ragkeep(only_gateway, "collections", "--json").stdout)["error"]
    assert missing["reason"] == "SETTINGS_WRONG"
    for name in ("RAGKEEP_TLS_CERT", "RAGKEEP_TLS_KEY", "RAGKEEP_TLS_CA"):
        assert name in missing["message"]
    torn = tmp_path / "torn.crt"
    torn.write_text("-----BEGIN CERTIFICATE-----\n")
    wrong = ragkeep(remote(stack) | {"RAGKEEP_TLS_CERT": str(torn)}, "collections", "--json")
    assert wrong.returncode == 1
    assert json.loads(wrong.stdout)["error"]["reason"] == "CERTIFICATE_UNUSABLE"
