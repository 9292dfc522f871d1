"""Sealed fields over the real RPCs: who sees them, what they survive, and that they are nowhere in the open."""

from __future__ import annotations

import asyncio
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1 import tenants_pb2
from ragkeep.gateway.v1.tenants_pb2_grpc import TenantServiceStub
from ragkeep.retriever.v1 import retriever_pb2
from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceStub
from ragkeep.types.v1.types_pb2 import (
    FIELD_TYPE_TEXT,
    Collection,
    Comparison,
    Document,
    Field,
    Filter,
    OutcomeKind,
    Scope,
    SealedValue,
    StoredDocument,
    Value,
)
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.errors import (
    FieldSealed,
    NotAllowed,
    RagkeepError,
    SealedValueDamaged,
    SealingKeyMissing,
    SealingUnavailable,
    TenantUnknown,
    from_rpc_error,
)
from tests.sealing import KEEPER, ONLY_UNSEALER, PLANTED, UNSEALER, Sealed, person, sealed_on, secrets, staff
from tests.stack import CLI
from tests.stores import ADAPTERS
from tests.waiting import until_next_call_reads_again, until_true

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("quote")]
CREATED, UNCHANGED, UPDATED, REJECTED = (
    OutcomeKind.OUTCOME_KIND_CREATED,
    OutcomeKind.OUTCOME_KIND_UNCHANGED,
    OutcomeKind.OUTCOME_KIND_UPDATED,
    OutcomeKind.OUTCOME_KIND_REJECTED,
)
EMPTY = Value(sealed=SealedValue())
KEEP = dict.fromkeys(secrets(), EMPTY)


@pytest.fixture(scope="module", params=ADAPTERS)
def sealed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealed]:
    """An installation on each store in turn, whose collection has sealed fields."""
    with sealed_on(request.param, tmp_path_factory.mktemp("sealed")) as found:
        yield found


async def refused(call: object) -> RagkeepError:
    """What a call ends in."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call  # type: ignore[misc]
    return from_rpc_error(failed.value)


async def test_only_an_unsealer_sees_what_is_sealed(sealed: Sealed) -> None:
    """Everywhere where a document's fields are shown; others see that there is a value. The role alone admits nobody."""
    assert await sealed.put(person("D-1")) in ([(CREATED, "")], [(UPDATED, "")])
    for caller, wanted in ((UNSEALER, secrets()), (CLI, dict.fromkeys(secrets(), EMPTY))):
        async with sealed.rag(caller) as rag:
            meta = sealed.metadata
            document = (
                await rag.GetDocument(pb.GetDocumentRequest(collection="staff", document_id="D-1"), metadata=meta)
            ).document.document
            found = (await rag.Search(pb.SearchRequest(collection="staff", query="Ada Lovelace"), metadata=meta)).sources
            batch = pb.SearchBatchRequest(searches=[pb.SearchRequest(collection="staff", query="Ada Lovelace")])
            batched = (await rag.SearchBatch(batch, metadata=meta)).results[0].found.sources
            ask = pb.AskRequest(collection="staff", question="Who is Ada Lovelace?")
            events = [event async for event in rag.Ask(ask, metadata=meta)]
            asked = next(event.sources.sources for event in events if event.WhichOneof("event") == "sources")
            listed = (await sealed.listed(caller))["D-1"]
        sources = [
            next(one.passage.fields for one in some if one.passage.document_id == "D-1") for some in (found, batched, asked)
        ]
        for fields in (document.fields, listed, *sources):
            assert {name: fields[name] for name in secrets()} == wanted
            assert fields["name"].text == "Ada Lovelace"
        answer = "".join(event.delta.text for event in events)
        assert not any(one in answer for one in PLANTED)
    async with sealed.rag(ONLY_UNSEALER) as rag:
        for call in (
            rag.GetDocument(pb.GetDocumentRequest(collection="staff", document_id="D-1")),
            rag.ListDocuments(pb.ListDocumentsRequest(collection="staff")),
            rag.Search(pb.SearchRequest(collection="staff", query="Ada")),
        ):
            assert type(await refused(call)) is NotAllowed


async def test_an_import_by_who_does_not_see_the_values_keeps_them(sealed: Sealed) -> None:
    """An empty sealed value keeps what is stored, in every version that follows; nothing stored: it is rejected."""
    await sealed.put(person("K-1"))
    assert await sealed.put(person("K-1", sealed=KEEP), dry_run=True) == [(UNCHANGED, "")]
    assert await sealed.put(person("K-1", sealed=KEEP)) == [(UNCHANGED, "")]
    assert await sealed.put(person("K-1", "Another Name", sealed=KEEP)) == [(UPDATED, "")]
    seen = (await sealed.listed(UNSEALER))["K-1"]
    assert {name: seen[name] for name in secrets()} == secrets()
    assert seen["name"].text == "Another Name"
    changed = {**KEEP, "salary": Value(number=2.0)}
    assert await sealed.put(person("K-1", "Another Name", sealed=changed)) == [(UPDATED, "")]
    seen = (await sealed.listed(UNSEALER))["K-1"]
    assert {name: seen[name] for name in secrets()} == {**secrets(), "salary": Value(number=2.0)}
    assert await sealed.put(person("K-2", sealed=KEEP), person("K-3", sealed={})) == [(REJECTED, "FIELD_SEALED"), (CREATED, "")]
    assert set((await sealed.listed(UNSEALER))["K-3"]) == {"name", "team"}
    # Left out is taken away, as of every field.
    assert await sealed.put(person("K-1", "Another Name", sealed={"pin": EMPTY})) == [(UPDATED, "")]
    assert set((await sealed.listed(UNSEALER))["K-1"]) == {"name", "team", "pin"}


async def test_what_is_the_same_is_not_imported_again(sealed: Sealed) -> None:
    """Though it is encrypted differently each time; a value that differs makes the document new, and a dry run tells the same."""
    await sealed.put(person("V-1"), caller=KEEPER)
    assert await sealed.put(person("V-1"), person("V-1"), caller=KEEPER) == [(UNCHANGED, "")] * 2
    part = person("V-1", sealed={**KEEP, "pin": secrets()["pin"]})
    assert await sealed.put(part, caller=KEEPER) == [(UNCHANGED, "")]
    other = person("V-1", sealed={**secrets(), "remote": Value(boolean=False)})
    assert await sealed.put(other, dry_run=True, caller=KEEPER) == [(UPDATED, "")]
    assert await sealed.put(other, caller=KEEPER) == [(UPDATED, "")]


async def test_a_dry_run_does_not_tell_whether_a_guess_is_right(sealed: Sealed) -> None:
    """To who may not see the value: right or wrong, the document would be imported anew. It could be tried without end otherwise."""
    await sealed.put(person("G-1"), caller=KEEPER)
    right = {**KEEP, "pin": secrets()["pin"]}
    wrong = {**KEEP, "pin": Value(keyword="0000")}
    assert [await sealed.put(person("G-1", sealed=one), dry_run=True) for one in (right, wrong)] == [[(UPDATED, "")]] * 2
    assert await sealed.put(person("G-1", sealed=KEEP), dry_run=True) == [(UNCHANGED, "")]


async def test_no_version_tells_whether_a_guess_is_right(sealed: Sealed) -> None:
    """Who may not see the value imports guesses, also beside what is kept and twice in one request: nothing is ever as it was."""
    await sealed.put(person("G-2"), caller=KEEPER)
    seen = {await sealed.version("G-2")}
    right = person("G-2", sealed={**KEEP, "pin": secrets()["pin"]})
    kept = person("G-2", sealed=KEEP)
    for guess in (right, right, person("G-2")):
        assert await sealed.put(guess, guess) == [(UPDATED, ""), (UNCHANGED, "")]
        guessed = await sealed.version("G-2")
        assert guessed not in seen
        # What keeps the guess keeps its version, and does not bring the one from before back.
        assert await sealed.put(kept) == [(UNCHANGED, "")]
        assert await sealed.put(kept, guess, dry_run=True) == [(UNCHANGED, ""), (REJECTED, "DUPLICATE_ID")]
        assert await sealed.put(person("G-2", "Another", sealed=KEEP)) == [(UPDATED, "")]
        assert await sealed.put(kept) == [(UPDATED, "")]
        assert await sealed.version("G-2") == guessed
        seen.add(guessed)
    # Under a guess's mark an unsealer's part would tell too.
    assert await sealed.put(right, caller=KEEPER) == [(UPDATED, "")]
    assert await sealed.version("G-2") not in seen
    # The whole from an unsealer is as it was in the beginning, whatever was guessed.
    assert await sealed.put(person("G-2"), caller=KEEPER) == [(UPDATED, "")]
    assert await sealed.version("G-2") in seen


async def test_a_sealed_field_is_refused_where_its_value_would_be_in_the_open(sealed: Sealed) -> None:
    """In a filter, as the title, in both templates, in the index; and a value that a caller says is sealed."""
    condition = Filter(none_of=Filter(equals=Comparison(field="pin", value=Value(keyword="planted-pin-5527"))))
    async with sealed.rag() as rag:
        meta = sealed.metadata
        for call in (
            rag.Search(pb.SearchRequest(collection="staff", query="Ada", filter=condition), metadata=meta),
            rag.ListDocuments(pb.ListDocumentsRequest(collection="staff", filter=condition), metadata=meta),
            rag.DeleteDocuments(pb.DeleteDocumentsRequest(collection="staff", filter=condition), metadata=meta),
        ):
            error = await refused(call)
            assert (type(error), "planted" in error.message) == (FieldSealed, False)
            assert "pin" in error.message
        for change in (
            {"title_field": "pin"},
            {"content_template": "{name} {pin}"},
            {"prompt_template": "{passages} {question} {pin}"},
        ):
            definition = staff()
            definition.MergeFrom(Collection(**change))
            for call in (
                rag.CreateCollection(pb.CreateCollectionRequest(collection=definition), metadata=meta),
                rag.UpdateCollection(pb.UpdateCollectionRequest(collection=definition), metadata=meta),
            ):
                assert (await refused(call)).reason == "FIELD_SEALED"
        open_now = staff()
        open_now.fields[3].sealed = False
        request = pb.UpdateCollectionRequest(collection=open_now)
        assert (await refused(rag.UpdateCollection(request, metadata=meta))).reason == "COLLECTION_FIXED"
    forged = Value(sealed=SealedValue(key_id="k1", nonce=b"n" * 12, ciphertext=b"c" * 16))
    assert await sealed.put(person("F-1", sealed={"pin": forged})) == [(REJECTED, "FIELD_SEALED")]
    marked = Document(id="F-2", fields={"name": EMPTY})
    assert await sealed.put(marked) == [(REJECTED, "FIELD_SEALED")]


async def test_a_lost_key_is_named_and_hides_no_other_document(sealed: Sealed) -> None:
    """Lists and searches show the rest; the document that was asked for by its id fails; with the key back all is as before."""
    before = sealed.keyring
    await sealed.put(person("L-1", "Grace Hopper"))
    try:
        sealed.write(before.with_key("k-late", active=True))
        await until_next_call_reads_again()
        await sealed.put(person("L-2", "Grace Murray"), caller=KEEPER)
        sealed.write(before)
        await until_next_call_reads_again()
        listed = await sealed.listed(UNSEALER)
        assert listed["L-1"]["pin"].keyword == "planted-pin-5527"
        assert listed["L-2"]["name"].text == "Grace Murray"
        assert {listed["L-2"][name].sealed.unreadable for name in secrets()} == {"SEALING_KEY_MISSING"}
        assert listed["L-2"]["pin"].sealed == SealedValue(unreadable="SEALING_KEY_MISSING", key_id="k-late")
        assert (await sealed.listed())["L-2"]["pin"] == EMPTY
        async with sealed.rag(UNSEALER) as rag:
            search = pb.SearchRequest(collection="staff", query="Grace Murray")
            found = (await rag.Search(search, metadata=sealed.metadata)).sources
            by_id = {one.passage.document_id: one.passage.fields for one in found}
            assert by_id["L-2"]["pin"].sealed.unreadable == "SEALING_KEY_MISSING"
            request = pb.GetDocumentRequest(collection="staff", document_id="L-2")
            error = await refused(rag.GetDocument(request, metadata=sealed.metadata))
        assert type(error) is SealingKeyMissing
        assert "k-late" in error.message
        assert error.metadata["key_id"] == "k-late"
        async with sealed.rag() as rag:
            assert (await rag.GetDocument(request, metadata=sealed.metadata)).document.document.fields["pin"] == EMPTY
        assert await sealed.put(person("L-2", "Grace Murray", sealed=KEEP)) == [(REJECTED, "SEALING_KEY_MISSING")]
        assert await sealed.put(person("L-2", "Grace Murray"), caller=KEEPER) == [(UNCHANGED, "")]
    finally:
        sealed.write(before)
        await until_next_call_reads_again()


async def test_a_broken_keyring_leaves_the_old_one_in_force_and_is_told(sealed: Sealed) -> None:
    """Nothing of the file is in the log."""
    good = sealed.keyring_file.read_bytes()
    try:
        sealed.keyring_file.write_bytes(good[: len(good) // 2])
        await until_next_call_reads_again()
        await sealed.put(person("B-1"))
        assert (await sealed.listed(UNSEALER))["B-1"]["pin"].keyword == "planted-pin-5527"
        assert "file_not_taken_over" in sealed.stack.log("gateway")
    finally:
        sealed.write(sealed.keyring)
        await until_next_call_reads_again()


async def test_no_plaintext_is_in_a_file_of_the_stores_or_a_log(sealed: Sealed) -> None:
    """Every byte that the installation wrote: stores, write-ahead logs, logs, the audit log; and no key either."""
    await sealed.put(person("P-1"), *(person(f"P-{n}", f"Person {n}") for n in range(2, 20)))
    await sealed.listed(UNSEALER)
    async with sealed.rag(UNSEALER) as rag:
        [_ async for _ in rag.Ask(pb.AskRequest(collection="staff", question="Who is Ada Lovelace?"), metadata=sealed.metadata)]
    written = [path for path in sealed.stack.folder.rglob("*") if path.is_file() and path != sealed.keyring_file]
    text = b"".join(path.read_bytes() for path in written)
    assert len(written) > 10
    # It does find what is not sealed.
    assert b"Ada Lovelace" in text
    keys = [*sealed.keyring.keys.values(), sealed.keyring.fingerprint]
    number = [struct.pack(order + "d", 918273645.125) for order in "<>"]
    for planted in (*(one.encode() for one in PLANTED), *keys, *(one.hex().encode() for one in keys), *number):
        assert planted not in text


async def test_a_value_that_was_moved_in_the_store_is_damaged_not_garbage(sealed: Sealed) -> None:
    """One document's ciphertext in another's place, by who can write to the store."""
    await sealed.put(person("X-1"), person("X-2", "Somebody Else"))
    stack, scope = sealed.stack, Scope(tenant="demo", every_document=True)
    async with open_channel(stack.target("retriever"), "retriever", stack.identities["gateway"]) as channel:
        retriever = RetrieverServiceStub(channel)

        async def stored(document_id: str) -> StoredDocument:
            request = retriever_pb2.GetDocumentRequest(scope=scope, collection="staff", document_id=document_id)
            return (await retriever.GetDocument(request)).document

        own = (await stored("X-1")).document.fields
        update = retriever_pb2.FieldsUpdate(
            document_id="X-2",
            version=(await stored("X-2")).version,
            sealed={name: own[name].sealed for name in secrets()},
        )
        done = await retriever.UpdateFields(
            retriever_pb2.UpdateFieldsRequest(scope=scope, collection="staff", documents=[update])
        )
        assert list(done.document_ids) == ["X-2"]
    listed = await sealed.listed(UNSEALER)
    assert {listed["X-2"][name].sealed.unreadable for name in secrets()} == {"SEALED_VALUE_DAMAGED"}
    assert listed["X-1"]["pin"].keyword == "planted-pin-5527"
    async with sealed.rag(UNSEALER) as rag:
        request = pb.GetDocumentRequest(collection="staff", document_id="X-2")
        assert type(await refused(rag.GetDocument(request, metadata=sealed.metadata))) is SealedValueDamaged
    assert await sealed.put(person("X-2", "Somebody Else", sealed=KEEP)) == [(REJECTED, "SEALED_VALUE_DAMAGED")]


@pytest.mark.engine("sqlite")
async def test_without_a_keyring_nothing_is_sealed_and_the_way_out_is_said(tmp_path: Path) -> None:
    """Collections with sealed fields cannot be made or imported into; what has none works; a keyring that comes is taken."""
    found = Sealed(tmp_path)
    content = found.keyring_file.read_bytes()
    found.keyring_file.unlink()
    try:
        found.stack.start()
        async with found.rag() as rag:
            error = await refused(rag.CreateCollection(pb.CreateCollectionRequest(collection=staff()), metadata=found.metadata))
            assert type(error) is SealingUnavailable
            assert "RAGKEEP_KEYRING" in error.message
            plain = Collection(name="plain", fields=[Field(name="name", type=FIELD_TYPE_TEXT, searchable=True)])
            await rag.CreateCollection(pb.CreateCollectionRequest(collection=plain), metadata=found.metadata)
            assert await found.put(Document(id="a", fields={"name": Value(text="Ada")}), collection="plain") == [(CREATED, "")]
            found.keyring_file.write_bytes(content)
            await until_next_call_reads_again()
            await rag.CreateCollection(pb.CreateCollectionRequest(collection=staff()), metadata=found.metadata)
        assert await found.put(person("D-1")) == [(CREATED, "")]
        found.keyring_file.unlink()
        found.stack.kill("gateway")
        found.stack.start("gateway")
        assert (await found.listed(UNSEALER))["D-1"]["pin"].sealed == SealedValue(unreadable="SEALING_UNAVAILABLE")
        assert (await found.listed())["D-1"]["pin"] == EMPTY
        async with found.rag() as rag:
            request = pb.ImportDocumentsRequest(collection="staff", documents=[person("D-2")])
            assert type(await refused(rag.ImportDocuments(request, metadata=found.metadata))) is SealingUnavailable
    finally:
        found.stack.stop()


async def test_a_deleted_tenants_values_open_nowhere(sealed: Sealed) -> None:
    """Its salt is gone: what somebody kept of the ciphertext does not open, nor in a tenant made again under the name."""
    stack, scope = sealed.stack, Scope(tenant="leaving", every_document=True)
    await sealed.put(person("G-1"), tenant="leaving")
    assert (await sealed.listed(UNSEALER, tenant="leaving"))["G-1"]["pin"].keyword == "planted-pin-5527"
    async with open_channel(stack.target("retriever"), "retriever", stack.identities["gateway"]) as channel:
        retriever = RetrieverServiceStub(channel)

        async def stored() -> StoredDocument:
            request = retriever_pb2.GetDocumentRequest(scope=scope, collection="staff", document_id="G-1")
            return (await retriever.GetDocument(request)).document

        kept = {name: (await stored()).document.fields[name].sealed for name in secrets()}
        async with open_channel(stack.target("gateway"), "gateway", stack.cli) as gateway:
            tenants = TenantServiceStub(gateway)
            off = tenants_pb2.SetTenantActiveRequest(name="leaving", active=False)
            await tenants.SetTenantActive(off, metadata=sealed.metadata)
            await tenants.DeleteTenant(tenants_pb2.DeleteTenantRequest(name="leaving"), metadata=sealed.metadata)
        assert await sealed.listed(UNSEALER, tenant="leaving") == {}
        assert await sealed.put(person("G-1"), tenant="leaving") == [(CREATED, "")]
        assert (await sealed.listed(UNSEALER, tenant="leaving"))["G-1"]["pin"].keyword == "planted-pin-5527"
        update = retriever_pb2.FieldsUpdate(document_id="G-1", version=(await stored()).version, sealed=kept)
        done = await retriever.UpdateFields(
            retriever_pb2.UpdateFieldsRequest(scope=scope, collection="staff", documents=[update])
        )
        assert list(done.document_ids) == ["G-1"]
    listed = await sealed.listed(UNSEALER, tenant="leaving")
    assert {listed["G-1"][name].sealed.unreadable for name in secrets()} == {"SEALED_VALUE_DAMAGED"}


async def replaced(sealed: Sealed, tenant: str) -> None:
    """The tenant is deleted and made again, as by another gateway: this one is not told."""
    async with open_channel(sealed.stack.target("retriever"), "retriever", sealed.stack.identities["gateway"]) as channel:
        retriever = RetrieverServiceStub(channel)
        await retriever.DeleteTenant(retriever_pb2.DeleteTenantRequest(name=tenant))
        await retriever.EnsureTenant(retriever_pb2.EnsureTenantRequest(name=tenant))


async def test_nothing_is_sealed_with_a_salt_that_is_gone(sealed: Sealed) -> None:
    """Another gateway deleted the tenant and made it again a moment ago: what this one imports now can be opened."""
    await sealed.put(person("S-1"), tenant="again")
    # So that this one has just asked for the record.
    assert set(await sealed.listed(tenant="again")) == {"S-1"}
    await replaced(sealed, "again")
    assert await sealed.put(person("S-1"), tenant="again") == [(CREATED, "")]
    # What is shown may be opened with a record that is a moment old.
    await asyncio.sleep(1.6)
    assert (await sealed.listed(UNSEALER, tenant="again"))["S-1"]["pin"].keyword == "planted-pin-5527"


async def test_an_import_that_outlives_its_tenant_is_not_the_next_ones(sealed: Sealed) -> None:
    """It began in a tenant that was deleted meanwhile, and another one has the name now: refused, and nothing is there."""
    await sealed.put(person("O-1"), tenant="outlived")
    embedder = sealed.stack.processes["embedder"]
    embedder.send_signal(signal.SIGSTOP)
    before = sealed.stack.log("retriever").count("/GetVersions")
    try:
        late = asyncio.create_task(sealed.put(person("O-2"), tenant="outlived"))
        await until_true(lambda: sealed.stack.log("retriever").count("/GetVersions") > before)
        await replaced(sealed, "outlived")
    finally:
        embedder.send_signal(signal.SIGCONT)
    assert type(await refused(late)) is TenantUnknown
    assert await sealed.listed(tenant="outlived") == {}
