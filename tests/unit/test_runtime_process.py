"""What a process refuses to start with, and what stays off the wire."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ragkeep.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from ragkeep_runtime.process import Server
from ragkeep_runtime.telemetry import configure_telemetry


def test_every_wrong_setting_is_named_at_once() -> None:
    """An operator mends them in one go."""
    environment = {"PATH": os.environ["PATH"], "RAGKEEP_LOG_LEVEL": "loud", "RAGKEEP_DRAIN_S": "-1"}
    ran = subprocess.run(
        [sys.executable, "-m", "ragkeep_gateway.main"], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    for name in ("RAGKEEP_TLS_CERT", "RAGKEEP_TLS_KEY", "RAGKEEP_TLS_CA", "RAGKEEP_LOG_LEVEL", "RAGKEEP_DRAIN_S"):
        assert name in ran.stderr


def test_missing_certificates_end_the_start_with_a_sentence(tmp_path: Path) -> None:
    """No traceback, and never a server without TLS."""
    missing = {f"RAGKEEP_TLS_{part}": str(tmp_path / "none.pem") for part in ("CERT", "KEY", "CA")}
    ran = subprocess.run(
        [sys.executable, "-m", "ragkeep_gateway.main"],
        env={"PATH": os.environ["PATH"], **missing},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "gateway" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_method_without_an_own_async_handler_is_found_at_the_start() -> None:
    """The generated base's plain methods would answer UNIMPLEMENTED at the first call instead."""

    class Half(embedder_pb2_grpc.EmbedderServiceServicer):
        async def Embed(self, request: object, context: object) -> object:
            return request

    register = embedder_pb2_grpc.add_EmbedderServiceServicer_to_server
    with pytest.raises(TypeError, match="GetModel has no async handler"):
        Server().add(embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"], register, Half())


@pytest.mark.parametrize("endpoint", ["http://collector.example:4317", "collector:4317", "https://collector:4317"])
def test_traces_leave_the_machine_only_over_tls(endpoint: str) -> None:
    """Plain HTTP is for loopback; https needs an identity to show."""
    with pytest.raises(ValueError, match="RAGKEEP_OTLP_ENDPOINT"):
        configure_telemetry("test", endpoint, None)
