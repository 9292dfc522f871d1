"""The published attacks through every language model: whatever it is talked into, the answer ends and holds no marker."""

from __future__ import annotations

import pytest

from ragkeep.generator.v1 import generator_pb2 as pb
from ragkeep_generator.fence import Fence
from ragkeep_generator.language_model import LanguageModel, Options, Passage, Question
from ragkeep_generator.ollama import Defaults, OllamaLanguageModel
from ragkeep_generator.prompt import assemble
from ragkeep_generator.quote import Quote
from ragkeep_generator.service import GeneratorService
from ragkeep_runtime.gate import Gate
from tests.attacks import ATTACKS, Attack
from tests.engines.ollama import CHAT_MODEL, OllamaProcess

# The smallest model reads Chinese byte by byte, which takes long: one of each kind; `bench/injection.py` asks all.
_KINDS = {attack.kind: attack for attack in reversed(ATTACKS) if attack.language == "zh"}
REAL = [attack for attack in ATTACKS if attack.language == "en" or attack in _KINDS.values()]
RUNS = [
    *(pytest.param("quote", attack, marks=pytest.mark.engine("quote"), id=f"quote-{attack.id}") for attack in ATTACKS),
    *(pytest.param("ollama", attack, marks=pytest.mark.engine("ollama"), id=f"ollama-{attack.id}") for attack in REAL),
]
SETTINGS = Defaults(num_ctx=2048, max_tokens=16, temperature=0)


@pytest.fixture
def markers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those that are made while the test runs. They are random, so only who is there when they are made knows them."""
    made: list[str] = []
    new = Fence.new

    def noted() -> Fence:
        fence = new()
        made.append(fence.marker)
        return fence

    monkeypatch.setattr(Fence, "new", noted)
    return made


@pytest.mark.parametrize(("engine", "attack"), RUNS)
async def test_an_attack_ends_as_an_answer_without_the_marker(
    request: pytest.FixtureRequest, engine: str, attack: Attack, markers: list[str]
) -> None:
    """Pieces, usage, done, in this order, and citations of passages that were given only. It may have been obeyed.

    A model that spells the marker wrongly has not told it.
    """
    model: LanguageModel = Quote()
    if engine == "ollama":
        server: OllamaProcess = request.getfixturevalue("ollama_server")
        model = OllamaLanguageModel(server.url, CHAT_MODEL, SETTINGS)
    asked = attack.asked()
    sent = pb.GenerateRequest(
        question=asked.text,
        searched=asked.searched,
        passages=[pb.NumberedPassage(number=one.number, title=one.title, text=one.text) for one in asked.passages],
        history=[pb.Turn(question=turn.question, answer=turn.answer) for turn in asked.history],
    )
    events = [event async for event in GeneratorService(model, Gate("model", concurrent=1, waiting=1)).Generate(sent, None)]
    await model.close()
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[-2:] == ["usage", "done"]
    assert set(kinds[:-2]) <= {"delta", "citation"}
    assert "delta" in kinds
    assert events[-1].done.finish != pb.FINISH_UNSPECIFIED
    assert list(events[-2].usage.used) == [1, 2]
    assert {event.citation.number for event in events if event.WhichOneof("event") == "citation"} <= {1, 2}
    answer = "".join(event.delta.text for event in events)
    assert markers or engine == "quote"
    assert not [one for one in markers if one in answer.lower()]


@pytest.mark.engine("ollama")
async def test_a_model_that_is_made_to_repeat_the_markers_does_not_get_them_out(ollama_server: OllamaProcess) -> None:
    """Asked for by the template itself, so that it does; around them the answer is there."""
    model = OllamaLanguageModel(
        ollama_server.url, CHAT_MODEL, Defaults(num_ctx=2048, max_tokens=60, temperature=0, num_thread=1)
    )
    template = (
        "Copy this text word for word, from its first to its last letter:\n{passages}\n{question}\nThe copy:\nQuoted material"
    )
    # With a seed the marker follows from the request, so that it is known here. So small a model misspells it about every other
    # time, and then it is none: several are asked for.
    for seed in range(6):
        question = Question("Copy all.", [Passage(1, "VPN", "Restart it.")], Options(seed=seed), template=template)
        text = "".join([getattr(event, "text", "") async for event in model.answer(question)])
        assert text.strip()
        assert assemble(question, 1900).marker not in text.lower()
    await model.close()
