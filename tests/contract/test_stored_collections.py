"""One suite for every store: a collection's life."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ragkeep_retriever.store import PassageStore
from ragkeep_retriever.values import Collection, Equals, Field, FieldType, Not, Quantization, Query, Scope, VectorIndex
from ragkeep_runtime.errors import (
    CollectionChanged,
    CollectionFixed,
    CollectionInUse,
    CollectionUnknown,
    RagkeepError,
)
from tests.stores import ALL, definition, document, ids, vector


@pytest.mark.parametrize("quantization", list(Quantization))
async def test_a_definition_comes_back_as_it_was_given(store: PassageStore, quantization: Quantization) -> None:
    """Templates, evidence and the vector index among it; and vectors kept smaller are found too."""
    wanted = replace(
        definition(),
        prompt_template="{passages} {question}",
        minimum_coverage=0.25,
        minimum_margin=0.0,
        title_field="title",
        vector_index=VectorIndex(ef=64, ef_construction=32, max_connections=8, quantization=quantization),
    )
    made = await store.create_collection(wanted)
    assert made == replace(wanted, revision=1)
    assert await store.collection(made.name) == made
    await store.put(ALL, made, [document(f"d{n}") for n in range(20)])
    found = await store.search(ALL, made, Query(vector=vector("text of d7"), limit=1))
    assert ids(found) == ["d7"]


async def test_what_can_be_changed_is_changed(store: PassageStore, collection: Collection) -> None:
    """With a revision more; documents stay, and only what passages are made from asks for another import."""
    await store.put(ALL, collection, [document("a")])
    wanted = replace(
        collection,
        title_field="title",
        prompt_template="{question} {passages}",
        minimum_coverage=0.0,
        vector_index=replace(collection.vector_index, ef=33),
    )
    change = await store.update_collection(wanted)
    assert change.collection == replace(wanted, revision=2)
    assert not change.import_again
    assert await store.collection(collection.name) == change.collection
    assert ids(await store.search(ALL, change.collection, Query(text="text"))) == ["a"]
    smaller = await store.update_collection(replace(change.collection, cjk_characters=100))
    assert smaller.import_again
    again = await store.update_collection(replace(smaller.collection, revision=0))
    assert (again.collection, again.import_again) == (smaller.collection, False)


async def test_a_field_can_be_added_and_filtered_by(store: PassageStore, collection: Collection) -> None:
    """Documents that were there do not have it; those that come may."""
    await store.put(ALL, collection, [document("old")])
    fields = (*collection.fields, Field("site", FieldType.KEYWORD, filterable=True), Field("note", FieldType.TEXT))
    changed = (await store.update_collection(replace(collection, fields=fields))).collection
    await store.put(ALL, changed, [document("new", site="berlin", note="x"), document("other", site="bonn")])
    for condition, expected in (
        (Equals("site", ("berlin",)), {"new"}),
        (Not(Equals("site", ("berlin",))), {"old", "other"}),
    ):
        found = await store.search(ALL, changed, Query(text="text", filter=condition, limit=10))
        assert set(ids(found)) == expected
        page = await store.documents(ALL, changed, filter=condition)
        assert {one.id for one in page.documents} == expected


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: replace(c, fields=c.fields[:-1]), "at"),
        (lambda c: replace(c, fields=(*c.fields, Field("more", FieldType.TEXT, required=True))), "more"),
        (lambda c: replace(c, fields=(*c.fields[:-1], replace(c.fields[-1], required=True))), "at"),
        (lambda c: replace(c, fields=(*c.fields[:-1], replace(c.fields[-1], type=FieldType.TEXT))), "timestamp"),
        (lambda c: replace(c, fields=(*c.fields[:-1], replace(c.fields[-1], filterable=False))), "filterable"),
        (lambda c: replace(c, vector_index=replace(c.vector_index, max_connections=16)), "max_connections"),
        (lambda c: replace(c, vector_index=replace(c.vector_index, quantization=Quantization.RQ)), "quantization"),
    ],
)
async def test_what_is_fixed_is_refused_with_what_to_do(
    store: PassageStore, collection: Collection, change: object, word: str
) -> None:
    """And nothing of it is done."""
    with pytest.raises(CollectionFixed, match="export the documents") as refused:
        await store.update_collection(change(collection))  # type: ignore[operator]
    assert word in refused.value.message
    assert await store.collection(collection.name) == collection


async def test_a_change_made_from_another_revision_is_refused(store: PassageStore, collection: Collection) -> None:
    """Somebody else changed it meanwhile; and a collection that is not there has nothing to change."""
    await store.update_collection(replace(collection, title_field="title"))
    with pytest.raises(CollectionChanged):
        await store.update_collection(replace(collection, title_field="category"))
    with pytest.raises(CollectionUnknown):
        await store.update_collection(definition())


async def test_a_collection_in_use_is_not_deleted(store: PassageStore, collection: Collection) -> None:
    """Whoever uses it; once it is empty it goes, and its name is free for another definition."""
    await store.put(Scope("someone", None), collection, [document("a")])
    await store.put(Scope("张三/Org:1", None), collection, [document("b")])
    with pytest.raises(CollectionInUse, match="2 documents of 2 tenants"):
        await store.delete_collection(collection.name)
    assert await store.delete(replace(ALL, tenant="someone"), collection, {"a": None}) == ["a"]
    with pytest.raises(CollectionInUse, match="1 documents of 1 tenant"):
        await store.delete_collection(collection.name)
    assert await store.delete(replace(ALL, tenant="张三/Org:1"), collection, {"b": None}) == ["b"]
    await store.delete_collection(collection.name)
    assert collection.name not in {one.name for one, _ in await store.collections(Scope("someone", None))}
    with pytest.raises(CollectionUnknown):
        await store.collection(collection.name)
    with pytest.raises(CollectionUnknown):
        await store.delete_collection(collection.name)
    with pytest.raises(RagkeepError):
        await store.put(Scope("someone", None), collection, [document("a")])
    other = replace(collection, content_template="{category}", fields=collection.fields[:2], revision=0)
    made = await store.create_collection(other)
    assert made == replace(other, revision=1)
    await store.put(Scope("someone", None), made, [document("c", category="x")])
    assert ids(await store.search(replace(ALL, tenant="someone"), made, Query(text="text"))) == ["c"]


async def test_a_put_and_a_deletion_of_its_collection_never_both_succeed(store: PassageStore) -> None:
    """What was acknowledged is there afterwards: either the document, or the collection's end."""
    for round_ in range(4):
        collection = await store.create_collection(definition())

        async def put(one: Collection, delay: float) -> bool:
            await asyncio.sleep(delay)
            try:
                await store.put(ALL, one, [document("a")])
            except RagkeepError:
                return False
            return True

        async def delete(one: Collection) -> bool:
            try:
                await store.delete_collection(one.name)
            except CollectionInUse:
                return False
            return True

        stored, deleted = await asyncio.gather(put(collection, round_ * 0.01), delete(collection))
        if stored:
            assert (await store.versions(ALL, collection.name, ["a"])).seen == {"a": (1).to_bytes(32, "big")}
            assert ids(await store.search(ALL, await store.collection(collection.name), Query(text="text"))) == ["a"]
        assert not (stored and deleted)
