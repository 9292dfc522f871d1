"""The catalogue's entries: older ones are upgraded, newer ones refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ragkeep_retriever.analyzer import FINGERPRINT
from ragkeep_retriever.catalogue import VERSION, dump, load
from ragkeep_retriever.values import Collection
from ragkeep_runtime.errors import EngineFailed, RagkeepError
from tests.stores import definition


def _stored(one: Collection, **changed: object) -> str:
    """An entry as the catalogue's first version wrote it."""
    fields = [{"name": f.name, "type": f.type.value, "filterable": f.filterable, "required": f.required} for f in one.fields]
    plain = {
        "name": one.name,
        "fields": fields,
        "content_template": one.content_template,
        "space": {"model": "test", "digest": "digest", "dimension": 16, "probes": ""},
        "cjk_characters": 350,
        "latin_characters": 1000,
        "vector_index": {"ef": 200, "ef_construction": 256, "max_connections": 64},
        "title_field": "",
        "revision": 1,
    }
    return json.dumps({"version": 1, "analyzer": FINGERPRINT, "collection": plain, **changed})


def test_an_entry_of_the_first_version_is_upgraded() -> None:
    """What it does not say has the meaning that it had then."""
    one = definition()
    found = load(_stored(one))
    assert found == replace(one, revision=1, space=replace(one.space, probes=b""))
    assert load(dump(found)) == found


def test_an_entry_of_the_second_version_has_no_sealed_field() -> None:
    """It was written before there were any."""
    one = definition()
    second = json.loads(dump(one))
    for field in second["collection"]["fields"]:
        del field["sealed"]
    assert load(json.dumps({**second, "version": 2})) == one


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": VERSION + 1}, "CATALOGUE_TOO_NEW"),
        ({"analyzer": "0/unicode-1"}, "ANALYZER_MISMATCH"),
        ({"version": "x"}, "ENGINE_FAILED"),
        ({"collection": {}}, "ENGINE_FAILED"),
        ({"collection": None}, "ENGINE_FAILED"),
    ],
)
def test_an_entry_that_cannot_be_read_is_refused_never_guessed(changed: dict[str, object], reason: str) -> None:
    """Newer, of another analyzer, or not an entry at all: each has its reason."""
    with pytest.raises(RagkeepError) as refused:
        load(_stored(definition(), **changed))
    assert refused.value.reason == reason
    with pytest.raises(EngineFailed):
        load("not json")
