"""Who is let go while the processes run: no new call gets in, and what runs ends, on gRPC and over HTTPS, on record.

Answers take a hundred seconds here: one that ended before was ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import grpc
import pytest

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1 import tenants_pb2
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.gateway.v1.tenants_pb2_grpc import TenantServiceStub
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.errors import ERRORS, RagkeepError, from_rpc_error
from tests.https import Answer, Person, Site, connections
from tests.integration.test_audit import lines, of_request
from tests.integration.test_http_edge import BODIES, ROUTES, ask
from tests.stack import Stack
from tests.waiting import events_of, until_true

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite")]
BOT, OTHER, PORTAL = "caller/local/bot", "caller/local/other", "caller/local/portal"
STOLEN = "5f0c1d9a-stolen"  # the id of a token
READS = {"tenants": ["demo"], "roles": ["reader"]}
COMPLETION = BODIES["/v1/chat/completions"]


class House:
    """The installation, and its policy and tenant as they are changed."""

    def __init__(self, site: Site) -> None:
        self.site, self.stack = site, site.stack
        policy = json.loads(self.stack.policy.read_text())
        policy["callers"] |= {BOT: READS, OTHER: READS, PORTAL: {"tenants": ["*"], "roles": ["reader"]}}
        self.policy: dict[str, Any] = policy
        self.stack.policy.write_text(json.dumps(policy))

    async def change(self, **changed: Any) -> None:
        """The policy with these keys, in force when this returns."""
        taken = self.taken_over
        new = self.stack.policy.with_suffix(".new")
        new.write_text(json.dumps(self.policy | changed))
        new.replace(self.stack.policy)
        await until_true(lambda: self.taken_over > taken)

    @property
    def taken_over(self) -> int:
        """How often a policy was."""
        return len(events_of(self.stack.log("gateway"), "file_taken_over", what="policy"))

    async def activate(self, active: bool) -> None:
        """The tenant demo, or not."""
        async with open_channel(self.stack.target("gateway"), "gateway", self.stack.cli) as channel:
            request = tenants_pb2.SetTenantActiveRequest(name="demo", active=active)
            await TenantServiceStub(channel).SetTenantActive(request, metadata=(("ragkeep-tenant", "any"),))

    async def let_go(self, how: str) -> None:
        """In one of the ways that tests know."""
        callers = self.policy["callers"]
        ways: dict[str, dict[str, Any]] = {
            "the service is denied": {"denied": [BOT]},
            "the service is not known any more": {"callers": {name: one for name, one in callers.items() if name != BOT}},
            "the service's role is gone": {"callers": callers | {BOT: READS | {"roles": ["editor"]}}},
            "the service's tenant is another": {"callers": callers | {BOT: READS | {"tenants": ["third"]}}},
            "the person is denied": {"denied_people": ["mallory"]},
            "the token is denied": {"denied_tokens": [STOLEN]},
            "the person's service is denied": {"denied": [PORTAL]},
        }
        if how == "the tenant is deactivated":
            await self.activate(False)
        else:
            await self.change(**ways[how])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One for all, with tickets in two tenants."""
    site = Site(tmp_path_factory.mktemp("denied"), modules={"generator": "tests.slow_generator 2000"})
    found = House(site)
    try:
        site.stack.start()
        for tenant in ("demo", "elsewhere"):
            asyncio.run(site.import_sample(tenant=tenant))
        yield found
    finally:
        site.stack.stop()


@pytest.fixture(autouse=True)
async def restored(house: House) -> AsyncIterator[None]:
    """What a test changed is as it was for the next one."""
    yield
    if json.loads(house.stack.policy.read_text()) != house.policy:
        await house.change()
    await house.activate(True)


@contextlib.asynccontextmanager
async def asking(house: House, caller: str, token: str = "") -> AsyncIterator[tuple[RagServiceStub, Any, str]]:
    """Somebody's answer, of which words came already; over gRPC, with the request's id."""
    async with open_channel(house.stack.target("gateway"), "gateway", house.stack.authority.caller(caller)) as channel:
        rag, request_id = RagServiceStub(channel), uuid.uuid4().hex
        metadata = [("x-request-id", request_id), *([("authorization", f"Bearer {token}")] if token else [])]
        answer: Any = rag.Ask(pb.AskRequest(question="打印机脱机"), metadata=metadata)
        await word_of(answer)
        yield rag, answer, request_id
        answer.cancel()


async def word_of(answer: Any) -> str:
    """The next one."""
    async for event in answer:
        if event.WhichOneof("event") == "delta":
            return str(event.delta.text)
    pytest.fail("the answer ended")


async def failure(answer: Any) -> RagkeepError:
    """How it ends."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in answer:
            pass
    found = from_rpc_error(failed.value)
    assert failed.value.code() is ERRORS[found.reason].code
    return found


async def ended_by(stack: Stack, request_id: str, reason: str, **who: str) -> None:
    """On record as asked, and as finished for this reason; the engine's work is cancelled."""
    await until_true(lambda: len(of_request(stack, request_id)) == 2)
    asked, finished = of_request(stack, request_id)
    assert (asked["kind"], finished["kind"], finished["outcome"]) == ("asked", "finished", reason)
    assert {key: finished.get(key, "") for key in who} == who
    ended = await until_true(lambda: events_of(stack.log("generator"), "call_finished", request_id=request_id))
    assert [one["outcome"] for one in ended] == ["CANCELLED"]


@pytest.mark.parametrize(
    ("how", "person", "reason"),
    [
        ("the service is denied", False, "NOT_ALLOWED"),
        ("the service is not known any more", False, "NOT_ALLOWED"),
        ("the service's role is gone", False, "NOT_ALLOWED"),
        ("the service's tenant is another", False, "TENANT_NOT_ALLOWED"),
        ("the person is denied", True, "NOT_ALLOWED"),
        ("the token is denied", True, "NOT_ALLOWED"),
        ("the person's service is denied", True, "NOT_ALLOWED"),
        ("the tenant is deactivated", True, "TENANT_INACTIVE"),
    ],
)
async def test_an_answer_ends_when_its_asker_is_let_go(house: House, how: str, person: bool, reason: str) -> None:
    """Over gRPC, by the refusal's status; others go on, and the next call hears the same unless it is of another tenant."""
    caller, subject = (PORTAL, "mallory") if person else (BOT, "")
    token = house.site.token(sub=subject, jti=STOLEN) if person else ""
    # Beside it somebody who stays, in a tenant that stays active.
    beside = (PORTAL, house.site.token(sub="anna", tenant="elsewhere")) if "tenant is deactivated" in how else (OTHER, "")
    async with asking(house, *beside) as (_, going_on, _), asking(house, caller, token) as (rag, answer, request_id):
        await house.let_go(how)
        assert (await failure(answer)).reason == reason
        await ended_by(house.stack, request_id, reason, subject=subject, token=STOLEN if person else "", peer=caller)
        for _ in range(3):
            await word_of(going_on)
        metadata = [("x-request-id", again := uuid.uuid4().hex), *([("authorization", f"Bearer {token}")] if person else [])]
        refused: Any = rag.Ask(pb.AskRequest(question="打印机脱机"), metadata=metadata)
        if how != "the service's tenant is another":
            assert (await failure(refused)).reason == reason
            await until_true(lambda: of_request(house.stack, again))
            (line,) = of_request(house.stack, again)
            named = subject if how != "the person's service is denied" else ""  # refused before its token is looked at
            assert (line["kind"], line["outcome"], line.get("subject", ""), line["peer"]) == ("refused", reason, named, caller)
            assert line.get("token", "") == (STOLEN if named else "")


@pytest.fixture
async def session(house: House) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections of one test."""
    async with connections(house.site.tls) as found:
        yield found


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("the person is denied", "NOT_ALLOWED"),
        ("the token is denied", "NOT_ALLOWED"),
        ("the tenant is deactivated", "TENANT_INACTIVE"),
    ],
)
async def test_answers_over_https_end_too(house: House, session: aiohttp.ClientSession, how: str, reason: str) -> None:
    """In a stream that has begun the last event says why; a response that has not begun has the status."""
    mallory = Person(house.site, session, house.site.token(sub="mallory", jti=STOLEN))
    bodies = {
        "/chat/stream": BODIES["/chat/stream"],
        "/v1/chat/completions": COMPLETION,
        "streamed": COMPLETION | {"stream": True},
    }
    ids = {name: uuid.uuid4().hex for name in bodies}
    answers: dict[str, asyncio.Task[Answer]] = {}
    for name, body in bodies.items():
        path = name if name in BODIES else "/v1/chat/completions"
        answers[name] = asyncio.create_task(mallory("POST", path, body, x_request_id=ids[name]))
    await until_true(
        lambda: set(ids.values()) <= {line.get("request_id") for line in lines(house.stack) if line["kind"] == "asked"}
    )
    await house.let_go(how)
    chat, whole, streamed = [await answers[name] for name in bodies]
    assert (chat.status, chat.events[-1][0], chat.events[-1][1]["reason"]) == (200, "error", reason)
    assert [name for name, _ in chat.events].count("done") == 0
    assert (whole.status, whole.json["error"]["code"]) == (403, reason.lower())
    assert streamed.status in (200, 403)  # by whether a word had come
    assert reason.lower() in streamed.text
    assert "[DONE]" not in streamed.text
    for request_id in ids.values():
        await ended_by(house.stack, request_id, reason, subject="mallory", peer="")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.verb} {route.path}")
async def test_no_route_is_open_to_a_denied_person(house: House, session: aiohttp.ClientSession, route: Any) -> None:
    """With a token that is right for a day: 403 before the body is read, on record by name. Others come in."""
    await house.change(denied_people=["mallory"])
    request_id = uuid.uuid4().hex
    mallory = Person(house.site, session, house.site.token(sub="mallory"))
    found: Any = await ask(mallory, route, b"\xff{", x_request_id=request_id)
    assert (found.status, found.reason) == (403, "NOT_ALLOWED")
    await until_true(lambda: of_request(house.stack, request_id))
    (line,) = of_request(house.stack, request_id)
    assert (line["kind"], line["outcome"], line["subject"], line["tenant"]) == ("refused", "NOT_ALLOWED", "mallory", "demo")
    if route.verb == "GET":
        assert (await Person(house.site, session, house.site.token(sub="anna"))(route.verb, "/v1/models")).status == 200
