"""What a scope does not see does not show, on every store: not in hits, scores, counts, pages, nor by what a write says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from ragkeep_retriever.sqlite import SqliteStore
from ragkeep_retriever.store import PassageStore
from ragkeep_retriever.values import Collection, Equals, Put, Query, Scope, StoredDocument, Versions
from tests.stores import definition, document, ids, vector

WITH, WITHOUT = "with", "without"
IT = frozenset({"it"})


def seen_documents() -> list[StoredDocument]:
    """What the group it sees: of several lengths, with words that come in different numbers of them."""
    return [
        document("s0", "printer offline again", "the toner is empty"),
        document("s1", "printer printer toner", groups=["it"]),
        document("s2", "offline mode of the mail program", groups=["it", "hr"]),
        document("s3", "password reset for the printer queue, and how long that takes on Mondays", category="b"),
        document("s4", "toner"),
    ]


def hidden_documents() -> list[StoredDocument]:
    """What it does not see: the same words, so often that any count over all documents moves."""
    words = ("printer", "printer printer", "toner offline", "password password", "mail")
    return [document(f"h{n}", words[n % 5], groups=["hr" if n % 2 else "board"], category="b") for n in range(40)]


async def filled(store: PassageStore, collection: Collection) -> None:
    """Two tenants that are the same to the group it."""
    order = seen_documents()
    await store.put(Scope(WITH, None), collection, hidden_documents()[:20])
    for tenant in (WITH, WITHOUT):
        await store.put(Scope(tenant, None), collection, order)
    await store.put(Scope(WITH, None), collection, hidden_documents()[20:])


QUESTIONS = ("printer toner", "offline password", "mail printer offline", "nothing of that")


@pytest.mark.parametrize("groups", [frozenset[str](), IT, frozenset({"*", "it"})])
async def test_hits_cosines_and_ranks_by_meaning_are_the_same_without_hidden_documents(
    store: PassageStore, collection: Collection, groups: frozenset[str]
) -> None:
    """To the last digit, explained or not, filtered or not; who sees all of them gets others."""
    await filled(store, collection)
    for question in QUESTIONS:
        for one in (
            Query(vector=vector(question), limit=4, explain=True),
            Query(vector=vector(question), limit=10, filter=Equals("category", ("b",)), minimum_cosine=0.0),
        ):
            found = [await store.search(Scope(tenant, groups), collection, one) for tenant in (WITH, WITHOUT)]
            assert found[0] == found[1]
            everything = await store.search(Scope(WITH, None), collection, replace(one, limit=50))
            assert any(name.startswith("h") for name in ids(everything))


@pytest.mark.parametrize("groups", [frozenset[str](), IT])
async def test_a_limited_scope_gets_neither_bm25_nor_fused(
    store: PassageStore, collection: Collection, groups: frozenset[str]
) -> None:
    """Both move with words of hidden documents; what is found by words, coverage and the best cosine do not."""
    await filled(store, collection)
    for question in QUESTIONS:
        for one in (Query(text=question, limit=50), Query(text=question, vector=vector(question), limit=50)):
            found = [await store.search(Scope(tenant, groups), collection, one) for tenant in (WITH, WITHOUT)]
            for hit in (*found[0].hits, *found[1].hits):
                assert hit.bm25 is None
                assert hit.fused is None
            assert {(hit.document_id, hit.chunk, hit.cosine) for hit in found[0].hits} == {
                (hit.document_id, hit.chunk, hit.cosine) for hit in found[1].hits
            }
            assert (found[0].coverage, found[0].best_cosine) == (found[1].coverage, found[1].best_cosine)
            assert (found[0].tokens, found[0].missing) == (found[1].tokens, found[1].missing)
            for hit in (await store.search(Scope(WITH, None), collection, one)).hits:
                assert (hit.bm25 is not None) or (hit.fused is not None)


@pytest.mark.engine("sqlite")
async def test_on_sqlite_the_order_by_words_is_the_same_without_hidden_documents(tmp_path: Path) -> None:
    """Rarity is counted over what the scope sees: ranks, order and what a small limit lets through."""
    store = SqliteStore(tmp_path)
    collection = await store.create_collection(definition())
    await filled(store, collection)
    moved = False
    for question in QUESTIONS:
        for one in (
            Query(text=question, limit=2, explain=True),
            Query(text=question, vector=vector(question), limit=3, explain=True, passages_per_document=1),
            Query(text=question, vector=vector(question), alpha=0.1, limit=3, filter=Equals("category", ("a",))),
        ):
            for groups in (frozenset[str](), IT):
                found = [await store.search(Scope(tenant, groups), collection, one) for tenant in (WITH, WITHOUT)]
                assert found[0] == found[1]
            unlimited = [await store.search(Scope(tenant, None), collection, one) for tenant in (WITH, WITHOUT)]
            moved |= unlimited[0].coverage != unlimited[1].coverage
    assert moved
    await store.close()


@pytest.mark.engine("sqlite")
async def test_rarity_among_what_is_seen_is_what_fts5_counts_where_all_is_seen(tmp_path: Path) -> None:
    """The same passages, coverage, and order of passages of one length, as of a scope that is not limited."""
    store = SqliteStore(tmp_path)
    collection = await store.create_collection(definition())
    texts = [f"{a} {b} {c}" for a in ("printer", "mail") for b in ("toner", "offline", "queue") for c in ("x", "y", "z")]
    await store.put(Scope(WITH, None), collection, [document(f"d{n}", text) for n, text in enumerate(texts)])
    for question in ("printer toner x", "offline", "queue z", "mail offline y none"):
        seen = await store.search(Scope(WITH, frozenset()), collection, Query(text=question, limit=50))
        every = await store.search(Scope(WITH, None), collection, Query(text=question, limit=50))
        assert set(ids(seen)) == set(ids(every))
        assert math.isclose(seen.coverage, every.coverage)
        # Of equal scores each has its own order.
        bm25 = {hit.document_id: round(hit.bm25 or 0, 9) for hit in every.hits}
        assert [bm25[name] for name in ids(seen)] == sorted(bm25.values(), reverse=True)
    await store.close()


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_pages_counts_and_versions_are_the_same_without_hidden_documents(
    store: PassageStore, collection: Collection, limit: int
) -> None:
    """Page by page with their tokens; that an id is taken is all that is told of a hidden document."""
    await filled(store, collection)
    for groups in (frozenset[str](), IT):
        pages: dict[str, list[object]] = {WITH: [], WITHOUT: []}
        for tenant in (WITH, WITHOUT):
            after = ""
            while True:
                page = await store.documents(Scope(tenant, groups), collection, after=after, limit=limit)
                pages[tenant].append(page)
                after = page.after
                if not after:
                    break
        assert pages[WITH] == pages[WITHOUT]
        counts = [dict_of(await store.collections(Scope(tenant, groups)))[collection.name] for tenant in (WITH, WITHOUT)]
        assert counts == [len(seen_documents()) - (2 if not groups else 0)] * 2
        for tenant in (WITH, WITHOUT):
            assert await store.document(Scope(tenant, groups), collection, "h1") is None
            assert await store.delete(Scope(tenant, groups), collection, {"h1": None, "h2": None}) == []
    versions = await store.versions(Scope(WITH, IT), collection.name, ["s1", "h1", "no"])
    assert versions == Versions({"s1": (1).to_bytes(32, "big")}, frozenset({"h1"}))
    assert dict_of(await store.collections(Scope(WITH, None)))[collection.name] == 45


def dict_of(found: list[tuple[Collection, int]]) -> dict[str, int]:
    """Counts by name."""
    return {one.name: count for one, count in found}


async def test_what_is_not_seen_is_neither_replaced_nor_written(store: PassageStore, collection: Collection) -> None:
    """An id that is taken, groups that share none with the writer's; an open one and one of a shared group are taken."""
    hr, every = Scope("demo", frozenset({"hr"})), Scope("demo", None)
    await store.put(every, collection, [document("board", "the plan", groups=["board"]), document("both", groups=["hr", "it"])])
    batch = [
        document("board", "the plan", groups=["board"]),
        document("board2", groups=["board"]),
        document("new", groups=["hr", "board"]),
        document("open"),
        document("both", "changed", version=2, groups=["hr"]),
    ]
    assert await store.put(hr, collection, batch) == [Put.HIDDEN, Put.HIDDEN, Put.CREATED, Put.CREATED, Put.UPDATED]
    taken = [document("board", "mine now", version=3, groups=["hr"])]
    assert await store.put(hr, collection, taken) == [Put.HIDDEN]
    found = await store.search(every, collection, Query(text="plan mine now board2", limit=50))
    assert [hit.text for hit in found.hits] == ["the plan"]
    assert await store.put(Scope("demo", frozenset()), collection, [document("new", version=4)]) == [Put.HIDDEN]


async def test_a_tenant_with_nothing_to_see_is_as_one_with_nothing(store: PassageStore, collection: Collection) -> None:
    """Also where nothing was ever put: the question's words are told in both, and nothing else."""
    await store.put(Scope(WITH, None), collection, hidden_documents()[:3])
    for query in (
        Query(text="printer toner"),
        Query(vector=vector("x")),
        Query(text="printer", vector=vector("x"), explain=True),
    ):
        found = [await store.search(Scope(tenant, IT), collection, query) for tenant in (WITH, "nobody")]
        assert found[0] == found[1]
        assert found[0].missing == tuple(query.text.split() if query.text else ())
    pages = [await store.documents(Scope(tenant, IT), collection) for tenant in (WITH, "nobody")]
    assert pages[0] == pages[1]
