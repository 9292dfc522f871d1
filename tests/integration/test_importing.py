"""Import through the real gateway: dry runs, resuming, what costs no embedding, and odd text that comes back as it was."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

import pytest

from ragkeep.embedder.v1 import embedder_pb2
from ragkeep.embedder.v1.embedder_pb2_grpc import EmbedderServiceStub
from ragkeep.retriever.v1 import retriever_pb2
from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceStub
from ragkeep.types.v1.types_pb2 import Collection, Field, FieldType
from ragkeep_client.client import Client
from ragkeep_client.documents import TICKET_FIELDS, Columns
from ragkeep_client.events import Outcome
from ragkeep_client.intake import Intake, Item
from ragkeep_client.mapping import Mapping
from ragkeep_client.source import find_sources
from ragkeep_client.values import Document, Keyword
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.errors import CollectionUnknown
from tests.stack import Stack

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite")]
NOTES = "notes"


def client(stack: Stack, tenant: str) -> Client:
    return Client(stack.target("gateway"), stack.cli, tenant=tenant)


def ticket(number: int, solution: str = "Restart it.") -> Document:
    texts = {"title": f"Printer {number} is offline", "description": "It does not print.", "solution": solution}
    return Document(f"P-{number}", {**texts, "ticket_id": Keyword(f"P-{number}"), "category": Keyword("Printing")})


async def kinds(imported: AsyncIterator[Outcome]) -> list[str]:
    found = sorted([outcome async for outcome in imported], key=lambda outcome: outcome.position)
    return [outcome.reason or outcome.kind for outcome in found]


def embedded(stack: Stack) -> int:
    """Calls that embedded something."""
    return sum('EmbedderService/Embed"' in line for line in stack.log("embedder").splitlines())


@pytest.fixture
async def notes(stack: Stack) -> Stack:
    """The stack with a collection that has a field of each type."""
    async with open_channel(stack.target("embedder"), "embedder", stack.identities["gateway"]) as channel:
        space = (await EmbedderServiceStub(channel).GetModel(embedder_pb2.GetModelRequest())).space
    text, keyword = FieldType.FIELD_TYPE_TEXT, FieldType.FIELD_TYPE_KEYWORD
    fields = [
        Field(name="title", type=text, required=True),
        Field(name="remark", type=text),
        Field(name="attachment", type=text),  # kept, not indexed
        Field(name="team", type=keyword, filterable=True),
        Field(name="cost", type=FieldType.FIELD_TYPE_NUMBER, filterable=True),
        Field(name="open", type=FieldType.FIELD_TYPE_BOOLEAN, filterable=True),
        Field(name="opened", type=FieldType.FIELD_TYPE_TIMESTAMP, filterable=True),
    ]
    collection = Collection(name=NOTES, fields=fields, content_template="{title}\n{remark}", space=space, title_field="title")
    async with open_channel(stack.target("retriever"), "retriever", stack.identities["gateway"]) as channel:
        request = retriever_pb2.CreateCollectionRequest(collection=collection)
        await RetrieverServiceStub(channel).CreateCollection(request)
    return stack


async def import_files(stack: Stack, tenant: str, paths: Sequence[Path], collection: str = NOTES) -> list[str]:
    """Outcomes of the rows of files, with the reasons of those that were none."""
    async with client(stack, tenant) as found:
        fields = next((one.fields for one in await found.list_collections() if one.name == collection), TICKET_FIELDS)
        columns = Columns.of(collection, fields)
        sources = find_sources(paths, None)
        outcomes: list[str] = []
        documents = []
        async with aclosing(Intake(sources, columns, Mapping(columns.known)).events()) as events:
            async for event in events:
                if isinstance(event, Item):
                    document = getattr(event.found, "document", None)
                    if document is None:
                        outcomes.append(getattr(event.found, "reason", "duplicate"))
                    else:
                        documents.append(document)
        return outcomes + await kinds(found.import_documents(documents, collection=collection))


async def test_a_dry_run_says_what_would_become_of_documents_and_does_nothing(stack: Stack) -> None:
    """Created, unchanged, updated and rejected as by the import itself; nothing is stored and nothing embedded."""
    async with client(stack, "dry-run") as found:
        documents = [ticket(1), ticket(2), ticket(1), ticket(2, "other"), Document("P-3", {"title": "only"})]
        expected = ["created", "created", "unchanged", "DUPLICATE_ID", "FIELD_MISSING"]
        before = embedded(stack)
        assert await kinds(found.import_documents(documents, dry_run=True)) == expected
        assert embedded(stack) == before
        assert not sum(one.documents for one in await found.list_collections())
        assert await kinds(found.import_documents(documents)) == expected
        again = [ticket(1), ticket(2, "Buy another."), ticket(4)]
        before = embedded(stack)
        assert await kinds(found.import_documents(again, dry_run=True)) == ["unchanged", "updated", "created"]
        assert embedded(stack) == before
        assert await kinds(found.import_documents(again)) == ["unchanged", "updated", "created"]


async def test_a_dry_run_makes_no_collection(tmp_path: Path) -> None:
    """Not even the preset; an unknown one is refused as by the import."""
    stack = Stack(tmp_path)
    try:
        stack.start("embedder", "retriever", "gateway")
        async with client(stack, "demo") as found:
            assert await kinds(found.import_documents([ticket(1)], dry_run=True)) == ["created"]
            assert await found.list_collections() == []
            with pytest.raises(CollectionUnknown):
                await kinds(found.import_documents([ticket(1)], collection="unheard", dry_run=True))
    finally:
        stack.stop()


async def test_unchanged_documents_are_not_embedded_again(stack: Stack) -> None:
    """What is there in the same version costs a look at its version and no more."""
    async with client(stack, "unchanged") as found:
        documents = [ticket(number) for number in range(30)]
        await kinds(found.import_documents(documents))
        before = embedded(stack)
        assert set(await kinds(found.import_documents(documents))) == {"unchanged"}
        assert embedded(stack) == before


async def test_a_document_that_became_shorter_leaves_no_old_chunk(stack: Stack) -> None:
    """Its former end is not found any more."""
    async with client(stack, "shorter") as found:
        long = "First restart the spooler service. " * 80 + "At last call the zebra keeper."
        await kinds(found.import_documents([ticket(1, long)]))
        assert max(source.chunk for source in await found.search("zebra keeper", mode="keyword")) > 1
        assert await kinds(found.import_documents([ticket(1, "Restart.")])) == ["updated"]
        assert not await found.search("zebra keeper", mode="keyword")
        assert {source.chunk for source in await found.search("printer", limit=50)} == {0}


async def test_rows_of_every_format_become_the_same_documents(notes: Stack, tmp_path: Path) -> None:
    """CSV first; TSV and JSONL of the same content change nothing; nor does what an export writes."""
    (tmp_path / "1.csv").write_text("id,title,cost,open,opened\n1,Lamp,2.5,yes,2026-01-31T20:00:00+08:00\n", encoding="utf-8")
    (tmp_path / "2.tsv").write_text("opened\topen\tcost\ttitle\tid\n2026-01-31T12:00:00Z\tTRUE\t2.50\tLamp\t1\n")
    values = {"title": "Lamp", "cost": 2.5, "open": True, "opened": "2026-01-31T12:00:00Z"}
    (tmp_path / "3.jsonl").write_text(json.dumps({"id": "1", **values, "team": None}))
    (tmp_path / "4.jsonl").write_text(json.dumps({"id": "1", "fields": values, "groups": []}))
    expected = ["created", "unchanged", "unchanged", "unchanged"]
    for path, kind in zip(sorted(tmp_path.iterdir()), expected, strict=True):
        assert await import_files(notes, "formats", [path]) == [kind], path


ODD = {
    "controls": "".join(map(chr, [*range(1, 0x20), *range(0x7F, 0xA0)])) + "x",
    "right-to-left": "שלום \u202eabc\u202c \u200fمرحبا",
    "emoji": "👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 \U0001f9d1\U0001f3fd",
    "combining": "Z\u0351\u036b\u0343 e\u0301 \u00e9",
    "bom": "\ufeffinside",
    "line-ends": "a\rb\nc\r\nd\u2028e\u2029f\u0085g",
    "quotes": '"a", ""b""\t;',
    "astral": "\U0010ffff 𝕏 \U00020bb7野家",
    "long": "字" * 300_000,
}


@pytest.mark.parametrize("name", ODD)
async def test_odd_text_is_stored_and_comes_back_as_it_was(notes: Stack, tmp_path: Path, name: str) -> None:
    """Through the file, the gateway, the store and back, in every format that can hold it."""
    text = ODD[name]
    tenant = f"odd-{name}"
    field = "attachment" if name == "long" else "remark"
    lines = json.dumps({"id": "1", "title": "findable", field: text}, ensure_ascii=False)
    (tmp_path / "1.jsonl").write_bytes(lines.encode())
    quoted = text.replace('"', '""')
    (tmp_path / "2.csv").write_bytes(f'id,title,{field}\n1,findable,"{quoted}"\n'.encode())
    assert await import_files(notes, tenant, [tmp_path / "1.jsonl"]) == ["created"]
    assert await import_files(notes, tenant, [tmp_path / "2.csv"]) == ["unchanged"]
    async with client(notes, tenant) as found:
        sources = await found.search("findable", collection=NOTES, limit=1)
    assert sources[0].fields[field] == text


async def test_text_that_no_store_can_hold_is_rejected_by_its_row(notes: Stack, tmp_path: Path) -> None:
    """NUL, lone surrogates and ten megabytes: each row with its reason, and the row after them is there."""
    path = tmp_path / "odd.jsonl"
    rows = [
        {"id": "1", "title": "a\0b"},
        {"id": "2", "title": "a\ud800"},
        {"id": "3", "title": "x" * 10 * 1024 * 1024},
        {"id": "4", "title": "x" * 1_100_000},
        {"id": "5\n", "title": "id"},
        {"id": "6", "title": "fine"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = await import_files(notes, "unholdable", [path])
    # The first three are known to the reader, the others once they are sent.
    reasons = ["TEXT_INVALID", "TEXT_INVALID", "DOCUMENT_TOO_LARGE", "DOCUMENT_TOO_LARGE", "DOCUMENT_ID_INVALID", "created"]
    assert found == reasons


def spans(stack: Stack, service: str, method: str) -> list[tuple[float, float]]:
    """(begin, end) of each call that a service's log holds, in seconds."""
    found = []
    for line in stack.log(service).splitlines():
        if f'Service/{method}"' in line:
            facts = json.loads(line)
            end = datetime.fromisoformat(facts["timestamp"]).timestamp()
            found.append((end - facts["duration_ms"] / 1000, end))
    return found


async def test_storing_one_batch_overlaps_with_embedding_another(tmp_path: Path) -> None:
    """By the services' own logs: while one stores, the other has a call in hand."""
    stack = Stack(tmp_path)
    try:
        stack.start("embedder", "retriever", "gateway")
        async with client(stack, "demo") as found:
            await kinds(found.import_documents(_many(60)))
        embeds, puts = spans(stack, "embedder", "Embed"), spans(stack, "retriever", "PutDocuments")
        assert len(puts) > 1
        assert any(begin < end and other < until for begin, until in puts for other, end in embeds)
    finally:
        stack.stop()


@pytest.mark.parametrize("name", ["embedder", "retriever", "gateway"])
async def test_a_service_that_is_killed_in_the_middle_is_waited_for(tmp_path: Path, name: str) -> None:
    """kill -9, a second of absence, and every document has its outcome and is found."""
    stack = Stack(tmp_path)
    try:
        stack.start("embedder", "retriever", "gateway")
        async with client(stack, "demo") as found:
            outcomes: list[Outcome] = []
            async with aclosing(found.import_documents(_many(60))) as imported:
                async for outcome in imported:
                    outcomes.append(outcome)
                    if len(outcomes) == 8:
                        stack.kill(name)
                        await asyncio.sleep(1)
                        stack.start(name, wait=False)
            assert sorted(outcome.position for outcome in outcomes) == list(range(60))
            # What was stored before its answer was lost is unchanged when it is sent again.
            assert {outcome.kind for outcome in outcomes} <= {"created", "unchanged"}
            assert [one.documents for one in await found.list_collections()] == [60]
            assert set(await kinds(found.import_documents(_many(60)))) == {"unchanged"}
    finally:
        stack.stop()


def _many(count: int) -> Iterator[Document]:
    return (ticket(number) for number in range(count))
