"""One suite for every language model: quote, and the real Ollama."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import pytest

from ragkeep.generator.v1 import generator_pb2 as pb
from ragkeep_generator.citations import has_mark
from ragkeep_generator.language import Language, not_found, says_no
from ragkeep_generator.language_model import Delta, End, Finish, LanguageModel, Options, Passage, Question, Turn
from ragkeep_generator.ollama import Defaults, OllamaLanguageModel
from ragkeep_generator.service import GeneratorService
from ragkeep_generator.terms import terms
from ragkeep_runtime.errors import (
    ContextTooSmall,
    EngineUnreachable,
    ModelNotAllowed,
    ModelNotInstalled,
    ModelUnsuitable,
    RagkeepError,
)
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
    model: LanguageModel, text: str, passages: Sequence[Passage] = PASSAGES, /, **options: object
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


@pytest.mark.parametrize(
    ("text", "asked", "language"),
    [
        ("打印机怎么了？", None, Language.CHINESE),
        ("What is wrong?", None, Language.ENGLISH),
        ("プリンターはどうしましたか？", None, Language.JAPANESE),
        ("打印机怎么了？", Language.GERMAN, Language.GERMAN),
    ],
)
async def test_without_passages_it_says_so_in_the_questions_language(
    model: LanguageModel, text: str, asked: Language | None, language: Language
) -> None:
    """An honest no with what was looked for, and no model's invention; in the language that was asked for, if one was."""
    pieces, end = await answered(model, text, (), language=asked)
    assert "".join(pieces) == not_found(language, text)
    assert text in "".join(pieces)
    assert end.finish is Finish.NO_EVIDENCE
    assert end.model == model.models()[0]


async def test_the_honest_no_names_what_was_searched_for(model: LanguageModel) -> None:
    """The follow-up made whole, not the words that were typed."""
    question = Question("And there?", (), searched="Where is the chocolate cake? And there?")
    events = [event async for event in model.answer(question)]
    assert isinstance(events[0], Delta)
    assert "Where is the chocolate cake? And there?" in events[0].text


HISTORY = (Turn("How do I reset a forgotten password?", "Open the portal and choose reset."),)


async def test_a_follow_up_is_made_whole(model: LanguageModel) -> None:
    """Its own words are kept and something of the conversation is added: by the model or, where that wrote nothing that can
    be believed, by rule."""
    whole = await model.make_whole(Question("And on a Mac?", (), history=HISTORY))
    assert "mac" in terms(whole.text)
    assert terms(whole.text) & terms(HISTORY[0].question + HISTORY[0].answer)
    assert whole.model in ("", *model.models())


async def test_an_answer_with_history_answers_the_follow_up(model: LanguageModel) -> None:
    """History does not end up in the answer's passages, and how much of it was read is told."""
    question = Question("Why?", PASSAGES, Options(max_tokens=20), history=HISTORY, searched=f"{HISTORY[0].question} Why?")
    *deltas, end = [event async for event in model.answer(question)]
    assert deltas
    assert isinstance(end, End)
    assert end.used == (1, 2)
    assert end.history_turns == (0 if end.quoted else 1)


async def test_only_models_that_the_settings_allow_may_be_asked_for(model: LanguageModel) -> None:
    """The served one by its name; another is refused with those that are allowed."""
    served = model.models()[0]
    assert served == (await model.model()).name
    _, end = await answered(model, "How do I reset a forgotten password?", model=served, max_tokens=5)
    assert end.model == served
    with pytest.raises(ModelNotAllowed, match="another-model"):
        await answered(model, "x", model="another-model")
    with pytest.raises(ModelNotAllowed, match="another-model"):
        await model.make_whole(Question("Why?", (), Options(model="another-model"), history=HISTORY))


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
    assert end.used + end.left_out == tuple(range(1, 8))
    assert end.reserved_tokens == 3
    assert 0 < end.prompt_tokens <= end.context_tokens - end.reserved_tokens
    huge = [Passage(1, "t", "The printer is offline. " * 2000)]
    with pytest.raises(ContextTooSmall, match="RAGKEEP_NUM_CTX"):
        await answered(model, "Why?", huge)
    with pytest.raises(ContextTooSmall, match=r"2048 tokens are to be kept.*fewer max_tokens"):
        await answered(model, "Why?", max_tokens=2048)
    await model.close()


@pytest.mark.engine("ollama")
async def test_what_the_estimate_got_wrong_is_tried_with_less(ollama_server: OllamaProcess) -> None:
    """Digits have more tokens than letters: Ollama refuses the prompt, and history goes before passages do."""
    model = OllamaLanguageModel(ollama_server.url, CHAT_MODEL, SMALL)
    dense = [Passage(n, "", "7 3 9 1 4 8 " * 100) for n in range(1, 5)]
    question = Question(
        "Why?", dense, Options(max_tokens=3), history=[Turn("8 1 5 " * 100, "2 7 1 " * 100)], searched="Why not?"
    )
    events = [event async for event in model.answer(question)]
    end = events[-1]
    assert isinstance(end, End)
    assert end.history_turns == 0
    assert 1 <= len(end.used) < 4
    assert end.prompt_tokens <= 2045
    await model.close()


@pytest.mark.engine("ollama")
async def test_another_model_that_is_allowed_answers(ollama_server: OllamaProcess) -> None:
    """RAGKEEP_ALLOWED_MODELS: the request picks, and the answer names it; one that is allowed and missing is named with its remedy."""
    model = OllamaLanguageModel(ollama_server.url, "not-here", SMALL, also=[CHAT_MODEL, "not-there"])
    assert model.models() == ("not-here:latest", CHAT_MODEL, "not-there:latest")
    _, end = await answered(model, "How do I reset a password?", model=CHAT_MODEL, max_tokens=3)
    assert end.model == CHAT_MODEL
    with pytest.raises(ModelNotInstalled, match="ollama pull not-there"):
        await answered(model, "x", model="not-there")
    await model.close()


@pytest.mark.engine("ollama")
async def test_a_models_rewriting_is_used_where_it_can_be_believed(ollama_server: OllamaProcess) -> None:
    """Even the smallest model rewrites now and then instead of answering; then its words are searched for, in one line."""
    model = OllamaLanguageModel(ollama_server.url, CHAT_MODEL, SMALL)
    follow_ups = ("And on a Mac?", "And on a phone?", "And on Linux?", "And for a guest account?", "And in Outlook?")
    wholes = [await model.make_whole(Question(text, (), history=HISTORY)) for text in follow_ups]
    by_model = [whole for whole in wholes if whole.model == CHAT_MODEL]
    assert by_model
    assert all("\n" not in whole.text for whole in by_model)
    await model.close()


@pytest.mark.engine("ollama")
async def test_a_template_is_what_the_model_gets(ollama_server: OllamaProcess) -> None:
    """A short one takes fewer tokens than our own prompt."""
    model = OllamaLanguageModel(ollama_server.url, CHAT_MODEL, SMALL)
    ends = []
    for template in ("", "{passages}\n{question}"):
        question = Question("How do I reset it?", PASSAGES, Options(max_tokens=3), template=template)
        *_, end = [event async for event in model.answer(question)]
        assert isinstance(end, End)
        ends.append(end)
    assert ends[1].used == (1, 2)
    assert 30 < ends[1].prompt_tokens < ends[0].prompt_tokens - 50
    await model.close()


@pytest.mark.engine("ollama")
async def test_a_models_own_honest_no_is_one(ollama_server: OllamaProcess) -> None:
    """Where it says the sentence that the prompt offers and cites nothing, the answer ends as one without evidence."""
    model = OllamaLanguageModel(ollama_server.url, CHAT_MODEL, SMALL)
    template = "Repeat this sentence word for word: {not_found}\nDo not read: {passages} {question}\nThe sentence: {not_found}"
    question = Question("What is it?", [Passage(1, "", "x")], Options(max_tokens=30), template=template)
    said = False
    # The marker is another one each time, and the smallest model does not repeat the sentence beside all of them.
    for _ in range(60):
        events = [event async for event in model.answer(question)]
        text = "".join(event.text for event in events if isinstance(event, Delta))
        end = events[-1]
        assert isinstance(end, End)
        if says_no(text) and not has_mark(text, (1,)):
            assert end.finish is Finish.NO_EVIDENCE
            said = True
            break
    assert said
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
        await asyncio.to_thread(ollama_server.works)
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
async def test_ollama_gone_is_said_at_once(ollama_server: OllamaProcess) -> None:
    """Which engine, where it was looked for, how to start it."""
    model = OllamaLanguageModel("http://127.0.0.1:9", CHAT_MODEL, SMALL)
    for call in (model.model(), answered(model, "x")):
        with pytest.raises(EngineUnreachable, match="ollama serve"):
            await call
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
        (pb.GenerateRequest(question="x", options=pb.Options(language="tlh")), "INVALID_REQUEST"),
        (pb.GenerateRequest(question="x", options=pb.Options(model="y")), "MODEL_NOT_ALLOWED"),
        (pb.GenerateRequest(question="x", prompt_template="{passages}"), "TEMPLATE_INVALID"),
        (pb.GenerateRequest(question="x", searched="y" * 8001), "QUESTION_TOO_LONG"),
        (pb.GenerateRequest(question="x", history=[pb.Turn(question="a")] * 21), "REQUEST_TOO_LARGE"),
        (pb.GenerateRequest(question="x", history=[pb.Turn(question="a", answer="b" * 32_000)]), "REQUEST_TOO_LARGE"),
        (pb.GenerateRequest(question="x", history=[pb.Turn(answer="b")]), "INVALID_REQUEST"),
    ],
)
async def test_the_service_refuses_wrong_requests(request_: pb.GenerateRequest, reason: str) -> None:
    """Before the engine is asked."""
    from ragkeep_generator.quote import Quote

    service = GeneratorService(Quote(), Gate("quote", concurrent=1, waiting=1))
    with pytest.raises(RagkeepError) as failed:
        [event async for event in service.Generate(request_, None)]
    assert failed.value.reason == reason


@pytest.mark.engine("ollama")
async def test_a_model_has_no_larger_window_than_it_was_trained_for(ollama_server: OllamaProcess) -> None:
    """Ollama takes less than is set without a word: the budget is told as it is, and the remedy is not a larger setting."""
    model = OllamaLanguageModel(
        ollama_server.url, CHAT_MODEL, Defaults(num_ctx=16_384, max_tokens=8, temperature=0, num_thread=1)
    )
    assert (await model.model()).context_tokens == 8192
    _, end = await answered(model, "What is wrong?")
    assert end.context_tokens == 8192
    loaded = (await model.library().load()).loaded
    assert loaded is not None
    assert loaded.context_tokens == 8192
    with pytest.raises(ContextTooSmall, match=f"{CHAT_MODEL} was trained for 8192 tokens"):
        await answered(model, "What is wrong?", max_tokens=8192)
    await model.close()
