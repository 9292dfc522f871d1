"""One suite for every store: what the port promises of putting and searching, on SQLite and on the real Weaviate."""

from __future__ import annotations

import asyncio
import csv
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ragkeep_retriever.analyzer import query_tokens
from ragkeep_retriever.sqlite import SqliteStore
from ragkeep_retriever.store import PassageStore
from ragkeep_retriever.values import AllOf, AnyOf, Collection, Equals, Filter, InRange, Not, Put, Query, Scope, Versions
from ragkeep_runtime.errors import CollectionChanged, CollectionExists, CollectionUnknown
from tests.engines.weaviate import WeaviateProcess
from tests.stores import ALL, definition, document, ids, vector
from tests.waiting import until_comes


async def test_a_collection_is_made_once(store: PassageStore, collection: Collection) -> None:
    """The same definition is returned; another one is refused; an unknown name is unknown."""
    assert collection.revision == 1
    assert await store.create_collection(replace(collection, revision=0)) == collection
    assert await store.collection(collection.name) == collection
    with pytest.raises(CollectionExists):
        await store.create_collection(replace(collection, content_template="{category}"))
    with pytest.raises(CollectionUnknown, match="unheard"):
        await store.collection("unheard")


async def test_a_put_says_what_became_of_each_document(store: PassageStore, collection: Collection) -> None:
    """Created, unchanged, updated; and what is there is counted and has its version."""
    assert await store.put(ALL, collection, [document("a"), document("b")]) == [Put.CREATED, Put.CREATED]
    assert await store.put(ALL, collection, [document("a"), document("b", version=2)]) == [Put.UNCHANGED, Put.UPDATED]
    versions = (await store.versions(ALL, collection.name, ["a", "b", "c"])).seen
    assert versions == {"a": (1).to_bytes(32, "big"), "b": (2).to_bytes(32, "big")}
    assert (await store.collections(ALL))[-1][1] >= 0
    counts = {one.name: count for one, count in await store.collections(ALL)}
    assert counts[collection.name] == 2


async def test_a_put_under_another_revision_is_refused(store: PassageStore, collection: Collection) -> None:
    """The chunks were made under a definition that is not in force any more."""
    with pytest.raises(CollectionChanged):
        await store.put(ALL, replace(collection, revision=7), [document("a")])


async def test_a_shorter_version_leaves_no_old_chunk(store: PassageStore, collection: Collection) -> None:
    """Neither by vector nor by word."""
    await store.put(ALL, collection, [document("a", "first", "second", "third")])
    await store.put(ALL, collection, [document("a", "only", version=2)])
    by_vector = await store.search(ALL, collection, Query(vector=vector("third"), limit=10))
    assert [(hit.document_id, hit.text, hit.chunk) for hit in by_vector.hits] == [("a", "only", 0)]
    assert ids(await store.search(ALL, collection, Query(text="third", limit=10))) == []


async def test_an_acknowledged_document_is_found_at_once(store: PassageStore, collection: Collection) -> None:
    """By its vector, without a filter's help, in a collection of some size."""
    await store.put(ALL, collection, [document(f"d{n}", f"text {n}") for n in range(100)])
    for n in range(0, 100, 7):
        found = await store.search(ALL, collection, Query(vector=vector(f"text {n}"), limit=1))
        assert ids(found) == [f"d{n}"]
        assert found.hits[0].cosine == pytest.approx(1, abs=1e-5)


async def test_tenants_are_alone(store: PassageStore, collection: Collection) -> None:
    """The same id in two tenants is two documents; an unknown tenant has nothing."""
    await store.put(ALL, collection, [document("a", "secret of demo")])
    await store.put(Scope("张三/Org:1", None), collection, [document("a", "secret of another")])
    for tenant, text in (("demo", "secret of demo"), ("张三/Org:1", "secret of another")):
        found = await store.search(Scope(tenant, None), collection, Query(text="secret", limit=10))
        assert [hit.text for hit in found.hits] == [text]
    for stranger in ("nobody", "DEMO", "demo "):
        assert ids(await store.search(Scope(stranger, None), collection, Query(text="secret"))) == []
        assert await store.versions(Scope(stranger, None), collection.name, ["a"]) == Versions({}, frozenset())


async def test_groups_limit_what_is_seen(store: PassageStore, collection: Collection) -> None:
    """Open documents for all; others for their groups only; every document for who may see all."""
    await store.put(ALL, collection, [document("open"), document("hr", groups=["hr"]), document("both", groups=["hr", "it"])])
    for groups, expected in (
        (frozenset[str](), {"open"}),
        (frozenset({"it"}), {"open", "both"}),
        (frozenset({"hr"}), {"open", "hr", "both"}),
        (frozenset({"other", "*"}), {"open"}),
        (None, {"open", "hr", "both"}),
    ):
        for query in (Query(text="text", limit=10), Query(vector=vector("x"), limit=10)):
            assert set(ids(await store.search(Scope("demo", groups), collection, query))) == expected


MOMENT = datetime(2026, 3, 1, 12, 30, 0, 250_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Equals("category", ("账号管理",)), {"a"}),
        (Equals("category", ("账号管理", "b")), {"a", "b"}),
        (Equals("id", ("X-1",)), {"a"}),
        (Equals("open", (True,)), {"a"}),
        (Equals("open", (True, False)), {"a", "b"}),
        (Equals("severity", (2.5,)), {"b"}),
        (Equals("at", (MOMENT,)), {"a"}),
        (InRange("severity", 1.0, 2.5), {"a"}),
        (InRange("severity", 1.0, None), {"a", "b"}),
        (InRange("at", None, MOMENT), set()),
        (InRange("at", MOMENT, None), {"a"}),
        (AllOf((Equals("open", (True,)), InRange("severity", 0.0, 9.0))), {"a"}),
        (AnyOf((Equals("id", ("X-1",)), Equals("category", ("c",)))), {"a", "c"}),
        (Not(Equals("open", (True,))), {"b", "c"}),
        (Not(AnyOf((Equals("id", ("X-1",)), Equals("category", ("c",))))), {"b"}),
    ],
)
async def test_filters_hold(store: PassageStore, collection: Collection, condition: Filter, expected: set[str]) -> None:
    """Every kind, in both halves; a document without the field satisfies a negation."""
    await store.put(
        ALL,
        collection,
        [
            document("a", category="账号管理", id="X-1", severity=1.0, open=True, at=MOMENT),
            document("b", category="b", severity=2.5, open=False),
            document("c", category="c"),
        ],
    )
    for query in (Query(text="text", limit=10), Query(vector=vector("x"), limit=10)):
        assert set(ids(await store.search(ALL, collection, replace(query, filter=condition)))) == expected


async def test_fields_come_back_as_they_went_in(store: PassageStore, collection: Collection) -> None:
    """Of every type, and only those that were given."""
    fields = {"title": "a", "category": "账号管理", "severity": 3.0, "open": False, "at": MOMENT}
    await store.put(ALL, collection, [document("a", **{k: v for k, v in fields.items() if k != "title"})])  # type: ignore[arg-type]
    found = await store.search(ALL, collection, Query(text="text"))
    assert dict(found.hits[0].fields) == fields


ODD = {
    "controls": "".join(map(chr, [*range(1, 0x20), *range(0x7F, 0xA0)])),
    "right-to-left": "שלום \u202eabc\u202c \u200fمرحبا",
    "emoji": "👩\u200d👩\u200d👧 🏳️\u200d🌈",
    "combining": "Z\u0351\u036b e\u0301 \u00e9",
    "line-ends": "a\rb\nc\r\nd\u2028e\u2029f\u0085g",
    "edges": "\ufeff \ufffe\uffff \U0010ffff",
    "long": "字" * 300_000,
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
async def test_odd_text_comes_back_as_it_went_in(store: PassageStore, collection: Collection, text: str) -> None:
    """In a field and in a passage; nothing is stripped or normalised."""
    await store.put(ALL, collection, [document("a", f"needle {text[:9000]}", title=text)])
    found = await store.search(ALL, collection, Query(text="needle"))
    assert found.hits[0].fields["title"] == text
    assert found.hits[0].text == f"needle {text[:9000]}"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("脱机", ["printer"]),
        ("T-1042", ["vpn"]),
        ("t-1042 的问题", ["vpn"]),
        ("0x8007.1", ["vpn"]),
        ("10.2.3.4", ["printer"]),
        ("resetting", ["password"]),
        ("ＶＰＮ", ["vpn"]),
        ("VPN密码", ["password", "vpn"]),
        ("怎么重置密码？", ["password"]),
        ("nothing of this kind", []),
        ("？！", []),
    ],
)
async def test_words_of_any_script_are_found(
    store: PassageStore, collection: Collection, question: str, expected: list[str]
) -> None:
    """Chinese words of two characters, identifiers, addresses, full-width letters, mixed text."""
    await store.put(
        ALL,
        collection,
        [
            document("printer", "打印机脱机，地址 10.2.3.4，无法打印"),
            document("vpn", "T-1042: VPN fails with 0x8007.1 since the update"),
            document("password", "忘记密码时可以重置密码: reset it in the portal"),
        ],
    )
    assert sorted(ids(await store.search(ALL, collection, Query(text=question)))) == sorted(expected)


async def test_hybrid_brings_both_halves_and_their_scores(store: PassageStore, collection: Collection) -> None:
    """A cosine for every hit, bm25 only where a word was found, fused between 0 and 1 in falling order."""
    await store.put(ALL, collection, [document("word", "alpha beta"), document("sense", "gamma delta"), document("none", "x")])
    query = Query(text="alpha", vector=vector("gamma delta"), limit=3)
    hits = (await store.search(ALL, collection, query)).hits
    assert {hits[0].document_id, hits[1].document_id} <= {"word", "sense", "no"}
    by_id = {hit.document_id: hit for hit in hits}
    assert by_id["sense"].cosine == pytest.approx(1, abs=1e-5)
    assert by_id["sense"].bm25 is None
    assert by_id["word"].bm25 is not None
    fused = [hit.fused for hit in hits]
    assert fused == sorted(fused, reverse=True)
    assert all(score is not None and 0 <= score <= 1.000001 for score in fused)
    only_words = await store.search(ALL, collection, replace(query, alpha=0.0))
    assert ids(only_words)[0] == "word"
    only_vectors = await store.search(ALL, collection, replace(query, alpha=1.0))
    assert ids(only_vectors)[0] == "sense"


async def test_a_minimum_cosine_cuts_the_vector_half_only(store: PassageStore, collection: Collection) -> None:
    """What words found stays."""
    await store.put(ALL, collection, [document("word", "alpha beta"), document("sense", "gamma"), document("far", "x y z")])
    query = Query(text="alpha", vector=vector("gamma"), minimum_cosine=0.9, limit=10)
    assert set(ids(await store.search(ALL, collection, query))) == {"word", "sense"}
    assert ids(await store.search(ALL, collection, replace(query, text=None))) == ["sense"]


async def test_limits_hold(store: PassageStore, collection: Collection) -> None:
    """Passages in all, and passages per document."""
    documents = [document(f"d{n}", *(f"word {n} {c}" for c in range(5))) for n in range(5)]
    await store.put(ALL, collection, documents)
    query = Query(text="word", vector=vector("q"), limit=7)
    assert len(ids(await store.search(ALL, collection, query))) == 7
    one_each = ids(await store.search(ALL, collection, replace(query, limit=20, passages_per_document=1)))
    assert sorted(one_each) == [f"d{n}" for n in range(5)]


async def test_long_documents_do_not_hide_the_others(store: PassageStore, collection: Collection) -> None:
    """One passage of each: also where one document's passages alone fill the candidates of both halves."""
    await store.put(ALL, collection, [document("long", *(f"word {n}" for n in range(150))), document("b", "word")])
    for query in (Query(text="word"), Query(vector=vector("word 7")), Query(text="word", vector=vector("word 7"))):
        found = ids(await store.search(ALL, collection, replace(query, limit=2, passages_per_document=1)))
        assert sorted(found) == ["b", "long"]


async def test_an_explanation_tells_each_hits_place_in_both_halves(store: PassageStore, collection: Collection) -> None:
    """From 1; nothing where a half did not find it, or was not asked, or no explanation was."""
    await store.put(
        ALL,
        collection,
        [document("both", "alpha gamma"), document("word", "alpha alpha delta"), document("sense", "x"), document("far", "y")],
    )
    query = Query(text="alpha gamma", vector=vector("x"), limit=10, explain=True)

    async def places(one: Query) -> dict[str, tuple[int | None, int | None]]:
        hits = (await store.search(ALL, collection, one)).hits
        return {hit.document_id: (hit.vector_rank, hit.keyword_rank) for hit in hits}

    hybrid = await places(query)
    assert hybrid["sense"] == (1, None)
    assert hybrid["both"][1] == 1
    assert hybrid["word"][1] == 2
    assert sorted(place for place, _ in hybrid.values() if place) == [1, 2, 3, 4]
    assert {keyword for _, keyword in hybrid.values()} == {1, 2, None}
    cut = await places(replace(query, minimum_cosine=0.99))
    assert cut == {"sense": (1, None), "both": (None, 1), "word": (None, 2)}
    assert await places(replace(query, vector=None)) == {"both": (None, 1), "word": (None, 2)}
    by_vector = await places(replace(query, text=None))
    assert {name: place for name, (place, _) in by_vector.items()} == {name: place for name, (place, _) in hybrid.items()}
    assert {keyword for _, keyword in by_vector.values()} == {None}
    assert set((await places(replace(query, explain=False))).values()) == {(None, None)}


async def test_what_was_looked_for_is_told(store: PassageStore, collection: Collection) -> None:
    """The question's tokens, and those that no hit holds."""
    await store.put(ALL, collection, [document("a", "reset the forgotten password")])
    found = await store.search(ALL, collection, Query(text="forgotten chocolate", vector=vector("q")))
    assert (found.tokens, found.missing) == (("forgotten", "chocol"), ("chocol",))


async def test_coverage_tells_how_much_of_a_question_was_found_together(store: PassageStore, collection: Collection) -> None:
    """All of it in one passage is 1, nothing is 0."""
    await store.put(ALL, collection, [document("a", "reset the forgotten password"), document("b", "printer")])
    assert (await store.search(ALL, collection, Query(text="forgotten password"))).coverage == pytest.approx(1)
    assert (await store.search(ALL, collection, Query(text="chocolate", vector=vector("q")))).coverage == 0
    partly = (await store.search(ALL, collection, Query(text="password chocolate"))).coverage
    assert 0 < partly < 1


async def test_two_writers_of_one_document_leave_exactly_one_whole_version(store: PassageStore, collection: Collection) -> None:
    """Whoever wins, no chunk of the other stays."""
    versions = [document("a", *(f"v{n} chunk {c}" for c in range(4)), version=n) for n in range(1, 6)]
    await asyncio.gather(*(store.put(ALL, collection, [one]) for one in versions))
    found = await store.search(ALL, collection, Query(vector=vector("q"), limit=50))
    winner = (await store.versions(ALL, collection.name, ["a"])).seen["a"]
    number = int.from_bytes(winner, "big")
    assert sorted(hit.text for hit in found.hits) == [f"v{number} chunk {c}" for c in range(4)]
    assert {hit.version for hit in found.hits} == {winner}


@pytest.mark.engine("sqlite")
@pytest.mark.engine("weaviate")
async def test_the_two_stores_agree(tmp_path: Path, weaviate_server: WeaviateProcess) -> None:
    """The same documents and questions give the same first hit and nearly the same first five, in every mode."""
    from ragkeep_retriever.weaviate import WeaviateStore

    with open("examples/service_tickets.csv", newline="") as file:
        tickets = list(csv.DictReader(file))
    with open("examples/questions.csv", newline="") as file:
        questions = [row["question"] for row in csv.DictReader(file)]
    documents = [document(t["ticket_id"], "\n".join(t.values())) for t in tickets]
    both: list[PassageStore] = [SqliteStore(tmp_path), WeaviateStore(weaviate_server.url, weaviate_server.grpc_port)]
    one = definition()
    made = [await store.create_collection(one) for store in both]
    for store, collection in zip(both, made, strict=True):
        await store.put(ALL, collection, documents[:60])
        await store.put(ALL, collection, documents[60:])
    overlap = same_first = hits = total = 0
    for question in questions:
        for query in (
            Query(text=question),
            Query(vector=vector(question)),
            Query(text=question, vector=vector(question)),
        ):
            a, b = [ids(await s.search(ALL, c, query)) for s, c in zip(both, made, strict=True)]
            overlap += len(set(a) & set(b))
            same_first += a[:1] == b[:1]
            hits += max(len(a), len(b))
            total += 1
    for store in both:
        await store.close()
    assert query_tokens("T-1042")
    # Only the idf differs (FTS5's is lower for common tokens). Printed, so that a drift is seen before it fails.
    print(f"overlap {overlap / hits:.3f}, same first {same_first / total:.3f}")
    assert overlap / hits > 0.9
    assert same_first / total > 0.95


@pytest.mark.engine("weaviate")
async def test_killed_weaviate_forgets_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Every passage is found by its own vector after kill -9 and a restart."""
    from ragkeep_retriever.weaviate import WeaviateStore

    server = WeaviateProcess(tmp_path)
    try:
        server.start()
        store = WeaviateStore(server.url, server.grpc_port)
        collection = await store.create_collection(definition("kept"))
        for start in range(0, 600, 100):
            await store.put(ALL, collection, [document(f"d{n}", f"text {n}") for n in range(start, start + 100)])
        server.kill()
        server.start()

        async def is_found(n: int) -> bool:
            return ids(await store.search(ALL, collection, Query(vector=vector(f"text {n}"), limit=1))) == [f"d{n}"]

        for n in range(600):
            await until_comes(lambda: is_found(n))  # noqa: B023
        await store.close()
    finally:
        server.stop()
