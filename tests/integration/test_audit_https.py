"""People who come over HTTPS are on record as over gRPC: every route, by the person's name, before anything leaves."""

from __future__ import annotations

import io
import json
import socket
import uuid

import pytest

from ragkeep_gateway.http.routes import Route
from tests.https import Person
from tests.integration.test_audit import of_request, until
from tests.integration.test_http_edge import ROUTES, ask

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.verb} {route.path}")
async def test_every_route_is_on_record(reader: Person, route: Route) -> None:
    """When the answer is here the line is, with the token's subject and no peer, and the end follows."""
    request_id = uuid.uuid4().hex
    found = await ask(reader, route, x_request_id=request_id)
    assert found.status == 200  # type: ignore[attr-defined]
    stack = reader.site.stack
    asked = [line for line in of_request(stack, request_id) if line["kind"] == "asked"]
    assert asked
    assert {(line["subject"], line["tenant"], line["method"], line.get("peer")) for line in asked} == {
        ("li.wei", "demo", route.method, None)
    }
    *_, finished = await until(stack, request_id, 2 * len(asked))
    assert (finished["kind"], finished["outcome"]) == ("finished", "OK")
    if route.rpc == "Ask":
        assert asked[0]["documents"]


async def test_a_person_who_is_refused_is_on_record(reader: Person) -> None:
    """Without a token too: then nobody's name is there."""
    for roles in (["editor"], []):
        request_id = uuid.uuid4().hex
        (route,) = [one for one in ROUTES if one.path == "/chat/stream"]
        stranger = Person(reader.site, reader.session, reader.site.token(sub="mallory", roles=roles))
        assert (await ask(stranger, route, x_request_id=request_id)).status == 403  # type: ignore[attr-defined]
        (line,) = await until(reader.site.stack, request_id, 1)
        said = (line["kind"], line["outcome"], line["subject"], line["tenant"], line["method"].rpartition("/")[2])
        assert said == ("refused", "NOT_ALLOWED", "mallory", "demo", "Ask")
    for token in (None, reader.token and reader.token[:-4] + "AAAA"):
        request_id = uuid.uuid4().hex
        (route,) = [one for one in ROUTES if one.path == "/chat/stream"]
        found = await ask(Person(reader.site, reader.session, token), route, x_request_id=request_id)
        assert found.status == 401  # type: ignore[attr-defined]
        (line,) = await until(reader.site.stack, request_id, 1)
        assert (line["kind"], line["outcome"], line.get("subject")) == ("refused", "TOKEN_INVALID", None)


@pytest.mark.parametrize(
    ("status", "data", "shape"),
    [
        (400, b"{", {}),
        (415, b"{}", {"content-type": "text/plain"}),
        (415, b"{}", {"content-encoding": "gzip"}),
        (413, b" " * (1024 * 1024 + 1), {}),
        (422, b'{"question": 7}', {}),
    ],
    ids=["no JSON", "no type", "compressed", "too large", "another shape"],
)
async def test_a_request_that_is_none_is_on_record(reader: Person, status: int, data: bytes, shape: dict[str, str]) -> None:
    """Its sender was let in, and nothing of it was asked: refused, with who it was and what was wrong."""
    request_id = uuid.uuid4().hex
    headers = {"authorization": f"Bearer {reader.token}", "content-type": "application/json", "x-request-id": request_id}
    async with reader.session.post(f"{reader.site.url}/chat/stream", data=io.BytesIO(data), headers=headers | shape) as found:
        assert found.status == status
        reason = (await found.json())["error"]["reason"]
    (line,) = await until(reader.site.stack, request_id, 1)
    assert (line["kind"], line["outcome"], line["subject"], line["tenant"]) == ("refused", reason, "li.wei", "demo")
    assert len(line["call"]) == 32


HALF = json.dumps({"question": "VPN error 809"}).encode()[:-5]


@pytest.mark.parametrize(
    ("shape", "body"),
    [({"content-length": "1000"}, HALF), ({"transfer-encoding": "chunked"}, b"3e8\r\n" + HALF)],
    ids=["length", "chunks"],
)
async def test_who_leaves_while_the_body_is_on_its_way_is_on_record(reader: Person, shape: dict[str, str], body: bytes) -> None:
    """Let in, and gone before there was a question: one line, by the person's name."""
    request_id = uuid.uuid4().hex
    given = {"host": "localhost", "authorization": f"Bearer {reader.token}", "content-type": "application/json"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in (given | shape | {"x-request-id": request_id}).items())
    with (
        socket.create_connection(("127.0.0.1", reader.site.port), timeout=30) as plain,
        reader.site.tls.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(f"POST /chat/stream HTTP/1.1\r\n{lines}\r\n".encode() + body)
    (line,) = await until(reader.site.stack, request_id, 1)
    assert (line["kind"], line["outcome"], line["subject"], line["tenant"]) == ("refused", "CANCELLED", "li.wei", "demo")
    assert len(line["call"]) == 32
