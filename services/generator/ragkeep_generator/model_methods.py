"""The methods about models: requests ↔ the engine's library."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ragkeep.generator.v1 import generator_pb2
from ragkeep_runtime.model_library import ModelLibrary, library_message, model_message, progress_message


class ModelMethods:
    """A part of GeneratorService."""

    _library: ModelLibrary

    async def ListModels(self, request: generator_pb2.ListModelsRequest, context: Any) -> generator_pb2.ListModelsResponse:
        """What the engine has."""
        return generator_pb2.ListModelsResponse(library=await library_message(self._library))

    async def LoadModel(self, request: generator_pb2.LoadModelRequest, context: Any) -> generator_pb2.LoadModelResponse:
        """Into memory, with the service's own options."""
        return generator_pb2.LoadModelResponse(model=model_message(await self._library.load(request.model)))

    async def UnloadModel(self, request: generator_pb2.UnloadModelRequest, context: Any) -> generator_pb2.UnloadModelResponse:
        """Out of memory."""
        return generator_pb2.UnloadModelResponse(model=model_message(await self._library.unload(request.model)))

    async def PullModel(
        self, request: generator_pb2.PullModelRequest, context: Any
    ) -> AsyncGenerator[generator_pb2.PullModelResponse]:
        """From the registry of the settings."""
        async with aclosing(self._library.pull(request.model)) as events:
            async for progress in events:
                yield generator_pb2.PullModelResponse(progress=progress_message(progress))
