"""Every setting of the retriever."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ragkeep_runtime.settings import ProcessSettings


class Settings(ProcessSettings):
    """Read once, in `main.py`, from RAGKEEP_* environment variables."""

    listen: str = Field("127.0.0.1:50063", description="Address of the gRPC server (mutual TLS), host:port.")
    health_listen: str = Field("127.0.0.1:9163", description="Address of the plain HTTP health port, host:port.")
    engine: Literal["weaviate", "sqlite"] = Field("weaviate", description="weaviate, or sqlite: files in RAGKEEP_DATA.")
    data: Path = Field(
        Path("data"), description="sqlite: the folder of the stores, a file per tenant; made private to its user."
    )
    weaviate_url: str = Field("http://127.0.0.1:8080", description="Weaviate's REST address; loopback, or a proxy on it.")
    weaviate_grpc_port: int = Field(50051, ge=1, le=65535, description="Weaviate's gRPC port on the same host.")
    weaviate_api_key_file: Path | None = Field(None, description="File that holds Weaviate's API key.")
    weaviate_replicas: int = Field(1, ge=1, le=9, description="Weaviate: replication factor of collections made from now on.")
