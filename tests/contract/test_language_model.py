"""One suite for every language model: quote, and the real Ollama."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import pytest

from ragkeep.generator.v1 import generator_pb2 as pb
from ragkeep_generator.language import NOT_FOUND, Language
from ragkeep_generator.language_model import Delta, End, Finish, LanguageModel, Options, Passage, Question
from ragkeep_generator.ollama import Defaults, OllamaLanguageModel
from ragkeep_generator.service import GeneratorService
from ragkeep_runtime.errors import ContextTooSmall, EngineUnreachable, ModelNotInstalled, ModelUnsuitable, RagkeepError
from ragkeep_runtime.gate import Gate
from tests.engines.ollama import CHAT_MODEL, EMBEDDING_MODEL, OllamaProcess

ADAPTERS = [
    pytest.param("quote", marks=pytest.mark.engine("quote")),
    pytest.param("ollama", marks=pytest.mark.engine("ollama")),
]
SMALL = Defaults(num_ctx=2048, max_tokens=64, temperature=0, num_thread=1)
PASSAGES = (
    Passage(
        1, "Password reset", "Password reset\nA user forgot the password. Open the portal and choose reset. Wait five minutes."
    ),
    Passage(2, "打印机脱机", "打印机脱机\n打印机显示脱机。取消“脱机使用打印机”，再重启打印服务。"),
)


@pytest.fixture(params=ADAPTERS)
async def model(request: pytest.FixtureRequest) -> AsyncIterator[LanguageModel]:
    """Each adapter in turn."""
    found: LanguageModel
    if request.param == "quote":
        from ragkeep_generator.quote import Quote

        found = Quote()
    else:
        server: OllamaProcess = request.getfixturevalue("ollama_server")
        found = OllamaLanguageModel(server.url, CHAT_MODEL, SMALL)
    yield found
    await found.close()


async def answered(
    model: LanguageModel, text: str, passages: Sequence[Passage] = PASSAGES, **options: object
) -> tuple[list[str], End]:
    """The pieces of an answer and its end."""
    question = Question(text, passages, Options(**options))  # type: ignore[arg-type]
    events = [event async for event in model.answer(question)]
    assert isinstance(events[-1], End)
    assert all(isinstance(event, Delta) for event in events[:-1])
    return [event.text for event in events if isinstance(event, Delta)], events[-1]


async def test_an_answer_streams_and_ends_once(model: LanguageModel) -> None:
    """In several pieces, none empty, with the passages that were used."""
    pieces, end = await answered(model, "How do I reset a forgotten password?")
    assert len(pieces) > 1
    assert all(pieces)
    assert end.finish in (Finish.STOP, Finish.LENGTH)
    assert end.used
    assert set(end.used) <= {1, 2}


@pytest.mark.parametrize(("text", "language"), [("打印机怎么了？", Language.CHINESE), ("What is wrong?", Language.ENGLISH)])
async def test_without_passages_it_says_so_in_the_questions_language(
    model: LanguageModel, text: str, language: Language
) -> None:
    """An honest no, and no model's invention."""
    pieces, end = await answered(model, text, ())
    assert "".join(pieces) == NOT_FOUND[language]
    assert end.finish is Finish.NO_EVIDENCE


async def test_two_answers_at_once_do_not_mix(model: LanguageModel) -> None:
    """Each caller gets an own stream."""
    ends = await asyncio.gather(*(answered(model, "How do I reset a password?") for _ in range(3)))
    assert all(end.finish is not Finish.NO_EVIDENCE for _, end in ends)


@pytest.mark.engine("quote")
async def test_quote_cites_every_sentence_and_labels_itself() -> None:
    """Only words of the passage, each with its number."""
    from ragkeep_generator.quote import Quote

    pieces, end = await answered(Quote(), "打印机脱机怎么办？", PASSAGES[::-1])
    text = "".join(pieces)
    assert end.quoted
    assert "再重启打印服务。 [2]" in text
    assert re.sub(r"\s*\[2\]\s*", "", text) in PASSAGES[1].text.replace("\n", "")
    pieces, end = await answered(Quote(), "巧克力蛋糕", PASSAGES[1:])
    assert end.finish is Finish.NO_EVIDENCE


@pytest.mark.engine("ollama")
async def test_max_tokens_end_an_answer_as_incomplete(ollama_server: OllamaProcess) -> None:
    """LENGTH, with the tokens counted."""
    model = OllamaLanguageModel(ollama_server.url, CHAT_MODEL, SMALL)
    pieces, end = await answered(model, "Tell me everything about passwords.", max_tokens=5)
    assert end.finish is Finish.LENGTH
    assert end.completion_tokens == 5
    assert end.prompt_tokens > 50
    assert end.context_tokens == 2048
    assert not end.quoted
    await model.close()


@pytest.mark.engine("ollama")
async def test_a_seed_makes_an_answer_repeatable_and_stop_ends_it(ollama_server: OllamaProcess) -> None:
    """The options reach the engine."""
    model = OllamaLanguageModel(ollama_server.url, CHAT_MODEL, SMALL)
    first, _ = await answered(model, "How do I reset it?", temperature=1.0, seed=7, max_tokens=20)
    again, _ = await answered(model, "How do I reset it?", temperature=1.0, seed=7, max_tokens=20)
    assert "".join(first) == "".join(again)
    word = "".join(first).split()[2]
    stopped, end = await answered(model, "How do I reset it?", temperature=1.0, seed=7, max_tokens=20, stop=(word,))
    assert word not in "".join(stopped)
    assert end.finish is Finish.STOP
    await model.close()


@pytest.mark.engine("ollama")
async def test_only_whole_passages_that_fit_are_used(ollama_server: OllamaProcess) -> None:
    """Nothing is cut: the rest is left out and that is reported; where none fits it is an error with a remedy."""
    model = OllamaLanguageModel(ollama_server.url, CHAT_MODEL, SMALL)
    long = [Passage(n, f"t{n}", "The printer is offline and nobody knows why. " * 40) for n in range(1, 8)]
    _, end = await answered(model, "Why is the printer offline?", long, max_tokens=3)
    assert end.used == tuple(range(1, len(end.used) + 1))
    assert 1 <= len(end.used) < 7
    huge = [Passage(1, "t", "The printer is offline. " * 2000)]
    with pytest.raises(ContextTooSmall, match="RAGKEEP_NUM_CTX"):
        await answered(model, "Why?", huge)
    await model.close()


@pytest.mark.engine("ollama")
async def test_leaving_stops_the_engines_work(ollama_server: OllamaProcess) -> None:
    """Seen at Ollama: its runner computes while the answer streams, and is idle soon after the caller left."""
    model = OllamaLanguageModel(
        ollama_server.url, CHAT_MODEL, Defaults(num_ctx=2048, max_tokens=1500, temperature=1, num_thread=1)
    )
    question = Question("Write a very long story about printers.", PASSAGES, Options(seed=3, max_tokens=1500))
    await answered(model, "Warm up.", max_tokens=1)
    async with aclosing(model.answer(question)) as events:  # type: ignore[type-var]
        async for _ in events:
            break
        assert await asyncio.to_thread(ollama_server.load) > 0.5
    assert await asyncio.to_thread(ollama_server.becomes_idle, 3)
    await model.close()


@pytest.mark.engine("ollama")
async def test_a_missing_model_is_named_with_its_remedy(ollama_server: OllamaProcess) -> None:
    """Never pulled."""
    model = OllamaLanguageModel(ollama_server.url, "not-here", SMALL)
    with pytest.raises(ModelNotInstalled, match="ollama pull not-here"):
        await answered(model, "x")
    with pytest.raises(ModelNotInstalled):
        await model.model()
    await model.close()


@pytest.mark.engine("ollama")
async def test_an_embedding_model_does_not_pass_for_a_language_model(ollama_server: OllamaProcess) -> None:
    """Said before anything is asked of it, and when it is."""
    model = OllamaLanguageModel(ollama_server.url, EMBEDDING_MODEL, SMALL)
    with pytest.raises(ModelUnsuitable):
        await model.model()
    with pytest.raises(ModelUnsuitable):
        await answered(model, "x")
    await model.close()


@pytest.mark.engine("ollama")
async def test_ollama_gone_is_said_within_two_seconds(ollama_server: OllamaProcess) -> None:
    """Which engine, where it was looked for, how to start it."""
    model = OllamaLanguageModel("http://127.0.0.1:9", CHAT_MODEL, SMALL)
    for call in (model.model(), answered(model, "x")):
        began = time.monotonic()
        with pytest.raises(EngineUnreachable, match="ollama serve"):
            await call
        assert time.monotonic() - began < 2
    await model.close()


@pytest.mark.engine("quote")
@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.GenerateRequest(question=" "), "QUESTION_EMPTY"),
        (pb.GenerateRequest(question="x" * 8001), "QUESTION_TOO_LONG"),
        (pb.GenerateRequest(question="x", passages=[pb.NumberedPassage(number=0)]), "INVALID_REQUEST"),
        (pb.GenerateRequest(question="x", options=pb.Options(temperature=2.1)), "INVALID_REQUEST"),
        (pb.GenerateRequest(question="x", options=pb.Options(max_tokens=8193)), "INVALID_REQUEST"),
        (pb.GenerateRequest(question="x", options=pb.Options(stop=["a"] * 9)), "INVALID_REQUEST"),
        (pb.GenerateRequest(question="x", options=pb.Options(stop=[""])), "INVALID_REQUEST"),
    ],
)
async def test_the_service_refuses_wrong_requests(request_: pb.GenerateRequest, reason: str) -> None:
    """Before the engine is asked."""
    from ragkeep_generator.quote import Quote

    service = GeneratorService(Quote(), Gate("quote", concurrent=1, waiting=1))
    with pytest.raises(RagkeepError) as failed:
        [event async for event in service.Generate(request_, None)]
    assert failed.value.reason == reason
