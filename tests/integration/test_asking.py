"""The narrow path from end to end, on the embedded engines, over mutual TLS."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.generator.v1 import generator_pb2
from ragkeep.types.v1.types_pb2 import Comparison, Filter, OutcomeKind, Value
from ragkeep_runtime.errors import from_rpc_error
from tests.stack import Stack
from tests.tickets import SAMPLE
from tests.waiting import until_true

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
TENANT = (("ragkeep-tenant", "asking"),)


@pytest.fixture
async def imported(rag: RagServiceStub) -> RagServiceStub:
    """The gateway with the sample in it."""
    await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=TENANT)
    return rag


async def test_an_answer_streams_its_events_in_order(imported: RagServiceStub) -> None:
    """status, sources, status, deltas, citations, usage, done; the sequence grows by one."""
    events = [event async for event in imported.Ask(pb.AskRequest(question="忘记密码怎么办？"), metadata=TENANT)]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    kinds = [str(event.WhichOneof("event")) for event in events]
    assert kinds[:3] == ["status", "sources", "status"]
    assert kinds[-2:] == ["usage", "done"]
    assert "delta" in kinds
    assert set(kinds[3:-2]) <= {"delta", "citation"}
    source = events[1].sources.sources[0]
    assert (source.number, source.passage.document_id, source.title) == (1, "T-1001", "忘记密码")
    assert source.passage.fields["category"].keyword == "账号管理"
    assert source.passage.scores.HasField("fused")
    answer = "".join(event.delta.text for event in events if event.WhichOneof("event") == "delta")
    for event in events:
        if event.WhichOneof("event") == "citation":
            assert answer[event.citation.start : event.citation.end] == f"[{event.citation.number}]"
    assert "citation" in kinds
    assert events[-1].done.quoted
    assert events[-1].done.finish == generator_pb2.FINISH_STOP


@pytest.mark.parametrize(
    ("question", "words"), [("巧克力蛋糕怎么烤？", "没有"), ("How do I bake a cake?", "not in the documents")]
)
async def test_what_the_documents_do_not_answer_is_said_honestly(imported: RagServiceStub, question: str, words: str) -> None:
    """In the question's language."""
    events = [event async for event in imported.Ask(pb.AskRequest(question=question), metadata=TENANT)]
    assert events[-1].done.finish == generator_pb2.FINISH_NO_EVIDENCE
    assert words in "".join(event.delta.text for event in events if event.WhichOneof("event") == "delta")


@pytest.mark.parametrize(
    ("mode", "query", "first", "scores"),
    [
        (pb.SEARCH_MODE_HYBRID, "vpn 809", "T-1042", {"fused"}),
        (pb.SEARCH_MODE_KEYWORD, "T-1042", "T-1042", {"bm25"}),
        (pb.SEARCH_MODE_KEYWORD, "脱机", "T-1003", {"bm25"}),
        (pb.SEARCH_MODE_VECTOR, "打印机连不上", "T-1003", {"cosine"}),
    ],
)
async def test_every_mode_finds_and_says_how(
    imported: RagServiceStub, mode: int, query: str, first: str, scores: set[str]
) -> None:
    """Two-character Chinese words and identifiers among them."""
    found = await imported.Search(pb.SearchRequest(query=query, mode=mode), metadata=TENANT)
    passage = found.sources[0].passage
    assert passage.document_id == first
    assert scores <= {descriptor.name for descriptor, _ in passage.scores.ListFields()}


async def test_a_filter_holds(imported: RagServiceStub) -> None:
    """Only documents of the category."""
    category = Filter(equals=Comparison(field="category", value=Value(keyword="邮件与日历")))
    found = await imported.Search(pb.SearchRequest(query="密码", filter=category), metadata=TENANT)
    assert {source.passage.document_id for source in found.sources} == {"T-1004"}


async def test_unchanged_documents_are_not_embedded_again(imported: RagServiceStub, stack: Stack) -> None:
    """The second import calls the embedder not once."""
    before = stack.log("embedder").count("EmbedderService/Embed")
    response = await imported.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=TENANT)
    assert {outcome.kind for outcome in response.outcomes} == {OutcomeKind.OUTCOME_KIND_UNCHANGED}
    await asyncio.sleep(0.1)
    assert stack.log("embedder").count("EmbedderService/Embed") == before


async def test_logs_never_hold_the_text_of_a_document_or_a_question(imported: RagServiceStub, stack: Stack) -> None:
    """Events with keys, a request id that is the same on every hop, and no words of anybody."""
    request_id = "test-request-0001"
    question = "独一无二的问题文字"
    async for _ in imported.Ask(pb.AskRequest(question=question), metadata=(*TENANT, ("x-request-id", request_id))):
        pass
    for name in ("gateway", "embedder", "retriever", "generator"):
        await until_true(lambda: request_id in stack.log(name))  # noqa: B023
        log = stack.log(name)
        assert question not in log
        assert "自助门户" not in log


async def test_the_time_that_the_caller_gives_is_kept(imported: RagServiceStub) -> None:
    """A call that cannot end in time ends with DEADLINE_EXCEEDED, and not with an answer."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await imported.Search(pb.SearchRequest(query="x"), metadata=TENANT, timeout=0.001)
    assert from_rpc_error(failed.value).reason == "DEADLINE_EXCEEDED"


async def test_collections_are_listed_with_the_tenants_documents(imported: RagServiceStub) -> None:
    """Its own number, not everybody's."""
    mine = await imported.ListCollections(pb.ListCollectionsRequest(), metadata=TENANT)
    assert {one.collection.name: one.documents for one in mine.collections if one.documents} == {"service-tickets": len(SAMPLE)}
    theirs = await imported.ListCollections(pb.ListCollectionsRequest(), metadata=(("ragkeep-tenant", "nobody-here"),))
    assert {one.collection.name for one in theirs.collections} == {one.collection.name for one in mine.collections}
    assert {one.documents for one in theirs.collections} == {0}
