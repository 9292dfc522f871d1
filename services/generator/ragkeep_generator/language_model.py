"""The port: what an engine that writes answers must do, in domain words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from ragkeep_generator.language import Language
from ragkeep_runtime.model_library import ModelLibrary


class Finish(Enum):
    """How an answer ended."""

    STOP = "stop"  # the model came to an end
    LENGTH = "length"  # max_tokens or the window's end was reached
    NO_EVIDENCE = "no_evidence"  # the passages do not answer the question, and the answer says so


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that an engine serves."""

    engine: str  # "ollama" or "quote"
    name: str
    digest: str  # empty where there is none
    context_tokens: int  # the window (num_ctx); 0: no window


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage to answer from."""

    number: int  # cited as [number], from 1
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Options:
    """How to generate; None is the generator's setting."""

    temperature: float | None = None  # 0 to 2
    max_tokens: int | None = None  # 1 to 8,192
    seed: int | None = None
    stop: tuple[str, ...] = ()
    model: str = ""  # one of `models`; empty: the one served
    language: Language | None = None  # None: the question's


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier question of the conversation and its answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Question:
    """What to answer, from what (best passage first)."""

    text: str
    passages: Sequence[Passage]
    options: Options = field(default_factory=Options)
    history: Sequence[Turn] = ()  # oldest first
    searched: str = ""  # what was searched for; empty: the text
    template: str = ""  # the whole prompt, checked (`template.py`); empty: our own


@dataclass(frozen=True, slots=True)
class Whole:
    """A question that can be searched for without its conversation."""

    text: str
    model: str  # that rewrote it; empty: none did


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer; pieces joined are the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class End:
    """The end of an answer; the last event, exactly once."""

    finish: Finish
    model: str  # that was asked, or would have been
    quoted: bool  # sentences of the passages; no model wrote it
    prompt_tokens: int = 0
    completion_tokens: int = 0
    context_tokens: int = 0
    used: tuple[int, ...] = ()  # numbers of the passages that fitted into the window
    left_out: tuple[int, ...] = ()  # numbers of those that did not
    reserved_tokens: int = 0  # of the window, kept free for the answer
    history_turns: int = 0  # turns that were read


class LanguageModel(Protocol):
    """Question and passages to a streamed answer. Every error is one of `ragkeep_runtime.errors`."""

    async def model(self) -> ModelInfo:
        """Which model is served. Raises ModelNotInstalled, ModelUnsuitable, EngineUnreachable or EngineFailed."""
        ...

    def models(self) -> tuple[str, ...]:
        """Names that options may ask for, the served one first."""
        ...

    def library(self) -> ModelLibrary:
        """The engine's models."""
        ...

    def answer(self, question: Question) -> AsyncIterator[Delta | End]:
        """Streams the answer. Closing the iterator ends the engine's work at once.

        Raises ContextTooSmall where not even the first passage's prompt fits, ModelNotAllowed, ModelOutOfMemory, and what
        `model` raises.
        """
        ...

    async def make_whole(self, question: Question) -> Whole:
        """The question so that it can be searched for without its history; unchanged where nothing is missing.

        Raises ModelNotAllowed, and what `model` raises.
        """
        ...

    async def close(self) -> None:
        """Lets go of connections."""
        ...
