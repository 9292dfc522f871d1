"""Certificates, policy and people's keys are replaced ten times each under calls and long answers, over gRPC and HTTPS: none fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.errors import from_rpc_error
from ragkeep_runtime.rotation import FollowingChannel
from ragkeep_runtime.tls import Identity
from tests.counted import COUNTED
from tests.https import Answer, Person, Site, connections
from tests.slow_generator import WORDS
from tests.stack import CLI
from tests.tokens import Issuer
from tests.waiting import until_comes, until_true

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite")]
PORTAL = "caller/local/portal"
QUESTION = "VPN error 809 after an update"
ROUNDS = 10


class Load:
    """Calls without a pause and long answers beside them, over both edges. The first failure ends it; nothing is repeated."""

    def __init__(self, site: Site, cli: FollowingChannel, portal: FollowingChannel) -> None:
        self.site = site
        self.issuer = site.issuer
        self.calls: Counter[str] = Counter()
        # Tokens that nobody has looked at yet, by who signed them.
        self.on_their_way: Counter[Issuer] = Counter()
        self._cli, self._portal = RagServiceStub(cli), RagServiceStub(portal)
        self._going = True

    @contextlib.contextmanager
    def token(self) -> Iterator[str]:
        """Of a reader, signed just now; the block ends where it was looked at."""
        issuer = self.issuer
        self.on_their_way[issuer] += 1
        yield f"Bearer {issuer.token()}"
        self.on_their_way[issuer] -= 1

    async def _service_searches(self) -> None:
        found = await self._cli.Search(pb.SearchRequest(query=QUESTION), metadata=(("ragkeep-tenant", "demo"),))
        assert found.sources[0].passage.document_id == "T-1042"

    async def _person_searches(self) -> None:
        with self.token() as token:
            found = await self._portal.Search(pb.SearchRequest(query=QUESTION), metadata=(("authorization", token),))
        assert found.sources[0].passage.document_id == "T-1042"

    async def _person_asks(self) -> None:
        with self.token() as token:
            events = self._portal.Ask(pb.AskRequest(question=QUESTION), metadata=(("authorization", token),))
            await events.read()
        words = [event.delta.text async for event in events if event.WhichOneof("event") == "delta"]
        assert "".join(words).split() == [str(number) for number in range(WORDS)]

    async def _embeds_over_https(self) -> None:
        # A handshake for each, with the certificate of the moment.
        async with connections(self.site.tls, force_close=True) as session:
            body = {"model": "multilingual-e5-small", "input": "VPN"}
            with self.token() as token:
                answer = await Person(self.site, session, None)("POST", "/v1/embeddings", body, authorization=token)
            assert (answer.status, len(answer.json["data"])) == (200, 1), answer.text

    async def _chats_over_https(self) -> None:
        async with connections(self.site.tls) as session:
            with self.token() as token:
                asked = session.post(
                    f"{self.site.url}/chat/stream", json={"question": QUESTION}, headers={"authorization": token}
                )
                response = await asked
            async with response:
                answer = Answer(response.status, {}, await response.text())
            words = [str(data["text"]) for name, data in answer.events if name == "token"]
            assert "".join(words).split() == [str(number) for number in range(WORDS)], answer.text[-500:]
            assert answer.events[-1][0] == "done"

    async def _again_and_again(self, what: Callable[[], Any], pause_s: float) -> None:
        while self._going:
            await what()
            self.calls[what.__name__.strip("_")] += 1
            await asyncio.sleep(pause_s)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raises the first failure of a call."""
        quick = [self._service_searches, self._person_searches, self._embeds_over_https]
        long = [self._person_asks, self._person_asks, self._chats_over_https, self._chats_over_https]
        async with asyncio.TaskGroup() as group:
            for what in quick:
                group.create_task(self._again_and_again(what, 0.03))
            for what in long:
                group.create_task(self._again_and_again(what, 0))
            try:
                yield
            finally:
                self._going = False


class Rotated:
    """What is replaced, a round at a time."""

    def __init__(self, site: Site, load: Load, portal: Identity, channels: list[FollowingChannel]) -> None:
        self.site, self.load, self.portal, self.channels = site, load, portal, channels
        self.stack = site.stack
        self.slowest_s = 0.0
        self._policy = json.loads(self.stack.policy.read_text())

    def log(self, event: str, **keys: str) -> list[dict[str, Any]]:
        """The gateway's lines of an event."""
        lines = [json.loads(line) for line in self.stack.log("gateway").splitlines() if f'"event": "{event}"' in line]
        return [line for line in lines if keys.items() <= line.items()]

    def write_policy(self, content: str) -> None:
        """Whole or not at all, as a mounted file changes."""
        new = self.stack.policy.with_name("policy.new")
        new.write_text(content)
        new.replace(self.stack.policy)

    async def leaves(self, number: int) -> None:
        """Of every process, of the callers and of the HTTPS edge."""
        everyone = {**self.stack.identities, CLI: self.stack.cli, PORTAL: self.portal}
        for name, identity in everyone.items():
            self.stack.authority.renew(name, identity)
        renewed = self.stack.authority.issue("https-renewed", dns=["localhost"])
        renewed.key.replace(self.site.identity.key)
        renewed.cert.replace(self.site.identity.cert)

        def taken_over() -> bool:
            by_gateway = Counter(line["to"] for line in self.log("channel_renewed"))
            own = min(channel.renewals for channel in self.channels)
            https = len(self.log("file_taken_over", what="http_cert"))
            return min([own, https, *(by_gateway[name] for name in ("embedder", "retriever", "generator"))]) >= number

        await until_true(taken_over)

    async def policy(self, number: int) -> None:
        """A caller comes, and the one that came before is denied."""
        self._policy["callers"][f"caller/local/round-{number}"] = {"tenants": ["demo"], "roles": ["reader"]}
        self._policy["denied"] = [f"caller/local/round-{former}" for former in range(number)]
        self.write_policy(json.dumps(self._policy))
        began = time.monotonic()
        await until_comes(lambda: self.is_let_in(number))
        assert not await self.is_let_in(number - 1)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    async def broken_policy(self, number: int) -> None:
        """Torn, then wrong: the old one stays in force, and it is said."""
        for content in ('{"callers": {', '{"callers": {"caller/local/everybody": {"tenants": ["*"], "roles": ["root"]}}}'):
            complaints = len(self.log("file_not_taken_over", what="policy", level="error"))
            counted = self.not_taken_over()
            self.write_policy(content)
            await until_true(lambda: len(self.log("file_not_taken_over", what="policy", level="error")) > complaints)  # noqa: B023
            assert self.not_taken_over() > counted
            assert await self.is_let_in(number)
            assert not await self.is_let_in(number - 1)

    def not_taken_over(self) -> float:
        """By the metric."""
        url = f"http://127.0.0.1:{self.stack.health_ports['gateway']}/metrics"
        with urllib.request.urlopen(url, timeout=60) as response:
            page = response.read().decode()
        found = re.search(r'ragkeep_file_not_taken_over_total\{what="policy"\} ([\d.]+)', page)
        return float(found.group(1)) if found else 0.0

    async def is_let_in(self, number: int) -> bool:
        """Whether the caller of a round may search."""
        identity = self.stack.authority.caller(f"caller/local/round-{number}")
        async with open_channel(self.stack.target("gateway"), "gateway", identity) as channel:
            try:
                await RagServiceStub(channel).ListCollections(pb.ListCollectionsRequest())
            except grpc.aio.AioRpcError as error:
                if from_rpc_error(error).reason != "NOT_ALLOWED":
                    raise
                return False
            return True

    async def keys(self, number: int) -> None:
        """Both keys, tokens of the new one, then the new one alone: tokens of the old one are nobody's."""
        former, following = self.load.issuer, Issuer("ES256", kid=f"round-{number}")
        taken = len(self.log("file_taken_over", what="jwt_jwks"))
        former.write(self.site.keys, following)
        await until_true(lambda: len(self.log("file_taken_over", what="jwt_jwks")) > taken)
        self.load.issuer = following
        await until_true(lambda: not self.load.on_their_way[former])
        taken = len(self.log("file_taken_over", what="jwt_jwks"))
        following.write(self.site.keys)
        await until_true(lambda: len(self.log("file_taken_over", what="jwt_jwks")) > taken)
        async with open_channel(self.stack.target("gateway"), "gateway", self.portal) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await RagServiceStub(channel).Search(
                    pb.SearchRequest(query="x"), metadata=(("authorization", f"Bearer {former.token()}"),)
                )
        assert from_rpc_error(refused.value).reason == "TOKEN_INVALID"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """With long answers, and a portal that acts for people."""
    found = Site(tmp_path, modules={"generator": "tests.slow_generator"})
    policy = json.loads(found.stack.policy.read_text())
    policy["callers"][PORTAL] = {"tenants": ["demo"], "roles": ["reader"], "people_only": True}
    found.stack.policy.write_text(json.dumps(policy))
    try:
        await asyncio.to_thread(found.stack.start)
        await found.import_sample()
        yield found
    finally:
        found.stack.stop()


async def test_no_call_fails_while_everything_is_replaced_ten_times(site: Site) -> None:
    """Every leaf, the policy and the signing keys in each round, all under load; a broken policy on the way changes nothing."""
    portal = site.stack.authority.caller(PORTAL)
    target = site.stack.target("gateway")
    async with open_channel(target, "gateway", site.stack.cli) as cli, open_channel(target, "gateway", portal) as channel:
        load = Load(site, cli, channel)
        rotated = Rotated(site, load, portal, [cli, channel])
        async with load.running():
            for number in range(1, ROUNDS + 1):
                await asyncio.gather(rotated.leaves(number), rotated.policy(number), rotated.keys(number))
                if number == ROUNDS // 2:
                    await rotated.broken_policy(number)
        await until_true(lambda: cli.connections == channel.connections == 1)
    # By calls that do nothing else, each round has some of each kind; a long answer of each kind spans several.
    assert load.calls["service_searches"] >= ROUNDS
    assert load.calls["person_searches"] >= ROUNDS
    assert load.calls["embeds_over_https"] >= ROUNDS
    assert load.calls["person_asks"] >= 2
    assert load.calls["chats_over_https"] >= 2
    COUNTED["rotation: rounds of certificates, policy and keys"] += ROUNDS
    COUNTED["rotation: calls during them, none of which failed"] += load.calls.total()
    COUNTED["rotation: ms until a changed policy was in force, at most"] = round(rotated.slowest_s * 1000)
