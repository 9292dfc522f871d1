"""Every setting of the gateway."""

from __future__ import annotations

from pydantic import Field

from ragkeep_runtime.settings import ProcessSettings


class Settings(ProcessSettings):
    """Read once, in `main.py`, from RAGKEEP_* environment variables."""

    listen: str = Field("127.0.0.1:50061", description="Address of the gRPC server (mutual TLS), host:port.")
    health_listen: str = Field("127.0.0.1:9161", description="Address of the plain HTTP health port, host:port.")
    embedder: str = Field("127.0.0.1:50062", description="Where the embedder is: host:port, or dns:///host:port.")
    retriever: str = Field("127.0.0.1:50063", description="Where the retriever is.")
    generator: str = Field("127.0.0.1:50064", description="Where the generator is.")
    concurrent_imports: int = Field(4, ge=1, le=64, description="Import requests worked on at once; twice as many wait.")
    concurrent_asks: int = Field(64, ge=1, le=4096, description="Questions worked on at once; as many wait.")
    default_limit: int = Field(5, ge=1, le=1000, description="Passages that a question is answered from by default.")
