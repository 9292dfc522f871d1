"""Every setting of the generator."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ragkeep_ollama.registry import PullFrom
from ragkeep_runtime.settings import ProcessSettings


class Settings(ProcessSettings):
    """Read once, in `main.py`, from RAGKEEP_* environment variables."""

    listen: str = Field("127.0.0.1:50064", description="Address of the gRPC server (mutual TLS), host:port.")
    health_listen: str = Field("127.0.0.1:9164", description="Address of the plain HTTP health port, host:port.")
    engine: Literal["ollama", "quote"] = Field("ollama", description="ollama, or quote: the passages' own sentences, no model.")
    ollama_url: str = Field("http://127.0.0.1:11434", description="Where Ollama listens; loopback in the same pod.")
    model: str = Field("llama3.2", description="The language model, as Ollama names it.")
    allowed_models: str = Field("", description="Further language models that a request may ask for, divided by commas.")
    num_ctx: int = Field(8192, ge=512, le=1_048_576, description="The window in tokens; one value per model, else it reloads.")
    max_tokens: int = Field(512, ge=1, le=8192, description="Tokens of an answer where the request says nothing.")
    temperature: float = Field(0.2, ge=0, le=2, description="Temperature where the request says nothing.")
    num_thread: int = Field(0, ge=0, description="Threads of the engine on a CPU; 0: Ollama's own choice.")
    keep_alive: str = Field("-1", description="How long Ollama keeps the model loaded; -1: for ever, 5m: five minutes.")
    warm_up: bool = Field(
        True, description="Load the model before saying ready, so that the first question does not wait for it."
    )
    pull_from: PullFrom = Field(
        "", description="Registry that models are pulled from when told to: host[:port][/namespace]. Empty: pulling is refused."
    )
    concurrent: int = Field(4, ge=1, le=256, description="Answers written at once; OLLAMA_NUM_PARALLEL should match.")
    waiting: int = Field(16, ge=0, le=4096, description="Questions that wait for it; more are refused at once.")
