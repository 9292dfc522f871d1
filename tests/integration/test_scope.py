"""What the gateway alone may say, and what it must say: scopes and embedding spaces, over the real RPC."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.retriever.v1 import retriever_pb2 as pb
from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceStub
from ragkeep.types.v1.types_pb2 import EmbeddingSpace, Groups, Scope, Vectors
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.errors import from_rpc_error
from tests.stack import Stack
from tests.tickets import SAMPLE

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite")]
SCOPED = [
    (method.name, method.input_type.name)
    for method in pb.DESCRIPTOR.services_by_name["RetrieverService"].methods
    if "scope" in method.input_type.fields_by_name
]


@pytest.fixture
async def retriever(stack: Stack) -> AsyncIterator[RetrieverServiceStub]:
    """The retriever as the gateway calls it, with the sample in it."""
    async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
        request = gateway_pb2.ImportDocumentsRequest(documents=SAMPLE)
        await RagServiceStub(channel).ImportDocuments(request, metadata=(("ragkeep-tenant", "scope"),))
    async with open_channel(stack.target("retriever"), "retriever", stack.identities["gateway"]) as channel:
        yield RetrieverServiceStub(channel)


def test_no_request_of_a_caller_names_a_tenant_or_the_askers_groups() -> None:
    """Both come from the verified identity alone; documents' own groups are another matter."""
    for method in gateway_pb2.DESCRIPTOR.services_by_name["RagService"].methods:
        assert not {"scope", "tenant", "groups"} & set(method.input_type.fields_by_name), method.name


@pytest.mark.parametrize(("method", "message"), SCOPED)
@pytest.mark.parametrize(
    "scope", [None, Scope(tenant="scope"), Scope(tenant="scope", every_document=False), Scope(tenant="", groups=Groups())]
)
async def test_an_unset_scope_is_refused(
    retriever: RetrieverServiceStub, method: str, message: str, scope: Scope | None
) -> None:
    """It never means everything."""
    request = getattr(pb, message)(scope=scope)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await getattr(retriever, method)(request)
    error = from_rpc_error(failed.value)
    assert error.reason == "INVALID_REQUEST"
    assert error.field.startswith("scope")


@pytest.mark.parametrize(
    ("model", "dimension"), [("multilingual-e5-small", 768), ("another-model", 384), ("multilingual-e5-small", 384)]
)
async def test_another_embedding_space_is_refused_never_searched(
    retriever: RetrieverServiceStub, model: str, dimension: int
) -> None:
    """Another dimension, another model, another digest: both are named."""
    space = EmbeddingSpace(model=model, digest="other", dimension=dimension)
    vector = Vectors(dimension=dimension, float32_le=b"\0\0\x80?" * dimension)
    scope = Scope(tenant="scope", every_document=True)
    request = pb.SearchRequest(scope=scope, collection="service-tickets", vector=pb.VectorQuery(space=space, vector=vector))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await retriever.Search(request)
    error = from_rpc_error(failed.value)
    assert error.reason == "EMBEDDING_SPACE_MISMATCH"
    assert model in error.message
    put = pb.PutDocumentsRequest(
        scope=scope,
        collection="service-tickets",
        collection_revision=1,
        space=space,
        documents=[pb.ChunkedDocument(document=SAMPLE[0], version=b"x" * 32, chunks=["a"], vectors=vector)],
    )
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await retriever.PutDocuments(put)
    assert from_rpc_error(failed.value).reason == "EMBEDDING_SPACE_MISMATCH"


async def test_a_vector_that_does_not_fit_its_own_space_is_refused(retriever: RetrieverServiceStub) -> None:
    """The dimension is checked on the bytes, not on what the request says of them."""
    scope = Scope(tenant="scope", every_document=True)
    collection = (await retriever.GetCollection(pb.GetCollectionRequest(name="service-tickets"))).collection
    space = EmbeddingSpace(model=collection.space.model, digest=collection.space.digest, dimension=collection.space.dimension)
    for vector, reason in (
        (Vectors(dimension=16, float32_le=b"\0\0\x80?" * 16), "EMBEDDING_SPACE_MISMATCH"),
        (Vectors(dimension=384, float32_le=b"\0\0\x80?" * 16), "INVALID_REQUEST"),
        (Vectors(dimension=384, float32_le=b"\0\0\xc0\x7f" * 384), "INVALID_REQUEST"),
    ):
        query = pb.VectorQuery(space=space, vector=vector)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await retriever.Search(pb.SearchRequest(scope=scope, collection="service-tickets", vector=query))
        assert from_rpc_error(failed.value).reason == reason
