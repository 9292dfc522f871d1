"""The four real processes on free loopback ports with mutual TLS, for integration tests."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragkeep_client.ports import taken
from ragkeep_runtime.tls import Identity
from tests.pki import Authority

SERVICES = ("embedder", "retriever", "generator", "gateway")
CLI = "caller/local/cli"
READER = "caller/local/reader"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(count: int = 4) -> int:
    """The first of so many consecutive ports that were free a moment ago, below those that the system hands out."""
    while True:
        first = random.randrange(20_000, 32_000)
        if not taken(range(first, first + count)):
            return first


class Stack:
    """Starts, kills and stops processes; `env` adds settings per service, `modules` are run instead of a service's own."""

    def __init__(
        self, folder: Path, env: dict[str, dict[str, str]] | None = None, modules: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.authority = Authority(folder / "pki")
        self.cli = self.authority.caller(CLI)
        self.reader = self.authority.caller(READER)
        self.identities: dict[str, Identity] = {name: self.authority.service(name) for name in SERVICES}
        # Below those that the system gives to connections: one of these could take a port while its process starts.
        first = free_ports(8)
        self.ports = {name: first + number for number, name in enumerate(SERVICES)}
        self.health_ports = {name: first + 4 + number for number, name in enumerate(SERVICES)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.env = env or {}
        self.modules = modules or {}
        self.policy = folder / "policy.json"
        self.policy.write_text(
            json.dumps(
                {
                    "callers": {
                        CLI: {"tenants": ["*"], "roles": ["reader", "editor", "admin"]},
                        READER: {"tenants": ["demo"], "roles": ["reader"]},
                    }
                }
            )
        )

    def target(self, name: str) -> str:
        """host:port of a service."""
        return f"127.0.0.1:{self.ports[name]}"

    def start(self, *names: str, wait: bool = True) -> None:
        """Starts these services, or all."""
        for name in names or SERVICES:
            identity = self.identities[name]
            settings = {
                "RAGKEEP_LISTEN": self.target(name),
                "RAGKEEP_HEALTH_LISTEN": f"127.0.0.1:{self.health_ports[name]}",
                "RAGKEEP_TLS_CERT": str(identity.cert),
                "RAGKEEP_TLS_KEY": str(identity.key),
                "RAGKEEP_TLS_CA": str(identity.ca),
                "RAGKEEP_ENGINE": {"embedder": "e5", "retriever": "sqlite", "generator": "quote"}.get(name, ""),
                "RAGKEEP_DATA": str(self.folder / "store"),
                **self.env.get(name, {}),
            }
            if name == "gateway":
                settings["RAGKEEP_POLICY_FILE"] = str(self.policy)
                settings |= {f"RAGKEEP_{other.upper()}": self.target(other) for other in SERVICES if other != "gateway"}
            base = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
            module = self.modules.get(name, f"ragkeep_{name}.main")
            with (self.folder / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", module], env=base | settings, stderr=log, stdout=log
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

    def wait_ready(self, name: str, timeout_s: float = 30) -> None:
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
