"""The port of what an engine has in models: which there are, which are loaded, and how that is changed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

from ragkeep.types.v1 import types_pb2
from ragkeep_runtime.errors import InvalidRequest, ModelBuiltIn

MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory."""

    size_bytes: int
    vram_bytes: int  # of them on graphics cards
    context_tokens: int  # the window that it was loaded with; 0: not known
    until: datetime | None  # None: it stays


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model that an engine has."""

    name: str
    digest: str
    size_bytes: int  # on disk; 0: not known
    parameter_size: str  # e.g. "3.2B"
    quantization: str  # e.g. "Q4_K_M"
    capabilities: tuple[str, ...]  # in the engine's words
    context_tokens: int  # that it was trained for; 0: not known, or no limit
    loaded: LoadedModel | None
    served: bool  # the service answers with it
    allowed: bool  # a request may ask for it
    suitable: bool  # it can do the service's work


class PullStage(Enum):
    """What a pull is doing."""

    MANIFEST = "manifest"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is; bytes of the parts that are known by now."""

    stage: PullStage
    completed_bytes: int = 0
    total_bytes: int = 0


class ModelLibrary(Protocol):
    """The models of one engine, for one service. Every error is one of `ragkeep_runtime.errors`."""

    @property
    def engine(self) -> str:
        """The engine's name."""
        ...

    @property
    def pull_from(self) -> str:
        """The registry that is pulled from; empty: none."""
        ...

    async def installed(self) -> list[InstalledModel]:
        """All models by name. Raises EngineUnreachable or EngineFailed."""
        ...

    async def load(self, name: str = "") -> InstalledModel:
        """Loads a model (empty: the one served) with the service's own options.

        Raises ModelBuiltIn, ModelNotInstalled, ModelUnsuitable, ModelOutOfMemory, and what `installed` raises.
        """
        ...

    async def unload(self, name: str = "") -> InstalledModel:
        """Takes a model out of memory; one in use goes when its requests end. Raises as `load` does."""
        ...

    def pull(self, name: str) -> AsyncGenerator[PullProgress]:
        """Installs a model from the registry that is set; the last event is DONE. Closing the iterator ends the download.

        Raises ModelBuiltIn, PullNotAllowed, ModelUnknown, RegistryFailed, StorageFull, and what `installed` raises.
        """
        ...


class BuiltIn:
    """The library of an engine inside the process: one model, always loaded; nothing about it can be changed."""

    pull_from = ""

    def __init__(self, engine: str, model: InstalledModel) -> None:
        self.engine = engine
        self._model = model

    async def installed(self) -> list[InstalledModel]:
        """The one."""
        return [self._model]

    async def load(self, name: str = "") -> InstalledModel:
        """Refused."""
        raise self._refusal("It is always loaded.")

    async def unload(self, name: str = "") -> InstalledModel:
        """Refused."""
        raise self._refusal("It goes when the process does.")

    async def pull(self, name: str) -> AsyncGenerator[PullProgress]:
        """Refused."""
        raise self._refusal("It comes with ragkeep; only Ollama pulls models.")
        yield PullProgress(PullStage.DONE)  # makes it a generator

    def _refusal(self, why: str) -> ModelBuiltIn:
        return ModelBuiltIn(f"The engine {self.engine} has one model, {self._model.name}, built in. {why}")


def checked_name(name: str) -> str:
    """The name that a request gives. Raises InvalidRequest where it is none."""
    if len(name) > MAX_NAME or not name.isprintable() or name != name.strip():
        raise InvalidRequest(f"A model's name has 1 to {MAX_NAME} printable characters.", field="model")
    return name


def model_message(model: InstalledModel) -> types_pb2.InstalledModel:
    """The contract's model."""
    message = types_pb2.InstalledModel(
        name=model.name,
        digest=model.digest,
        size_bytes=model.size_bytes,
        parameter_size=model.parameter_size,
        quantization=model.quantization,
        capabilities=model.capabilities,
        context_tokens=model.context_tokens,
        served=model.served,
        allowed=model.allowed,
        suitable=model.suitable,
    )
    if (loaded := model.loaded) is not None:
        message.loaded.size_bytes = loaded.size_bytes
        message.loaded.vram_bytes = loaded.vram_bytes
        message.loaded.context_tokens = loaded.context_tokens
        if loaded.until is not None:
            message.loaded.until.FromDatetime(loaded.until)
    return message


async def library_message(library: ModelLibrary) -> types_pb2.ModelLibrary:
    """The contract's library, as it is now."""
    models = [model_message(model) for model in await library.installed()]
    return types_pb2.ModelLibrary(engine=library.engine, models=models, pull_from=library.pull_from)


def progress_message(progress: PullProgress) -> types_pb2.PullProgress:
    """The contract's progress."""
    return types_pb2.PullProgress(
        stage=types_pb2.PullStage.Value(f"PULL_STAGE_{progress.stage.name}"),
        completed_bytes=progress.completed_bytes,
        total_bytes=progress.total_bytes,
    )
