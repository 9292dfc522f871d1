"""Random tenants, groups, documents and questions over the gateway's own RPCs: nothing that is hidden from the asker shows.

Each world is asked twice: in a tenant with the hidden documents, and in its twin that never had them. What a limited caller is
told must be the same to the byte. RAGKEEP_LEAK_SEED repeats a run, RAGKEEP_LEAK_EXAMPLES makes it longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.generator.v1.generator_pb2 import Turn
from ragkeep.types.v1 import types_pb2 as types
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.edge import REQUEST_ID_KEY
from ragkeep_runtime.errors import from_rpc_error
from tests.engines.weaviate import WeaviateProcess
from tests.integration.test_audit import lines
from tests.stack import CLI, SERVICES, Stack
from tests.tokens import Issuer, settings_for
from tests.waiting import until_true

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("quote")]
SEED = int(os.environ.get("RAGKEEP_LEAK_SEED") or random.SystemRandom().randrange(2**32))
EXAMPLES = {"sqlite": 8, "weaviate": 4}
COLLECTION = "leaks"
GROUPS = ("hr", "it", "董事会")
SUBSETS = [frozenset(some) for count in range(len(GROUPS) + 1) for some in combinations(GROUPS, count)]
KIOSK, PORTAL = "caller/local/kiosk", "caller/local/portal"
WORDS = ("printer", "offline", "toner", "password", "打印机", "脱机", "VPN", "809")
ISSUER = Issuer("EdDSA")


@dataclass(frozen=True)
class Planted:
    """A document with a word of its own in its id, its title and its text."""

    groups: frozenset[str]
    words: tuple[str, ...]
    category: str
    word: str = field(default_factory=lambda: f"zq{uuid.uuid4().hex[:12]}")

    @property
    def id(self) -> str:
        return f"D-{self.word}"

    def message(self) -> types.Document:
        texts = {"title": f"{self.words[0]} {self.word}", "body": f"{' '.join(self.words)} {self.word}."}
        fields = {name: types.Value(text=text) for name, text in texts.items()}
        fields["category"] = types.Value(keyword=self.category)
        return types.Document(id=self.id, fields=fields, groups=sorted(self.groups))


@dataclass(frozen=True)
class World:
    """Who asks what of which documents."""

    documents: list[Planted]
    others: list[Planted]  # of another tenant
    asker: frozenset[str]
    identity: str  # "policy", "person", "person by portal"
    questions: list[str]
    limit: int

    def seen(self) -> list[Planted]:
        return [one for one in self.documents if not one.groups or one.groups & self.asker]

    def hidden(self) -> list[Planted]:
        seen = self.seen()
        return [one for one in self.documents if one not in seen]


PLANTED = st.builds(
    Planted,
    groups=st.sampled_from(SUBSETS),
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(tuple),
    category=st.sampled_from("ab"),
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """With something to hide: who sees everything learns nothing here."""
    asker = draw(st.sampled_from(SUBSETS[:-1]))
    documents = draw(st.lists(PLANTED, min_size=4, max_size=9))
    hidden = draw(st.sampled_from([one for one in SUBSETS if one and not one & asker]))
    documents.insert(draw(st.integers(0, len(documents))), Planted(hidden, tuple(WORDS[:3]), "a"))
    questions = draw(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), min_size=1, max_size=2))
    return World(
        documents,
        draw(st.lists(PLANTED, max_size=2)),
        asker,
        draw(st.sampled_from(["policy", "person", "person by portal"])),
        questions,
        draw(st.integers(1, 4)),
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("sqlite", marks=pytest.mark.engine("sqlite")),
        pytest.param("weaviate", marks=pytest.mark.engine("weaviate")),
    ],
)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An installation whose policy knows a service for each set of groups, and services that act for people."""
    import json

    folder = tmp_path_factory.mktemp("leaks")
    ISSUER.write(folder / "jwks.json")
    env = {"gateway": settings_for(folder / "jwks.json", ISSUER)}
    if request.param == "weaviate":
        server: WeaviateProcess = request.getfixturevalue("weaviate_server")
        address = {"RAGKEEP_WEAVIATE_URL": server.url, "RAGKEEP_WEAVIATE_GRPC_PORT": str(server.grpc_port)}
        env["retriever"] = {"RAGKEEP_ENGINE": "weaviate", **address}
    stack = Stack(folder, env)
    policy = json.loads(stack.policy.read_text())
    both = {"tenants": ["*"], "roles": ["reader", "editor"]}
    for number, groups in enumerate(SUBSETS):
        policy["callers"][_service(number)] = {**both, "groups": sorted(groups)}
    policy["callers"][KIOSK] = {**both, "people_only": True}
    policy["callers"][PORTAL] = {**both, "groups": ["*"]}
    stack.policy.write_text(json.dumps(policy))
    stack.engine = request.param  # type: ignore[attr-defined]
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def _service(number: int) -> str:
    return f"caller/local/of-set-{number}"


class Site:
    """The installation, with a connection of each identity."""

    def __init__(self, stack: Stack, by_order: bool) -> None:
        self.stack = stack
        self.by_order = by_order  # the store's order by words tells nothing either
        self.stubs: dict[str, RagServiceStub] = {}
        self.planted: list[str] = []
        self.worlds = self.compared = self.lines = 0

    @classmethod
    @asynccontextmanager
    async def opened(cls, stack: Stack, by_order: bool) -> AsyncIterator[Site]:
        found = cls(stack, by_order)
        async with AsyncExitStack() as held:
            for name in (CLI, KIOSK, PORTAL, *(_service(number) for number in range(len(SUBSETS)))):
                identity = stack.cli if name == CLI else stack.authority.caller(name)
                channel = await held.enter_async_context(open_channel(stack.target("gateway"), "gateway", identity))
                found.stubs[name] = RagServiceStub(channel)
            definition = types.Collection(
                name=COLLECTION,
                fields=[
                    types.Field(name="title", type=types.FIELD_TYPE_TEXT, searchable=True),
                    types.Field(name="body", type=types.FIELD_TYPE_TEXT, searchable=True),
                    types.Field(name="category", type=types.FIELD_TYPE_KEYWORD, filterable=True),
                ],
                title_field="title",
            )
            request = pb.CreateCollectionRequest(collection=definition)
            await found.stubs[CLI].CreateCollection(request, metadata=(("ragkeep-tenant", "any"),))
            yield found

    async def fill(self, tenant: str, *batches: Sequence[Planted]) -> None:
        """Imports by who sees everything; what stands in one batch is embedded together."""
        for batch in batches:
            if batch:
                request = pb.ImportDocumentsRequest(collection=COLLECTION, documents=[one.message() for one in batch])
                outcomes = await self.stubs[CLI].ImportDocuments(request, metadata=(("ragkeep-tenant", tenant),))
                assert {one.kind for one in outcomes.outcomes} == {types.OUTCOME_KIND_CREATED}


@dataclass
class Asker:
    """An asker in one tenant."""

    site: Site
    world: World
    tenant: str
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        groups = sorted(self.world.asker)
        metadata: tuple[tuple[str, str], ...] = (("ragkeep-tenant", self.tenant),)
        if self.world.identity == "policy":
            name = _service(SUBSETS.index(self.world.asker))
        else:
            name = KIOSK if self.world.identity == "person" else PORTAL
            # A group * in a token is a name like none.
            token = ISSUER.token(tenant=self.tenant, groups=[*groups, "*"], roles=["reader", "editor"])
            metadata = (("authorization", f"Bearer {token}"),)
        self.rag, self._metadata = self.site.stubs[name], metadata

    def marked(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call that is found again on record."""
        self.requests.append(uuid.uuid4().hex)
        return (*self._metadata, (REQUEST_ID_KEY, self.requests[-1]))

    async def told(self) -> dict[str, bytes]:
        """Everything that the asker is told, by what was asked."""
        told: dict[str, bytes] = {}
        for number, question in enumerate(self._questions()):
            for mode in (pb.SEARCH_MODE_HYBRID, pb.SEARCH_MODE_VECTOR, pb.SEARCH_MODE_KEYWORD):
                for variant in ({}, {"explain": True, "filter": _category("a")}, {"passages_per_document": 1}):
                    wanted = pb.SearchRequest(collection=COLLECTION, query=question, mode=mode, **variant)  # type: ignore[arg-type]
                    wanted.limit = self.world.limit if self._ordered(mode) else 1000
                    name = f"search {number} {mode} {sorted(variant)}"
                    told[name] = await _said(self.rag.Search(wanted, metadata=self.marked()), self._plain(mode))
            mode = pb.SEARCH_MODE_HYBRID if self.site.by_order else pb.SEARCH_MODE_VECTOR
            batch = pb.SearchBatchRequest(searches=[pb.SearchRequest(collection=COLLECTION, query=question, mode=mode)] * 2)
            told[f"batch {number}"] = await _said(self.rag.SearchBatch(batch, metadata=self.marked()))
            for history in ([], [Turn(question=question, answer="…")]):
                ask = pb.AskRequest(collection=COLLECTION, question=question, mode=mode, explain=True, history=history)
                told[f"ask {number} {len(history)}"] = await _heard(self.rag.Ask(ask, metadata=self.marked()))
        told |= await self._documents()
        for name, request in {
            "bad filter": pb.SearchRequest(collection=COLLECTION, query="a", filter=_category("a", "body")),
            "bad limit": pb.SearchRequest(collection=COLLECTION, query="a", limit=5000),
            "bad collection": pb.SearchRequest(collection="none", query="a"),
        }.items():
            told[name] = await _said(self.rag.Search(request, metadata=self.marked()))
        return told

    async def _documents(self) -> dict[str, bytes]:
        told: dict[str, bytes] = {}
        for one in (*self.world.documents, *self.world.others):
            request = pb.GetDocumentRequest(collection=COLLECTION, document_id=one.id)
            told[f"get {one.id}"] = await _said(self.rag.GetDocument(request, metadata=self.marked()))
        for wanted in (None, _category("a")):
            token, page = "", 0
            while token or not page:
                listing = pb.ListDocumentsRequest(
                    collection=COLLECTION, filter=wanted, page_size=self.world.limit, page_token=token
                )
                try:
                    found = await self.rag.ListDocuments(listing, metadata=self.marked())
                except grpc.aio.AioRpcError as error:
                    told[f"list {wanted} {page}"] = _error(error)
                    break
                told[f"list {wanted} {page}"] = found.SerializeToString(deterministic=True)
                token, page = found.next_page_token, page + 1
        told["collections"] = await _said(self.rag.ListCollections(pb.ListCollectionsRequest(), metadata=self.marked()))
        one_collection = pb.GetCollectionRequest(name=COLLECTION)
        told["collection"] = await _said(self.rag.GetCollection(one_collection, metadata=self.marked()))
        ids = types.DocumentIds(ids=[one.id for one in self.world.documents])
        for name, which in {"ids": {"ids": ids}, "filter": {"filter": _category("a")}, "all": {"every_document": True}}.items():
            deletion = pb.DeleteDocumentsRequest(collection=COLLECTION, dry_run=True, **which)  # type: ignore[arg-type]
            told[f"would delete {name}"] = await _said(self.rag.DeleteDocuments(deletion, metadata=self.marked()))
        return told

    async def write(self) -> None:
        """Tries to replace and to add; what the asker adds, the asker deletes."""
        hidden = self.world.hidden()
        mine = Planted(self.world.asker, ("toner",), "a")
        foreign = Planted(frozenset(GROUPS) - self.world.asker, ("toner",), "a")
        taken = [types.Document(id=one.id, fields=mine.message().fields, groups=sorted(self.world.asker)) for one in hidden]
        batch = [*taken, foreign.message(), mine.message()]
        for dry_run in (True, False):
            request = pb.ImportDocumentsRequest(collection=COLLECTION, documents=batch, dry_run=dry_run)
            outcomes = (await self.rag.ImportDocuments(request, metadata=self.marked())).outcomes
            assert [one.reason for one in outcomes] == ["DOCUMENT_HIDDEN"] * (len(taken) + 1) + [""]
        gone = pb.DeleteDocumentsRequest(collection=COLLECTION, ids=types.DocumentIds(ids=[mine.id]))
        assert list((await self.rag.DeleteDocuments(gone, metadata=self.marked())).document_ids) == [mine.id]

    async def delete(self) -> dict[str, bytes]:
        """Tries to delete what is hidden, then all; tells what was said."""
        hidden = types.DocumentIds(ids=[one.id for one in self.world.hidden()])
        deletion = pb.DeleteDocumentsRequest(collection=COLLECTION, ids=hidden)
        told = {"delete ids": await _said(self.rag.DeleteDocuments(deletion, metadata=self.marked()))}
        deletion = pb.DeleteDocumentsRequest(collection=COLLECTION, every_document=True)
        told["delete all"] = await _said(self.rag.DeleteDocuments(deletion, metadata=self.marked()))
        return told

    def _questions(self) -> list[str]:
        """What was drawn, and what hidden documents say word for word."""
        hidden = self.world.hidden()[0]
        return [*self.world.questions, f"{' '.join(hidden.words)} {hidden.word}"]

    def _ordered(self, mode: int) -> bool:
        return self.site.by_order or mode == pb.SEARCH_MODE_VECTOR

    def _plain(self, mode: int) -> bool:
        return self._ordered(mode)


async def _said(call: Awaitable[Any], ordered: bool = True) -> bytes:
    try:
        response = await call
    except grpc.aio.AioRpcError as error:
        return _error(error)
    if not ordered:
        # Where the order by words is the engine's, it is not claimed to tell nothing.
        for source in response.sources:
            source.number = 0
            source.passage.scores.ClearField("keyword_rank")
        response.sources.sort(key=lambda source: (source.passage.document_id, source.passage.chunk))
    found: bytes = response.SerializeToString(deterministic=True)
    return found


async def _heard(call: Any) -> bytes:
    events = []
    try:
        async for event in call:
            events.append(event.SerializeToString(deterministic=True))
    except grpc.aio.AioRpcError as error:
        events.append(_error(error))
    return b"\n".join(events)


def _error(error: grpc.aio.AioRpcError) -> bytes:
    found = from_rpc_error(error)
    return repr((str(error.code()), error.details(), found.reason, found.field, found.metadata, found.retry_after_s)).encode()


def _category(value: str, name: str = "category") -> types.Filter:
    return types.Filter(equals=types.Comparison(field=name, value=types.Value(keyword=value)))


async def _check(site: Site, world: World) -> None:
    run, hidden, seen = uuid.uuid4().hex[:8], world.hidden(), world.seen()
    there, twin, others = f"with-{run}", f"without-{run}", f"others-{run}"
    half = len(hidden) // 2
    await site.fill(there, hidden[:half], seen, hidden[half:])
    await site.fill(twin, seen)
    await site.fill(others, world.others)
    site.planted += [one.word for one in (*world.documents, *world.others)]
    asker, shadow = Asker(site, world, there), Asker(site, world, twin)
    # Who sees everything asks first: nothing that is kept of that may be used for others.
    for question in ("printer", "打印机"):
        ask = pb.AskRequest(collection=COLLECTION, question=question)
        assert await _heard(site.stubs[CLI].Ask(ask, metadata=(("ragkeep-tenant", there),)))
    told, expected = await asker.told(), await shadow.told()
    twins = list(zip(asker.requests, shadow.requests, strict=True))
    unknown = {one.word.encode() for one in (*hidden, *world.others)}
    for name, said in told.items():
        assert said == expected.get(name), f"{name}: {said!r} with hidden documents, {expected.get(name)!r} without"
        # An answer says what was looked for; that of a hidden document's own word is its twin's, to the byte.
        leaked = {word for word in unknown if word in said and not (name.startswith(("ask", "get")) and said == expected[name])}
        assert not leaked, name
    assert told.keys() == expected.keys()
    site.compared += len(told)
    for number, response in enumerate(told[name] for name in told if name.startswith("search")):
        scores = [source.passage.scores for source in _parsed(response)]
        assert not any(one.HasField("bm25") or one.HasField("fused") for one in scores), number
    await _check_everything_is_there_for_others(site, world, there)
    await asker.write()
    assert await asker.delete() == await shadow.delete()
    twins += zip(asker.requests[-2:], shadow.requests[-2:], strict=True)
    left = {one.id: frozenset(one.groups) for one in await _stored(site, there)}
    assert left == {one.id: one.groups for one in hidden}, "what the asker saw is gone, and nothing else"
    await _check_record(site, world, asker, shadow, twins)
    site.worlds += 1


async def _check_everything_is_there_for_others(site: Site, world: World, tenant: str) -> None:
    """Otherwise nothing would be hidden, and nothing shown by this test."""
    metadata = (("ragkeep-tenant", tenant),)
    for one in world.hidden():
        request = pb.SearchRequest(collection=COLLECTION, query=one.word, mode=pb.SEARCH_MODE_KEYWORD)
        found = await site.stubs[CLI].Search(request, metadata=metadata)
        assert [source.passage.document_id for source in found.sources] == [one.id]
        assert found.sources[0].passage.scores.HasField("bm25")
    assert {one.id: frozenset(one.groups) for one in await _stored(site, tenant)} == {
        one.id: one.groups for one in world.documents
    }


async def _stored(site: Site, tenant: str) -> list[types.Document]:
    request = pb.ListDocumentsRequest(collection=COLLECTION, page_size=1000)
    found = await site.stubs[CLI].ListDocuments(request, metadata=(("ragkeep-tenant", tenant),))
    return [one.document for one in found.documents]


async def _check_record(site: Site, world: World, asker: Asker, shadow: Asker, twins: list[tuple[str, str]]) -> None:
    """The audit log: no document that the asker does not see is said to have been shown, nor its words; ids that the asker named
    are there, and whether there is such a document is not to be told: the twin's lines are the same."""
    hidden = {one.word for one in (*world.hidden(), *world.others)}
    mine = await _on_record(site, asker.requests)
    theirs = await _on_record(site, shadow.requests)
    site.lines += sum(map(len, mine.values()))
    for line in (line for of_call in mine.values() for line in of_call):
        if line["kind"] == "asked":
            assert not hidden & {document.removeprefix("D-") for document in line["documents"]}
            said = {key: value for key, value in line.items() if not key.startswith("question") and key != "requested"}
            assert not any(word in str(said) for word in hidden), said
    for one, other in twins:
        assert [_comparable(line) for line in mine[one]] == [_comparable(line) for line in theirs[other]]


async def _on_record(site: Site, requests: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The lines of each call, once its last one is there."""
    found: dict[str, list[dict[str, Any]]] = {}

    def whole() -> bool:
        found.clear()
        found.update({one: [] for one in requests})
        for line in lines(site.stack):
            if line.get("request_id") in found:
                found[line["request_id"]].append(line)
        return all(any(line.get("outcome", "attempted") != "attempted" for line in of_call) for of_call in found.values())

    await until_true(whole)
    return found


def _comparable(line: dict[str, Any]) -> dict[str, Any]:
    """What a line says beside which call it was; where the order by words is the engine's, it is not claimed to tell nothing."""
    own = {"seq", "time", "mac", "call", "request_id", "trace_id", "tenant", "duration_ms"}
    return {key: sorted(value) if key == "documents" else value for key, value in line.items() if key not in own}


def _parsed(response: bytes) -> list[pb.Source]:
    try:
        return list(pb.SearchResponse.FromString(response).sources)
    except Exception:  # an error's text is no response
        return []


@pytest.mark.timeout(900)
def test_nothing_that_is_hidden_shows(site: Stack) -> None:
    """No answer, source, count, score, error, page or line of the audit log; and unlimited callers see all of it."""
    engine = str(site.engine)  # type: ignore[attr-defined]
    examples = int(os.environ.get("RAGKEEP_LEAK_EXAMPLES") or EXAMPLES[engine])
    print(f"RAGKEEP_LEAK_SEED={SEED}")
    with asyncio.Runner() as runner:
        held = AsyncExitStack()
        opened = runner.run(held.enter_async_context(Site.opened(site, by_order=engine == "sqlite")))

        @seed(SEED)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            # Shrinking a failure would take minutes: the seed and the assertion say enough.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(worlds())
        def check(world: World) -> None:
            runner.run(_check(opened, world))

        try:
            check()
        finally:
            runner.run(held.aclose())
    assert opened.worlds >= examples
    logs = {name: site.log(name) for name in SERVICES}
    for name, text in logs.items():
        assert not [word for word in opened.planted if word in text], f"the log of the {name} holds words of documents"
    print(
        f"{opened.worlds} worlds, {opened.compared} answers compared, {opened.lines} audit lines, {len(opened.planted)} words"
    )
