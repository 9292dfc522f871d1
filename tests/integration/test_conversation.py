"""Asking with a conversation, with explanations and with thresholds, over the real RPCs on the embedded engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.generator.v1 import generator_pb2
from ragkeep.generator.v1.generator_pb2_grpc import GeneratorServiceStub
from ragkeep.types.v1.types_pb2 import MinimumEvidence
from ragkeep_client import Client, Rewritten, Sources, Turn, Usage, parse_filter
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.errors import from_rpc_error
from tests.stack import Stack
from tests.tickets import SAMPLE

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
TENANT = (("ragkeep-tenant", "conversation"),)
PRINTER = generator_pb2.Turn(question="打印机脱机了怎么办？", answer="取消“脱机使用打印机”。")


@pytest.fixture
async def imported(rag: RagServiceStub) -> RagServiceStub:
    """The gateway with the sample in it."""
    await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=TENANT)
    return rag


@pytest.fixture
async def client(imported: RagServiceStub, stack: Stack) -> AsyncIterator[Client]:
    """The typed client."""
    async with Client(stack.target("gateway"), stack.cli, tenant="conversation") as found:
        yield found


@pytest.fixture
async def generator(stack: Stack) -> AsyncIterator[GeneratorServiceStub]:
    """The generator as the gateway calls it."""
    async with open_channel(stack.target("generator"), "generator", stack.identities["gateway"]) as channel:
        yield GeneratorServiceStub(channel)


async def asked(rag: RagServiceStub, **request: Any) -> list[pb.AskResponse]:
    """The events of an answer."""
    return [event async for event in rag.Ask(pb.AskRequest(**request), metadata=TENANT)]


async def test_a_follow_up_is_made_whole_before_anything_is_searched_for(imported: RagServiceStub) -> None:
    """And the caller sees what is: status, rewritten, then as ever."""
    events = await asked(imported, question="重启以后还是不行呢？", history=[PRINTER])
    assert [str(event.WhichOneof("event")) for event in events[:5]] == ["status", "rewritten", "status", "sources", "status"]
    assert [event.status.stage for event in (events[0], events[2], events[4])] == [
        pb.STAGE_REWRITING,
        pb.STAGE_RETRIEVING,
        pb.STAGE_GENERATING,
    ]
    assert events[1].rewritten == pb.Rewritten(question="打印机脱机了怎么办？ 重启以后还是不行呢？")
    assert events[3].sources.sources[0].passage.document_id == "T-1003"
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].done.finish == generator_pb2.FINISH_STOP


async def test_a_new_question_in_a_conversation_stands_alone(imported: RagServiceStub) -> None:
    """What came before does not leak into it."""
    events = await asked(imported, question="VPN error 809 after an update", history=[PRINTER])
    assert events[1].rewritten.question == "VPN error 809 after an update"
    assert events[3].sources.sources[0].passage.document_id == "T-1042"


async def test_an_honest_no_says_what_was_looked_for(imported: RagServiceStub) -> None:
    """The whole question in the answer; tokens, those that were not found, and the thresholds in the event."""
    cake = generator_pb2.Turn(question="How do I bake a chocolate cake?", answer="")
    events = await asked(imported, question="And with nuts?", history=[cake])
    assert events[-1].done.finish == generator_pb2.FINISH_NO_EVIDENCE
    answer = "".join(event.delta.text for event in events)
    assert "How do I bake a chocolate cake? And with nuts?" in answer
    assert "not in the documents" in answer
    sources = events[3].sources
    assert not sources.sources
    assert not sources.evidence.suffices
    assert sources.evidence.coverage < sources.evidence.minimum.coverage == 0.5
    assert sources.evidence.best_cosine < sources.evidence.background + sources.evidence.minimum.margin
    assert {"chocol", "cake"} <= set(sources.evidence.tokens)
    assert {"chocol", "cake"} <= set(sources.evidence.missing)


@pytest.mark.parametrize(
    ("question", "minimum", "suffices"),
    [
        ("忘记密码了要去哪里重新设一个？", MinimumEvidence(), True),
        ("忘记密码了要去哪里重新设一个？", MinimumEvidence(coverage=1, margin=1), False),
        ("How do I bake a cake?", MinimumEvidence(), False),
        ("How do I bake a cake?", MinimumEvidence(coverage=0), True),
        ("How do I bake a cake?", MinimumEvidence(margin=-1), True),
    ],
)
async def test_a_request_sets_its_own_threshold(
    imported: RagServiceStub, question: str, minimum: MinimumEvidence, suffices: bool
) -> None:
    """Each half of it; what is not set stays as it is by default, and what was applied is told."""
    events = await asked(imported, question=question, minimum_evidence=minimum)
    found = events[1].sources
    assert found.evidence.suffices is suffices
    assert bool(found.sources) is suffices
    applied = found.evidence.minimum
    assert applied.coverage == (minimum.coverage if minimum.HasField("coverage") else 0.5)
    assert applied.margin == (minimum.margin if minimum.HasField("margin") else 0.04)


async def test_an_explanation_names_the_half_that_found_a_passage(imported: RagServiceStub) -> None:
    """By its rank there, in Search and in Ask; without being asked for there is none."""
    request = pb.SearchRequest(query="809", explain=True, limit=10)
    found = await imported.Search(request, metadata=TENANT)
    scores = {source.passage.document_id: source.passage.scores for source in found.sources}
    assert scores["T-1042"].keyword_rank == 1
    assert scores["T-1042"].bm25 > 0
    assert not scores["T-1003"].HasField("keyword_rank")
    assert sorted(one.vector_rank for one in scores.values()) == [1, 2, 3, 4]
    events = await asked(imported, question="VPN 809", explain=True)
    assert events[1].sources.sources[0].passage.scores.keyword_rank == 1
    plain = await imported.Search(pb.SearchRequest(query="809"), metadata=TENANT)
    assert not any(source.passage.scores.HasField("vector_rank") for source in plain.sources)


async def test_a_question_takes_what_a_search_takes(imported: RagServiceStub) -> None:
    """Alpha, minimum cosine and passages per document."""
    words = await asked(imported, question="VPN 809", alpha=0, minimum_cosine=1, minimum_evidence=MinimumEvidence(coverage=0))
    assert [source.passage.document_id for source in words[1].sources.sources] == ["T-1042"]
    one = await asked(imported, question="VPN 809", passages_per_document=1)
    ids = [source.passage.document_id for source in one[1].sources.sources]
    assert len(ids) == len(set(ids)) > 1


@pytest.mark.parametrize(
    ("language", "words"),
    [("zh", "没有找到"), ("en", "not in the documents"), ("ja", "見つかりません"), ("fr", "ne se trouve pas")],
)
async def test_the_language_may_be_forced(imported: RagServiceStub, language: str, words: str) -> None:
    """Whatever the question's is."""
    options = generator_pb2.Options(language=language)
    events = await asked(imported, question="How do I bake a cake?", options=options)
    assert words in "".join(event.delta.text for event in events)


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        ({"options": {"model": "llama9"}}, "MODEL_NOT_ALLOWED", "options.model"),
        ({"options": {"language": "klingon"}}, "INVALID_REQUEST", "options.language"),
        ({"options": {"model": "llama9"}, "history": [PRINTER]}, "MODEL_NOT_ALLOWED", "options.model"),
        ({"history": [PRINTER] * 21}, "REQUEST_TOO_LARGE", "history"),
        ({"history": [generator_pb2.Turn(question="a", answer="b" * 32_000)]}, "REQUEST_TOO_LARGE", "history"),
        ({"history": [generator_pb2.Turn(answer="b")]}, "INVALID_REQUEST", "history"),
        ({"minimum_evidence": {"coverage": 1.1}}, "INVALID_REQUEST", "minimum_evidence.coverage"),
        ({"minimum_evidence": {"margin": float("nan")}}, "INVALID_REQUEST", "minimum_evidence.margin"),
        ({"alpha": -1}, "INVALID_REQUEST", "alpha"),
        ({"minimum_cosine": 2}, "INVALID_REQUEST", "minimum_cosine"),
    ],
)
async def test_what_cannot_be_asked_is_refused_with_its_field(
    imported: RagServiceStub, request_: dict[str, Any], reason: str, field: str
) -> None:
    """The reason is for machines, the sentence for people."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await asked(imported, question="忘记密码怎么办？", **request_)
    error = from_rpc_error(failed.value)
    assert (error.reason, error.field) == (reason, field)
    assert error.message.endswith(".")


async def test_a_wrong_template_is_refused_over_the_wire(generator: GeneratorServiceStub) -> None:
    """With the placeholder's name; a right one is taken, by a generator without a model too."""
    request = generator_pb2.GenerateRequest(question="x", prompt_template="{passages} {question} {customer}")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in generator.Generate(request):
            pass
    error = from_rpc_error(failed.value)
    assert (error.reason, error.field) == ("TEMPLATE_INVALID", "prompt_template")
    assert "{customer}" in error.message
    request.prompt_template = "{passages} {question}"
    events = [event async for event in generator.Generate(request)]
    assert events[-1].done.finish == generator_pb2.FINISH_NO_EVIDENCE


async def test_the_generator_says_which_models_may_be_asked_for(generator: GeneratorServiceStub) -> None:
    """The served one first."""
    response = await generator.GetModel(generator_pb2.GetModelRequest())
    assert list(response.allowed) == ["quote"] == [response.model.name]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (generator_pb2.RewriteQuestionRequest(question=" "), "QUESTION_EMPTY"),
        (generator_pb2.RewriteQuestionRequest(question="x" * 8001), "QUESTION_TOO_LONG"),
        (generator_pb2.RewriteQuestionRequest(question="x", history=[PRINTER] * 21), "REQUEST_TOO_LARGE"),
    ],
)
async def test_a_question_that_cannot_be_made_whole_is_refused(
    generator: GeneratorServiceStub, request_: generator_pb2.RewriteQuestionRequest, reason: str
) -> None:
    """As Generate would; and without history it comes back as it is."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await generator.RewriteQuestion(request_)
    assert from_rpc_error(failed.value).reason == reason
    same = await generator.RewriteQuestion(generator_pb2.RewriteQuestionRequest(question="And then?"))
    assert same == generator_pb2.RewriteQuestionResponse(question="And then?")


async def test_the_typed_client_has_it_all(client: Client) -> None:
    """History, explanation, evidence, budget, and a filter from text."""
    (fields,) = [one.fields for one in await client.list_collections() if one.name == "service-tickets"]
    types = {field.name: field.type for field in fields}
    wanted = parse_filter("category in (打印与外设, 账号管理) and not ticket_id=T-1001", types)
    events = [
        event
        async for event in client.ask(
            "重启以后还是不行呢？",
            history=[Turn("打印机脱机了怎么办？", "…")],
            filter=wanted,
            explain=True,
            passages_per_document=1,
            alpha=0.5,
            minimum_cosine=-1,
            minimum_coverage=0.1,
            minimum_margin=0.0,
            language="zh",
            model="quote",
        )
    ]
    (rewritten,) = [event for event in events if isinstance(event, Rewritten)]
    assert rewritten.question.startswith("打印机脱机了怎么办？")
    (sources,) = [event for event in events if isinstance(event, Sources)]
    assert [source.document_id for source in sources.sources] == ["T-1003"]
    assert sources.sources[0].scores.vector_rank == sources.sources[0].scores.keyword_rank == 1
    assert (sources.evidence.minimum_coverage, sources.evidence.minimum_margin) == (0.1, 0.0)
    (usage,) = [event for event in events if isinstance(event, Usage)]
    assert (usage.used, usage.left_out, usage.history_turns) == ((1,), (), 0)
    found = await client.search("脱机", filter=wanted, explain=True, passages_per_document=1)
    assert found[0].scores.keyword_rank == 1


async def test_no_log_holds_the_words_of_a_conversation(imported: RagServiceStub, stack: Stack) -> None:
    """Neither of the history nor of what was made of it."""
    turn = generator_pb2.Turn(question="绝无仅有的前一个问题", answer="绝无仅有的回答")
    await asked(imported, question="那为什么？", history=[turn])
    for name in ("gateway", "embedder", "retriever", "generator"):
        assert "绝无仅有" not in stack.log(name)
