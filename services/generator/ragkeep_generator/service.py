"""GeneratorService: requests ↔ the port, a screen per method."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from ragkeep.generator.v1 import generator_pb2, generator_pb2_grpc
from ragkeep.types.v1.types_pb2 import Model
from ragkeep_generator.citations import CitationFinder
from ragkeep_generator.language import Language
from ragkeep_generator.language_model import Delta, End, Finish, LanguageModel, Options, Passage, Question, Turn
from ragkeep_generator.model_methods import ModelMethods
from ragkeep_generator.template import check_template
from ragkeep_runtime.errors import InvalidRequest, QuestionEmpty, QuestionTooLong, RequestTooLarge
from ragkeep_runtime.gate import Gate

MAX_QUESTION, MAX_STOP = 8000, 8
MAX_TURNS, MAX_HISTORY = 20, 32_000
_FINISH = {
    Finish.STOP: generator_pb2.FINISH_STOP,
    Finish.LENGTH: generator_pb2.FINISH_LENGTH,
    Finish.NO_EVIDENCE: generator_pb2.FINISH_NO_EVIDENCE,
}
_Events = AsyncGenerator[generator_pb2.GenerateResponse]


class GeneratorService(ModelMethods, generator_pb2_grpc.GeneratorServiceServicer):
    """Serves one language model; the gate bounds how many answers it writes."""

    def __init__(self, language_model: LanguageModel, gate: Gate) -> None:
        self._language_model = language_model
        self._library = language_model.library()
        self._gate = gate

    async def Generate(self, request: generator_pb2.GenerateRequest, context: Any) -> _Events:
        """delta ... and the citations that each completes, usage, done."""
        question = _question(request)
        finder = CitationFinder({passage.number for passage in question.passages})
        async with self._gate, aclosing(self._language_model.answer(question)) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, Delta):
                    yield generator_pb2.GenerateResponse(delta=generator_pb2.Delta(text=event.text))
                    for found in finder.feed(event.text):
                        citation = generator_pb2.Citation(number=found.number, start=found.start, end=found.end)
                        yield generator_pb2.GenerateResponse(citation=citation)
                    continue
                yield generator_pb2.GenerateResponse(usage=_usage(event))
                done = generator_pb2.Done(finish=_FINISH[event.finish], model=event.model, quoted=event.quoted)
                yield generator_pb2.GenerateResponse(done=done)

    async def RewriteQuestion(
        self, request: generator_pb2.RewriteQuestionRequest, context: Any
    ) -> generator_pb2.RewriteQuestionResponse:
        """The question made whole; without history it is."""
        _check_question(request.question)
        question = Question(request.question, (), _options(request.options), history=_history(request.history))
        if not question.history:
            return generator_pb2.RewriteQuestionResponse(question=question.text)
        async with self._gate:
            whole = await self._language_model.make_whole(question)
        return generator_pb2.RewriteQuestionResponse(question=whole.text, model=whole.model)

    async def GetModel(self, request: generator_pb2.GetModelRequest, context: Any) -> generator_pb2.GetModelResponse:
        """The model that is served."""
        model = await self._language_model.model()
        described = Model(engine=model.engine, name=model.name, digest=model.digest, context_tokens=model.context_tokens)
        return generator_pb2.GetModelResponse(model=described, allowed=self._language_model.models())


def _usage(end: End) -> generator_pb2.Usage:
    return generator_pb2.Usage(
        prompt_tokens=end.prompt_tokens,
        completion_tokens=end.completion_tokens,
        context_tokens=end.context_tokens,
        used=end.used,
        left_out=end.left_out,
        reserved_tokens=end.reserved_tokens,
        history_turns=end.history_turns,
    )


def _question(request: generator_pb2.GenerateRequest) -> Question:
    _check_question(request.question)
    if len(request.searched) > MAX_QUESTION:
        raise QuestionTooLong(f"What was searched for has at most {MAX_QUESTION} characters.", field="searched")
    numbers = [passage.number for passage in request.passages]
    if 0 in numbers or len(set(numbers)) != len(numbers):
        raise InvalidRequest("Passages are numbered from 1, each number once.", field="passages")
    if request.prompt_template:
        check_template(request.prompt_template)
    return Question(
        request.question,
        [Passage(passage.number, passage.title, passage.text) for passage in request.passages],
        _options(request.options),
        history=_history(request.history),
        searched=request.searched if request.searched.strip() != request.question.strip() else "",
        template=request.prompt_template,
    )


def _check_question(text: str) -> None:
    if not text.strip():
        raise QuestionEmpty("The question is empty.", field="question")
    if len(text) > MAX_QUESTION:
        raise QuestionTooLong(f"The question has {len(text)} characters; at most {MAX_QUESTION} are taken.", field="question")


def _history(turns: Sequence[generator_pb2.Turn]) -> list[Turn]:
    characters = sum(len(turn.question) + len(turn.answer) for turn in turns)
    if len(turns) > MAX_TURNS or characters > MAX_HISTORY:
        raise RequestTooLarge(
            f"The history has {len(turns)} turns of {characters} characters together; at most {MAX_TURNS} turns and "
            f"{MAX_HISTORY} characters are taken. Leave out the oldest.",
            field="history",
        )
    if not all(turn.question.strip() for turn in turns):
        raise InvalidRequest("A turn of the history has no question.", field="history")
    return [Turn(turn.question, turn.answer) for turn in turns]


def _options(options: generator_pb2.Options) -> Options:
    if options.HasField("temperature") and not 0 <= options.temperature <= 2:
        raise InvalidRequest("The temperature must be 0 to 2.", field="options.temperature")
    if options.HasField("max_tokens") and not 1 <= options.max_tokens <= 8192:
        raise InvalidRequest("max_tokens must be 1 to 8192.", field="options.max_tokens")
    if len(options.stop) > MAX_STOP or not all(options.stop):
        raise InvalidRequest(f"stop holds at most {MAX_STOP} texts, none of them empty.", field="options.stop")
    codes = [language.value for language in Language]
    if options.language and options.language not in codes:
        raise InvalidRequest(f"The language must be one of {', '.join(codes)}, or empty.", field="options.language")
    return Options(
        temperature=options.temperature if options.HasField("temperature") else None,
        max_tokens=options.max_tokens if options.HasField("max_tokens") else None,
        seed=options.seed if options.HasField("seed") else None,
        stop=tuple(options.stop),
        model=options.model,
        language=Language(options.language) if options.language else None,
    )
