"""The four real processes on free loopback ports with mutual TLS, for integration tests."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragkeep_runtime.tls import Identity
from tests.pki import Authority
from tests.ports import free_port as free_port
from tests.ports import free_ports

SERVICES = ("embedder", "retriever", "generator", "gateway")
# Another replica of the gateway.
SECOND = "gateway#2"
CLI = "caller/local/cli"
READER = "caller/local/reader"


class Stack:
    """Starts, kills and stops processes; `env` adds settings per service, `modules` (with arguments) are run instead of a
    service's own."""

    def __init__(
        self, folder: Path, env: dict[str, dict[str, str]] | None = None, modules: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.authority = Authority(folder / "pki")
        self.cli = self.authority.caller(CLI)
        self.reader = self.authority.caller(READER)
        self.identities: dict[str, Identity] = {name: self.authority.service(name) for name in SERVICES}
        first = free_ports(10)
        self.ports = {name: first + number for number, name in enumerate((*SERVICES, SECOND))}
        self.health_ports = {name: first + 5 + number for number, name in enumerate((*SERVICES, SECOND))}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.env = env or {}
        self.modules = modules or {}
        self.audit, self.audit_key = folder / "audit", folder / "audit.key"
        self.audit_key.write_text(secrets.token_hex(32))
        self.policy = folder / "policy.json"
        self.policy.write_text(
            json.dumps(
                {
                    "callers": {
                        CLI: {"tenants": ["*"], "roles": ["reader", "editor", "admin", "auditor"], "groups": ["*"]},
                        READER: {"tenants": ["demo"], "roles": ["reader"]},
                    }
                }
            )
        )

    def target(self, name: str) -> str:
        """host:port of a service."""
        return f"127.0.0.1:{self.ports[name]}"

    def start(self, *names: str, wait: bool = True) -> None:
        """Starts these services, or all four; SECOND by its name alone."""
        for name in names or SERVICES:
            service = name.partition("#")[0]
            identity = self.identities[service]
            settings = {
                "RAGKEEP_LISTEN": self.target(name),
                "RAGKEEP_HEALTH_LISTEN": f"127.0.0.1:{self.health_ports[name]}",
                "RAGKEEP_TLS_CERT": str(identity.cert),
                "RAGKEEP_TLS_KEY": str(identity.key),
                "RAGKEEP_TLS_CA": str(identity.ca),
                "RAGKEEP_ENGINE": {"embedder": "e5", "retriever": "sqlite", "generator": "quote"}.get(service, ""),
                "RAGKEEP_DATA": str(self.folder / "store"),
                **self.env.get(service, {}),
            }
            if service == "gateway":
                settings["RAGKEEP_POLICY_FILE"] = str(self.policy)
                settings = {
                    "RAGKEEP_AUDIT_FOLDER": str(self.audit),
                    "RAGKEEP_AUDIT_KEY": str(self.audit_key),
                    "RAGKEEP_AUDIT_REPLICA": "gateway-0" if name == service else "gateway-1",
                } | settings
                settings |= {f"RAGKEEP_{other.upper()}": self.target(other) for other in SERVICES if other != "gateway"}
            base = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
            module = self.modules.get(service, f"ragkeep_{service}.main")
            with (self.folder / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", *module.split()], env=base | settings, stderr=log, stdout=log
                )
        if wait:
            for name in names or SERVICES:
                self.wait_ready(name)

    def readiness(self, name: str) -> tuple[int, dict[str, object]]:
        """HTTP status and body of /readyz; 0 while nothing listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_ports[name]}/readyz", timeout=2) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, {}

    def wait_ready(self, name: str, timeout_s: float = 200) -> None:
        """Fails with the log's end where the process does not become ready."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if self.processes[name].poll() is not None:
                break
            if self.readiness(name)[0] == 200:
                return
            time.sleep(0.05)
        pytest.fail(f"{name} is not ready: {self.readiness(name)}\n{self.log(name)[-3000:]}")

    def log(self, name: str) -> str:
        """What the process wrote so far."""
        return (self.folder / f"{name}.log").read_text()

    def kill(self, name: str) -> None:
        """kill -9."""
        self.processes[name].kill()
        self.processes[name].wait()

    def stop(self) -> None:
        """Ends all, as an orchestrator would."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All four, on the embedded engines."""
    found = Stack(tmp_path_factory.mktemp("stack"))
    try:
        found.start()
        yield found
    finally:
        found.stop()
