"""The gateway's use of the embedder: what happens where one is slow."""

from __future__ import annotations

import pytest

from ragkeep.embedder.v1 import embedder_pb2
from ragkeep.types.v1.types_pb2 import Collection, EmbeddingSpace, Vectors
from ragkeep_gateway.embedding import Embedding
from ragkeep_runtime.errors import DeadlineExceeded, TextTooLong

SPACE = EmbeddingSpace(model="m", digest="d", dimension=1)


class SlowEmbedder:
    """Takes up to `most` texts in time, and none that says "long". A text's vector is its number."""

    def __init__(self, most: int) -> None:
        self.most = most

    async def Embed(self, request: embedder_pb2.EmbedRequest) -> embedder_pb2.EmbedResponse:
        for position, text in enumerate(request.texts):
            if text == "long":
                raise TextTooLong("too long", field=f"texts[{position}]")
        if len(request.texts) > self.most:
            raise DeadlineExceeded("late")
        rows = b"".join(int(text).to_bytes(4, "little") for text in request.texts)
        return embedder_pb2.EmbedResponse(vectors=Vectors(dimension=1, float32_le=rows), space=SPACE)


async def chunks(most: int, texts: list[str]) -> list[int]:
    found = await Embedding(SlowEmbedder(most)).chunks(texts, Collection(space=SPACE))  # type: ignore[arg-type]
    return [int.from_bytes(row, "little") for row in found]


@pytest.mark.parametrize("most", [1, 3, 5, 16])
async def test_an_embedder_that_is_late_gets_fewer_texts_at_once(most: int) -> None:
    """Each text keeps its vector, whatever the pieces."""
    assert await chunks(most, [str(number) for number in range(50)]) == list(range(50))


async def test_an_embedder_that_is_late_with_one_text_fails_the_call() -> None:
    """There is nothing smaller to send."""
    with pytest.raises(DeadlineExceeded):
        await chunks(0, ["1", "2"])


async def test_the_text_that_is_too_long_is_named_by_its_place_among_all() -> None:
    """Also where a batch was cut."""
    with pytest.raises(TextTooLong) as failed:
        await chunks(2, ["1"] * 20 + ["long"] + ["2"] * 5)
    assert failed.value.metadata["position"] == "20"
