"""Certificates that change while calls run: on Kubernetes they live a day, and no process is restarted for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep_client import Client, RagkeepError
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.rotation import FollowingChannel
from ragkeep_runtime.tls import Identity
from tests.pki import Authority
from tests.slow_generator import WORDS
from tests.stack import CLI, SERVICES, Stack
from tests.tickets import SAMPLE
from tests.waiting import until_comes, until_true

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite")]
TENANT = (("ragkeep-tenant", "rotation"),)
QUESTION = "VPN error 809 after an update"


@pytest.fixture
async def slow_stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """The real processes, with long answers, and something to ask about."""
    stack = Stack(tmp_path, modules={"generator": "tests.slow_generator"})
    try:
        await asyncio.to_thread(stack.start)
        async with open_channel(stack.target("gateway"), "gateway", stack.cli) as channel:
            await RagServiceStub(channel).ImportDocuments(pb.ImportDocumentsRequest(documents=SAMPLE), metadata=TENANT)
        yield stack
    finally:
        stack.stop()


def everyone(stack: Stack) -> dict[str, Identity]:
    """Each process and the caller, with their files."""
    return {**stack.identities, CLI: stack.cli}


def renewals(stack: Stack) -> int:
    """How often the gateway's channels took new certificates over, the laggard of the three."""
    lines = [json.loads(line) for line in stack.log("gateway").splitlines() if line.startswith("{")]
    renewed = [line["to"] for line in lines if line.get("event") == "channel_renewed"]
    return min(renewed.count(name) for name in SERVICES if name != "gateway")


class Traffic:
    """Calls without a pause, and long answers beside them; a failure is kept, never retried here."""

    def __init__(self, channel: FollowingChannel) -> None:
        self.searches = self.answers = 0
        self._rag = RagServiceStub(channel)
        self._going = True

    async def _search(self) -> None:
        while self._going:
            found = await self._rag.Search(pb.SearchRequest(query=QUESTION), metadata=TENANT)
            assert found.sources[0].passage.document_id == "T-1042"
            self.searches += 1
            await asyncio.sleep(0.01)

    async def _ask(self) -> None:
        while self._going:
            words = [
                event.delta.text
                async for event in self._rag.Ask(pb.AskRequest(question=QUESTION), metadata=TENANT)
                if event.WhichOneof("event") == "delta"
            ]
            assert "".join(words).split() == [str(number) for number in range(WORDS)]
            self.answers += 1

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raises the first failure of a call."""
        async with asyncio.TaskGroup() as group:
            for work in (self._search, self._search, self._ask, self._ask, self._ask):
                group.create_task(work())
            try:
                yield
            finally:
                self._going = False


async def test_a_new_authority_comes_into_force_and_the_old_one_goes_five_times(slow_stack: Stack, tmp_path: Path) -> None:
    """A, then A and B, then leaves of B, then B alone, and so on: ten bundles, no call fails, and in the end a leaf of A is nobody."""
    a = slow_stack.authority
    left_behind = a.issue("left-behind", uris=[f"spiffe://ragkeep.internal/{CLI}"])

    def trust(bundle: bytes) -> None:
        half = a.folder / "half"
        half.write_bytes(bundle)
        half.replace(a.ca)

    def leaves_of(authority: Authority) -> None:
        for name, identity in everyone(slow_stack).items():
            authority.renew(name, identity)

    async with open_channel(slow_stack.target("gateway"), "gateway", slow_stack.cli) as channel:
        traffic = Traffic(channel)
        async with traffic.running():
            former, number = a.ca.read_bytes(), 0
            for change in range(5):
                following = Authority(tmp_path / f"authority-{change}")
                own = following.ca.read_bytes()
                for step, given in ((trust, former + own), (leaves_of, following), (trust, own)):
                    step(given)  # type: ignore[operator]  # each with its own
                    number += 1
                    await until_true(lambda: channel.renewals >= number and renewals(slow_stack) >= number)  # noqa: B023
                former = own
    assert traffic.searches >= 15
    assert traffic.answers >= 3
    key, cert, ca = Identity(left_behind.cert, left_behind.key, a.ca).read()
    options = [("grpc.default_authority", "gateway.ragkeep.internal")]
    credentials = grpc.ssl_channel_credentials(ca, key, cert)
    async with grpc.aio.secure_channel(slow_stack.target("gateway"), credentials, options=options) as stranger:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await RagServiceStub(stranger).Search(pb.SearchRequest(query=QUESTION), metadata=TENANT, timeout=60)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_that_is_kept_open_follows_its_files(slow_stack: Stack, tmp_path: Path) -> None:
    """A calling service runs for months: after a change of authority and a restart of the gateway it goes on asking."""
    a, b = slow_stack.authority, Authority(tmp_path / "b")
    async with Client(slow_stack.target("gateway"), slow_stack.cli, tenant="rotation") as client:
        assert (await client.search(QUESTION))[0].document_id == "T-1042"
        for name, identity in everyone(slow_stack).items():
            b.renew(name, identity)
        half = a.folder / "half"
        half.write_bytes(b.ca.read_bytes())
        half.replace(a.ca)
        for name in SERVICES:
            slow_stack.kill(name)
        await asyncio.to_thread(slow_stack.start)

        async def found() -> bool:
            with contextlib.suppress(RagkeepError):
                return (await client.search(QUESTION))[0].document_id == "T-1042"
            return False

        await until_comes(found)


async def test_files_that_do_not_fit_each_other_are_not_taken_over(slow_stack: Stack) -> None:
    """A certificate whose key has not come yet, then junk: the connection that stands serves on, and heals afterwards."""
    async with open_channel(slow_stack.target("gateway"), "gateway", slow_stack.cli) as channel:
        rag = RagServiceStub(channel)
        good = slow_stack.cli.cert.read_bytes()
        other = slow_stack.authority.issue("other", uris=[f"spiffe://ragkeep.internal/{CLI}"])
        for content in (other.cert.read_bytes(), b"junk", b""):
            slow_stack.cli.cert.write_bytes(content)
            await asyncio.sleep(1.5)
            assert (await rag.Search(pb.SearchRequest(query=QUESTION), metadata=TENANT)).sources
        assert channel.renewals == 0
        slow_stack.cli.cert.write_bytes(good)
        await until_true(lambda: channel.renewals == 1)
        assert (await rag.Search(pb.SearchRequest(query=QUESTION), metadata=TENANT)).sources


async def test_certificates_that_the_server_does_not_trust_yet_wait_until_it_does(slow_stack: Stack, tmp_path: Path) -> None:
    """The caller got its leaf of a new authority before the server got the bundle: served all the time, then taken over."""
    b = Authority(tmp_path / "b")
    server_bundle = slow_stack.identities["gateway"].ca
    own_bundle = tmp_path / "own-ca.crt"
    own_bundle.write_bytes(server_bundle.read_bytes())
    caller = Identity(slow_stack.cli.cert, slow_stack.cli.key, own_bundle)
    async with open_channel(slow_stack.target("gateway"), "gateway", caller) as channel:
        rag = RagServiceStub(channel)
        b.renew(CLI, caller)
        for _ in range(20):
            assert (await rag.Search(pb.SearchRequest(query=QUESTION), metadata=TENANT)).sources
            await asyncio.sleep(0.15)
        assert channel.renewals == 0
        half = tmp_path / "half"
        half.write_bytes(server_bundle.read_bytes() + b.ca.read_bytes())
        half.replace(server_bundle)
        await until_true(lambda: channel.renewals == 1)
        assert (await rag.Search(pb.SearchRequest(query=QUESTION), metadata=TENANT)).sources


TRACING = """
import sys, time
from pathlib import Path
from ragkeep_runtime.telemetry import configure_telemetry, span
from ragkeep_runtime.tls import Identity
configure_telemetry("test", sys.argv[1], Identity(*map(Path, sys.argv[2:])))
while True:
    with span("tick"):
        time.sleep(0.1)
"""


async def test_traces_go_on_with_the_new_certificate(tmp_path: Path) -> None:
    """The collector trusts the new authority alone: nothing comes in until the files are replaced, then it does."""
    a, b = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    identity = a.service("embedder")
    received = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Collector(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: object, context: object) -> object:
            loop.call_soon_threadsafe(received.set)
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), server)
    shown = a.issue("collector", uris=["spiffe://ragkeep.internal/collector"], dns=["localhost"])
    credentials = grpc.ssl_server_credentials([(shown.key.read_bytes(), shown.cert.read_bytes())], b.ca.read_bytes(), True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    files = [str(file) for file in (identity.cert, identity.key, identity.ca)]
    process = subprocess.Popen([sys.executable, "-c", TRACING, f"https://localhost:{port}", *files], stderr=subprocess.DEVNULL)
    try:
        await asyncio.sleep(4)
        assert not received.is_set()
        b.renew("embedder", identity)
        await received.wait()
    finally:
        process.kill()
        process.wait()
        server.stop(0)
