"""Reasons that no other test raises through the real gRPC call, and that none of them is left out."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

import ragkeep_runtime.errors as errors
from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.types.v1.types_pb2 import Value
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.errors import REASONS, RagkeepError, from_rpc_error
from tests.stack import Stack
from tests.tickets import SAMPLE

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
TENANT = (("ragkeep-tenant", "reasons"),)


async def refused(
    rag: RagServiceStub, question: str = "忘记密码", metadata: tuple[tuple[str, str], ...] = TENANT
) -> RagkeepError:
    """What an ask ends in."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        [event async for event in rag.Ask(pb.AskRequest(question=question), metadata=metadata, timeout=300)]
    return from_rpc_error(failed.value)


async def test_a_tenant_that_the_policy_does_not_give_is_refused(stack: Stack) -> None:
    """TENANT_NOT_ALLOWED: the reader is bound to another one."""
    async with open_channel(stack.target("gateway"), "gateway", stack.reader) as channel:
        assert (await refused(RagServiceStub(channel))).reason == "TENANT_NOT_ALLOWED"


async def test_a_value_of_another_type_rejects_its_document(stack: Stack) -> None:
    """FIELD_TYPE_WRONG, an outcome: the others are imported."""
    wrong = type(SAMPLE[0])()
    wrong.CopyFrom(SAMPLE[0])
    wrong.id = "T-wrong"
    wrong.fields["title"].CopyFrom(Value(number=1))
    async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
        request = pb.ImportDocumentsRequest(documents=[wrong, SAMPLE[1]])
        outcomes = (await RagServiceStub(channel).ImportDocuments(request, metadata=TENANT)).outcomes
    assert [outcome.reason for outcome in outcomes] == ["FIELD_TYPE_WRONG", ""]


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Stack]:
    """A stack that a test may break; it starts nothing."""
    found = Stack(tmp_path)
    yield found
    found.stop()


async def test_more_questions_than_the_queue_holds_are_refused_at_once(own: Stack) -> None:
    """OVERLOADED: one is worked on, one waits; the others are told when to come again."""
    own.env["gateway"] = {"RAGKEEP_CONCURRENT_ASKS": "1"}
    own.start()
    async with open_channel(own.target("gateway"), "gateway", own.cli) as channel:
        rag = RagServiceStub(channel)
        await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=TENANT)

        async def ask() -> RagkeepError | None:
            try:
                [event async for event in rag.Ask(pb.AskRequest(question="忘记密码"), metadata=TENANT, timeout=300)]
            except grpc.aio.AioRpcError as error:
                return from_rpc_error(error)
            return None

        ended = await asyncio.gather(*(ask() for _ in range(12)))
    assert None in ended
    told = [error for error in ended if error is not None]
    assert {error.reason for error in told} == {"OVERLOADED"}
    assert all(error.retry_after_s for error in told)


async def test_a_service_that_is_gone_is_named(own: Stack) -> None:
    """NOT_READY: which one, and what to look at."""
    own.start()
    async with open_channel(own.target("gateway"), "gateway", own.cli) as channel:
        rag = RagServiceStub(channel)
        await rag.ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE[:1]), metadata=TENANT)
        own.kill("retriever")
        error = await refused(rag)
    assert (error.reason, error.metadata["service"]) == ("NOT_READY", "retriever")


async def test_a_gateway_that_its_services_do_not_admit_says_that_it_is_a_defect(own: Stack) -> None:
    """INTERNAL: it shows a certificate that is not the gateway's; the caller did nothing wrong."""
    own.identities["gateway"] = own.authority.issue(
        "impostor", uris=["spiffe://ragkeep.internal/caller/local/impostor"], dns=["gateway.ragkeep.internal"]
    )
    own.start(wait=False)
    for name in ("embedder", "retriever", "generator", "gateway"):
        own.wait_ready(name)
    async with open_channel(own.target("gateway"), "gateway", own.cli) as channel:
        error = await refused(RagServiceStub(channel))
    assert error.reason == "INTERNAL"
    assert "does not admit this process" in error.message


class Nonsense(BaseHTTPRequestHandler):
    """What an engine must not answer: 200, and no JSON at all."""

    def do_GET(self) -> None:
        """Any path."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"\x00 this is no engine")

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def nonsense() -> Iterator[str]:
    """A server on loopback that is no Ollama."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Nonsense)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


async def test_an_engine_that_answers_nonsense_is_said_to_have_failed(own: Stack, nonsense: str) -> None:
    """ENGINE_FAILED: not the engine's words, which are in the log alone."""
    own.env["embedder"] = {"RAGKEEP_ENGINE": "ollama", "RAGKEEP_OLLAMA_URL": nonsense, "RAGKEEP_WARM_UP": "false"}
    own.start(wait=False)
    for name in ("retriever", "generator", "gateway"):
        own.wait_ready(name)
    async with open_channel(own.target("gateway"), "gateway", own.cli) as channel:
        request = pb.ImportDocumentsRequest(documents=SAMPLE[:1])
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await RagServiceStub(channel).ImportDocuments(request, metadata=TENANT, timeout=300)
    error = from_rpc_error(failed.value)
    assert error.reason == "ENGINE_FAILED"
    assert "this is no engine" not in json.dumps([error.message, dict(error.metadata)])


def test_every_reason_is_raised_by_a_test_that_goes_over_grpc() -> None:
    """By the name of the reason or of its class, in tests of integration or of the command (where a disk is full)."""
    text = "\n".join(file.read_text() for folder in ("integration", "e2e") for file in Path("tests", folder).glob("test_*.py"))
    classes = {
        found.reason: name
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, RagkeepError)
    }
    # A row that cannot be read never becomes a call: tests/unit/test_import_files.py.
    assert {reason for reason in REASONS if reason not in text and classes.get(reason, reason) not in text} <= {"ROW_INVALID"}
