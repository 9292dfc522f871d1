"""The real Weaviate, with the settings that our deployments use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.process import EngineProcess, binary
from tests.ports import free_ports


class WeaviateProcess(EngineProcess):
    """One node on ports of its own; `kill()` and `start()` again keep its data."""

    def __init__(self, folder: Path) -> None:
        self.http_port = free_ports(6)
        # In pairs of neighbours, as Weaviate wants them: else its node finds no leader.
        self.grpc_port, gossip, raft = self.http_port + 1, self.http_port + 2, self.http_port + 4
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
            # A machine for tests may be fuller than a node should be.
            "DISK_USE_READONLY_PERCENTAGE": "0",
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
