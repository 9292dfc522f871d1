"""Models that are suggested, by the memory of the machine. docs/models.md has the table; a test holds both together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Files are told in GB, memory is sold in GiB.
GB, GIB = 1_000_000_000, 2**30
# The window that needs are told for: what the processes ask for by default.
WINDOW = {"language": 8192, "embedding": 4096}
# The engine itself and its working memory, beside weights and cache.
OVERHEAD = GB // 2
# Keys and values are kept as 16-bit numbers.
_BYTES_A_NUMBER = 2


@dataclass(frozen=True, slots=True)
class SuggestedModel:
    """A model as Ollama's own registry has it under this name; numbers are of its published configuration."""

    name: str
    kind: Literal["language", "embedding"]
    parameters: str
    quantization: str
    weights_gb: float  # the download, which is also what the weights take in memory
    layers: int  # those that keep keys and values; 0: none are kept (embedding models)
    kv_heads: int
    head_size: int
    good_for: str

    def cache_bytes(self, window: int) -> int:
        """Keys and values of a full window: 2 x layers x heads x size x 2 bytes a token."""
        return 2 * self.layers * self.kv_heads * self.head_size * _BYTES_A_NUMBER * window

    def needs_bytes(self, window: int | None = None) -> int:
        """Memory that it takes: on the graphics card, or in main memory."""
        return int(self.weights_gb * GB) + self.cache_bytes(window or WINDOW[self.kind]) + OVERHEAD

    def machine_gib(self) -> int:
        """The class of machine: the least memory that has room for it."""
        return next(size for size in (1, 2, 4, 8, 16, 24, 32, 48) if self.needs_bytes() <= size * GIB)


SUGGESTED = (
    SuggestedModel("all-minilm", "embedding", "23M", "F16", 0.046, 0, 0, 0, "English, the smallest"),
    SuggestedModel("nomic-embed-text", "embedding", "137M", "F16", 0.274, 0, 0, 0, "English; looked for by default"),
    SuggestedModel("bge-m3", "embedding", "567M", "F16", 1.2, 0, 0, 0, "Chinese and English mixed, and 100 other languages"),
    SuggestedModel("qwen2.5:0.5b", "language", "0.5B", "Q4_K_M", 0.398, 24, 2, 64, "trying things out; often wrong"),
    SuggestedModel("llama3.2:1b", "language", "1B", "Q8_0", 1.3, 16, 8, 64, "English, short answers"),
    SuggestedModel("qwen2.5:1.5b", "language", "1.5B", "Q4_K_M", 0.986, 28, 2, 128, "Chinese and English mixed, short answers"),
    SuggestedModel("llama3.2", "language", "3B", "Q4_K_M", 2.0, 28, 8, 128, "English; looked for by default"),
    SuggestedModel("qwen2.5:3b", "language", "3B", "Q4_K_M", 1.9, 36, 2, 128, "Chinese and English mixed; licence: research"),
    SuggestedModel("llama3.1:8b", "language", "8B", "Q4_K_M", 4.9, 32, 8, 128, "English"),
    SuggestedModel("qwen2.5:7b", "language", "7B", "Q4_K_M", 4.7, 28, 4, 128, "Chinese and English mixed; a good start"),
    SuggestedModel("qwen2.5:14b", "language", "14B", "Q4_K_M", 9.0, 48, 8, 128, "Chinese and English mixed, careful answers"),
    SuggestedModel("qwen2.5:32b", "language", "32B", "Q4_K_M", 20.0, 64, 8, 128, "Chinese and English mixed, on a 24 GB card"),
)
