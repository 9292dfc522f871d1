"""Every setting of the embedder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ragkeep_ollama.registry import PullFrom
from ragkeep_runtime.settings import ProcessSettings


class Settings(ProcessSettings):
    """Read once, in `main.py`, from RAGKEEP_* environment variables."""

    listen: str = Field("127.0.0.1:50062", description="Address of the gRPC server (mutual TLS), host:port.")
    health_listen: str = Field("127.0.0.1:9162", description="Address of the plain HTTP health port, host:port.")
    engine: Literal["ollama", "e5"] = Field("ollama", description="ollama, or e5: a small multilingual model in this process.")
    ollama_url: str = Field("http://127.0.0.1:11434", description="Where Ollama listens; loopback in the same pod.")
    model: str = Field("nomic-embed-text", description="The embedding model, as Ollama names it.")
    query_prefix: str | None = Field(None, description="What goes before a question. Default: as the model's family wants it.")
    document_prefix: str | None = Field(None, description="What goes before a passage; as above.")
    keep_alive: str = Field("-1", description="How long Ollama keeps the model loaded; -1: for ever, 5m: five minutes.")
    num_ctx: int = Field(4096, ge=128, le=1_048_576, description="The longest input in tokens, where the model takes as much.")
    num_thread: int = Field(0, ge=0, description="Threads of the engine on a CPU; 0: Ollama's own choice.")
    warm_up: bool = Field(
        True, description="Load the model before saying ready, so that the first question does not wait for it."
    )
    pull_from: PullFrom = Field(
        "", description="Registry that models are pulled from when told to: host[:port][/namespace]. Empty: pulling is refused."
    )
    concurrent: int = Field(4, ge=1, le=256, description="Requests that the engine works on at once.")
    waiting: int = Field(64, ge=0, le=4096, description="Requests that wait for it; more are refused at once.")
    document_threads: int = Field(2, ge=1, le=64, description="e5: threads for passages; questions have one of their own.")
