"""Every store against a plain dictionary: random puts, updates, deletions, searches, lists, with filters and groups."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from ragkeep_retriever.sqlite import SqliteStore
from ragkeep_retriever.store import PassageStore
from ragkeep_retriever.values import (
    AllOf,
    AnyOf,
    Chunk,
    Collection,
    Equals,
    Filter,
    InRange,
    Not,
    Put,
    Query,
    Scope,
    StoredDocument,
    Versions,
)
from tests.engines.weaviate import WeaviateProcess
from tests.stores import ADAPTERS, definition, vector

T = TypeVar("T")
WORDS = ("alpha", "beta", "gamma", "打印机")
TENANTS = ("one", "张三")
DAY = datetime(2026, 1, 1, tzinfo=UTC)
# A filter and what it means, said once more in plain Python: nothing of the stores' own reading of filters is used.
Condition = tuple[Filter, Callable[[Mapping[str, Any]], bool]]

IDS = st.sampled_from(["a", "b", "c/ü", "d d", "E", "e"])
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
CATEGORIES, SEVERITIES, MOMENTS = ("x", "y", "账号"), (0.0, 1.0, 2.5), (DAY, DAY + timedelta(hours=1), DAY + timedelta(days=1))
FIELDS = st.fixed_dictionaries(
    {"title": st.just("t")},
    optional={
        "category": st.sampled_from(CATEGORIES),
        "severity": st.sampled_from(SEVERITIES),
        "open": st.booleans(),
        "at": st.sampled_from(MOMENTS),
    },
)
GROUPS = st.lists(st.sampled_from(["hr", "it"]), max_size=2, unique=True).map(tuple)
SEES = st.none() | st.frozensets(st.sampled_from(["hr", "it", "others"]), max_size=2)


def _range(field: str, low: Any, high: Any) -> Condition:
    return InRange(
        field, low, high
    ), lambda f: field in f and (low is None or f[field] >= low) and (high is None or f[field] < high)


def _bounded(field: str, values: tuple[Any, ...]) -> st.SearchStrategy[Condition]:
    bounds = st.tuples(st.none() | st.sampled_from(values), st.none() | st.sampled_from(values))
    return bounds.filter(lambda pair: pair != (None, None)).map(lambda pair: _range(field, *pair))


def _equal(field: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Condition]:
    several = st.lists(values, min_size=1, max_size=2).map(tuple)
    return several.map(lambda some: (Equals(field, some), lambda f: field in f and f[field] in some))


CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    st.one_of(
        _equal("category", st.sampled_from(CATEGORIES)),
        _equal("severity", st.sampled_from(SEVERITIES)),
        _equal("open", st.booleans()),
        _bounded("severity", SEVERITIES),
        _bounded("at", MOMENTS),
    ),
    lambda inner: st.one_of(
        inner.map(lambda one: (Not(one[0]), lambda f: not one[1](f))),
        st.lists(inner, min_size=1, max_size=2).map(
            lambda some: (AllOf(tuple(one for one, _ in some)), lambda f: all(holds(f) for _, holds in some))
        ),
        st.lists(inner, min_size=1, max_size=2).map(
            lambda some: (AnyOf(tuple(one for one, _ in some)), lambda f: any(holds(f) for _, holds in some))
        ),
    ),
    max_leaves=4,
)
EVERYTHING: Condition = (None, lambda _: True)  # type: ignore[assignment]
WANTED = st.just(EVERYTHING) | CONDITIONS


@st.composite
def documents(draw: st.DrawFn, least: int = 1, most: int = 3) -> list[StoredDocument]:
    """Some, each of another id; their version follows from all that they hold."""
    found = []
    for name in draw(st.lists(IDS, min_size=least, max_size=most, unique=True)):
        fields, groups, texts = draw(FIELDS), draw(GROUPS), draw(st.lists(TEXTS, min_size=1, max_size=3))
        version = hashlib.sha256(repr((sorted(fields.items()), sorted(groups), texts)).encode()).digest()
        found.append(StoredDocument(name, version, fields, groups, [Chunk(text, vector(text)) for text in texts]))
    return found


class StoreMachine(RuleBasedStateMachine):
    """A collection of a store, and what should be in it."""

    def __init__(self, run: Callable[[Awaitable[T]], T], store: PassageStore) -> None:
        super().__init__()
        self.run: Callable[[Awaitable[Any]], Any] = run
        self.store = store
        self.model: dict[tuple[str, str], StoredDocument] = {}

    @initialize(first=documents(4, 6), second=documents(2, 6))
    def begin(self, first: list[StoredDocument], second: list[StoredDocument]) -> None:
        """A fresh one, with something in it: on an empty one every question has the same answer."""
        self.collection: Collection = self.run(self.store.create_collection(definition()))
        self.put(TENANTS[0], first)
        self.put(TENANTS[1], second)

    @rule(tenant=st.sampled_from(TENANTS), batch=documents(1, 6))
    def put_many(self, tenant: str, batch: list[StoredDocument]) -> None:
        """Oftener than they are deleted."""
        self.put(tenant, batch)

    @rule(tenant=st.sampled_from(TENANTS), batch=documents(), sees=SEES)
    def put(self, tenant: str, batch: list[StoredDocument], sees: frozenset[str] | None = None) -> None:
        """New, changed and unchanged ones; what the scope does not see stays, and what it would not see does not come."""
        expected = []
        for one in batch:
            before = self.model.get((tenant, one.id))
            if not _seen(sees, one) or (before is not None and not _seen(sees, before)):
                expected.append(Put.HIDDEN)
                continue
            expected.append(Put.CREATED if before is None else Put.UNCHANGED if before.version == one.version else Put.UPDATED)
            self.model[tenant, one.id] = one
        assert self.run(self.store.put(Scope(tenant, sees), self.collection, batch)) == expected

    @rule(tenant=st.sampled_from(TENANTS), ids=st.lists(IDS, min_size=1, max_size=2, unique=True), sees=SEES, dry=st.booleans())
    def delete(self, tenant: str, ids: list[str], sees: frozenset[str] | None, dry: bool) -> None:
        """By id; only what the scope sees."""
        seen = {one.id for one in self._expected(tenant, sees, EVERYTHING)}
        expected = [name for name in ids if name in seen]
        deletion = self.store.delete(Scope(tenant, sees), self.collection, dict.fromkeys(ids), dry_run=dry)
        assert self.run(deletion) == expected
        if not dry:
            for name in expected:
                del self.model[tenant, name]

    @rule(tenant=st.sampled_from(TENANTS), wanted=CONDITIONS)
    def delete_by_filter(self, tenant: str, wanted: Condition) -> None:
        """As the service does: those that the list shows, in the version that it shows."""
        page = self.run(self.store.documents(Scope(tenant, None), self.collection, filter=wanted[0], limit=1000))
        found = {one.id: one.version for one in page.documents}
        assert set(self.run(self.store.delete(Scope(tenant, None), self.collection, found))) == set(found)
        expected = {one.id for one in self._expected(tenant, None, wanted)}
        assert set(found) == expected
        for name in expected:
            del self.model[tenant, name]

    @rule(tenant=st.sampled_from(TENANTS), word=st.sampled_from(WORDS), sees=SEES, wanted=WANTED, mode=st.integers(0, 2))
    def search(self, tenant: str, word: str, sees: frozenset[str] | None, wanted: Condition, mode: int) -> None:
        """By word, by meaning, by both: exactly the passages that there are, with their documents' fields."""
        query = Query(text=word if mode != 1 else None, vector=vector(word) if mode else None, filter=wanted[0], limit=1000)
        found = self.run(self.store.search(Scope(tenant, sees), self.collection, query))
        expected = {
            (one.id, one.version, position, chunk.text)
            for one in self._expected(tenant, sees, wanted)
            for position, chunk in enumerate(one.chunks)
            if mode or word in chunk.text.split()
        }
        hits = [(hit.document_id, hit.version, hit.chunk, hit.text) for hit in found.hits]
        assert len(hits) == len(set(hits))
        assert set(hits) == expected
        assert all(dict(hit.fields) == dict(self.model[tenant, hit.document_id].fields) for hit in found.hits)

    @rule(tenant=st.sampled_from(TENANTS), sees=SEES, wanted=WANTED, limit=st.integers(1, 4))
    def list_and_get(self, tenant: str, sees: frozenset[str] | None, wanted: Condition, limit: int) -> None:
        """Page by page each once, and one by one the same."""
        scope, after, found = Scope(tenant, sees), "", []
        while True:
            page = self.run(self.store.documents(scope, self.collection, filter=wanted[0], after=after, limit=limit))
            found += page.documents
            after = page.after
            if not after:
                break
        assert sorted(one.id for one in found) == sorted(one.id for one in self._expected(tenant, sees, wanted))
        for one in found:
            model = self.model[tenant, one.id]
            assert (one.version, dict(one.fields), one.chunks) == (model.version, dict(model.fields), len(model.chunks))
            assert sorted(one.groups) == sorted(model.groups)
            assert self.run(self.store.document(scope, self.collection, one.id)) == one

    @rule(tenant=st.sampled_from(TENANTS), sees=SEES)
    def count(self, tenant: str, sees: frozenset[str] | None) -> None:
        """The collection's number, and the versions of those that are there: of those that the scope sees."""
        mine = {one.id: one.version for one in self._expected(tenant, sees, EVERYTHING)}
        hidden = {name for owner, name in self.model if owner == tenant} - mine.keys()
        scope = Scope(tenant, sees)
        counts = {one.name: count for one, count in self.run(self.store.collections(scope))}
        assert counts[self.collection.name] == len(mine)
        versions = self.run(self.store.versions(scope, self.collection.name, ["a", "b", "c/ü", "d d", "E", "e"]))
        assert versions == Versions(mine, frozenset(hidden))

    def teardown(self) -> None:
        """A collection that was emptied can be deleted."""
        if not hasattr(self, "collection"):
            return
        for tenant in TENANTS:
            mine = {name: None for owner, name in self.model if owner == tenant}
            assert self.run(self.store.delete(Scope(tenant, None), self.collection, mine)) == list(mine)
        self.run(self.store.delete_collection(self.collection.name))

    def _expected(self, tenant: str, sees: frozenset[str] | None, wanted: Condition) -> list[StoredDocument]:
        return [one for (owner, _), one in self.model.items() if owner == tenant and _seen(sees, one) and wanted[1](one.fields)]


def _seen(sees: frozenset[str] | None, one: StoredDocument) -> bool:
    return sees is None or not one.groups or bool(sees & set(one.groups))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_store_does_what_a_dictionary_would(adapter: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Whatever the order of puts, updates, deletions and questions."""
    with asyncio.Runner() as runner:

        async def make() -> PassageStore:
            if adapter == "sqlite":
                return SqliteStore(tmp_path)
            from ragkeep_retriever.weaviate import WeaviateStore

            server: WeaviateProcess = request.getfixturevalue("weaviate_server")
            return WeaviateStore(server.url, server.grpc_port)

        store = runner.run(make())
        # Each step of Weaviate takes longer; what it does differently it does within a few.
        bounds = {"sqlite": (40, 25), "weaviate": (8, 14)}[adapter]
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            lambda: StoreMachine(runner.run, store),  # type: ignore[arg-type]
            settings=settings(
                max_examples=bounds[0],
                stateful_step_count=bounds[1],
                deadline=None,
                # Shrinking a failure would take minutes.
                phases=[Phase.reuse, Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
        runner.run(store.close())
