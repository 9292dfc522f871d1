"""The HTTPS edge on real processes: who is let in, what is said, and how it ends."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import urllib.request
import uuid
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from ragkeep.access.v1 import access_pb2
from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_gateway.http.routes import OPENAPI_PATH, Route, routes_of
from ragkeep_runtime.audit.verify import day_files
from ragkeep_runtime.policy import ROLES
from tests import slow_generator
from tests.https import Answer, Person, Site, connections
from tests.tokens import Issuer, wrong_tokens
from tests.waiting import events_of, until_comes, until_true

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]

ROUTES: list[Route] = routes_of(None)  # type: ignore[arg-type]  # handlers are not called here
IDS = [f"{route.verb} {route.path}" for route in ROUTES]
# A right request of each route, but for who makes it.
BODIES = {
    "/chat/stream": {"question": "打印机脱机"},
    "/v1/chat/completions": {"model": "service-tickets", "messages": [{"role": "user", "content": "打印机脱机"}]},
    "/v1/embeddings": {"model": "multilingual-e5-small", "input": "打印机"},
}
SECURITY = {
    "strict-transport-security": "max-age=31536000",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}


def path_of(route: Route) -> str:
    """With a model's name where the path wants one."""
    return route.path.replace("{model:path}", "service-tickets")


def roles_of(route: Route) -> set[str]:
    """By the contract."""
    (method,) = [one for one in gateway_pb2.DESCRIPTOR.services_by_name["RagService"].methods if one.name == route.rpc]
    return {ROLES[role] for role in method.GetOptions().Extensions[access_pb2.access].roles}


def outcomes(site: Site, request_id: str) -> list[str]:
    """What the gateway's log says of the call."""
    lines = [json.loads(line) for line in site.stack.log("gateway").splitlines() if request_id in line]
    return [line["outcome"] for line in lines if line["event"] == "call_finished"]


async def ask(person: Person, route: Route, body: object = None, **headers: str) -> object:
    """The route's right request, or with another body."""
    given = body if body is not None else BODIES.get(route.path)
    return await person(route.verb, path_of(route), given if route.verb == "POST" else None, **headers)


def test_every_route_has_the_rule_of_an_rpc_of_the_contract() -> None:
    """Nothing of HTTP decides on roles; a POST is walked with a right body; models are for those who may see collections."""
    names = {method.name: method for method in gateway_pb2.DESCRIPTOR.services_by_name["RagService"].methods}
    assert {route.rpc for route in ROUTES} <= set(names)
    assert {route.path for route in ROUTES if route.verb == "POST"} == set(BODIES)

    def roles(name: str) -> set[int]:
        return set(names[name].GetOptions().Extensions[access_pb2.access].roles)

    assert roles("ListModels") <= roles("ListCollections")


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
async def test_nobody_gets_past_the_edge_without_a_right_token(
    site: Site, session: aiohttp.ClientSession, route: Route
) -> None:
    """No token, and each that is wrong in one way: 401 before a byte of the body is looked at."""
    tokens: dict[str, str | None] = {"none": None, "empty": "", **wrong_tokens(site.issuer)}
    tokens["alg HS256 with the public key"] = _confused(site.issuer)
    for name, token in tokens.items():
        request_id = uuid.uuid4().hex
        found = await ask(Person(site, session, token), route, b"\xff{", x_request_id=request_id)
        assert found.status == 401, name
        assert found.reason == ("TOKEN_EXPIRED" if name in ("expired", "not yet valid") else "TOKEN_INVALID"), name
        assert found.headers["www-authenticate"].startswith('Bearer realm="ragkeep"')
        assert found.headers["x-request-id"] == found.json["error"]["request_id"] == request_id
        # A handler, or its parser, would have said INVALID_REQUEST.
        assert outcomes(site, request_id) == [found.reason]
    for scheme in ("Basic", "Token", ""):
        found = await ask(Person(site, session, None), route, authorization=f"{scheme} {site.token()}".strip())
        assert found.status == 401


def _confused(issuer: Issuer) -> str:
    """Signed with the public key as if that were a secret."""
    import base64
    import hashlib
    import hmac

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = issuer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _, body, _ = issuer.token().split(".")
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": issuer.kid}).encode()).rstrip(b"=").decode()
    signature = hmac.new(public, f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
async def test_a_role_opens_what_the_contract_says_and_nothing_else(
    site: Site, session: aiohttp.ClientSession, route: Route
) -> None:
    """Each role alone, none, and one that is not ours: 403 in words, the handler not entered; or the answer."""
    allowed = roles_of(route)
    for roles in ([], ["owner"], *([role] for role in ROLES.values())):
        request_id = uuid.uuid4().hex
        person = Person(site, session, site.token(roles=roles))
        found = await ask(person, route, x_request_id=request_id)
        if allowed & set(roles):
            assert found.status == 200, (roles, found.text)
        else:
            assert (found.status, found.reason) == (403, "NOT_ALLOWED"), roles
            refused = await ask(person, route, b"\xff{")
            assert (refused.status, refused.reason) == (403, "NOT_ALLOWED") or route.verb == "GET"
            assert outcomes(site, request_id) == ["NOT_ALLOWED"]


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
async def test_every_response_says_that_it_is_no_page_and_not_to_be_kept(reader: Person, route: Route) -> None:
    """Right or wrong, found or not."""
    stranger = Person(reader.site, reader.session, None)
    answers = [await ask(reader, route), await ask(stranger, route), await reader("DELETE", path_of(route))]
    answers += [await reader("GET", "/nothing/here"), await stranger("GET", OPENAPI_PATH)]
    for answer in answers:
        assert SECURITY.items() <= answer.headers.items()
        assert answer.headers["x-request-id"]
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers


async def test_what_is_not_there_tells_nothing(reader: Person) -> None:
    """404 and 405 are the same for everybody, JSON in the shape of their place, without a redirect."""
    stranger = Person(reader.site, reader.session, None)
    for person in (reader, stranger):
        for path in (
            "/",
            "/docs",
            "/redoc",
            "/metrics",
            "/livez",
            "/chat/stream/",
            "/v1",
            "/v1/",
            "/v1/files",
            "/%2e%2e/x",
            "/v1/models/",
        ):
            found = await person("GET", path)
            assert (found.status, found.reason) == (404, "INVALID_REQUEST") or path == "/v1/models/", path
        found = await person("GET", "/chat/stream")
        assert (found.status, found.headers["allow"]) == (405, "POST")
        assert "type" in (await person("GET", "/v1/files")).json["error"]


async def test_a_models_name_may_be_written_either_way(reader: Person) -> None:
    """It holds a slash where it names a language model too: a client that encodes it asks for the same one."""

    async def named(path: str) -> tuple[int, str]:
        given = {"authorization": f"Bearer {reader.token}"}
        url = URL(f"{reader.site.url}/v1/models/{path}", encoded=True)  # else aiohttp decodes what need not be encoded
        async with reader.session.get(url, headers=given) as found:
            said = await found.json()
            return found.status, said["id"] if found.status == 200 else said["error"]["reason"]

    names = [one["id"] for one in (await reader("GET", "/v1/models")).json["data"]]
    assert "service-tickets" in names
    for name in names:
        for written in (name, quote(name, safe=""), f"%{ord(name[0]):02x}{name[1:]}"):
            assert await named(written) == (200, name)
    for written in ("service-tickets%2Fnone", "service-tickets/none", "service-tickets%252Fnone"):
        assert await named(written) == (404, "COLLECTION_UNKNOWN")


async def test_the_stream_brings_thinking_sources_tokens_and_done(reader: Person) -> None:
    """In this order, UTF-8 as it is, and the text is what the citations point into."""
    found = await reader("POST", "/chat/stream", {"question": "打印机脱机了怎么办？", "limit": 3})
    assert found.headers["content-type"] == "text/event-stream; charset=utf-8"
    names = [name for name, _ in found.events]
    assert names[:3] == ["thinking", "sources", "thinking"]
    assert names[-1] == "done"
    assert set(names[3:-1]) == {"token"}
    sources = found.events[1][1]
    assert sources["sources"][0]["passage"]["documentId"] == "T-1003"
    assert len(sources["sources"]) == 3
    assert sources["evidence"]["suffices"] is True
    assert "脱机使用打印机" in found.text
    text = "".join(data["text"] for name, data in found.events if name == "token")
    done = found.events[-1][1]
    assert (done["finish"], done["quoted"], done["model"]) == ("stop", True, "quote")
    assert [text[mark["start"] : mark["end"]] for mark in done["citations"]] == ["[1]"] * len(done["citations"])
    assert done["citations"]


async def test_a_follow_up_is_made_whole_and_that_is_told(reader: Person) -> None:
    """Event thinking says what is searched for; a question without an answer in the documents is an honest no."""
    history = [{"question": "打印机脱机了怎么办？", "answer": "重启后台打印服务。"}]
    found = await reader("POST", "/chat/stream", {"question": "然后呢？", "history": history})
    stages = [data for name, data in found.events if name == "thinking"]
    assert [one["stage"] for one in stages] == ["rewriting", "rewritten", "retrieving", "generating"]
    assert "打印机" in stages[1]["question"]
    no = await reader(
        "POST", "/chat/stream", {"question": "How long does a whale live?", "minimumEvidence": {"coverage": 0.9, "margin": 1.5}}
    )
    assert no.events[-1][1]["finish"] == "no_evidence"
    assert no.events[1][1]["sources"] == []


@pytest.mark.parametrize(
    ("body", "status", "reason", "field"),
    [
        (b"{", 400, "INVALID_REQUEST", ""),
        (b"[]", 400, "INVALID_REQUEST", ""),
        (b"\xff", 400, "INVALID_REQUEST", ""),
        (b"[" * 20_000, 400, "INVALID_REQUEST", ""),
        (b'{"question": NaN}', 400, "INVALID_REQUEST", ""),
        ({}, 422, "QUESTION_EMPTY", "question"),
        ({"question": "a" * 8001}, 422, "QUESTION_TOO_LONG", "question"),
        ({"question": 1}, 422, "INVALID_REQUEST", "question"),
        ({"question": "a", "temperature": 1}, 422, "INVALID_REQUEST", "temperature"),
        ({"question": "a", "tenant": "other"}, 422, "INVALID_REQUEST", "tenant"),
        ({"question": "a", "limit": 1001}, 422, "LIMIT_OUT_OF_RANGE", "limit"),
        (b'{"question": "\\ud800"}', 422, "INVALID_REQUEST", "question"),
        ({"question": "a", "collection": "nothing"}, 404, "COLLECTION_UNKNOWN", ""),
    ],
)
async def test_what_is_wrong_with_a_question_is_the_status(
    reader: Person, body: object, status: int, reason: str, field: str
) -> None:
    """Before anything is streamed: JSON with reason, field and request id."""
    found = await reader("POST", "/chat/stream", body)
    assert (found.status, found.reason, found.json["error"].get("field", "")) == (status, reason, field), found.text
    assert found.headers["content-type"] == "application/json; charset=utf-8"


async def test_what_goes_wrong_later_is_the_last_event(reader: Person) -> None:
    """A filter is checked where the documents are: the stream has begun by then."""
    wrong = {"question": "打印机", "filter": {"equals": {"field": "nothing", "value": {"keyword": "x"}}}}
    found = await reader("POST", "/chat/stream", wrong)
    assert found.status == 200
    name, data = found.events[-1]
    assert (name, data["reason"]) == ("error", "FILTER_FIELD_UNKNOWN")
    assert data["request_id"] == found.headers["x-request-id"]


async def test_bodies_have_bounds_and_one_form(reader: Person) -> None:
    """Too long is 413, said before or found while it comes; another content type or a compressed one is 415."""
    long = b'{"question": "' + b"a" * (1024 * 1024) + b'"}'
    found = await reader("POST", "/chat/stream", long)
    assert (found.status, found.reason, found.headers["connection"]) == (413, "REQUEST_TOO_LARGE", "close")

    async def pieces():  # type: ignore[no-untyped-def]
        for _ in range(40):
            yield b"a" * 65536

    headers = {"authorization": f"Bearer {reader.token}", "content-type": "application/json"}
    async with reader.session.post(reader.site.url + "/chat/stream", data=pieces(), headers=headers) as response:
        assert response.status == 413
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert (await reader("POST", "/chat/stream", b"{}", content_type=kind)).status == 415
    found = await reader("POST", "/chat/stream", b"{}", content_encoding="gzip")
    assert found.status == 415


async def test_nothing_of_a_request_is_in_the_log(reader: Person) -> None:
    """One line for the request with its route, one for the call; neither path, query, body nor token."""
    word, request_id = f"geheim{uuid.uuid4().hex}", uuid.uuid4().hex
    await reader("POST", f"/chat/stream?q={word}", {"question": word}, x_request_id=request_id, user_agent=word)
    await reader("GET", f"/{word}", x_request_id=f"{request_id}a")
    await reader("GET", f"/v1/models/{word}")
    log = reader.site.stack.log("gateway")
    assert word not in log
    assert str(reader.token) not in log
    lines = [json.loads(line) for line in log.splitlines() if request_id in line]
    first = next(line for line in lines if line["event"] == "request_finished" and line["request_id"] == request_id)
    assert (first["route"], first["verb"], first["status"], first["service"]) == ("/chat/stream", "POST", 200, "gateway")
    other = next(line for line in lines if line["request_id"] == f"{request_id}a")
    assert (other["route"], other["status"]) == ("", 404)


async def test_the_tenant_is_the_tokens_alone(site: Site, session: aiohttp.ClientSession) -> None:
    """Another tenant's person finds nothing here, and a header that names a tenant changes nothing."""
    person = Person(site, session, site.token(tenant="other"))
    for headers in ({}, {"ragkeep_tenant": "demo"}):
        found = await person("POST", "/chat/stream", {"question": "打印机脱机"}, **headers)
        assert found.events[1][1]["sources"] == []
        models = (await person("GET", "/v1/models", **headers)).json["data"]
        assert {one["ragkeep"].get("documents") for one in models} <= {"0", 0, None}


@pytest.mark.parametrize(
    ("unset", "words"),
    [
        (("RAGKEEP_HTTP_CERT",), "RAGKEEP_HTTP_CERT and RAGKEEP_HTTP_KEY"),
        (("RAGKEEP_HTTP_KEY",), "nothing is served without TLS"),
        (("RAGKEEP_JWT_JWKS",), "RAGKEEP_JWT_JWKS or RAGKEEP_JWT_SECRET"),
    ],
)
def test_without_tls_or_people_it_does_not_start(tmp_path: Path, unset: tuple[str, ...], words: str) -> None:
    """One sentence that names what is missing, and exit code 1."""
    site = Site(tmp_path)
    for name in unset:
        del site.stack.env["gateway"][name]
    site.stack.start("gateway", wait=False)
    try:
        assert site.stack.processes["gateway"].wait(300) == 1
        assert words in site.stack.log("gateway")
    finally:
        site.stack.stop()


async def test_a_stop_lets_a_stream_end_and_takes_nobody_new(tmp_path: Path) -> None:
    """SIGTERM in the middle of an answer of six seconds: it is whole, whoever comes then finds nobody, and the process ends."""
    site = Site(tmp_path, modules={"generator": "tests.slow_generator"})
    try:
        site.stack.start()
        await site.import_sample()
        async with connections(site.tls) as session:
            headers = {"authorization": f"Bearer {site.token()}"}
            asked = session.post(f"{site.url}/chat/stream", json={"question": "打印机脱机"}, headers=headers)
            async with asked as response:
                text = (await response.content.readuntil(b"event: token")).decode()
                site.stack.processes["gateway"].send_signal(signal.SIGTERM)

                async def nobody_is_there() -> bool:
                    async with connections(site.tls) as other:
                        try:
                            await Person(site, other, site.token())("GET", "/v1/models")
                        except aiohttp.ClientConnectorError:
                            return True
                        return False

                await until_comes(nobody_is_there)
                text += await response.text()
            found = Answer(response.status, {}, text)
        assert len([name for name, _ in found.events if name == "token"]) == slow_generator.WORDS
        assert found.events[-1][0] == "done"
        assert await asyncio.to_thread(site.stack.processes["gateway"].wait, 300) == 0
        assert "Traceback" not in site.stack.log("gateway")
    finally:
        site.stack.stop()


async def test_a_hang_up_ends_the_generators_call_too(tmp_path: Path) -> None:
    """Through the gateway to the generator, long before its six seconds are over."""
    site = Site(tmp_path, modules={"generator": "tests.slow_generator"})
    request_id = uuid.uuid4().hex
    try:
        site.stack.start()
        await site.import_sample()
        headers = {"authorization": f"Bearer {site.token()}", "content-type": "application/json", "x-request-id": request_id}
        async with connections(site.tls) as session:
            asked = session.post(f"{site.url}/chat/stream", json={"question": "打印机脱机"}, headers=headers)
            async with asked as response:
                while b"event: token" not in await response.content.readline():
                    pass
                response.close()
        for name in ("gateway", "generator"):
            ended = await until_true(lambda: events_of(site.stack.log(name), "call_finished", request_id=request_id))  # noqa: B023
            assert ended[-1]["outcome"] == "CANCELLED", name
        assert "Traceback" not in site.stack.log("gateway")
    finally:
        site.stack.stop()


def recorded(site: Site, request_id: str) -> list[dict[str, object]]:
    """The audit log's lines of one request."""
    files = day_files(site.stack.audit / "gateway-0")
    lines = [json.loads(line) for path in files for line in path.read_text("utf-8").splitlines() if request_id in line]
    return [line for line in lines if line.get("request_id") == request_id]


async def until_recorded(site: Site, request_id: str, kinds: list[str]) -> list[dict[str, object]]:
    """Waits for the last line, which no call waits for."""
    await until_true(lambda: [line["kind"] for line in recorded(site, request_id)] == kinds)
    return recorded(site, request_id)


def queued(site: Site) -> int:
    """Questions that wait at the gateway, by its metric."""
    with urllib.request.urlopen(f"http://127.0.0.1:{site.stack.health_ports['gateway']}/metrics", timeout=60) as response:
        page = response.read().decode()
    return int(float(re.findall(r'^ragkeep_engine_queue_depth\{queue="gateway"\} (\S+)', page, re.MULTILINE)[0]))


async def test_people_are_on_record_as_services_are(tmp_path: Path) -> None:
    """Asked before the sources leave, finished after; refused with the reason; who left is on record as that."""
    site = Site(tmp_path, modules={"generator": "tests.slow_generator"}, RAGKEEP_CONCURRENT_ASKS="1")
    try:
        site.stack.start()
        await site.import_sample()
        async with connections(site.tls) as session:
            person = Person(site, session, site.token(sub="li.wei"))
            ids = [uuid.uuid4().hex for _ in range(6)]
            refused = await Person(site, session, None)("POST", "/chat/stream", {"question": "a"}, x_request_id=ids[0])
            assert refused.status == 401
            (line,) = await until_recorded(site, ids[0], ["refused"])
            assert (line["outcome"], line["method"]) == ("TOKEN_INVALID", "/ragkeep.gateway.v1.RagService/Ask")
            auditor = Person(site, session, site.token(roles=["auditor"]))
            assert (await auditor("GET", "/v1/models", x_request_id=ids[1])).status == 403
            (line,) = await until_recorded(site, ids[1], ["refused"])
            assert line["outcome"] == "NOT_ALLOWED"

            headers = {"authorization": f"Bearer {person.token}", "x-request-id": ids[2]}
            asked = session.post(f"{site.url}/chat/stream", json={"question": "打印机脱机"}, headers=headers)
            async with asked as response:
                while b"event: sources" not in await response.content.readline():
                    pass
                (line,) = recorded(site, ids[2])
                assert (line["kind"], line["subject"], line["tenant"], line.get("peer", "")) == ("asked", "li.wei", "demo", "")
                assert "T-1003" in str(line["documents"])
                # One is answered and one waits; the next is told at once when to come again.
                waiting = asyncio.create_task(person("POST", "/v1/chat/completions", BODIES["/v1/chat/completions"]))
                await until_true(lambda: queued(site) == 1)
                full = await person("POST", "/v1/chat/completions", BODIES["/v1/chat/completions"], x_request_id=ids[3])
                assert (full.status, full.json["error"]["code"], full.headers["retry-after"]) == (429, "overloaded", "1")
                response.close()
            finished = (await until_recorded(site, ids[2], ["asked", "finished"]))[1]
            assert finished["outcome"] == "CANCELLED"
            assert (await waiting).status == 200

            site.stack.kill("generator")
            gone = await person("POST", "/v1/chat/completions", BODIES["/v1/chat/completions"] | {"stream": True})
            assert (gone.status, gone.reason) == (503, "NOT_READY")
            assert int(gone.headers["retry-after"]) >= 1
            late = await person("POST", "/chat/stream", BODIES["/chat/stream"])
            assert (late.status, late.events[-1][0], late.events[-1][1]["reason"]) == (200, "error", "NOT_READY")
    finally:
        site.stack.stop()


def taken_over(site: Site, what: str) -> list[dict[str, object]]:
    """What the gateway's log says of a file that it follows."""
    return events_of(site.stack.log("gateway"), "file_taken_over", what=what)


async def test_certificates_and_keys_change_under_people_and_no_call_fails(tmp_path: Path) -> None:
    """Each ten times, while new connections come all the time and answers of six seconds are being written."""
    site = Site(tmp_path, modules={"generator": "tests.slow_generator"})
    failures: list[object] = []
    calls, ending = 0, asyncio.Event()
    # Tokens that nobody has looked at yet, by who signed them.
    on_their_way: Counter[Issuer] = Counter()

    async def keep_calling() -> None:
        nonlocal calls
        while not ending.is_set():
            issuer = site.issuer
            on_their_way[issuer] += 1
            try:
                # A connection for each: a handshake with whatever certificate there is.
                async with connections(site.tls) as session:
                    found = await Person(site, session, issuer.token())("GET", "/v1/models")
                if found.status != 200:
                    failures.append(found)
            except aiohttp.ClientError as error:
                failures.append(error)
            on_their_way[issuer] -= 1
            calls += 1

    async def keep_asking() -> int:
        answers = 0
        while not ending.is_set():
            issuer = site.issuer
            on_their_way[issuer] += 1
            headers = {"authorization": f"Bearer {issuer.token()}"}
            async with connections(site.tls) as session:
                asked = session.post(f"{site.url}/chat/stream", json={"question": "打印机脱机"}, headers=headers)
                async with asked as response:
                    on_their_way[issuer] -= 1
                    found = Answer(response.status, {}, await response.text())
            if len([name for name, _ in found.events if name == "token"]) != slow_generator.WORDS:
                failures.append(found)
            answers += 1
        return answers

    try:
        site.stack.start()
        await site.import_sample()
        work = [asyncio.create_task(keep_calling()) for _ in range(2)]
        asking = asyncio.create_task(keep_asking())
        for number in range(10):
            former, following = site.issuer, Issuer("ES256", kid=f"next-{number}")
            taken = len(taken_over(site, "jwt_jwks"))
            following.write(site.keys, former)  # both, until everybody has a token of the new key
            renewed = site.stack.authority.issue(f"renewed-{number}", dns=["localhost"])
            renewed.key.replace(site.identity.key)
            renewed.cert.replace(site.identity.cert)
            await until_true(lambda: len(taken_over(site, "http_cert")) == number + 1)  # noqa: B023
            await until_true(lambda: len(taken_over(site, "jwt_jwks")) > taken)  # noqa: B023
            site.issuer = following
            await until_true(lambda: not on_their_way[former])  # noqa: B023
            taken = len(taken_over(site, "jwt_jwks"))
            following.write(site.keys)
            await until_true(lambda: len(taken_over(site, "jwt_jwks")) > taken)  # noqa: B023
        ending.set()
        await asyncio.gather(*work)
        answers = await asking
        assert failures == []
        assert calls >= 10
        assert answers >= 1
    finally:
        ending.set()
        site.stack.stop()
