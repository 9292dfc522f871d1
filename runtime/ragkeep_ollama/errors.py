"""Ollama's errors in domain words. Its own words go to the log, never to callers."""

from __future__ import annotations

import re

from ragkeep_runtime.errors import EngineFailed, EngineUnreachable, ModelNotInstalled, ModelOutOfMemory, RagkeepError
from ragkeep_runtime.logs import get_logger

log = get_logger()
# As Ollama 0.24 and llama.cpp say it, on CPU, CUDA, ROCm, Metal and Vulkan.
_OUT_OF_MEMORY = re.compile(
    r"more system memory|out of (?:device )?memory|(?:cuda|hip)malloc failed|unable to allocate|failed to allocate|"
    r"allocation failed|not enough memory|insufficient memory|memory layout cannot be allocated|out_?of_?device_?memory",
    re.IGNORECASE,
)
_AMOUNTS = re.compile(r"\(([\d.]+ [KMGT]?i?B)\) than is available \(([\d.]+ [KMGT]?i?B)\)")
_TOO_LONG = re.compile(r"context length|input length|context size|exceeds", re.IGNORECASE)


def full_name(model: str) -> str:
    """The name with its tag, as Ollama lists it. A port in a registry's name is no tag."""
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"


def keep_alive_of(setting: str) -> str | float:
    """-1 and other numbers as numbers of seconds, which is how Ollama wants them; else a duration."""
    return float(setting) if setting.lstrip("-").isdigit() else setting


def unreachable(url: str) -> EngineUnreachable:
    """Nothing answers there."""
    message = f"Ollama does not answer at {url}. Start it with `ollama serve`, or set RAGKEEP_OLLAMA_URL."
    return EngineUnreachable(message, metadata={"engine": "ollama", "address": url})


def not_installed(url: str, model: str) -> ModelNotInstalled:
    """Never pulled without being told to."""
    message = f"Ollama at {url} does not have the model {model}. Install it: ollama pull {model}"
    return ModelNotInstalled(message, metadata={"engine": "ollama", "model": model})


def is_too_long(words: str) -> bool:
    """Whether the input did not fit into the window."""
    return bool(_TOO_LONG.search(words)) and not _OUT_OF_MEMORY.search(words)


def out_of_memory(model: str, words: str, num_ctx: int) -> ModelOutOfMemory | None:
    """The error with its remedies, where Ollama's words say that memory ran out."""
    if not _OUT_OF_MEMORY.search(words):
        return None
    log.error("model_out_of_memory", model=model, num_ctx=num_ctx, engine_says=words[:300])
    amounts = _AMOUNTS.search(words)
    needs = f": it needs {amounts[1]}, and {amounts[2]} are free" if amounts else ""
    return ModelOutOfMemory(
        f"The model {model} does not fit into memory{needs}. Lower RAGKEEP_NUM_CTX (now {num_ctx}) or Ollama's "
        "OLLAMA_NUM_PARALLEL, unload other models (`ragkeep models unload NAME`), or serve a smaller or more quantized one "
        "(`ragkeep models` suggests some).",
        metadata={"engine": "ollama", "model": model} | ({"needs": amounts[1], "free": amounts[2]} if amounts else {}),
    )


def failed(url: str, model: str, status: int, words: str, *, num_ctx: int, service: str) -> RagkeepError:
    """What any answer of Ollama's that is an error stands for."""
    if (error := out_of_memory(model, words, num_ctx)) is not None:
        return error
    if status == 404:
        return not_installed(url, model)
    log.error("ollama_failed", status=status, engine_says=words[:300])
    return EngineFailed(f"Ollama answered with an error; its words are in the {service}'s log.")
