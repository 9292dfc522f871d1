"""One suite for every embedder: e5 in this process, and the real Ollama."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from ragkeep.embedder.v1 import embedder_pb2
from ragkeep_embedder.embedder import Embedder, Purpose
from ragkeep_embedder.ollama import OllamaEmbedder
from ragkeep_embedder.service import EmbedderService
from ragkeep_embedder.vectors import checked
from ragkeep_ollama.library import Pinned
from ragkeep_runtime.errors import (
    EngineFailed,
    EngineUnreachable,
    ModelNotInstalled,
    ModelUnsuitable,
    RagkeepError,
    TextTooLong,
)
from ragkeep_runtime.gate import Gate
from tests.engines.ollama import CHAT_MODEL, EMBEDDING_MODEL, OllamaProcess

ADAPTERS = [
    pytest.param("e5", marks=pytest.mark.engine("e5")),
    pytest.param("ollama", marks=pytest.mark.engine("ollama")),
]


@pytest.fixture(params=ADAPTERS)
async def embedder(request: pytest.FixtureRequest) -> AsyncIterator[Embedder]:
    """Each adapter in turn."""
    found: Embedder
    if request.param == "e5":
        from ragkeep_embedder.e5 import E5Embedder

        found = E5Embedder()
    else:
        server: OllamaProcess = request.getfixturevalue("ollama_server")
        # With more threads than free cores the engine falls off a cliff.
        found = OllamaEmbedder(server.url, EMBEDDING_MODEL, pinned=Pinned(4096, num_thread=1))
    yield found
    await found.close()


def cosine(a: list[float], b: list[float]) -> float:
    """Of two unit vectors."""
    return sum(x * y for x, y in zip(a, b, strict=True))


async def test_vectors_are_of_unit_length_and_of_the_models_dimension(embedder: Embedder) -> None:
    """Whatever the engine gave."""
    model = await embedder.model()
    vectors = await embedder.embed(["The printer is offline.", "打印机脱机"], Purpose.DOCUMENT)
    assert model.dimension == 384
    assert model.name
    assert model.digest
    for vector in vectors:
        assert len(vector) == model.dimension
        assert math.isclose(cosine(vector, vector), 1, abs_tol=1e-5)


async def test_order_is_kept_and_a_text_has_one_vector(embedder: Embedder) -> None:
    """Alone or in a batch, at whatever place."""
    texts = [f"Ticket {n}: the printer on floor {n} is offline." for n in range(20)]
    together = await embedder.embed(texts, Purpose.DOCUMENT)
    for n in (0, 7, 19):
        (alone,) = await embedder.embed([texts[n]], Purpose.DOCUMENT)
        assert cosine(alone, together[n]) > 0.9999
    assert len({tuple(vector) for vector in together}) == len(texts)


async def test_meaning_is_near(embedder: Embedder) -> None:
    """A question is nearer to its answer than to something else."""
    (question,) = await embedder.embed(["How do I reset my password?"], Purpose.QUERY)
    right, wrong = await embedder.embed(
        ["Open the portal to set a new password.", "The label printer needs new paper."], Purpose.DOCUMENT
    )
    assert cosine(question, right) > cosine(question, wrong)


@pytest.mark.parametrize("text", ["word " * 3000, "打印机脱机了" * 500])
async def test_a_text_that_does_not_fit_is_an_error_that_names_it(embedder: Embedder, text: str) -> None:
    """Nothing is cut: the position of the first such text is told."""
    with pytest.raises(TextTooLong) as failed:
        await embedder.embed(["short", "short too", text, "short"], Purpose.DOCUMENT)
    assert failed.value.field == "texts[2]"


async def test_many_callers_at_once_get_their_own(embedder: Embedder) -> None:
    """Concurrency mixes nothing up, and questions do not wait for all documents."""
    alone = await embedder.embed(["a", "b"], Purpose.QUERY)
    work = asyncio.gather(*(embedder.embed([f"document {n} " * 20] * 8, Purpose.DOCUMENT) for n in range(4)))
    for vector, text in zip(alone, ("a", "b"), strict=True):
        (now,) = await embedder.embed([text], Purpose.QUERY)
        assert cosine(now, vector) > 0.9999
    assert [len(part) for part in await work] == [8] * 4


@pytest.mark.engine("e5")
async def test_e5_uses_the_models_two_prefixes() -> None:
    """The same text is another vector as a question than as a passage."""
    from ragkeep_embedder.e5 import E5Embedder

    embedder = E5Embedder()
    (query,) = await embedder.embed(["password"], Purpose.QUERY)
    (passage,) = await embedder.embed(["password"], Purpose.DOCUMENT)
    assert cosine(query, passage) < 0.999
    await embedder.close()


@pytest.mark.engine("ollama")
async def test_ollama_sends_the_prefixes_of_the_family_or_those_that_are_set(ollama_server: OllamaProcess) -> None:
    """Told by the vectors: a prefix that is set gives the vector of the text with it."""
    bare = OllamaEmbedder(ollama_server.url, EMBEDDING_MODEL)
    prefixed = OllamaEmbedder(ollama_server.url, EMBEDDING_MODEL, query_prefix="search_query: ")
    (expected,) = await bare.embed(["search_query: password"], Purpose.QUERY)
    (got,) = await prefixed.embed(["password"], Purpose.QUERY)
    assert cosine(expected, got) > 0.9999
    nomic = OllamaEmbedder(ollama_server.url, "nomic-embed-text")
    assert nomic._prefixes == {Purpose.QUERY: "search_query: ", Purpose.DOCUMENT: "search_document: "}
    for embedder in (bare, prefixed, nomic):
        await embedder.close()


@pytest.mark.engine("ollama")
async def test_a_missing_model_is_named_with_its_remedy_and_never_pulled(ollama_server: OllamaProcess) -> None:
    """`ollama pull NAME` is for the operator to type."""
    embedder = OllamaEmbedder(ollama_server.url, "not-here")
    for call in (embedder.model(), embedder.embed(["x"], Purpose.QUERY)):
        with pytest.raises(ModelNotInstalled, match="ollama pull not-here"):
            await call
    await embedder.close()


@pytest.mark.engine("ollama")
async def test_a_chat_model_does_not_pass_for_an_embedder(ollama_server: OllamaProcess) -> None:
    """Ollama itself would answer with a vector."""
    embedder = OllamaEmbedder(ollama_server.url, CHAT_MODEL)
    with pytest.raises(ModelUnsuitable):
        await embedder.embed(["x"], Purpose.QUERY)
    await embedder.close()


@pytest.mark.engine("ollama")
async def test_ollama_gone_is_said_at_once(ollama_server: OllamaProcess) -> None:
    """Which engine, where it was looked for, how to start it."""
    embedder = OllamaEmbedder("http://127.0.0.1:9", EMBEDDING_MODEL)
    with pytest.raises(
        EngineUnreachable, match=r"Ollama does not answer at http://127\.0\.0\.1:9\. Start it with `ollama serve`"
    ):
        await embedder.embed(["x"], Purpose.QUERY)
    await embedder.close()


@pytest.mark.parametrize(
    ("vectors", "count", "dimension"),
    [
        ([[1.0]], 2, 1),
        ([[1.0, 0.0], [1.0]], 2, 2),
        ([[math.nan]], 1, 1),
        ([[math.inf]], 1, 1),
        ([[0.0, 0.0]], 1, 2),
        ([[]], 1, 0),
    ],
)
def test_what_is_no_vector_is_refused(vectors: list[list[float]], count: int, dimension: int) -> None:
    """Count, dimension and finiteness are checked on every answer of an engine."""
    with pytest.raises(EngineFailed):
        checked(vectors, count, dimension, "engine")


@pytest.mark.engine("e5")
@pytest.mark.parametrize(
    ("texts", "purpose", "reason"),
    [
        ([], 1, "INVALID_REQUEST"),
        (["x"], 0, "INVALID_REQUEST"),
        (["x"] * 65, 1, "REQUEST_TOO_LARGE"),
        (["x" * 600_000] * 2, 1, "REQUEST_TOO_LARGE"),
        (["x", ""], 1, "TEXT_INVALID"),
        (["x", " \n"], 1, "TEXT_INVALID"),
        (["a\0b"], 1, "TEXT_INVALID"),
        (["x", "打印" * 2000], 2, "TEXT_TOO_LONG"),
    ],
)
async def test_the_service_refuses_what_engines_would_take_without_a_word(texts: list[str], purpose: int, reason: str) -> None:
    """Before the engine sees it."""
    from ragkeep_embedder.e5 import E5Embedder

    embedder = E5Embedder()
    service = EmbedderService(embedder, Gate("e5", concurrent=1, waiting=1))
    with pytest.raises(RagkeepError) as failed:
        await service.Embed(embedder_pb2.EmbedRequest(texts=texts, purpose=purpose), None)  # type: ignore[arg-type]
    assert failed.value.reason == reason
    await embedder.close()
