"""The audit log on real processes: every RPC is on record before it shows anything, or shows nothing."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import resource
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.descriptor import MethodDescriptor

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.gateway.v1.keys_pb2 import RotateKeysRequest
from ragkeep.gateway.v1.keys_pb2_grpc import KeyServiceStub
from ragkeep_runtime.audit.chain import Keys
from ragkeep_runtime.audit.verify import Verdict, day_files, heads_in, verify
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.edge import REQUEST_ID_KEY
from ragkeep_runtime.errors import RagkeepError, from_rpc_error
from tests.stack import Stack
from tests.tickets import SAMPLE, ticket
from tests.waiting import events_of, until_true

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
TENANT = ("ragkeep-tenant", "audited")
PROTOS = Path("protos/ragkeep/gateway/v1")


def methods() -> list[MethodDescriptor]:
    """Every RPC of every service of the gateway, of whatever file."""
    modules = [importlib.import_module(f"ragkeep.gateway.v1.{path.stem}_pb2") for path in sorted(PROTOS.glob("*.proto"))]
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    return [method for service in services for method in service.methods]


def lines(stack: Stack) -> list[dict[str, Any]]:
    """What is on record: whole lines, since one may be read while it is written."""
    pages = [path.read_bytes().rpartition(b"\n")[0] for path in day_files(stack.audit / "gateway-0")]
    return [json.loads(line) for page in pages for line in page.splitlines()]


def of_request(stack: Stack, request_id: str) -> list[dict[str, Any]]:
    """The lines of one call."""
    return [line for line in lines(stack) if line.get("request_id") == request_id]


async def until(stack: Stack, request_id: str, count: int) -> list[dict[str, Any]]:
    """The lines of one call, once there are so many: the last one is not waited for by the call."""
    await until_true(lambda: len(of_request(stack, request_id)) >= count)
    return of_request(stack, request_id)


def proven(stack: Stack) -> Verdict:
    """What verify says of it."""
    keys = Keys.read(stack.audit_key)
    signer = Ed25519PrivateKey.from_private_bytes(keys.signing).public_key()
    folder = stack.audit / "gateway-0"
    return verify(folder, keys={keys.name: keys.lines}, signers=[signer], heads=heads_in(folder))


def mark() -> tuple[str, tuple[tuple[str, str], ...]]:
    """A request id, and the metadata of a call that has it."""
    request_id = uuid.uuid4().hex
    return request_id, (TENANT, (REQUEST_ID_KEY, request_id))


@pytest.fixture
async def filled(rag: RagServiceStub) -> RagServiceStub:
    """With some tickets in it."""
    await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=(TENANT,))
    return rag


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.full_name.removeprefix("ragkeep.gateway.v1."))
async def test_every_rpc_is_on_record(stack: Stack, gateway: grpc.aio.Channel, method: MethodDescriptor) -> None:
    """With an empty request, as somebody who may: it is on record as asked, acted, finished or refused, whatever became of it."""
    request_id, metadata = mark()
    path = f"/{method.containing_service.full_name}/{method.name}"
    request = getattr(importlib.import_module(method.input_type.file.name.removesuffix(".proto").replace("/", ".") + "_pb2"),
                      method.input_type.name)()  # fmt: skip
    with contextlib.suppress(grpc.aio.AioRpcError):
        if method.server_streaming:
            call = gateway.unary_stream(path, request_serializer=type(request).SerializeToString)
            async for _ in call(request, metadata=metadata, timeout=300):
                pass
        else:
            await gateway.unary_unary(path, request_serializer=type(request).SerializeToString)(
                request, metadata=metadata, timeout=300
            )
    (*_, last) = await until(stack, request_id, 1)
    assert last["method"] == path
    assert (last["peer"], last["tenant"]) == ("caller/local/cli", "audited")
    assert {line["kind"] for line in of_request(stack, request_id)} <= {"asked", "acted", "finished"}


async def test_a_question_is_on_record_before_its_sources_leave(stack: Stack, filled: RagServiceStub) -> None:
    """When the first source is here, the line is there; the end follows, with tokens and duration."""
    request_id, metadata = mark()
    shown: list[str] = []
    question = "忘记密码了怎么办？" * 20
    async for event in filled.Ask(pb.AskRequest(question=question), metadata=metadata, timeout=300):
        if event.WhichOneof("event") == "sources":
            (asked,) = of_request(stack, request_id)
            shown = [source.passage.document_id for source in event.sources.sources]
    assert asked["kind"] == "asked"
    assert asked["question"] == question[:50]
    assert asked["documents"] == list(dict.fromkeys(shown))
    assert shown
    assert (asked["collection"], asked["roles"]) == ("service-tickets", ["admin", "auditor", "editor", "reader"])
    assert len(asked["trace_id"]) == 32
    *_, finished = await until(stack, request_id, 2)
    assert (finished["kind"], finished["outcome"]) == ("finished", "OK")
    assert {"prompt_tokens", "completion_tokens", "duration_ms", "finish"} <= set(finished)


async def test_whatever_shows_documents_says_which(stack: Stack, filled: RagServiceStub) -> None:
    """Search, SearchBatch, GetDocument, ListDocuments, and a deletion that is only tried."""
    search = pb.SearchRequest(query="VPN error 809")
    wanted: list[tuple[Any, Any, Any]] = [
        (filled.Search, search, lambda found: [one.passage.document_id for one in found.sources]),
        (
            filled.SearchBatch,
            pb.SearchBatchRequest(searches=[search, pb.SearchRequest(query="账号")]),
            lambda found: [one.passage.document_id for result in found.results for one in result.found.sources],
        ),
        (filled.GetDocument, pb.GetDocumentRequest(document_id=SAMPLE[0].id), lambda found: [found.document.document.id]),
        (filled.ListDocuments, pb.ListDocumentsRequest(), lambda found: [one.document.id for one in found.documents]),
        (
            filled.DeleteDocuments,
            pb.DeleteDocumentsRequest(collection="service-tickets", every_document=True, dry_run=True),
            lambda found: found.document_ids,
        ),
    ]
    for rpc, request, ids_of in wanted:
        request_id, metadata = mark()
        ids = list(dict.fromkeys(ids_of(await rpc(request, metadata=metadata))))
        asked = of_request(stack, request_id)[0]
        assert ids
        assert (asked["kind"], asked["documents"]) == ("asked", ids)


async def test_what_changes_something_is_on_record_before_and_after(stack: Stack, filled: RagServiceStub) -> None:
    """An import and a deletion: attempted, then what came of it."""
    request_id, metadata = mark()
    await filled.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE[:2]), metadata=metadata)
    before, after = await until(stack, request_id, 2)
    assert (before["kind"], before["outcome"], before["documents"]) == ("acted", "attempted", [one.id for one in SAMPLE[:2]])
    assert (after["kind"], after["outcome"], after["outcomes"]) == ("acted", "OK", {"unchanged": 2})
    request_id, metadata = mark()
    request = pb.DeleteDocumentsRequest(collection="service-tickets")
    request.ids.ids.append(SAMPLE[0].id)
    await filled.DeleteDocuments(request, metadata=metadata)
    before, after = of_request(stack, request_id)  # at once: the caller hears of it when it is on record
    assert (before["outcome"], before["documents"]) == ("attempted", [SAMPLE[0].id])
    assert (after["outcome"], after["documents"]) == ("OK", [SAMPLE[0].id])


async def test_what_was_asked_for_and_not_given_is_on_record(stack: Stack, filled: RagServiceStub) -> None:
    """Ids that the caller named. Of one that is hidden the line says what it says of one that does not exist."""
    hidden = ticket("H-1")
    hidden.groups.append("board")
    await filled.ImportDocuments(pb.ImportDocumentsRequest(documents=[hidden]), metadata=(("ragkeep-tenant", "demo"),))
    found = {}
    async with open_channel(stack.target("gateway"), "gateway", stack.reader) as channel:
        for document_id in ("H-1", "none-1"):
            request_id = uuid.uuid4().hex
            request = pb.GetDocumentRequest(document_id=document_id)
            with pytest.raises(grpc.aio.AioRpcError):
                await RagServiceStub(channel).GetDocument(request, metadata=((REQUEST_ID_KEY, request_id),))
            (found[document_id],) = await until(stack, request_id, 1)
    assert {line["kind"] for line in found.values()} == {"finished"}
    assert [line.pop("requested") for line in found.values()] == [["H-1"], ["none-1"]]
    own = ("seq", "time", "mac", "call", "request_id", "trace_id", "duration_ms")
    hidden_line, none_line = ({key: value for key, value in line.items() if key not in own} for line in found.values())
    assert hidden_line == none_line
    request_id, metadata = mark()
    deletion = pb.DeleteDocumentsRequest(collection="service-tickets", dry_run=True)
    deletion.ids.ids.extend([SAMPLE[0].id, "none-2"])
    await filled.DeleteDocuments(deletion, metadata=metadata)
    asked = of_request(stack, request_id)[0]
    assert (asked["requested"], asked["documents"]) == ([SAMPLE[0].id, "none-2"], [SAMPLE[0].id])


async def test_what_an_import_did_not_take_is_on_record(stack: Stack, filled: RagServiceStub) -> None:
    """Each id once, and not why: that would tell of documents that the caller does not see."""
    wrong = ticket("R-1")
    wrong.fields["none"].text = "x"
    request_id, metadata = mark()
    await filled.ImportDocuments(pb.ImportDocumentsRequest(documents=[SAMPLE[0], wrong, wrong]), metadata=metadata)
    *_, after = await until(stack, request_id, 2)
    assert (after["outcomes"], after["rejected"]) == ({"unchanged": 1, "rejected": 2}, ["R-1"])
    assert "FIELD" not in str(after)


async def test_keys_that_cannot_be_rotated_are_on_record(stack: Stack) -> None:
    """There is no keyring: who tried it has a line, and the reason."""
    request_id, metadata = mark()
    async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            [one async for one in KeyServiceStub(channel).RotateKeys(RotateKeysRequest(), metadata=metadata)]
    reason = from_rpc_error(failed.value).reason
    before, after = await until(stack, request_id, 2)
    assert (before["kind"], before["outcome"]) == ("acted", "attempted")
    assert (after["kind"], after["outcome"]) == ("acted", reason)
    assert reason == "SEALING_UNAVAILABLE"


async def test_a_call_that_fails_or_is_left_says_so(stack: Stack, filled: RagServiceStub) -> None:
    """By its reason; a caller who goes is CANCELLED."""
    request_id, metadata = mark()
    with pytest.raises(grpc.aio.AioRpcError):
        await filled.Search(pb.SearchRequest(query="x", collection="none"), metadata=metadata)
    (finished,) = await until(stack, request_id, 1)
    assert (finished["kind"], finished["outcome"], finished["question"]) == ("finished", "COLLECTION_UNKNOWN", "x")
    request_id, metadata = mark()
    call = filled.Ask(pb.AskRequest(question="忘记密码"), metadata=metadata)
    async for event in call:
        if event.WhichOneof("event") == "sources":
            call.cancel()
            break
    *_, finished = await until(stack, request_id, 2)
    assert finished["outcome"] == "CANCELLED"


async def test_a_refused_call_is_on_record(stack: Stack) -> None:
    """Who it was, what for, and why not."""
    request_id, _ = mark()
    async with open_channel(stack.target("gateway"), "gateway", stack.reader) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await RagServiceStub(channel).ImportDocuments(pb.ImportDocumentsRequest(), metadata=((REQUEST_ID_KEY, request_id),))
    (line,) = await until(stack, request_id, 1)
    assert (line["kind"], line["peer"], line["outcome"]) == ("refused", "caller/local/reader", "NOT_ALLOWED")
    assert line["method"] == "/ragkeep.gateway.v1.RagService/ImportDocuments"


async def test_no_text_of_a_document_is_on_record(stack: Stack, filled: RagServiceStub) -> None:
    """Ids only: after all that was asked here, nothing that a ticket says is in any line."""
    [event async for event in filled.Ask(pb.AskRequest(question="password"), metadata=(TENANT,), timeout=300)]
    text = "".join(path.read_text("utf-8") for path in day_files(stack.audit / "gateway-0"))
    assert SAMPLE[0].id in text
    assert not [one.id for one in SAMPLE for value in one.fields.values() if len(value.text) > 20 and value.text in text]


async def test_the_log_of_all_that_is_proven(stack: Stack, filled: RagServiceStub) -> None:
    """By every HMAC."""
    await filled.Search(pb.SearchRequest(query="VPN"), metadata=(TENANT,))
    verdict = proven(stack)
    assert verdict.fault is None
    assert verdict.lines > 10


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Stack]:
    """A stack that a test may break."""
    found = Stack(tmp_path)
    yield found
    found.stop()


@contextlib.asynccontextmanager
async def calling(stack: Stack) -> AsyncIterator[RagServiceStub]:
    """As the command."""
    async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
        yield RagServiceStub(channel)


async def shows_nothing(rag: RagServiceStub) -> list[RagkeepError]:
    """How everything that shows or changes something ends. Fails where anything of a document came."""
    ended = []
    request_id, metadata = mark()
    came = []
    try:
        async for event in rag.Ask(pb.AskRequest(question="忘记密码"), metadata=metadata, timeout=300):
            came.append(event.WhichOneof("event"))
    except grpc.aio.AioRpcError as error:
        ended.append(from_rpc_error(error))
    assert set(came) <= {"status", "rewritten"}
    for rpc, request in (
        (rag.Search, pb.SearchRequest(query="VPN")),
        (rag.SearchBatch, pb.SearchBatchRequest(searches=[pb.SearchRequest(query="VPN")])),
        (rag.GetDocument, pb.GetDocumentRequest(document_id=SAMPLE[0].id)),
        (rag.ListDocuments, pb.ListDocumentsRequest()),
        (rag.ImportDocuments, pb.ImportDocumentsRequest(documents=[SAMPLE[-1]])),
        (rag.DeleteDocuments, pb.DeleteDocumentsRequest(collection="service-tickets", every_document=True)),
    ):
        try:
            await rpc(request, metadata=metadata, timeout=300)  # type: ignore[operator]
        except grpc.aio.AioRpcError as error:
            ended.append(from_rpc_error(error))
    return ended


async def test_a_full_disk_shows_nothing_and_recovers(own: Stack) -> None:
    """The kernel refuses the gateway's writes as a full disk does; with room again everything goes on, and the gap is on record."""
    own.start()
    async with calling(own) as rag:
        await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=(TENANT,))
        size = day_files(own.audit / "gateway-0")[-1].stat().st_size
        pid = own.processes["gateway"].pid
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 64, resource.RLIM_INFINITY))
        ended = await shows_nothing(rag)
        assert [error.reason for error in ended] == ["AUDIT_UNAVAILABLE"] * 7
        await until_true(lambda: "AUDIT_UNAVAILABLE" in str(own.readiness("gateway")[1].get("missing")))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        own.wait_ready("gateway")
        found = await rag.Search(pb.SearchRequest(query="VPN"), metadata=(TENANT,))
        assert found.sources
        # Nothing was deleted or imported while nothing could be recorded.
        assert len((await rag.ListDocuments(pb.ListDocumentsRequest(), metadata=(TENANT,))).documents) == len(SAMPLE)
    gap = next(line for line in lines(own) if line["kind"] == "repaired")
    assert (gap["what"], gap["refused"] >= 7) == ("unavailable", True)
    assert "audit_write_failed" in own.log("gateway")
    assert proven(own).fault is None


async def test_a_folder_that_cannot_be_written_shows_nothing(own: Stack) -> None:
    """It is gone while the gateway runs, and something else is in its place."""
    own.start()
    async with calling(own) as rag:
        await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=(TENANT,))
        folder, away = own.audit / "gateway-0", own.audit / "away"
        folder.rename(away)
        folder.write_text("no folder")
        assert [error.reason for error in await shows_nothing(rag)] == ["AUDIT_UNAVAILABLE"] * 7
        folder.unlink()
        away.rename(folder)
        own.wait_ready("gateway")
        assert (await rag.Search(pb.SearchRequest(query="VPN"), metadata=(TENANT,))).sources
    assert proven(own).fault is None


async def test_kill_9_under_load_loses_no_answered_question(own: Stack) -> None:
    """Five times: whoever saw sources has a line; what was torn is repaired; the chain holds from the first line to the last."""
    own.env["gateway"] = {"RAGKEEP_AUDIT_HEAD_S": "0.2"}
    own.start()
    async with calling(own) as rag:
        await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=(TENANT,))
    answered: set[str] = set()

    async def keep_asking(rag: RagServiceStub, number: int) -> None:
        while True:
            request_id, metadata = mark()
            if number % 4 == 0:
                async for event in rag.Ask(pb.AskRequest(question="忘记密码"), metadata=metadata, timeout=300):
                    if event.WhichOneof("event") == "sources":
                        answered.add(request_id)
            else:
                search = pb.SearchRequest(query="VPN", mode=pb.SEARCH_MODE_KEYWORD)
                await rag.Search(search, metadata=metadata, timeout=300)
                answered.add(request_id)

    for number in range(5):
        async with calling(own) as rag:
            tasks = [asyncio.create_task(keep_asking(rag, one)) for one in range(16)]
            before = len(answered)
            await until_true(lambda: len(answered) >= before + 40)  # noqa: B023
            own.kill("gateway")
            if number == 2:
                # As after a loss of power: the kill alone rarely tears a line.
                with day_files(own.audit / "gateway-0")[-1].open("ab") as file:
                    file.write(b'{"seq":1,"ti')
            await asyncio.gather(*tasks, return_exceptions=True)
        own.start("gateway")
    assert len(answered) >= 200
    on_record = {line.get("request_id") for line in lines(own) if line["kind"] == "asked"}
    assert answered - on_record == set()
    verdict = proven(own)
    assert verdict.fault is None
    assert verdict.repaired
    assert verdict.heads >= 5
    assert len([line for line in lines(own) if line["kind"] == "started"]) == 6
    assert "audit_lines_gone" not in own.log("gateway")


async def test_a_tail_that_was_cut_while_the_gateway_was_down_is_told_at_its_start(own: Stack) -> None:
    """It serves; the error is in its log, and on record."""
    own.start()
    own.processes["gateway"].terminate()  # with a head of what stands there
    own.processes["gateway"].wait()
    file = day_files(own.audit / "gateway-0")[-1]
    last = json.loads(file.read_bytes().splitlines()[-1])["seq"]
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    own.start("gateway")
    (told,) = events_of(own.log("gateway"), "audit_lines_gone")
    assert (told["level"], told["what"], told["head"]) == ("error", "lines missing", last)
    assert [(line["what"], line["head"]) for line in lines(own) if line["kind"] == "repaired"] == [("lines missing", last)]


async def test_without_a_folder_nothing_is_recorded_and_that_is_said(own: Stack) -> None:
    """A warning in the log; and where a folder is set without a key, the gateway does not start."""
    own.env["gateway"] = {"RAGKEEP_AUDIT_FOLDER": "", "RAGKEEP_AUDIT_KEY": ""}
    own.start()
    assert "audit_off" in own.log("gateway")
    own.env["gateway"] = {"RAGKEEP_AUDIT_KEY": str(own.folder / "none")}
    own.kill("gateway")
    own.start("gateway", wait=False)
    assert own.processes["gateway"].wait(300) == 1
    shutil.rmtree(own.audit, ignore_errors=True)
