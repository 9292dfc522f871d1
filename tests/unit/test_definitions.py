"""A collection's definition before it is stored: defaults, templates, limits; and filters, fuzzed."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkeep.types.v1 import types_pb2 as pb
from ragkeep_gateway.documents import render
from ragkeep_retriever.definitions import collection_message, collection_of
from ragkeep_retriever.filters import filter_of
from ragkeep_retriever.matching import matches
from ragkeep_retriever.paging import place, token
from ragkeep_retriever.templates import check_prompt, content_names
from ragkeep_runtime.errors import InvalidRequest, RagkeepError, TemplateInvalid
from tests.stores import definition


def wanted(**changed: object) -> pb.Collection:
    """A definition with two searchable fields and one to filter by."""
    return pb.Collection(
        name="articles",
        fields=[
            pb.Field(name="title", type=pb.FIELD_TYPE_TEXT, searchable=True),
            pb.Field(name="body", type=pb.FIELD_TYPE_TEXT, searchable=True),
            pb.Field(name="year", type=pb.FIELD_TYPE_NUMBER, filterable=True),
        ],
        **changed,  # type: ignore[arg-type]
    )


def test_what_is_left_out_has_its_default() -> None:
    """The template is made of the searchable fields; chunks and the index have their sizes."""
    found = collection_of(wanted())
    assert found.content_template == "{title}\n{body}"
    assert (found.cjk_characters, found.latin_characters) == (350, 1000)
    assert (found.vector_index.ef, found.vector_index.ef_construction, found.vector_index.max_connections) == (200, 256, 64)
    assert (found.minimum_coverage, found.minimum_margin, found.prompt_template) == (None, None, "")
    assert collection_of(collection_message(found)) == found


def test_a_content_template_says_which_fields_are_searchable() -> None:
    """A field that it holds becomes searchable, whatever was said of it."""
    found = collection_of(wanted(content_template="{title}: {body} ({year})"))
    assert [field.name for field in found.fields if field.searchable] == ["title", "body", "year"]


def _sealed(message: pb.Collection, **changed: str) -> None:
    message.fields.add(name="pin", type=pb.FIELD_TYPE_TEXT, sealed=True, required=True)
    message.MergeFrom(pb.Collection(**changed))  # type: ignore[arg-type]


def _nothing_searchable(message: pb.Collection) -> None:
    for field in message.fields:
        field.searchable = False


@pytest.mark.parametrize(
    ("change", "reason", "word"),
    [
        (lambda m: setattr(m, "name", "Articles"), "INVALID_REQUEST", "name"),
        (lambda m: setattr(m, "name", ""), "INVALID_REQUEST", "name"),
        (lambda m: m.ClearField("fields"), "INVALID_REQUEST", "64 fields"),
        (lambda m: m.fields.add(name="title", type=pb.FIELD_TYPE_TEXT), "INVALID_REQUEST", "once"),
        (lambda m: m.fields.add(name="Title", type=pb.FIELD_TYPE_TEXT), "INVALID_REQUEST", "Title"),
        (lambda m: m.fields.add(name="a-b", type=pb.FIELD_TYPE_TEXT), "INVALID_REQUEST", "a-b"),
        (lambda m: m.fields.add(name="more"), "INVALID_REQUEST", "type"),
        (lambda m: m.fields.add(name="pin", type=pb.FIELD_TYPE_TEXT, sealed=True, searchable=True), "FIELD_SEALED", "indexed"),
        (lambda m: m.fields.add(name="pin", type=pb.FIELD_TYPE_TEXT, sealed=True, filterable=True), "FIELD_SEALED", "compared"),
        (lambda m: _sealed(m, title_field="pin"), "FIELD_SEALED", "title"),
        (lambda m: _sealed(m, content_template="{title} {body} {pin}"), "FIELD_SEALED", "content template"),
        (lambda m: _sealed(m, prompt_template="{passages} {question} {pin}"), "FIELD_SEALED", "prompt template"),
        (lambda m: setattr(m, "title_field", "nothing"), "INVALID_REQUEST", "nothing"),
        (_nothing_searchable, "TEMPLATE_INVALID", "searchable"),
        (lambda m: setattr(m, "content_template", "words alone"), "TEMPLATE_INVALID", "{title}"),
        (lambda m: setattr(m, "content_template", "{title}"), "TEMPLATE_INVALID", "body"),
        (lambda m: setattr(m, "content_template", "{title} {body} {nothing}"), "TEMPLATE_INVALID", "{nothing}"),
        (lambda m: setattr(m, "prompt_template", "{question}"), "TEMPLATE_INVALID", "{passages}"),
        (lambda m: setattr(m.chunking, "cjk_characters", 49), "INVALID_REQUEST", "50"),
        (lambda m: setattr(m.chunking, "latin_characters", 10_001), "INVALID_REQUEST", "10,000"),
        (lambda m: setattr(m.minimum_evidence, "coverage", 1.1), "INVALID_REQUEST", "coverage"),
        (lambda m: setattr(m.minimum_evidence, "coverage", float("nan")), "INVALID_REQUEST", "coverage"),
        (lambda m: setattr(m.minimum_evidence, "margin", -2.5), "INVALID_REQUEST", "margin"),
        (lambda m: setattr(m.vector_index, "ef", 5000), "INVALID_REQUEST", "4,096"),
        (lambda m: setattr(m.vector_index, "max_connections", 3), "INVALID_REQUEST", "max_connections"),
        (lambda m: setattr(m.vector_index, "quantization", 17), "INVALID_REQUEST", "quantization"),
    ],
)
def test_a_wrong_definition_is_refused_with_the_field(
    change: Callable[[pb.Collection], object], reason: str, word: str
) -> None:
    """Each fault has its reason, a sentence, and the request's field."""
    message = wanted()
    change(message)
    with pytest.raises(RagkeepError) as refused:
        collection_of(message)
    assert refused.value.reason == reason
    assert word in refused.value.message
    assert refused.value.field.startswith("collection.")


@pytest.mark.parametrize(
    "template",
    ["{", "}", "{title", "{title!r}", "{title:>5}", "{title.x}", "{title[0]}", "{}", "{0}", "{title}\0", "x{title}" * 2000],
)
def test_a_content_template_that_could_fail_later_is_refused(template: str) -> None:
    """Formats, attributes, positions and stray braces."""
    with pytest.raises(TemplateInvalid):
        content_names(template, ["title"])


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{passages}", "{question}"),
        ("{passages} {question} {question}", "2 times"),
        ("{passages} {question} {context}", "{context}"),
        ("{passages} {question} }", "partner"),
        ("x" * 16_001, "16000"),
    ],
)
def test_a_prompt_template_needs_passages_and_question_once(template: str, word: str) -> None:
    """The model would not see what it is to answer, or not know from what."""
    with pytest.raises(TemplateInvalid) as refused:
        check_prompt(template)
    assert word in refused.value.message


def test_a_prompt_template_may_hold_braces_and_the_honest_no() -> None:
    """And the language."""
    check_prompt("{{json}} {passages} {question} {not_found} {language}")
    check_prompt("")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=string.ascii_letters[:6] + "{}!:.[]0 \n", max_size=30))
def test_a_template_that_was_taken_can_be_rendered(template: str) -> None:
    """Fuzz: whatever passes the check fails nobody later."""
    try:
        used = content_names(template, ["a", "b", "c"])
    except TemplateInvalid:
        return
    document = pb.Document(id="x", fields={name: pb.Value(text=f"<{name}>") for name in used})
    rendered = render(template, document)
    assert all(f"<{name}>" in rendered for name in used)


def _one_of(count: int) -> pb.Filter:
    values = [pb.Value(keyword=str(n)) for n in range(count)]
    return pb.Filter(one_of=pb.Members(field="category", values=values))


def _any(inner: pb.Filter, count: int) -> pb.Filter:
    return pb.Filter(any_of=pb.Filters(filters=[inner] * count))


@pytest.mark.parametrize(
    "message",
    [
        _one_of(0),
        _one_of(1001),
        _any(_one_of(1), 101),
        _any(_one_of(1000), 11),
        _any(_any(_one_of(1), 100), 11),
        pb.Filter(all_of=pb.Filters()),
        pb.Filter(none_of=pb.Filter()),
    ],
)
def test_a_filter_that_is_too_large_or_empty_is_refused(message: pb.Filter) -> None:
    """In each of its parts and in all: no engine is asked for what it cannot do."""
    with pytest.raises(InvalidRequest):
        filter_of(message, definition())


def test_a_filter_is_at_most_eight_deep() -> None:
    """The eighth is taken, the ninth is not."""
    message = _one_of(1)
    for _ in range(7):
        message = pb.Filter(none_of=message)
    assert filter_of(message, definition())
    with pytest.raises(InvalidRequest, match="deep"):
        filter_of(pb.Filter(none_of=message), definition())


FIELDS = ["title", "category", "id", "severity", "open", "at", "nothing", ""]
VALUES = st.builds(
    lambda kind, text, number, flag, seconds: pb.Value(
        **{
            "text": {"text": text},
            "keyword": {"keyword": text},
            "number": {"number": number},
            "boolean": {"boolean": flag},
            "timestamp": {"timestamp": {"seconds": seconds}},
            "sealed": {"sealed": {}},
            "none": {},
        }[kind]
    ),
    st.sampled_from(["text", "keyword", "number", "boolean", "timestamp", "sealed", "none"]),
    st.text(max_size=5),
    st.floats(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
)
NAMES = st.sampled_from(FIELDS)
FILTERS = st.recursive(
    st.one_of(
        st.just(pb.Filter()),
        st.builds(lambda f, v: pb.Filter(equals=pb.Comparison(field=f, value=v)), NAMES, VALUES),
        st.builds(lambda f, v: pb.Filter(one_of=pb.Members(field=f, values=v)), NAMES, st.lists(VALUES, max_size=3)),
        st.builds(lambda f, a, b: pb.Filter(range=pb.Range(field=f, at_least=a, less_than=b)), NAMES, VALUES, VALUES),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda some: pb.Filter(all_of=pb.Filters(filters=some))),
        st.lists(inner, max_size=3).map(lambda some: pb.Filter(any_of=pb.Filters(filters=some))),
        inner.map(lambda one: pb.Filter(none_of=one)),
    ),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(FILTERS)
def test_a_filter_is_taken_or_refused_with_a_reason(message: pb.Filter) -> None:
    """Fuzz: any message; what is taken can be held against a document without any field."""
    error = ""
    try:
        matches(filter_of(message, definition()), {})
    except InvalidRequest as refused:
        error = refused.reason
    assert error in ("", "INVALID_REQUEST", "FILTER_FIELD_UNKNOWN", "FILTER_TYPE_WRONG")


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()), st.binary(max_size=9), st.text(max_size=20))
def test_a_page_token_is_good_for_its_own_list_alone(after: str, listed: bytes, junk: str) -> None:
    """Another list, a changed token or junk is refused."""
    made = token(after, b"collection", listed)
    assert place(made, b"collection", listed) == after
    for other in (lambda: place(made, b"collection", listed + b"x"), lambda: place(made + "AAAA" if junk else "?", b"another")):
        with pytest.raises(InvalidRequest):
            other()
    if junk:
        with pytest.raises(InvalidRequest):
            place(junk, b"collection", listed)
