"""The methods about models: which service has which, and what an admin does with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeAlias

from ragkeep.embedder.v1 import embedder_pb2
from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.generator.v1 import generator_pb2
from ragkeep_runtime.channel import errors_of, stream
from ragkeep_runtime.errors import InvalidRequest, RagkeepError

if TYPE_CHECKING:
    from ragkeep.embedder.v1.embedder_pb2_grpc import EmbedderServiceAsyncStub
    from ragkeep.generator.v1.generator_pb2_grpc import GeneratorServiceAsyncStub
    from ragkeep_gateway.audit.record import Audit

_Service: TypeAlias = gateway_pb2.ModelService.ValueType
_EMBEDDER, _GENERATOR = gateway_pb2.MODEL_SERVICE_EMBEDDER, gateway_pb2.MODEL_SERVICE_GENERATOR
# The messages of each service, and its name on the wire.
_CONTRACT: dict[_Service, tuple[str, Any]] = {_EMBEDDER: ("embedder", embedder_pb2), _GENERATOR: ("generator", generator_pb2)}


class ModelMethods:
    """A part of RagService."""

    _audit: Audit
    _embedder: EmbedderServiceAsyncStub
    _generator: GeneratorServiceAsyncStub

    async def ListModels(self, request: gateway_pb2.ListModelsRequest, context: Any) -> gateway_pb2.ListModelsResponse:
        """Both services side by side; one that fails does not hide the other."""
        async with self._audit.asking() as record:
            services = await self._libraries()
            await record.shown()
            return gateway_pb2.ListModelsResponse(services=services)

    async def LoadModel(self, request: gateway_pb2.LoadModelRequest, context: Any) -> gateway_pb2.LoadModelResponse:
        """By the service whose model it is."""
        async with self._audit.acting(model=request.model):
            service = await self._service_of(request.model, request.service)
            response = await self._call(service, "LoadModel", model=request.model)
            return gateway_pb2.LoadModelResponse(model=response.model, service=service)

    async def UnloadModel(self, request: gateway_pb2.UnloadModelRequest, context: Any) -> gateway_pb2.UnloadModelResponse:
        """By the service whose model it is."""
        async with self._audit.acting(model=request.model):
            service = await self._service_of(request.model, request.service)
            response = await self._call(service, "UnloadModel", model=request.model)
            return gateway_pb2.UnloadModelResponse(model=response.model, service=service)

    async def PullModel(
        self, request: gateway_pb2.PullModelRequest, context: Any
    ) -> AsyncGenerator[gateway_pb2.PullModelResponse]:
        """How far the engine is, as it says."""
        async with self._audit.acting(model=request.model):
            service = await self._service_of(request.model, request.service)
            name, messages = _CONTRACT[service]
            call = self._stub(service).PullModel(messages.PullModelRequest(model=request.model))
            async with aclosing(stream(call, name)) as events:
                async for event in events:
                    yield gateway_pb2.PullModelResponse(progress=event.progress)

    def _stub(self, service: _Service) -> Any:
        return self._embedder if service == _EMBEDDER else self._generator

    async def _call(self, service: _Service, method: str, **fields: Any) -> Any:
        name, messages = _CONTRACT[service]
        with errors_of(name):
            return await getattr(self._stub(service), method)(getattr(messages, f"{method}Request")(**fields))

    async def _libraries(self) -> list[gateway_pb2.ServiceModels]:
        async def one(service: _Service) -> gateway_pb2.ServiceModels:
            try:
                response = await self._call(service, "ListModels")
            except RagkeepError as error:
                return gateway_pb2.ServiceModels(service=service, reason=error.reason, message=error.message)
            return gateway_pb2.ServiceModels(service=service, library=response.library)

        return list(await asyncio.gather(*map(one, _CONTRACT)))

    async def _service_of(self, model: str, asked: _Service) -> _Service:
        """The one asked for, else the one that serves the model, else the one whose work it can do, else one that can pull."""
        if not model.strip():
            raise InvalidRequest("The request names no model.", field="model")
        if asked:
            if asked not in _CONTRACT:
                raise InvalidRequest("The service must be embedder or generator, or empty.", field="service")
            return asked
        found = await self._libraries()
        wanted = {model, f"{model}:latest"}
        for fits in ("served", "suitable"):
            for one in found:
                if any(having.name in wanted and getattr(having, fits) for having in one.library.models):
                    return one.service
        # Not there yet: the engine that may pull, else one that could, which says why it does not; the generator's first.
        order = [(not one.library.pull_from, one.library.engine != "ollama", one.service != _GENERATOR) for one in found]
        return found[order.index(min(order))].service
