"""The gateway's composition root: settings → channels → service → serve."""

from __future__ import annotations

from ragkeep.embedder.v1.embedder_pb2_grpc import EmbedderServiceStub
from ragkeep.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ragkeep.generator.v1.generator_pb2_grpc import GeneratorServiceStub
from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceStub
from ragkeep_gateway.catalogue import Catalogue
from ragkeep_gateway.embedding import Embedding
from ragkeep_gateway.importing import Importer
from ragkeep_gateway.retrieval import Retrieval
from ragkeep_gateway.service import RagService
from ragkeep_gateway.settings import Settings
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.gate import Gate
from ragkeep_runtime.process import Server, run


async def build(settings: Settings, server: Server) -> None:
    """Puts the gateway together."""
    channels = {
        name: open_channel(target, name, settings.identity, settings.trust_domain)
        for name, target in [
            ("embedder", settings.embedder),
            ("retriever", settings.retriever),
            ("generator", settings.generator),
        ]
    }
    for channel in channels.values():
        server.on_close(channel.close)
    retriever = RetrieverServiceStub(channels["retriever"])
    embedder = EmbedderServiceStub(channels["embedder"])
    embedding = Embedding(embedder)
    catalogue = Catalogue(retriever, embedding)
    service = RagService(
        catalogue=catalogue,
        retrieval=Retrieval(catalogue, embedding, retriever, settings.default_limit),
        importer=Importer(catalogue, embedding, retriever),
        retriever=retriever,
        embedder=embedder,
        generator=GeneratorServiceStub(channels["generator"]),
        import_gate=Gate("import", concurrent=settings.concurrent_imports, waiting=2 * settings.concurrent_imports),
        ask_gate=Gate("gateway", concurrent=settings.concurrent_asks, waiting=settings.concurrent_asks),
    )
    server.add(
        gateway_pb2.DESCRIPTOR.services_by_name["RagService"],
        gateway_pb2_grpc.add_RagServiceServicer_to_server,
        service,
    )


def main() -> None:
    """Runs the gateway until a signal ends it."""
    run("gateway", Settings, build)


if __name__ == "__main__":
    main()
