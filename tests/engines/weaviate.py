"""The real Weaviate, with the settings that our deployments use."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.process import EngineProcess, binary


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def free_pair() -> int:
    """A free port whose successor is free too: Weaviate wants neighbours, else its node finds no leader."""
    while True:
        (port,) = _free_ports(1)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


class WeaviateProcess(EngineProcess):
    """One node on free ports; `kill()` and `start()` again keep its data."""

    def __init__(self, folder: Path) -> None:
        self.http_port, self.grpc_port = _free_ports(2)
        gossip, raft = free_pair(), free_pair()
        env = {
            "GRPC_PORT": str(self.grpc_port),
            "CLUSTER_HOSTNAME": "node1",
            "CLUSTER_IN_LOCALHOST": "true",
            "CLUSTER_ADVERTISE_ADDR": "127.0.0.1",
            "CLUSTER_GOSSIP_BIND_PORT": str(gossip),
            "CLUSTER_DATA_BIND_PORT": str(gossip + 1),
            "RAFT_PORT": str(raft),
            "RAFT_INTERNAL_RPC_PORT": str(raft + 1),
            "RAFT_BOOTSTRAP_EXPECT": "1",
            "PERSISTENCE_DATA_PATH": str(folder / "data"),
            "DEFAULT_VECTORIZER_MODULE": "none",
            "DISABLE_TELEMETRY": "true",
            "GO_PROFILING_DISABLE": "true",
            "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "true",
            # Killed, it would forget vectors otherwise.
            "ASYNC_INDEXING": "true",
            "ASYNC_INDEXING_STALE_TIMEOUT": "100ms",
            "QUEUE_SCHEDULER_INTERVAL": "100ms",
            "LOG_LEVEL": "warning",
        }
        command = [str(binary("weaviate")), "--host", "127.0.0.1", "--port", str(self.http_port), "--scheme", "http"]
        url = f"http://127.0.0.1:{self.http_port}"
        super().__init__(command, env, url, "/v1/.well-known/ready", folder / "weaviate.log")


@pytest.fixture(scope="session")
def weaviate_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeaviateProcess]:
    """One Weaviate for the whole run."""
    server = WeaviateProcess(tmp_path_factory.mktemp("weaviate"))
    try:
        server.start()
        yield server
    finally:
        server.stop()
