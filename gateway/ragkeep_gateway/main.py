"""The gateway's composition root: settings → channels → service → serve."""

from __future__ import annotations

from ragkeep.embedder.v1.embedder_pb2_grpc import EmbedderServiceStub
from ragkeep.gateway.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    gateway_pb2,
    gateway_pb2_grpc,
    keys_pb2,
    keys_pb2_grpc,
    tenants_pb2,
    tenants_pb2_grpc,
)
from ragkeep.generator.v1.generator_pb2_grpc import GeneratorServiceStub
from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceStub
from ragkeep_gateway.audit.opening import open_audit, replica_of
from ragkeep_gateway.audit.replicas import Replicas
from ragkeep_gateway.audit.service import AuditService
from ragkeep_gateway.catalogue import Catalogue
from ragkeep_gateway.embedding import Embedding
from ragkeep_gateway.http.serve import serve_http
from ragkeep_gateway.importing import Importer
from ragkeep_gateway.people import people_of
from ragkeep_gateway.quotas import QuotaKeeper
from ragkeep_gateway.retrieval import Retrieval
from ragkeep_gateway.sealing.fields import SealedFields
from ragkeep_gateway.sealing.keyring import KeyringFile
from ragkeep_gateway.sealing.service import KeyService
from ragkeep_gateway.service import RagService
from ragkeep_gateway.settings import Settings
from ragkeep_gateway.spending import take_up
from ragkeep_gateway.tenant_methods import TenantService
from ragkeep_gateway.tenants import Tenants
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.gate import Gate
from ragkeep_runtime.process import Server, run


async def build(settings: Settings, server: Server) -> None:
    """Puts the gateway together."""
    audit = await open_audit(settings, server)
    people = people_of(settings)
    if people is not None:
        server.verify_token = people.verify
        server.follow(people.look)
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
    tenants = Tenants(retriever, server.rules)
    server.check_calls(tenants.check)
    quotas = QuotaKeeper(server.current_policy, replicas=settings.replicas)
    await take_up(quotas, audit.log)
    keyring = KeyringFile(settings.keyring)
    server.follow(keyring.look)
    sealed_fields = SealedFields(keyring, tenants, retriever)
    service = RagService(
        audit=audit,
        catalogue=catalogue,
        retrieval=Retrieval(catalogue, embedding, retriever, sealed_fields, settings.default_limit),
        importer=Importer(catalogue, embedding, retriever, tenants, quotas, sealed_fields),
        sealed_fields=sealed_fields,
        retriever=retriever,
        embedder=embedder,
        generator=GeneratorServiceStub(channels["generator"]),
        import_gate=Gate("import", concurrent=settings.concurrent_imports, waiting=2 * settings.concurrent_imports),
        ask_gate=Gate("gateway", concurrent=settings.concurrent_asks, waiting=settings.concurrent_asks),
        quotas=quotas,
    )
    server.add(
        gateway_pb2.DESCRIPTOR.services_by_name["RagService"],
        gateway_pb2_grpc.add_RagServiceServicer_to_server,
        service,
    )
    replicas = Replicas(settings.gateway_replicas_at, settings.identity, settings.trust_domain)
    server.on_close(replicas.close)
    server.add(
        audit_pb2.DESCRIPTOR.services_by_name["AuditService"],
        audit_pb2_grpc.add_AuditServiceServicer_to_server,
        AuditService(audit, replica_of(settings), replicas),
    )
    server.add(
        tenants_pb2.DESCRIPTOR.services_by_name["TenantService"],
        tenants_pb2_grpc.add_TenantServiceServicer_to_server,
        TenantService(tenants, server.current_policy, audit),
    )
    server.add(
        keys_pb2.DESCRIPTOR.services_by_name["KeyService"],
        keys_pb2_grpc.add_KeyServiceServicer_to_server,
        KeyService(audit, keyring, retriever),
    )
    serve_http(settings, server, service)


def main() -> None:
    """Runs the gateway until a signal ends it."""
    run("gateway", Settings, build)


if __name__ == "__main__":
    main()
