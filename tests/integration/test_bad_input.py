"""Bad input gets a stable reason and a sentence that helps, over the real gRPC call; nothing is lost or half-written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.types.v1.types_pb2 import Comparison, Document, Filter, Filters, OutcomeKind, Value
from ragkeep_client import Client, Equals, Keyword
from ragkeep_runtime.errors import RagkeepError, from_rpc_error
from tests.stack import Stack
from tests.tickets import SAMPLE, ticket

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
TENANT = (("ragkeep-tenant", "bad-input"),)


def _filter(field: str, **value: Any) -> Filter:
    return Filter(equals=Comparison(field=field, value=Value(**value)))


@pytest.fixture
async def imported(rag: RagServiceStub) -> RagServiceStub:
    """The gateway with the sample in it."""
    await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=TENANT)
    return rag


@pytest.mark.parametrize(
    ("request_", "reason", "word"),
    [
        (pb.SearchRequest(query=""), "QUESTION_EMPTY", "empty"),
        (pb.SearchRequest(query=" \n\t"), "QUESTION_EMPTY", "empty"),
        (pb.SearchRequest(query="长" * 8001), "QUESTION_TOO_LONG", "8000"),
        (pb.SearchRequest(query="x", limit=0), "LIMIT_OUT_OF_RANGE", "1000"),
        (pb.SearchRequest(query="x", limit=1001), "LIMIT_OUT_OF_RANGE", "1000"),
        (pb.SearchRequest(query="x", collection="unheard"), "COLLECTION_UNKNOWN", "unheard"),
        (pb.SearchRequest(query="x", filter=_filter("nofield", keyword="a")), "FILTER_FIELD_UNKNOWN", "category"),
        (pb.SearchRequest(query="x", filter=_filter("title", text="a")), "FILTER_FIELD_UNKNOWN", "category"),
        (pb.SearchRequest(query="x", filter=_filter("category", number=1)), "FILTER_TYPE_WRONG", "category"),
        (pb.SearchRequest(query="x", filter=Filter(all_of=Filters())), "INVALID_REQUEST", ""),
        (pb.SearchRequest(query="x", alpha=2), "INVALID_REQUEST", "alpha"),
        (pb.SearchRequest(query="x", minimum_cosine=-2), "INVALID_REQUEST", "minimum_cosine"),
    ],
)
async def test_a_wrong_search_says_what_is_wrong(imported: RagServiceStub, request_: Any, reason: str, word: str) -> None:
    """The reason is for machines, the sentence for people."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await imported.Search(request_, metadata=TENANT)
    error = from_rpc_error(failed.value)
    assert error.reason == reason
    assert word in error.message
    assert error.message.endswith(".")


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.AskRequest(question=""), "QUESTION_EMPTY"),
        (pb.AskRequest(question="长" * 8001), "QUESTION_TOO_LONG"),
        (pb.AskRequest(question="x", limit=0), "LIMIT_OUT_OF_RANGE"),
        (pb.AskRequest(question="x", collection="unheard"), "COLLECTION_UNKNOWN"),
        (pb.AskRequest(question="x", options={"temperature": 9}), "INVALID_REQUEST"),
        (pb.AskRequest(question="x", options={"max_tokens": 0}), "INVALID_REQUEST"),
    ],
)
async def test_a_wrong_question_ends_the_stream_with_its_reason(imported: RagServiceStub, request_: Any, reason: str) -> None:
    """A stream fails as a call does."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in imported.Ask(request_, metadata=TENANT):
            pass
    assert from_rpc_error(failed.value).reason == reason


async def test_each_document_has_its_own_outcome(rag: RagServiceStub) -> None:
    """One bad document spoils nobody else; a repetition counts once; other content under the same id is refused."""
    other = ticket("T-1", title="别的内容")
    documents = [ticket("T-1"), Document(id="T-2"), ticket("T-1"), other, ticket("bad\nid"), ticket("T-3")]
    tenant = (("ragkeep-tenant", "outcomes"),)
    response = await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=documents), metadata=tenant)
    kinds = [OutcomeKind.Name(o.kind).removeprefix("OUTCOME_KIND_") for o in response.outcomes]
    assert kinds == ["CREATED", "REJECTED", "UNCHANGED", "REJECTED", "REJECTED", "CREATED"]
    reasons = [o.reason for o in response.outcomes if o.reason]
    assert reasons == ["FIELD_MISSING", "DUPLICATE_ID", "DOCUMENT_ID_INVALID"]
    again = await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=[ticket("T-1"), other]), metadata=tenant)
    assert [OutcomeKind.Name(o.kind) for o in again.outcomes] == ["OUTCOME_KIND_UNCHANGED", "OUTCOME_KIND_REJECTED"]


async def test_too_many_documents_are_refused_as_a_whole(rag: RagServiceStub) -> None:
    """A request has its limits, and nothing of it is stored."""
    tenant = (("ragkeep-tenant", "too-many"),)
    many = [ticket(f"T-{n}") for n in range(101)]
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=many), metadata=tenant)
    assert from_rpc_error(failed.value).reason == "REQUEST_TOO_LARGE"
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await rag.ImportDocuments(pb.ImportDocumentsRequest(), metadata=tenant)
    assert from_rpc_error(failed.value).reason == "INVALID_REQUEST"
    found = await rag.Search(pb.SearchRequest(query="密码"), metadata=tenant)
    assert not found.sources


async def test_tenants_never_see_each_other(imported: RagServiceStub) -> None:
    """The same question in another tenant finds nothing."""
    mine = await imported.Search(pb.SearchRequest(query="忘记密码"), metadata=TENANT)
    assert mine.sources[0].passage.document_id == "T-1001"
    for stranger in ("other", "bad-input2", "BAD-INPUT", "%E5%BC%A0%E4%B8%89"):
        theirs = await imported.Search(pb.SearchRequest(query="忘记密码"), metadata=(("ragkeep-tenant", stranger),))
        assert not theirs.sources


async def test_the_python_client_names_its_own_way_out(imported: RagServiceStub, stack: Stack, tmp_path: Path) -> None:
    """What differs in Python: a keyword is a Keyword, a tenant an argument, and files that are not there a RagkeepError."""
    async with Client(stack.target("gateway"), stack.cli, tenant="bad-input") as client:
        with pytest.raises(RagkeepError, match=r'is a keyword, .*Keyword\("x"\)') as wrong:
            await client.search("x", filter=Equals("category", "VPN"))
        assert wrong.value.reason == "FILTER_TYPE_WRONG"
        assert await client.search("x", filter=Equals("category", Keyword("邮件与日历")))
    async with Client(stack.target("gateway"), stack.cli) as client:
        with pytest.raises(RagkeepError, match="tenant=") as nobody:
            await client.search("x")
        assert nobody.value.reason == "TENANT_NOT_ALLOWED"
    with pytest.raises(RagkeepError, match=r"absent\.pem is not there") as missing:
        Client(stack.target("gateway"), replace(stack.cli, cert=tmp_path / "absent.pem"))
    assert missing.value.reason == "CERTIFICATE_UNUSABLE"
    with pytest.raises(RagkeepError, match="cannot be used") as unlike:
        Client(stack.target("gateway"), replace(stack.cli, key=stack.cli.cert))
    assert unlike.value.reason == "CERTIFICATE_UNUSABLE"
