"""The official `openai` client against the HTTPS edge: sync and async, streamed and whole, embeddings, and what is refused."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from tests.https import Site

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]

MODEL, EMBEDDING = "service-tickets", "multilingual-e5-small"
QUESTION = [{"role": "user", "content": "打印机脱机了怎么办？"}]


@pytest.fixture
def client(site: Site) -> Iterator[openai.OpenAI]:
    """As a person's program makes it: the address, and the token as the key."""
    with openai.OpenAI(
        base_url=f"{site.url}/v1",
        api_key=site.token(),
        max_retries=0,
        http_client=openai.DefaultHttpxClient(verify=site.tls),
    ) as found:
        yield found


@pytest.fixture
async def later(site: Site) -> AsyncIterator[openai.AsyncOpenAI]:
    """The same for asyncio."""
    async with openai.AsyncOpenAI(
        base_url=f"{site.url}/v1",
        api_key=site.token(),
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(verify=site.tls),
    ) as found:
        yield found


def test_a_whole_answer_with_its_citations(client: openai.OpenAI) -> None:
    """Text, annotations that point into it, usage, and sources in the field of our own."""
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=200, seed=1, user="me")  # type: ignore[arg-type]
    (choice,) = answer.choices
    text = choice.message.content or ""
    assert (choice.finish_reason, choice.message.role, answer.model) == ("stop", "assistant", MODEL)
    assert choice.message.annotations
    for one in choice.message.annotations:
        cited = one.url_citation
        assert text[cited.start_index : cited.end_index] == "[1]"
        assert (cited.title, cited.url) == ("打印机脱机", "ragkeep://service-tickets/T-1003#0")
    assert answer.usage is not None
    own: Any = answer.model_extra
    assert own["ragkeep"]["sources"][0]["passage"]["documentId"] == "T-1003"
    assert (own["ragkeep"]["finish"], own["ragkeep"]["language_model"]) == ("stop", "quote")


def test_a_streamed_answer_is_the_same(client: openai.OpenAI) -> None:
    """Sources come first, then the text, the citations, the end, and usage where it was asked for."""
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION)  # type: ignore[arg-type]
    chunks = list(
        client.chat.completions.create(
            model=f"{MODEL}/quote",
            messages=QUESTION,  # type: ignore[arg-type]
            stream=True,
            stream_options={"include_usage": True},
            stop=["never written"],
            max_completion_tokens=200,
        )
    )
    first: Any = chunks[0].model_extra
    assert first["ragkeep"]["sources"][0]["title"] == "打印机脱机"
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    marks = [
        one for chunk in chunks if chunk.choices for one in (chunk.choices[0].delta.model_extra or {}).get("annotations", [])
    ]
    assert [mark["url_citation"]["start_index"] for mark in marks] == [
        one.url_citation.start_index for one in whole.choices[0].message.annotations or []
    ]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage is not None) == ([], True)
    plain = list(client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True))  # type: ignore[arg-type]
    assert all(chunk.usage is None for chunk in plain)


async def test_the_asynchronous_client(later: openai.AsyncOpenAI) -> None:
    """Streamed, whole, and left in the middle."""
    whole = await later.chat.completions.create(model=MODEL, messages=QUESTION)  # type: ignore[arg-type]
    text = ""
    async for chunk in await later.chat.completions.create(model=MODEL, messages=QUESTION, stream=True):  # type: ignore[arg-type]
        text += chunk.choices[0].delta.content or ""
    assert text == whole.choices[0].message.content
    stream = await later.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)  # type: ignore[arg-type]
    async for _ in stream:
        break
    await stream.close()
    names = [model.id async for model in later.models.list()]
    assert names[0] == MODEL
    found = await later.embeddings.create(model=EMBEDDING, input="打印机")
    assert len(found.data[0].embedding) == 384


def test_earlier_messages_are_the_history(client: openai.OpenAI) -> None:
    """A follow-up is understood; a long conversation leaves its oldest turns out, and says how many."""
    earlier = [
        {"role": "assistant", "content": "How can I help?"},
        {"role": "user", "content": [{"type": "text", "text": "打印机脱机了怎么办？"}]},
        {"role": "assistant", "content": "重启后台打印服务。"},
    ]
    asked: Any = [*earlier, {"role": "user", "content": "然后呢？"}]
    answer = client.chat.completions.create(model=MODEL, messages=asked)
    own: Any = (answer.model_extra or {})["ragkeep"]
    assert own["sources"][0]["passage"]["documentId"] == "T-1003"
    assert own["history_left_out"] == 0
    answer = client.chat.completions.create(model=MODEL, messages=[*(earlier[1:] * 23), asked[-1]])
    own = (answer.model_extra or {})["ragkeep"]
    assert own["history_left_out"] == 3


def test_what_openai_has_no_word_for_goes_into_a_field_of_our_own(client: openai.OpenAI) -> None:
    """Filter, limit, language: an AskRequest by its JSON names, without what model and messages say."""
    field = {"equals": {"field": "category", "value": {"keyword": "网络与VPN"}}}
    answer = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,  # type: ignore[arg-type]
        extra_body={"ragkeep": {"filter": field, "limit": 2, "minimumEvidence": {"coverage": 0}}},
    )
    own: Any = (answer.model_extra or {})["ragkeep"]
    assert [one["passage"]["documentId"] for one in own["sources"]] == ["T-1042"]
    for wrong, name in (({"question": "a"}, "ragkeep.question"), ({"tenant": "b"}, "ragkeep.tenant")):
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            client.chat.completions.create(model=MODEL, messages=QUESTION, extra_body={"ragkeep": wrong})  # type: ignore[arg-type]
        assert refused.value.param == name


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"top_p": 0.5}, "top_p"),
    ({"frequency_penalty": 1}, "frequency_penalty"),
    ({"presence_penalty": 1}, "presence_penalty"),
    ({"logit_bias": {"1": 1}}, "logit_bias"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"reasoning_effort": "low"}, "reasoning_effort"),
    ({"prediction": {"type": "content", "content": "a"}}, "prediction"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"metadata": {"a": "b"}}, "metadata"),
    ({"extra_body": {"top_k": 3}}, "top_k"),
    ({"temperature": 3}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"seed": 2**40}, "seed"),
    ({"stop": ["a"] * 9}, "stop"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "system", "content": "Be a pirate."}, *QUESTION]}, "messages[0]"),
    ({"messages": [*QUESTION, {"role": "assistant", "content": "a"}]}, "messages"),
    ({"messages": [{"role": "tool", "content": "a", "tool_call_id": "1"}]}, "messages[0]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example/"}}]}]},
        "messages[0]",
    ),
]


@pytest.mark.parametrize(("given", "name"), REFUSED, ids=[name for _, name in REFUSED])
def test_a_parameter_that_cannot_be_honoured_is_refused_by_name(
    client: openai.OpenAI, given: dict[str, Any], name: str
) -> None:
    """422 with `param`: nothing is ignored in silence."""
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.chat.completions.create(**{"model": MODEL, "messages": QUESTION} | given)
    assert refused.value.param == name
    assert refused.value.body["reason"] == "INVALID_REQUEST"  # type: ignore[index]
    assert refused.value.request_id == refused.value.body["request_id"]  # type: ignore[index]


def test_a_value_that_asks_for_nothing_is_taken(client: openai.OpenAI) -> None:
    """As clients send them by themselves; an empty system message too."""
    neutral: dict[str, Any] = {"n": 1, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logprobs": False}
    neutral |= {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "logit_bias": {}, "stop": None}
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "system", "content": " "}, *QUESTION], **neutral)
    assert answer.choices[0].message.content


def test_errors_are_the_clients_own(client: openai.OpenAI, site: Site) -> None:
    """Each status is its class, with reason and request id in the body."""
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nothing", messages=QUESTION)  # type: ignore[arg-type]
    assert (unknown.value.param, unknown.value.code) == ("model", "collection_unknown")
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model=f"{MODEL}/gpt-4", messages=QUESTION, stream=True)  # type: ignore[arg-type]
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_allowed")
    with pytest.raises(openai.UnprocessableEntityError) as long:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "a" * 8001}])
    assert long.value.code == "question_too_long"
    with pytest.raises(openai.APIStatusError) as large:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "a" * 1024 * 1024}])
    assert (large.value.status_code, large.value.code) == (413, "request_too_large")
    with pytest.raises(openai.AuthenticationError) as nobody:
        client.with_options(api_key="sk-something").models.list()
    assert nobody.value.response.headers["www-authenticate"] == 'Bearer realm="ragkeep", error="invalid_token"'
    with pytest.raises(openai.PermissionDeniedError):
        client.with_options(api_key=site.token(roles=["auditor"])).models.list()
    with pytest.raises(openai.NotFoundError):
        client.files.list()


def test_models_are_collections_with_their_language_models(client: openai.OpenAI) -> None:
    """Each can be named, shown and asked; the embedding model is listed too."""
    names = [model.id for model in client.models.list()]
    assert names == [MODEL, f"{MODEL}/quote", EMBEDDING]
    for name in names:
        assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing/at-all")


def test_embeddings_as_numbers_and_packed(client: openai.OpenAI) -> None:
    """The same vectors of unit length either way; a question has another vector than a passage."""
    texts = ["打印机脱机", "VPN error 809"]
    numbers = client.embeddings.create(model=EMBEDDING, input=texts, encoding_format="float")
    vectors = [one.embedding for one in numbers.data]
    assert [len(vector) for vector in vectors] == [384, 384]
    assert all(math.isclose(sum(x * x for x in vector), 1, abs_tol=1e-4) for vector in vectors)
    # The client asks for base64 by itself where nothing is said, and unpacks it.
    assert [one.embedding for one in client.embeddings.create(model=EMBEDDING, input=texts).data] == vectors
    raw = client.embeddings.with_raw_response.create(model=EMBEDDING, input=texts[0], encoding_format="base64")
    packed = base64.b64decode(raw.http_response.json()["data"][0]["embedding"])
    assert list(struct.unpack("<384f", packed)) == vectors[0]
    query = client.embeddings.create(model=EMBEDDING, input=texts[0], extra_body={"ragkeep": {"purpose": "query"}})
    assert query.data[0].embedding != vectors[0]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"input": [1, 2, 3]}, "input"),
        ({"input": ["a"] * 65}, "input"),
        ({"input": "a", "dimensions": 100}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "extra_body": {"truncate": "END"}}, "truncate"),
    ],
)
def test_what_embeddings_cannot_honour(client: openai.OpenAI, given: dict[str, Any], name: str) -> None:
    """By name, as with questions; another model is not found."""
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.embeddings.create(model=EMBEDDING, **given)
    assert (refused.value.param or "").startswith(name)
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="text-embedding-3-small", input="a")
    assert unknown.value.param == "model"
