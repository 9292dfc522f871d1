"""The gateway's RPCs for models, typed."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_client.calls import Calls, writable
from ragkeep_client.models import (
    InstalledModel,
    ModelService,
    PullProgress,
    ServiceModels,
    installed_model_from,
    pull_progress_from,
    service_models_from,
)
from ragkeep_runtime.errors import DeadlineExceeded

_SERVICES = {
    None: gateway_pb2.MODEL_SERVICE_UNSPECIFIED,
    "embedder": gateway_pb2.MODEL_SERVICE_EMBEDDER,
    "generator": gateway_pb2.MODEL_SERVICE_GENERATOR,
}
# As long as a gateway lets one call take.
_PULL_S = 300.0


class ModelCalls(Calls):
    """Part of `Client`."""

    async def list_models(self, *, timeout_s: float = 30.0) -> list[ServiceModels]:
        """The models of the embedder's and the generator's engines; a service that could not be asked has its reason."""
        with self._errors():
            response = await self._stub.ListModels(gateway_pb2.ListModelsRequest(), timeout=timeout_s, metadata=self._metadata)
        return [service_models_from(one) for one in response.services]

    async def load_model(self, name: str, *, service: ModelService | None = None, timeout_s: float = 300.0) -> InstalledModel:
        """Loads a model, for admins. The service is the one whose model it is, unless it is named."""
        with writable():
            request = gateway_pb2.LoadModelRequest(model=name, service=_SERVICES[service])
        with self._errors():
            response = await self._stub.LoadModel(request, timeout=timeout_s, metadata=self._metadata)
        return installed_model_from(response.model)

    async def unload_model(self, name: str, *, service: ModelService | None = None, timeout_s: float = 30.0) -> InstalledModel:
        """Takes a model out of memory, for admins. One that is in use is still loaded in what this returns."""
        with writable():
            request = gateway_pb2.UnloadModelRequest(model=name, service=_SERVICES[service])
        with self._errors():
            response = await self._stub.UnloadModel(request, timeout=timeout_s, metadata=self._metadata)
        return installed_model_from(response.model)

    async def pull_model(self, name: str, *, service: ModelService | None = None) -> AsyncGenerator[PullProgress]:
        """Has the engine pull a model from the registry of its service's settings, for admins; ends with stage "done".

        A call lasts five minutes at most: as long as something came meanwhile, it is repeated, and goes on where it ended.
        """
        with writable():
            request = gateway_pb2.PullModelRequest(model=name, service=_SERVICES[service])
        before = -1
        while True:
            completed = 0
            call = self._stub.PullModel(request, timeout=_PULL_S, metadata=self._metadata)
            try:
                with self._errors():
                    async for message in call:
                        progress = pull_progress_from(message.progress)
                        completed = max(completed, progress.completed_bytes)
                        yield progress
                return
            except DeadlineExceeded:
                if completed <= before:
                    raise
                before = completed
            finally:
                call.cancel()
