"""The generator's composition root: settings → adapter → serve."""

from __future__ import annotations

from ragkeep.generator.v1 import generator_pb2, generator_pb2_grpc
from ragkeep_generator.language_model import LanguageModel
from ragkeep_generator.service import GeneratorService
from ragkeep_generator.settings import Settings
from ragkeep_runtime.gate import Gate
from ragkeep_runtime.process import Server, run
from ragkeep_runtime.warm_up import WarmUp


def make_language_model(settings: Settings) -> LanguageModel:
    """The adapter that the settings name; no other engine's library is imported."""
    if settings.engine == "quote":
        from ragkeep_generator.quote import Quote

        return Quote()
    from ragkeep_generator.ollama import Defaults, OllamaLanguageModel

    also = [name.strip() for name in settings.allowed_models.split(",") if name.strip()]
    defaults = Defaults(
        num_ctx=settings.num_ctx,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        num_thread=settings.num_thread,
        keep_alive=settings.keep_alive,
    )
    return OllamaLanguageModel(settings.ollama_url, settings.model, defaults, also, settings.pull_from)


async def build(settings: Settings, server: Server) -> None:
    """Puts the generator together."""
    language_model = make_language_model(settings)
    server.on_close(language_model.close)
    warm_up = WarmUp(language_model.library(), then=language_model.model)
    server.on_close(warm_up.close)
    server.ready_when(warm_up if settings.warm_up else language_model.model)
    gate = Gate("language model", concurrent=settings.concurrent, waiting=settings.waiting)
    server.add(
        generator_pb2.DESCRIPTOR.services_by_name["GeneratorService"],
        generator_pb2_grpc.add_GeneratorServiceServicer_to_server,
        GeneratorService(language_model, gate),
    )


def main() -> None:
    """Runs the generator until a signal ends it."""
    run("generator", Settings, build)


if __name__ == "__main__":
    main()
