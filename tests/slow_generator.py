"""The generator's own process with a language model that takes its time: for what happens during a long answer.

`python -m tests.slow_generator [WORDS]`
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

from ragkeep.generator.v1 import generator_pb2, generator_pb2_grpc
from ragkeep_generator.language_model import Delta, End, Finish, ModelInfo, Question
from ragkeep_generator.service import GeneratorService
from ragkeep_generator.settings import Settings
from ragkeep_runtime.gate import Gate
from ragkeep_runtime.model_library import BuiltIn, InstalledModel
from ragkeep_runtime.process import Server, run

WORDS, PAUSE_S = 120, 0.05


class Slow:
    """Six seconds for an answer, unless more words are wanted."""

    def __init__(self, words: int) -> None:
        self._words = words

    async def model(self) -> ModelInfo:
        """Always there."""
        return ModelInfo("quote", "slow", "", 0)

    def library(self) -> BuiltIn:
        """The one."""
        return BuiltIn("quote", InstalledModel("slow", "", 0, "", "", (), 0, None, served=True, allowed=True, suitable=True))

    async def answer(self, question: Question) -> AsyncIterator[Delta | End]:
        """Numbered words, so that a lost one is seen."""
        for number in range(self._words):
            await asyncio.sleep(PAUSE_S)
            yield Delta(f"{number} ")
        yield End(Finish.STOP, "slow", quoted=True, used=tuple(passage.number for passage in question.passages))

    async def close(self) -> None:
        """Nothing to let go of."""


async def build(settings: Settings, server: Server) -> None:
    """As the generator's own composition root, with the slow model."""
    descriptor = generator_pb2.DESCRIPTOR.services_by_name["GeneratorService"]
    service = GeneratorService(
        Slow(int(sys.argv[1]) if sys.argv[1:] else WORDS), Gate("language model", concurrent=64, waiting=64)
    )
    server.add(descriptor, generator_pb2_grpc.add_GeneratorServiceServicer_to_server, service)


if __name__ == "__main__":
    run("generator", Settings, build)
