"""A collection's life and its documents, over the real RPCs; every reason of theirs is raised through one."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import apsw
import grpc
import pytest

import ragkeep_client
from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.types.v1 import types_pb2 as types
from ragkeep_client import AllOf, Client, Document, Equals, Evidence, Field, Keyword, NoneOf, OneOf, Range, Schema, Sources
from ragkeep_client.commands.export import export_line
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.errors import (
    CollectionChanged,
    CollectionFixed,
    CollectionInUse,
    CollectionUnknown,
    DocumentUnknown,
    InvalidRequest,
    RagkeepError,
    from_rpc_error,
)
from tests.stack import Stack
from tests.waiting import until_comes

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
TENANT = (("ragkeep-tenant", "shelf"),)


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    """An admin, for one tenant."""
    async with Client(stack.target("gateway"), stack.cli, tenant="shelf") as found:
        yield found


def articles() -> Schema:
    """A schema of a name that nobody else has."""
    fields = (
        Field("title", "text", searchable=True, required=True),
        Field("body", "text", searchable=True),
        Field("topic", "keyword", filterable=True),
        Field("year", "number", filterable=True),
        Field("open", "boolean", filterable=True),
        Field("at", "timestamp", filterable=True),
    )
    return Schema(f"articles-{uuid.uuid4().hex[:8]}", fields, title_field="title")


def article(number: int, **fields: Any) -> Document:
    """One of them."""
    return Document(f"A-{number}", {"title": f"Article {number} on gardens", "year": 2000.0 + number, **fields})


@pytest.fixture
async def schema(client: Client) -> Schema:
    """A fresh collection with ten articles in it."""
    made = await client.create_collection(articles())
    documents = [article(n, topic=Keyword("even" if n % 2 == 0 else "odd")) for n in range(10)]
    outcomes = [one async for one in client.import_documents(documents, collection=made.name)]
    assert {one.kind for one in outcomes} == {"created"}
    return made


async def test_a_collection_is_made_shown_changed_and_deleted(client: Client) -> None:
    """With its defaults filled in; the same again is no error."""
    wanted = articles()
    made = await client.create_collection(wanted)
    assert (made.content_template, made.ef, made.cjk_characters) == ("{title}\n{body}", 200, 350)
    assert await client.create_collection(wanted) == made
    found = await client.get_collection(made.name)
    assert (found.schema, found.documents, found.revision, found.embedding_model) == (made, 0, 1, "multilingual-e5-small")
    wanted = Schema(wanted.name, (*wanted.fields, Field("note", "text")), prompt_template="{passages} {question}")
    change = await client.update_collection(wanted, revision=1)
    assert (change.revision, change.import_again, change.schema.title_field) == (2, False, "")
    assert (await client.update_collection(Schema(wanted.name, wanted.fields, latin_characters=500))).import_again
    await client.delete_collection(made.name)
    with pytest.raises(CollectionUnknown):
        await client.get_collection(made.name)
    assert made.name not in {one.name for one in await client.list_collections()}


async def test_the_preset_is_made_under_any_name(client: Client) -> None:
    """Its own, where none is given: then the first import finds it there."""
    name = f"tickets-{uuid.uuid4().hex[:8]}"
    made = await client.create_preset("ServiceTicket", name)
    assert [field.name for field in made.fields] == ["ticket_id", "title", "description", "solution", "category"]
    assert (await client.create_preset("ServiceTicket")).name == "service-tickets"
    with pytest.raises(InvalidRequest, match="ServiceTicket"):
        await client.create_preset("Invoice")


async def test_documents_are_got_listed_and_filtered(client: Client, schema: Schema) -> None:
    """Each once, whatever the page's size, and with what it was imported with."""
    for size in (1, 3, 100):
        found = [one async for one in client.list_documents(collection=schema.name, page_size=size)]
        assert sorted(one.id for one in found) == [f"A-{n}" for n in range(10)]
    one = await client.get_document("A-3", collection=schema.name)
    assert (dict(one.fields), one.groups, one.chunks) == (
        {"title": "Article 3 on gardens", "topic": "odd", "year": 2003.0},
        (),
        1,
    )
    for wanted, expected in (
        (Equals("topic", Keyword("odd")), {1, 3, 5, 7, 9}),
        (OneOf("year", (2001.0, 2004.0, 1999.0)), {1, 4}),
        (AllOf((Range("year", at_least=2003.0, less_than=2006.0), NoneOf(Equals("topic", Keyword("odd"))))), {4}),
    ):
        found = [one async for one in client.list_documents(collection=schema.name, filter=wanted, page_size=2)]
        assert {one.id for one in found} == {f"A-{n}" for n in expected}


async def test_deleted_documents_are_not_found_by_the_next_search(client: Client, schema: Schema) -> None:
    """By ids, by filter, all; a dry run deletes nothing; what was not there is not said to be deleted."""
    dry = await client.delete_documents(schema.name, every_document=True, dry_run=True)
    assert sorted(dry) == [f"A-{n}" for n in range(10)]
    assert await client.delete_documents(schema.name, ids=["A-3", "nope", "A-3"]) == ["A-3"]
    gone = await client.delete_documents(schema.name, filter=Equals("topic", Keyword("even")))
    assert sorted(gone) == ["A-0", "A-2", "A-4", "A-6", "A-8"]
    found = await client.search("Article on gardens", collection=schema.name, limit=100)
    assert {one.document_id for one in found} == {"A-1", "A-5", "A-7", "A-9"}
    heard: list[int] = []
    await client.delete_documents(schema.name, every_document=True, progress=heard.append)
    assert heard == [4]
    assert await client.search("Article on gardens", collection=schema.name) == []
    assert (await client.get_collection(schema.name)).documents == 0
    await client.delete_collection(schema.name)


async def test_what_is_exported_and_imported_again_is_unchanged(client: Client, schema: Schema) -> None:
    """Every type of value, moments to the microsecond, groups; also after everything was deleted."""
    from datetime import UTC, datetime, timedelta, timezone

    documents = [
        article(20, at=datetime(2026, 3, 1, 12, 30, 0, 123_456, tzinfo=timezone(timedelta(hours=8))), open=True),
        article(21, at=datetime(1, 1, 1, tzinfo=UTC), year=-0.0, body="\u2028 line\nends \x85 \u202eright to left 🙂"),
        Document("A/22 ü", {"title": "with groups", "open": False, "year": 1e300}, ("hr", "it")),
    ]
    first = [one async for one in client.import_documents(documents, collection=schema.name)]
    assert {one.kind for one in first} == {"created"}
    exported = [one async for one in client.list_documents(collection=schema.name)]
    again = [Document(one.id, one.fields, one.groups) for one in exported]
    outcomes = [one async for one in client.import_documents(again, collection=schema.name)]
    assert {one.kind for one in outcomes} == {"unchanged"}
    lines = [export_line(one.id, one.fields, one.groups) for one in exported]
    assert all(len(line.splitlines()) == 1 for line in lines)
    await client.delete_documents(schema.name, every_document=True)
    outcomes = [one async for one in client.import_documents(again, collection=schema.name)]
    assert {one.kind for one in outcomes} == {"created"}
    assert sorted(lines) == sorted(
        [export_line(one.id, one.fields, one.groups) async for one in client.list_documents(collection=schema.name)]
    )


async def test_a_moment_finer_than_a_microsecond_is_the_same_when_it_comes_back(rag: RagServiceStub, schema: Schema) -> None:
    """Stores keep microseconds: what is finer does not make a document new."""
    kinds = []
    for nanos in (123_456_789, 123_456_000):
        value = types.Value(timestamp={"seconds": 1_700_000_000, "nanos": nanos})
        one = types.Document(id="fine", fields={"title": types.Value(text="x"), "at": value})
        request = pb.ImportDocumentsRequest(collection=schema.name, documents=[one])
        kinds.append((await rag.ImportDocuments(request, metadata=TENANT)).outcomes[0].kind)
    assert kinds == [types.OUTCOME_KIND_CREATED, types.OUTCOME_KIND_UNCHANGED]


async def test_minimum_evidence_is_the_collections_own(client: Client, schema: Schema) -> None:
    """At coverage 0 nothing is refused; what was refused before is answered then."""
    question = "How do I bake a chocolate cake for eight people?"

    async def sources() -> int:
        async for event in client.ask(question, collection=schema.name):
            if type(event).__name__ == "Sources":
                return len(event.sources)  # type: ignore[union-attr]
        return -1

    strict = Schema(schema.name, schema.fields, minimum_coverage=1.0, minimum_margin=2.0)
    await client.update_collection(strict)
    assert await sources() == 0
    await client.update_collection(Schema(schema.name, schema.fields, minimum_coverage=0.0))
    assert await sources() == 5


async def test_a_question_sets_its_own_threshold_before_its_collection(client: Client, schema: Schema) -> None:
    """Each half of it: what the question leaves open is the collection's."""
    await client.update_collection(Schema(schema.name, schema.fields, minimum_coverage=1.0, minimum_margin=2.0))

    async def evidence(**own: float) -> Evidence:
        events = [event async for event in client.ask("How do I bake a cake for gardens?", collection=schema.name, **own)]  # type: ignore[arg-type]
        (sources,) = [event for event in events if isinstance(event, Sources)]
        return sources.evidence

    theirs = await evidence()
    assert (theirs.suffices, theirs.minimum_coverage, theirs.minimum_margin) == (False, 1.0, 2.0)
    own = await evidence(minimum_coverage=0.0)
    assert (own.suffices, own.minimum_coverage, own.minimum_margin) == (True, 0.0, 2.0)


async def test_what_cannot_be_done_to_a_collection_has_its_reason(client: Client, schema: Schema) -> None:
    """In use, fixed, changed meanwhile, another definition, a wrong template, sealed."""
    with pytest.raises(CollectionInUse, match="10 documents"):
        await client.delete_collection(schema.name)
    with pytest.raises(CollectionFixed, match="export the documents"):
        await client.update_collection(Schema(schema.name, schema.fields[:-1]))
    with pytest.raises(CollectionChanged):
        await client.update_collection(schema, revision=7)
    for wrong, reason in (
        (Schema(schema.name, schema.fields, content_template="{title} {body}!"), "COLLECTION_EXISTS"),
        (Schema("new-one", schema.fields, content_template="{titel}"), "TEMPLATE_INVALID"),
        (Schema("new-one", schema.fields, prompt_template="{question}"), "TEMPLATE_INVALID"),
        (Schema("new-one", (*schema.fields, Field("iban", "text", sealed=True))), "SEALING_UNAVAILABLE"),
        (Schema("New one", schema.fields), "INVALID_REQUEST"),
        (Schema("new-one", schema.fields, ef=9999), "INVALID_REQUEST"),
    ):
        with pytest.raises(RagkeepError) as refused:
            await client.create_collection(wrong)
        assert refused.value.reason == reason
        assert refused.value.message.endswith(".")
    with pytest.raises(DocumentUnknown, match="A-99"):
        await client.get_document("A-99", collection=schema.name)
    for ids, wanted, everything in ((None, None, False), (["a"], None, True), (["a"], Equals("year", 1.0), False)):
        with pytest.raises(InvalidRequest):
            await client.delete_documents(schema.name, ids=ids, filter=wanted, every_document=everything)
    assert "new-one" not in {one.name for one in await client.list_collections()}


def _filter(field: str, **value: Any) -> types.Filter:
    return types.Filter(equals=types.Comparison(field=field, value=types.Value(**value)))


@pytest.mark.parametrize(
    ("method", "request_", "reason"),
    [
        ("GetCollection", pb.GetCollectionRequest(name="unheard"), "COLLECTION_UNKNOWN"),
        ("CreateCollection", pb.CreateCollectionRequest(), "INVALID_REQUEST"),
        ("UpdateCollection", pb.UpdateCollectionRequest(), "INVALID_REQUEST"),
        ("DeleteCollection", pb.DeleteCollectionRequest(), "INVALID_REQUEST"),
        ("DeleteCollection", pb.DeleteCollectionRequest(name="unheard"), "COLLECTION_UNKNOWN"),
        ("GetDocument", pb.GetDocumentRequest(collection="{}"), "INVALID_REQUEST"),
        ("GetDocument", pb.GetDocumentRequest(collection="unheard", document_id="a"), "COLLECTION_UNKNOWN"),
        ("ListDocuments", pb.ListDocumentsRequest(collection="{}", page_size=0), "LIMIT_OUT_OF_RANGE"),
        ("ListDocuments", pb.ListDocumentsRequest(collection="{}", page_size=1001), "LIMIT_OUT_OF_RANGE"),
        ("ListDocuments", pb.ListDocumentsRequest(collection="{}", page_token="junk"), "INVALID_REQUEST"),
        ("ListDocuments", pb.ListDocumentsRequest(collection="{}", filter=_filter("body", text="x")), "FILTER_FIELD_UNKNOWN"),
        ("ListDocuments", pb.ListDocumentsRequest(collection="{}", filter=_filter("year", text="x")), "FILTER_TYPE_WRONG"),
        ("DeleteDocuments", pb.DeleteDocumentsRequest(every_document=True), "INVALID_REQUEST"),
        ("DeleteDocuments", pb.DeleteDocumentsRequest(collection="{}"), "INVALID_REQUEST"),
        ("DeleteDocuments", pb.DeleteDocumentsRequest(collection="{}", every_document=False), "INVALID_REQUEST"),
        ("DeleteDocuments", pb.DeleteDocumentsRequest(collection="{}", filter=types.Filter()), "INVALID_REQUEST"),
        ("DeleteDocuments", pb.DeleteDocumentsRequest(collection="{}", ids=types.DocumentIds()), "REQUEST_TOO_LARGE"),
        (
            "DeleteDocuments",
            pb.DeleteDocumentsRequest(collection="{}", ids=types.DocumentIds(ids=[str(n) for n in range(1001)])),
            "REQUEST_TOO_LARGE",
        ),
    ],
)
async def test_a_wrong_request_has_its_reason(
    rag: RagServiceStub, schema: Schema, method: str, request_: Any, reason: str
) -> None:
    """And nothing is deleted by it."""
    wrong = type(request_)()
    wrong.CopyFrom(request_)
    if getattr(wrong, "collection", "") == "{}":
        wrong.collection = schema.name
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await getattr(rag, method)(wrong, metadata=TENANT)
    error = from_rpc_error(failed.value)
    assert error.reason == reason
    assert error.message.endswith(".")
    listed = await rag.ListDocuments(pb.ListDocumentsRequest(collection=schema.name), metadata=TENANT)
    assert len(listed.documents) == 10


async def test_a_page_token_is_for_its_own_list_and_tenant(rag: RagServiceStub, schema: Schema) -> None:
    """With another filter it is refused; another tenant's list does not begin in the middle of ours."""
    first = await rag.ListDocuments(pb.ListDocumentsRequest(collection=schema.name, page_size=3), metadata=TENANT)
    other = pb.ListDocumentsRequest(
        collection=schema.name, page_token=first.next_page_token, filter=_filter("topic", keyword="odd")
    )
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await rag.ListDocuments(other, metadata=TENANT)
    assert from_rpc_error(failed.value).reason == "INVALID_REQUEST"
    theirs = pb.ListDocumentsRequest(collection=schema.name, page_token=first.next_page_token)
    assert not (await rag.ListDocuments(theirs, metadata=(("ragkeep-tenant", "stranger"),))).documents


async def test_tenants_do_not_see_get_list_or_delete_each_others_documents(rag: RagServiceStub, schema: Schema) -> None:
    """Nor count them; but a collection that a stranger uses is not deleted either."""
    stranger = (("ragkeep-tenant", "stranger"),)
    assert not (await rag.ListDocuments(pb.ListDocumentsRequest(collection=schema.name), metadata=stranger)).documents
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await rag.GetDocument(pb.GetDocumentRequest(collection=schema.name, document_id="A-1"), metadata=stranger)
    assert from_rpc_error(failed.value).reason == "DOCUMENT_UNKNOWN"
    deletion = pb.DeleteDocumentsRequest(collection=schema.name, every_document=True)
    assert not (await rag.DeleteDocuments(deletion, metadata=stranger)).document_ids
    summary = await rag.GetCollection(pb.GetCollectionRequest(name=schema.name), metadata=stranger)
    assert summary.collection.documents == 0
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await rag.DeleteCollection(pb.DeleteCollectionRequest(name=schema.name), metadata=stranger)
    assert from_rpc_error(failed.value).reason == "COLLECTION_IN_USE"


METHODS = pb.DESCRIPTOR.services_by_name["RagService"].methods_by_name
FORBIDDEN_TO_READERS: dict[str, Callable[[], Any]] = {
    "CreateCollection": lambda: pb.CreateCollectionRequest(preset="ServiceTicket"),
    "UpdateCollection": pb.UpdateCollectionRequest,
    "DeleteCollection": lambda: pb.DeleteCollectionRequest(name="service-tickets"),
    "DeleteDocuments": lambda: pb.DeleteDocumentsRequest(collection="service-tickets", every_document=True),
    "ImportDocuments": pb.ImportDocumentsRequest,
}


@pytest.mark.parametrize("method", FORBIDDEN_TO_READERS)
async def test_a_reader_changes_nothing(stack: Stack, method: str) -> None:
    """Collections are for admins, documents for editors."""
    async with open_channel(stack.target("gateway"), "gateway", stack.reader) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await getattr(RagServiceStub(channel), method)(FORBIDDEN_TO_READERS[method]())
    assert from_rpc_error(failed.value).reason == "NOT_ALLOWED"


def test_every_method_that_changes_something_is_among_those() -> None:
    """A new one must be thought of."""
    changing = {name for name in METHODS if name.startswith(("Create", "Update", "Delete", "Import", "Put"))}
    assert changing == set(FORBIDDEN_TO_READERS)


async def test_the_pages_python_runs_as_it_stands(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/collections.md: every call, with what it is said to print."""
    page = Path("docs/collections.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {
        "client": client,
        "replace": dataclasses.replace,
        **{name: getattr(ragkeep_client, name) for name in ragkeep_client.__all__},
    }
    exec("async def example():\n" + textwrap.indent(code, "    "), names)
    await names["example"]()
    printed = capsys.readouterr().out
    for said in re.findall(r"# (.*?)(?: …)?$", code, re.MULTILINE):
        assert said in printed


@pytest.mark.parametrize(
    ("changed", "reason"), [({"version": 99}, "CATALOGUE_TOO_NEW"), ({"analyzer": "0/unicode-1"}, "ANALYZER_MISMATCH")]
)
async def test_a_collection_of_another_ragkeep_is_refused_and_can_be_exported_where_it_is_older(
    client: Client, schema: Schema, stack: Stack, changed: dict[str, Any], reason: str
) -> None:
    """Searches are refused; documents of an index that another analyzer made can still be taken out."""
    catalogue = apsw.Connection(str(stack.folder / "store" / "catalogue.db"))
    catalogue.set_busy_timeout(60_000)
    (before,) = next(iter(catalogue.execute("SELECT definition FROM collections WHERE name = ?", (schema.name,))))
    sql = "UPDATE collections SET definition = ? WHERE name = ?"
    catalogue.execute(sql, (json.dumps({**json.loads(before), **changed}), schema.name))
    try:

        async def refused() -> RagkeepError | None:
            try:
                await client.search("gardens", collection=schema.name)
            except RagkeepError as error:
                return error
            return None

        # The gateway keeps definitions for two seconds.
        error = await until_comes(refused)
        assert error is not None
        assert error.reason == reason
        assert schema.name in error.message
        if reason == "ANALYZER_MISMATCH":
            assert len([one async for one in client.list_documents(collection=schema.name)]) == 10
            assert (await client.get_collection(schema.name)).documents == 10
        else:
            with pytest.raises(RagkeepError, match="newer ragkeep"):
                await anext(client.list_documents(collection=schema.name))
    finally:
        catalogue.execute(sql, (before, schema.name))
        catalogue.close()
