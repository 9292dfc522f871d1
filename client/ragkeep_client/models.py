"""What callers get back about models: what engines have, how far a pull is, and vectors."""

from __future__ import annotations

import array
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.types.v1 import types_pb2

ModelService = Literal["embedder", "generator"]
PullStage = Literal["manifest", "downloading", "verifying", "done", "other"]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory."""

    size_bytes: int
    vram_bytes: int  # of them on graphics cards; the rest is in main memory
    context_tokens: int  # the window that it was loaded with; 0: not known
    until: datetime | None  # when it is unloaded, unless it is used before; None: never


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model that an engine has."""

    name: str
    digest: str
    size_bytes: int  # on disk; 0: not known
    parameter_size: str  # e.g. "3.2B"
    quantization: str  # e.g. "Q4_K_M"
    capabilities: tuple[str, ...]  # e.g. "completion", "embedding"
    context_tokens: int  # that it was trained for; 0: not known
    loaded: LoadedModel | None
    served: bool  # the service answers with it
    allowed: bool  # a request may ask for it
    suitable: bool  # it can do the service's work


@dataclass(frozen=True, slots=True)
class ServiceModels:
    """The models of one service."""

    service: ModelService
    engine: str  # empty where it could not be asked
    models: tuple[InstalledModel, ...]
    pull_from: str  # the registry; empty: nothing is pulled
    reason: str = ""  # why it could not be asked: a name of errors.proto without its prefix
    message: str = ""  # a sentence that helps


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is; bytes of the parts that are known by now."""

    stage: PullStage
    completed_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of unit length, in the order of the texts."""

    vectors: tuple[tuple[float, ...], ...]
    model: str  # vectors of different models or digests are not comparable
    digest: str
    dimension: int


def installed_model_from(message: types_pb2.InstalledModel) -> InstalledModel:
    """A model of the contract."""
    loaded = message.loaded
    return InstalledModel(
        name=message.name,
        digest=message.digest,
        size_bytes=message.size_bytes,
        parameter_size=message.parameter_size,
        quantization=message.quantization,
        capabilities=tuple(message.capabilities),
        context_tokens=message.context_tokens,
        loaded=LoadedModel(
            loaded.size_bytes,
            loaded.vram_bytes,
            loaded.context_tokens,
            loaded.until.ToDatetime(UTC) if loaded.HasField("until") else None,
        )
        if message.HasField("loaded")
        else None,
        served=message.served,
        allowed=message.allowed,
        suitable=message.suitable,
    )


def service_models_from(message: gateway_pb2.ServiceModels) -> ServiceModels:
    """A service's models of the contract."""
    generator = message.service == gateway_pb2.MODEL_SERVICE_GENERATOR
    return ServiceModels(
        service="generator" if generator else "embedder",
        engine=message.library.engine,
        models=tuple(installed_model_from(one) for one in message.library.models),
        pull_from=message.library.pull_from,
        reason=message.reason,
        message=message.message,
    )


def pull_progress_from(message: types_pb2.PullProgress) -> PullProgress:
    """A pull's progress of the contract."""
    known = message.stage in types_pb2.PullStage.values() and message.stage
    stage = types_pb2.PullStage.Name(message.stage).removeprefix("PULL_STAGE_").lower() if known else "other"
    return PullProgress(cast(PullStage, stage), message.completed_bytes, message.total_bytes)


def embeddings_from(message: gateway_pb2.EmbedResponse) -> Embeddings:
    """Vectors of the contract."""
    dimension = message.vectors.dimension
    values = array.array("f", message.vectors.float32_le)
    if sys.byteorder == "big":
        values.byteswap()
    rows = tuple(tuple(values[at : at + dimension]) for at in range(0, len(values), dimension or 1))
    return Embeddings(rows, message.space.model, message.space.digest, dimension)
