"""One suite for every store: sealed values, apart from passages, in place of each other and never in a document that became another."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from ragkeep_retriever.store import PassageStore
from ragkeep_retriever.values import Collection, Field, FieldType, Put, Query, Scope, SealedUpdate
from tests.engines.weaviate import WeaviateProcess
from tests.stores import ALL, SEALED_FIELDS, definition, document, ids, sealed, vector


def with_sealed_fields(name: str = "") -> Collection:
    """A definition."""
    base = definition(name)
    return replace(base, fields=(*base.fields, *SEALED_FIELDS))


@pytest.fixture
async def collection(store: PassageStore) -> Collection:
    """A fresh collection with two sealed fields."""
    return await store.create_collection(with_sealed_fields())


def version(number: int) -> bytes:
    """As `document` makes it."""
    return number.to_bytes(32, "big")


async def test_sealed_values_come_back_wherever_the_document_does(store: PassageStore, collection: Collection) -> None:
    """Got, listed, and with each hit of every kind of search; a document without any has none."""
    values = {"salary": sealed("k1", "a"), "note": sealed("k2", "b")}
    await store.put(ALL, collection, [document("a", "alpha one", "alpha two", sealed=values), document("b", "alpha three")])
    found = await store.document(ALL, collection, "a")
    assert found is not None
    assert (found.sealed, found.fields) == (values, {"title": "a", "category": "a"})
    listed = (await store.documents(ALL, collection)).documents
    assert {one.id: dict(one.sealed) for one in listed} == {"a": values, "b": {}}
    for query in (
        Query(text="alpha", limit=10, explain=True),
        Query(vector=vector("alpha two"), limit=10),
        Query(text="alpha", vector=vector("alpha two"), limit=10, passages_per_document=1),
    ):
        hits = (await store.search(ALL, collection, query)).hits
        assert {hit.document_id: dict(hit.sealed) for hit in hits} == {"a": values, "b": {}}


async def test_another_version_brings_its_own_values(store: PassageStore, collection: Collection) -> None:
    """What an older version had sealed is gone with it, and so it is when a document is deleted."""
    await store.put(ALL, collection, [document("a", version=1, sealed={"salary": sealed("k1")})])
    assert await store.put(ALL, collection, [document("a", version=1, sealed={"salary": sealed("k9")})]) == [Put.UNCHANGED]
    assert (await store.document(ALL, collection, "a")).sealed == {"salary": sealed("k1")}  # type: ignore[union-attr]
    await store.put(ALL, collection, [document("a", version=2, sealed={"note": sealed("k2")})])
    assert (await store.document(ALL, collection, "a")).sealed == {"note": sealed("k2")}  # type: ignore[union-attr]
    await store.put(ALL, collection, [document("a", version=3)])
    assert (await store.document(ALL, collection, "a")).sealed == {}  # type: ignore[union-attr]
    await store.put(ALL, collection, [document("a", version=4, sealed={"note": sealed("k3")})])
    await store.delete(ALL, collection, {"a": None})
    assert await store.update_sealed(ALL, collection, [SealedUpdate("a", version(4), {"note": sealed("k4")})]) == []
    assert await store.document(ALL, collection, "a") is None


async def test_values_are_put_in_place_of_a_documents_own(store: PassageStore, collection: Collection) -> None:
    """All at once; passages, version and search stay; what does not fit is passed over."""
    first, second = sealed("k1"), sealed("k2", "longer than before")
    both = {"salary": first, "note": first}
    await store.put(
        ALL,
        collection,
        [document("a", "alpha", sealed=both), document("b", sealed={"note": first}, groups=["hr"]), document("c")],
    )
    await store.put(Scope("others", None), collection, [document("a", sealed={"note": first})])
    updates = [
        SealedUpdate("b", version(1), {"note": second}),
        SealedUpdate("nobody", version(1), {"note": second}),
        SealedUpdate("a", version(1), {"salary": second, "note": second}),
        SealedUpdate("c", version(1), {"note": second}),
    ]
    assert await store.update_sealed(ALL, collection, updates) == ["b", "a"]
    found = {one.id: one for one in (await store.documents(ALL, collection)).documents}
    assert found["a"].sealed == {"salary": second, "note": second}
    assert (found["b"].sealed, found["c"].sealed) == ({"note": second}, {})
    assert {one.version for one in found.values()} == {version(1)}
    hits = (await store.search(ALL, collection, Query(text="alpha", vector=vector("alpha")))).hits
    assert (hits[0].document_id, hits[0].sealed["note"]) == ("a", second)
    theirs = await store.document(Scope("others", None), collection, "a")
    assert theirs is not None
    assert theirs.sealed == {"note": first}
    refused = [
        SealedUpdate("a", version(2), both),
        SealedUpdate("b", version(1), both),
        SealedUpdate("a", version(1), {"note": first}),
        SealedUpdate("a", version(1), {}),
    ]
    for one in refused:
        assert await store.update_sealed(ALL, collection, [one]) == []
    outside = Scope("demo", frozenset({"it"}))
    assert await store.update_sealed(outside, collection, [SealedUpdate("b", version(1), {"note": first})]) == []
    assert await store.update_sealed(Scope("nobody", None), collection, [SealedUpdate("a", version(1), both)]) == []
    assert (await store.document(ALL, collection, "a")).sealed == {"salary": second, "note": second}  # type: ignore[union-attr]


async def test_re_sealing_under_imports_never_shows_another_versions_values(
    store: PassageStore, collection: Collection
) -> None:
    """Writers and re-sealers at once: whoever reads sees values of the version that he sees, and of a document that is replaced
    by one of the same version only values of that version."""
    names = [f"d{n}" for n in range(4)]
    done = asyncio.Event()

    def of(number: int, key: str) -> dict[str, object]:
        return {"salary": sealed(key, f"v{number}"), "note": sealed(key, f"v{number}")}

    await store.put(ALL, collection, [document(name, version=1, sealed=of(1, "k0")) for name in names])  # type: ignore[arg-type]

    async def write() -> None:
        # Back and forth between two versions: a re-sealer that is late finds its version again, in another generation.
        for turn, number in enumerate(itertools.cycle([2, 1]), 1):
            await store.put(ALL, collection, [document(name, version=number, sealed=of(number, "k0")) for name in names])  # type: ignore[arg-type]
            # Until the others had something of it, however fast the store is.
            if turn >= 16 and number == 1 and seen > 20 and resealed > 0:
                break
            await asyncio.sleep(0)
        done.set()

    seen = resealed = 0

    async def reseal() -> None:
        nonlocal resealed
        for round_ in itertools.count(1):
            if done.is_set():
                return
            listed = (await store.documents(ALL, collection)).documents
            updates = [
                SealedUpdate(one.id, one.version, of(one.version[-1], f"k{round_}"))  # type: ignore[arg-type]
                for one in listed
            ]
            resealed += len(await store.update_sealed(ALL, collection, updates)) if updates else 0
            await asyncio.sleep(0)

    async def read() -> None:
        nonlocal seen
        while not done.is_set():
            listed = (await store.documents(ALL, collection)).documents
            hits = (await store.search(ALL, collection, Query(text="text", limit=50))).hits
            for one in [*listed, *hits]:
                assert {value.ciphertext.split()[1] for value in one.sealed.values()} == {b"v%d" % one.version[-1]}
                assert len({value.key_id for value in one.sealed.values()}) == 1
                seen += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for work in (write(), reseal(), reseal(), read()):
            group.create_task(work)
    last = (await store.documents(ALL, collection)).documents
    assert await store.update_sealed(ALL, collection, [SealedUpdate(o.id, o.version, of(1, "end")) for o in last]) == [  # type: ignore[arg-type]
        one.id for one in last
    ]
    assert {v.key_id for o in (await store.documents(ALL, collection)).documents for v in o.sealed.values()} == {"end"}


async def test_a_collection_gets_a_sealed_field_later(store: PassageStore) -> None:
    """Documents that are there have none of it; new ones do, and the field stays sealed."""
    collection = await store.create_collection(definition())
    await store.put(ALL, collection, [document("old")])
    field = Field("pin", FieldType.KEYWORD, sealed=True)
    change = await store.update_collection(replace(collection, fields=(*collection.fields, field)))
    assert await store.collection(collection.name) == change.collection
    await store.put(ALL, change.collection, [document("new", sealed={"pin": sealed("k1")})])
    found = {one.id: dict(one.sealed) for one in (await store.documents(ALL, change.collection)).documents}
    assert found == {"old": {}, "new": {"pin": sealed("k1")}}
    assert set(ids(await store.search(ALL, change.collection, Query(text="text")))) == {"old", "new"}
    await store.delete(ALL, change.collection, {"old": None, "new": None})
    await store.delete_collection(collection.name)
    again = await store.create_collection(replace(change.collection, revision=0))
    await store.put(ALL, again, [document("new", sealed={"pin": sealed("k2")})])
    assert (await store.document(ALL, again, "new")).sealed == {"pin": sealed("k2")}  # type: ignore[union-attr]


@pytest.mark.engine("weaviate")
async def test_what_was_re_sealed_survives_a_killed_weaviate(tmp_path: Path) -> None:
    """Values of the key that was acknowledged, after kill -9 and a restart; and values of one key alone in each document."""
    from ragkeep_retriever.weaviate import WeaviateStore

    server = WeaviateProcess(tmp_path)
    try:
        server.start()
        store = WeaviateStore(server.url, server.grpc_port)
        collection = await store.create_collection(with_sealed_fields("kept"))
        values = {"salary": sealed("k1"), "note": sealed("k1")}
        await store.put(ALL, collection, [document(f"d{n}", sealed=values) for n in range(60)])
        new = {"salary": sealed("k2"), "note": sealed("k2")}
        first = [SealedUpdate(f"d{n}", version(1), new) for n in range(30)]
        assert len(await store.update_sealed(ALL, collection, first)) == 30
        rest = [SealedUpdate(f"d{n}", version(1), new) for n in range(30, 60)]
        broken = asyncio.create_task(store.update_sealed(ALL, collection, rest))
        await asyncio.sleep(0)
        server.kill()
        await asyncio.gather(broken, return_exceptions=True)
        server.start()
        found = {
            one.id: {value.key_id for value in one.sealed.values()}
            for one in (await store.documents(ALL, collection)).documents
        }
        assert len(found) == 60
        assert all(len(keys) == 1 for keys in found.values())
        assert all(found[f"d{n}"] == {"k2"} for n in range(30))
        assert await store.update_sealed(ALL, collection, rest) == [one.document_id for one in rest]
        await store.close()
    finally:
        server.stop()
