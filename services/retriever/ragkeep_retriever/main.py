"""The retriever's composition root: settings → adapter → serve."""

from __future__ import annotations

from ragkeep.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from ragkeep_retriever.service import RetrieverService
from ragkeep_retriever.settings import Settings
from ragkeep_retriever.store import PassageStore
from ragkeep_runtime.process import Server, run


def make_store(settings: Settings) -> PassageStore:
    """The adapter that the settings name; no other engine's library is imported."""
    if settings.engine == "sqlite":
        from ragkeep_retriever.sqlite import SqliteStore

        return SqliteStore(settings.data)
    from ragkeep_retriever.weaviate import WeaviateStore

    key = settings.weaviate_api_key_file.read_text().strip() if settings.weaviate_api_key_file else ""
    return WeaviateStore(settings.weaviate_url, settings.weaviate_grpc_port, api_key=key, replicas=settings.weaviate_replicas)


async def build(settings: Settings, server: Server) -> None:
    """Puts the retriever together."""
    store = make_store(settings)
    server.on_close(store.close)
    server.ready_when(store.ready)
    server.add(
        retriever_pb2.DESCRIPTOR.services_by_name["RetrieverService"],
        retriever_pb2_grpc.add_RetrieverServiceServicer_to_server,
        RetrieverService(store),
    )


def main() -> None:
    """Runs the retriever until a signal ends it."""
    run("retriever", Settings, build)


if __name__ == "__main__":
    main()
