"""Schema files: what is read, what is refused with its line, and that writing and reading again gives the same."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkeep.types.v1.types_pb2 import Collection
from ragkeep_client.schema import Field, Schema, schema_from, schema_message
from ragkeep_client.schema_file import MAX_BYTES, SchemaError, read_schema, write_schema
from ragkeep_gateway.presets import preset

WHOLE = b"""\
# a comment
name: articles
fields:
  title: {type: text, searchable: true, required: yes}
  body: text
  year:
    type: number
    filterable: true
content_template: |-
  {title}
  {body}
title_field: title
chunking: {cjk_characters: 300, latin_characters: 900}
prompt_template: "{passages} {question}"
minimum_evidence: {coverage: 0, margin: -0.5}
vector_index: {ef: 64, quantization: rq}
"""


def test_a_whole_schema_is_read() -> None:
    """Every part, short and long forms, comments."""
    assert read_schema(WHOLE, "a.yaml") == Schema(
        name="articles",
        fields=(
            Field("title", "text", searchable=True, required=True),
            Field("body", "text"),
            Field("year", "number", filterable=True),
        ),
        content_template="{title}\n{body}",
        title_field="title",
        cjk_characters=300,
        latin_characters=900,
        prompt_template="{passages} {question}",
        minimum_coverage=0.0,
        minimum_margin=-0.5,
        ef=64,
        quantization="rq",
    )


def test_json_is_read_too() -> None:
    """It is YAML; and a byte order mark does no harm."""
    found = read_schema(b'\xef\xbb\xbf{"name": "a", "fields": {"t": {"type": "text", "searchable": true}}}', "a.json")
    assert found == Schema("a", (Field("t", "text", searchable=True),))


def test_the_example_is_the_preset() -> None:
    """What is shipped as an example is what ragkeep makes by itself."""
    message = preset("ServiceTicket", "")
    for field in message.fields:
        field.searchable = True  # the template says so
    found = read_schema(Path("examples/service_tickets.yaml").read_bytes(), "examples/service_tickets.yaml")
    assert found == schema_from(message)


@pytest.mark.parametrize(
    ("content", "line", "word"),
    [
        (b"", 0, "empty"),
        (b"# nothing\n", 0, "empty"),
        (b"\xff\xfe", 0, "UTF-8"),
        (b"name: a\nfields:\n  t: [text\n", 4, "not YAML"),
        (b"- name\n", 1, "mapping"),
        (b"name: a\n", 1, "needs fields"),
        (b"fields: {t: text}\n", 1, "needs name"),
        (b"name: a\nfields: {t: text}\ncolour: red\n", 3, "colour"),
        (b"name: a\nname: b\nfields: {t: text}\n", 2, "twice"),
        (b"name: a\nfields:\n  t: text\n  t: number\n", 4, "twice"),
        (b"name: 5\nfields: {t: text}\n", 1, "text"),
        (b"name: [a]\nfields: {t: text}\n", 1, "text"),
        (b"name: a\nfields:\n  no: text\n", 3, "quote it"),
        (b"name: a\nfields:\n  5: text\n", 3, "quote it"),
        (b"name: a\nfields:\n  ? [x]\n  : text\n", 3, "list or mapping"),
        (b"name: a\nfields:\n  t: string\n", 3, "keyword"),
        (b"name: a\nfields:\n  t: {searchable: true}\n", 3, "type"),
        (b"name: a\nfields:\n  t: {type: text, searchable: 1}\n", 3, "true or false"),
        (b"name: a\nfields:\n  t: {type: text, indexed: true}\n", 3, "indexed"),
        (b"name: a\nfields: {t: text}\nchunking: {cjk_characters: -1}\n", 3, "whole number"),
        (b"name: a\nfields: {t: text}\nchunking: {cjk_characters: 0x10}\n", 3, "whole number"),
        (b"name: a\nfields: {t: text}\nchunking: {cjk_characters: 99999999999}\n", 3, "whole number"),
        (b"name: a\nfields: {t: text}\nminimum_evidence: {coverage: .inf}\n", 3, "number"),
        (b"name: a\nfields: {t: text}\nminimum_evidence: {coverage: 1:30}\n", 3, "number"),
        (b"name: a\nfields: {t: text}\nvector_index: {quantization: int8}\n", 3, "rq"),
        (b"name: a\nfields: {t: text}\n--- {}\n", 3, "not YAML"),
        (b"name: a\nfields: &f\n  t: *f\n", 3, "type"),
        (b"name: !!python/object/apply:os.system [x]\nfields: {t: text}\n", 1, "text"),
        (b"[" * 100_000, 0, "not YAML"),
        (b"#" * (MAX_BYTES + 1), 0, "larger"),
    ],
)
def test_what_is_no_schema_is_refused_with_its_line(content: bytes, line: int, word: str) -> None:
    """A sentence that helps, whatever is in the file."""
    with pytest.raises(SchemaError) as refused:
        read_schema(content, "a.yaml")
    message = refused.value.message
    assert refused.value.reason == "SCHEMA_INVALID"
    assert word in message
    assert message.startswith(f"a.yaml, line {line}: " if line else "a.yaml ")


NAMES = st.text(string.ascii_lowercase + string.digits + "_", min_size=1, max_size=8).map(lambda name: "f" + name)
# What YAML can hold at all: no surrogates, no control characters.
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t"), max_size=40)
FIELDS = st.builds(
    Field,
    NAMES,
    st.sampled_from(["text", "keyword", "number", "boolean", "timestamp"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
SIZES = st.integers(0, 2**32 - 1)
BOUNDS = st.none() | st.floats(-10, 10)
SCHEMAS = st.builds(
    Schema,
    name=NAMES | TEXTS,
    fields=st.lists(FIELDS, max_size=4, unique_by=lambda field: field.name).map(tuple),
    content_template=TEXTS,
    title_field=TEXTS,
    cjk_characters=SIZES,
    latin_characters=SIZES,
    prompt_template=TEXTS,
    minimum_coverage=BOUNDS,
    minimum_margin=BOUNDS,
    ef=SIZES,
    ef_construction=SIZES,
    max_connections=SIZES,
    quantization=st.sampled_from(["none", "pq", "bq", "sq", "rq"]),
)


@settings(max_examples=200, deadline=None)
@given(SCHEMAS)
def test_a_schema_that_is_written_is_read_again(schema: Schema) -> None:
    """Whatever its texts hold; and the contract's message brings it back as well."""
    assert read_schema(write_schema(schema).encode(), "a.yaml") == schema
    assert schema_from(Collection.FromString(schema_message(schema).SerializeToString())) == schema


def _read(content: bytes) -> Schema | SchemaError:
    """What anybody gets who reads it: another exception fails the test."""
    try:
        return read_schema(content, "a.yaml")
    except SchemaError as error:
        return error


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
PARTS = st.sampled_from(list(yaml.safe_load(WHOLE)))


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
def test_no_bytes_get_past_with_anything_but_a_schema_or_its_error(content: bytes) -> None:
    """Fuzz: bytes and texts of any kind."""
    found = _read(content)
    assert isinstance(found, Schema) or found.message.startswith("a.yaml")


@settings(max_examples=300, deadline=None)
@given(PARTS, VALUES, st.integers(0, 3))
def test_no_value_in_a_part_gets_past(part: str, value: object, where: int) -> None:
    """Fuzz: a right file with one part that is anything."""
    whole = yaml.safe_load(WHOLE)
    if where and isinstance(whole[part], dict):
        whole[part] = {**whole[part], next(iter(whole[part])): value}
    else:
        whole[part] = value
    found = _read(yaml.safe_dump(whole, allow_unicode=True).encode("utf-8", "surrogatepass"))
    assert isinstance(found, Schema) or found.message.startswith("a.yaml")
    if isinstance(found, Schema) and isinstance(value, str):
        assert value in (getattr(found, part, ""), found.quantization) or part == "fields"
