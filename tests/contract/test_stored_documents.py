"""One suite for every store: documents as they are stored, got, listed, deleted."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ragkeep_retriever.store import PassageStore
from ragkeep_retriever.values import AllOf, AnyOf, Collection, Equals, Filter, InRange, ListedDocument, Not, Put, Query, Scope
from ragkeep_runtime.errors import InvalidRequest
from tests.engines.weaviate import WeaviateProcess
from tests.stores import ALL, definition, document, ids, vector

MOMENT = datetime(2026, 3, 1, 12, 30, 0, 250_000, tzinfo=UTC)


async def listed(
    store: PassageStore, collection: Collection, scope: Scope = ALL, wanted: Filter | None = None, limit: int = 100
) -> list[ListedDocument]:
    """Every page."""
    found: list[ListedDocument] = []
    after = ""
    while True:
        page = await store.documents(scope, collection, filter=wanted, after=after, limit=limit)
        assert len(page.documents) <= limit
        found += page.documents
        if not page.after:
            return found
        after = page.after


async def test_a_document_comes_back_whole(store: PassageStore, collection: Collection) -> None:
    """Fields of every type, groups, version and the number of its passages."""
    fields = {"category": "账号管理", "id": "X-1", "severity": 3.0, "open": False, "at": MOMENT}
    await store.put(ALL, collection, [document("a b/ü", "one", "two", version=7, groups=["hr", "it"], **fields)])  # type: ignore[arg-type]
    found = await store.document(ALL, collection, "a b/ü")
    assert found == ListedDocument("a b/ü", (7).to_bytes(32, "big"), {"title": "a b/ü", **fields}, ("hr", "it"), 2)
    assert await store.document(ALL, collection, "a b") is None
    assert await store.document(Scope("nobody", None), collection, "a b/ü") is None


async def test_pages_hold_each_document_once(store: PassageStore, collection: Collection) -> None:
    """Whatever their size, in an order that stays; and none of another collection or tenant."""
    other = await store.create_collection(replace(collection, name=f"{collection.name}-2", revision=0))
    names = [f"d{n}" for n in range(150)]
    await store.put(ALL, collection, [document(name) for name in names[:100]])
    await store.put(ALL, collection, [document(name) for name in names[100:]])
    await store.put(ALL, other, [document("elsewhere")])
    await store.put(Scope("others", None), collection, [document("theirs")])
    for limit in (7, 150, 1000):
        found = [one.id for one in await listed(store, collection, limit=limit)]
        assert sorted(found) == sorted(names)
        assert found == [one.id for one in await listed(store, collection, limit=99)]
    assert await listed(store, collection, Scope("nobody", None)) == []


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Equals("category", ("x",)), {"a", "b"}),
        (Equals("open", (True, False)), {"a", "b"}),
        (Not(Equals("open", (True,))), {"b", "c"}),
        (AllOf((Equals("category", ("x",)), InRange("severity", 1.0, 2.0))), {"a"}),
        (InRange("at", MOMENT, None), {"b"}),
        (InRange("at", None, MOMENT), set()),
        (Equals("severity", (2.0,)), {"b"}),
    ],
)
async def test_a_list_is_filtered_as_a_search_is(
    store: PassageStore, collection: Collection, condition: Filter, expected: set[str]
) -> None:
    """The same conditions mean the same."""
    await store.put(
        ALL,
        collection,
        [
            document("a", category="x", open=True, severity=1.0),
            document("b", category="x", open=False, severity=2.0, at=MOMENT),
            document("c", category="y"),
        ],
    )
    assert {one.id for one in await listed(store, collection, wanted=condition, limit=1)} == expected
    assert set(ids(await store.search(ALL, collection, Query(text="text", filter=condition, limit=10)))) == expected


@pytest.mark.parametrize(
    "condition",
    [
        AnyOf(tuple(Equals("category", (*(f"{n}-{m}" for m in range(999)), "a")) for n in range(10))),
        AllOf(tuple(AnyOf(tuple(Equals("category", (str(m), "a")) for m in range(99))) for _ in range(10))),
    ],
    ids=["values", "conditions"],
)
async def test_the_largest_filters_hold(store: PassageStore, collection: Collection, condition: Filter) -> None:
    """10,000 values, 1,000 conditions: what the service lets through, a store can do."""
    await store.put(ALL, collection, [document("a", category="a"), document("b", category="b")])
    assert [one.id for one in await listed(store, collection, wanted=condition)] == ["a"]
    assert ids(await store.search(ALL, collection, Query(text="text", vector=vector("x"), filter=condition))) == ["a"]


async def test_groups_limit_what_is_got_listed_and_deleted(store: PassageStore, collection: Collection) -> None:
    """As they limit what is found."""
    await store.put(ALL, collection, [document("open"), document("hr", groups=["hr"]), document("it", groups=["it"])])
    scope = Scope("demo", frozenset({"it", "*"}))
    assert {one.id for one in await listed(store, collection, scope)} == {"open", "it"}
    assert await store.document(scope, collection, "hr") is None
    assert (await store.document(scope, collection, "it")).groups == ("it",)  # type: ignore[union-attr]
    assert await store.delete(scope, collection, {"hr": None, "it": None}) == ["it"]
    assert {one.id for one in await listed(store, collection)} == {"open", "hr"}


async def test_a_deleted_document_is_found_nowhere(store: PassageStore, collection: Collection) -> None:
    """By no half of a search, no list, no version, no count; the others stay, and it can come back."""
    await store.put(ALL, collection, [document(name, f"alpha {name}", "beta") for name in ("a", "b", "c")])
    assert await store.delete(ALL, collection, {"b": None, "unknown": None, "a": None}, dry_run=True) == ["b", "a"]
    assert len(await listed(store, collection)) == 3
    assert await store.delete(ALL, collection, {"b": None, "unknown": None, "a": None}) == ["b", "a"]
    for query in (
        Query(text="alpha", limit=10),
        Query(vector=vector("alpha b"), limit=10),
        Query(text="alpha", vector=vector("alpha b"), limit=10),
    ):
        assert set(ids(await store.search(ALL, collection, query))) == {"c"}
    assert [one.id for one in await listed(store, collection)] == ["c"]
    assert await store.document(ALL, collection, "a") is None
    assert set((await store.versions(ALL, collection.name, ["a", "b", "c"])).seen) == {"c"}
    assert {one.name: count for one, count in await store.collections(ALL)}[collection.name] == 1
    assert await store.delete(ALL, collection, {"a": None}) == []
    assert await store.put(ALL, collection, [document("a", "alpha a again")]) == [Put.CREATED]
    assert set(ids(await store.search(ALL, collection, Query(text="alpha", limit=10)))) == {"a", "c"}


async def test_a_document_that_became_another_is_left_alone(store: PassageStore, collection: Collection) -> None:
    """Where a deletion names the version that it saw."""
    await store.put(ALL, collection, [document("a", version=2), document("b", version=2)])
    wanted = {"a": (1).to_bytes(32, "big"), "b": (2).to_bytes(32, "big")}
    assert await store.delete(ALL, collection, wanted) == ["b"]
    assert [one.id for one in await listed(store, collection)] == ["a"]


async def test_a_place_that_is_none_is_refused_or_is_past_the_end(store: PassageStore, collection: Collection) -> None:
    """It never shows what the list would not."""
    await store.put(ALL, collection, [document("a")])
    found: list[ListedDocument] = []
    with contextlib.suppress(InvalidRequest):
        found = (await store.documents(ALL, collection, after="\uffff no place")).documents
    assert found == []


@pytest.mark.engine("weaviate")
async def test_killed_weaviate_brings_back_nothing_that_was_deleted(tmp_path: Path) -> None:
    """What a deletion has said stays so after kill -9 and a restart: in no list, no search, no count."""
    from ragkeep_retriever.weaviate import WeaviateStore

    server = WeaviateProcess(tmp_path)
    try:
        server.start()
        store = WeaviateStore(server.url, server.grpc_port)
        collection = await store.create_collection(definition("kept"))
        for start in range(0, 300, 100):
            await store.put(ALL, collection, [document(f"d{n}") for n in range(start, start + 100)])
        gone = {f"d{n}": None for n in range(0, 300, 2)}
        assert await store.delete(ALL, collection, gone) == list(gone)
        server.kill()
        server.start()
        left = {f"d{n}" for n in range(1, 300, 2)}
        assert {one.id for one in await listed(store, collection)} == left
        for query in (Query(text="text", limit=1000), Query(vector=vector("text of d2"), limit=1000)):
            assert set(ids(await store.search(ALL, collection, query))) <= left
        assert [count for _, count in await store.collections(ALL)] == [len(left)]
        await store.close()
    finally:
        server.stop()
