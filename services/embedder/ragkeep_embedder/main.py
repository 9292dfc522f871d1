"""The embedder's composition root: settings → adapter → serve."""

from __future__ import annotations

from ragkeep.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from ragkeep_embedder.embedder import Embedder
from ragkeep_embedder.service import EmbedderService
from ragkeep_embedder.settings import Settings
from ragkeep_runtime.gate import Gate
from ragkeep_runtime.process import Server, run
from ragkeep_runtime.warm_up import WarmUp


def make_embedder(settings: Settings) -> Embedder:
    """The adapter that the settings name; no other engine's library is imported."""
    if settings.engine == "e5":
        from ragkeep_embedder.e5 import E5Embedder

        return E5Embedder(document_threads=settings.document_threads)
    from ragkeep_embedder.ollama import OllamaEmbedder
    from ragkeep_ollama.library import Pinned

    return OllamaEmbedder(
        settings.ollama_url,
        settings.model,
        query_prefix=settings.query_prefix,
        document_prefix=settings.document_prefix,
        pinned=Pinned(settings.num_ctx, settings.num_thread, settings.keep_alive),
        pull_from=settings.pull_from,
    )


async def build(settings: Settings, server: Server) -> None:
    """Puts the embedder together."""
    embedder = make_embedder(settings)
    server.on_close(embedder.close)
    warm_up = WarmUp(embedder.library(), then=embedder.model)
    server.on_close(warm_up.close)
    server.ready_when(warm_up if settings.warm_up else embedder.model)
    gate = Gate("embedding engine", concurrent=settings.concurrent, waiting=settings.waiting)
    server.add(
        embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
        embedder_pb2_grpc.add_EmbedderServiceServicer_to_server,
        EmbedderService(embedder, gate),
    )


def main() -> None:
    """Runs the embedder until a signal ends it."""
    run("embedder", Settings, build)


if __name__ == "__main__":
    main()
