"""The port: what an embedding engine must do, in domain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ragkeep_runtime.model_library import ModelLibrary

# Fixed texts whose vectors tell embedding spaces apart (another digest may well be the same space). Never change them:
# collections keep their vectors.
PROBES = (
    "How do I reset a forgotten password?",
    "打印机脱机无法打印怎么办？",
    "The quarterly report is stored on the shared drive.",
)


class Purpose(Enum):
    """What a text is embedded for; models want another prefix for each."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that an engine serves."""

    engine: str  # "ollama" or "e5"
    name: str  # as the engine knows it
    digest: str  # as the engine reports it
    dimension: int  # numbers in a vector
    context_tokens: int  # the longest text; 0: no limit


class Embedder(Protocol):
    """Texts to vectors. Every error is one of `ragkeep_runtime.errors`."""

    async def model(self) -> ModelInfo:
        """Which model is served. Asks the engine anew, so that a re-pulled model is noticed.

        Raises ModelNotInstalled, ModelUnsuitable, EngineUnreachable or EngineFailed.
        """
        ...

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> list[list[float]]:
        """A vector of unit length for each of 1 to 64 texts, in order; all or none.

        Raises TextTooLong (naming the position as field `texts[i]`) instead of cutting, ModelOutOfMemory, and what `model`
        raises.
        """
        ...

    def library(self) -> ModelLibrary:
        """The engine's models."""
        ...

    async def close(self) -> None:
        """Lets go of connections."""
        ...
