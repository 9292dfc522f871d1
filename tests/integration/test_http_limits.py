"""The HTTPS edge's listener, on uvloop as in the gateway: slow and endless clients, too many of them, TLS that follows its files."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.generator.v1 import generator_pb2
from ragkeep_gateway.http.app import Site, app_of
from ragkeep_gateway.http.limits import Limits
from ragkeep_gateway.http.routes import routes_of
from ragkeep_gateway.http.server import HttpServer
from ragkeep_gateway.people import People, keys_of
from ragkeep_runtime.access import AccessTable, rules_of
from ragkeep_runtime.edge import Edge
from ragkeep_runtime.policy import Policy
from ragkeep_runtime.tls import Identity
from tests.pki import Authority
from tests.tokens import AUDIENCE, ISSUER, Issuer
from tests.waiting import until

# Patient: a test that shows a limit sets that one, so that a busy machine reaches no other.
LIMITS = Limits(
    connections=6, header_s=600, body_s=600, write_s=600, idle_s=600, heartbeat_s=0.1, handshake_s=600, body_bytes=256 * 1024
)
PROVIDER = Issuer("EdDSA")


class Slow:
    """The one method of RagService that matters here: it says what it was told to, and notes how it ended."""

    def __init__(self) -> None:
        self.entered = self.cancelled = 0
        self.pause_s, self.pieces, self.text = 0.05, 40, "word "
        self.held = False  # it says no more as long as this is so

    async def Ask(self, request: gateway_pb2.AskRequest, _context: Any) -> AsyncGenerator[gateway_pb2.AskResponse]:
        """Sources, then pieces."""
        self.entered += 1
        try:
            yield gateway_pb2.AskResponse(sequence=1, sources=gateway_pb2.Sources())
            for number in range(self.pieces):
                await asyncio.sleep(self.pause_s)
                while self.held:
                    await asyncio.sleep(0.01)
                yield gateway_pb2.AskResponse(sequence=2 + number, delta=generator_pb2.Delta(text=self.text))
            yield gateway_pb2.AskResponse(sequence=99, done=generator_pb2.Done(finish=generator_pb2.FINISH_STOP))
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise


class Served:
    """The edge in a thread with uvloop."""

    def __init__(self, folder: Path, site: Site) -> None:
        self.authority = Authority(folder)
        self.identity: Identity = self.authority.issue("https", dns=["localhost"])
        self.service = Slow()
        self.port = 0
        self.grace_s = 3.0
        self._site = site
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self.server: HttpServer | None = None
        self.edge: Edge | None = None
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(300)
        self.context = ssl.create_default_context(cafile=str(self.identity.ca))
        self.token = PROVIDER.token()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        keys = keys_of(json.dumps({"keys": [PROVIDER.jwk()]}).encode())
        people = People(lambda: keys, issuer=ISSUER, audience=AUDIENCE)
        rules = rules_of([gateway_pb2.DESCRIPTOR.services_by_name["RagService"]])
        self.edge = Edge(AccessTable(rules, Policy(), people.verify), "ragkeep.internal")
        app = app_of(routes_of(self.service), self.edge, self._site)  # type: ignore[arg-type]  # only Ask is called
        self.server = HttpServer(app, self.identity.cert, self.identity.key, self._site.limits)
        self.port = await self.server.start("127.0.0.1", 0)
        self._ready.set()
        await self._stopping.wait()
        await self.server.stop(self.grace_s)

    def stop(self) -> None:
        """As the process does it."""
        with contextlib.suppress(RuntimeError):  # a drain that had begun is over
            self.begin_stop()
        self._thread.join(300)
        assert not self._thread.is_alive()

    def begin_stop(self) -> None:
        """The drain begins."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stopping.set)

    def connect(self, context: ssl.SSLContext | None = None, name: str | None = "localhost") -> ssl.SSLSocket:
        """A TLS connection."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        return (context or self.context).wrap_socket(plain, server_hostname=name)

    def ask(self, **headers: str) -> bytes:
        """The bytes of a question."""
        body = json.dumps({"question": "a"}).encode()
        given = {"host": "localhost", "authorization": f"Bearer {self.token}", "content-type": "application/json"}
        given |= {"content-length": str(len(body))} | headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        return f"POST /chat/stream HTTP/1.1\r\n{lines}\r\n".encode() + body


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Served with these limits and settings."""
    found: list[Served] = []

    def one(limits: Limits = LIMITS, **site: Any) -> Served:
        found.append(Served(tmp_path / str(len(found)), Site(limits=limits, **site)))
        return found[-1]

    yield one
    for served in found:
        served.stop()


@pytest.fixture
def served(make: Callable[..., Served]) -> Served:
    """With the usual ones."""
    return make()


@pytest.fixture
def impatient(make: Callable[..., Served]) -> Served:
    """Who has connected and is not done soon is left: for what may be no whole request."""
    return make(replace(LIMITS, header_s=0.4, body_s=0.6, idle_s=1))


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    found = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := connection.recv(65536):
            found += data
    return found


def is_served(served: Served) -> bool:
    """Whether somebody else's request is answered. Who comes too late for a short limit asks again."""
    with contextlib.suppress(OSError), served.connect() as other:
        other.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        return rest(other).startswith(b"HTTP/1.1 200")
    return False


def dripped(connection: ssl.SSLSocket, begin: bytes, drop: bytes) -> bytes:
    """What is answered to who sends so slowly; nothing where the connection ended before it began, or took the answer along."""
    with contextlib.suppress(OSError):
        connection.settimeout(0.05)
        connection.sendall(begin)
        while True:
            try:
                return connection.recv(65536)
            except TimeoutError:
                connection.sendall(drop)
    return b""


def test_a_slow_header_is_answered_and_closed(make: Callable[..., Served]) -> None:
    """A real slow loris: a byte at a time, on a new connection and on one that was used before; others are served meanwhile."""
    served = make(replace(LIMITS, header_s=0.4))

    def used() -> ssl.SSLSocket | None:
        connection = served.connect()
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                data = connection.recv(65536)
                if not data:
                    break
                answer += data
            if answer.startswith(b"HTTP/1.1 200"):
                return connection
        connection.close()
        return None

    for connect in (served.connect, lambda: until(used)):

        def answered(connect: Callable[[], ssl.SSLSocket] = connect) -> bool:
            with connect() as connection:
                answer = dripped(connection, b"GET /openapi.json HTTP/1.1\r\nx: ", b"a")
                if not answer:
                    return False
                assert answer.startswith(b"HTTP/1.1 408 Request Timeout")
                assert b'"reason": "INVALID_REQUEST"' in answer
                connection.settimeout(60)
                assert rest(connection) == b""
            return True

        until(answered)
    until(lambda: is_served(served))


def test_a_connection_that_says_nothing_is_closed(make: Callable[..., Served]) -> None:
    """In silence after the handshake, with blank lines that begin no request, and after a request."""
    served = make(replace(LIMITS, header_s=0.4))
    with served.connect() as silent:
        assert rest(silent) == b""
    with served.connect() as blank:
        assert dripped(blank, b"\r\n", b"\r\n") == b""
    with make(replace(LIMITS, idle_s=1)).connect() as kept:
        kept.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert rest(kept).startswith(b"HTTP/1.1 200")
    silent_from_the_first = make(replace(LIMITS, handshake_s=0.5))
    with socket.create_connection(("127.0.0.1", silent_from_the_first.port), timeout=60) as nothing:  # no handshake at all
        assert nothing.recv(100) == b""


def test_a_slow_body_is_answered_and_closed(make: Callable[..., Served]) -> None:
    """For a person who was let in; who is not gets the answer at once, and the rest is not waited for."""
    served = make(replace(LIMITS, body_s=0.6))

    def answered() -> bool:
        with served.connect() as slow:
            answer = dripped(slow, served.ask(**{"content-length": "5000"}), b" ")
        assert not answer or answer.startswith(b"HTTP/1.1 408")
        return bool(answer)

    until(answered)
    patient = make()
    with patient.connect() as stranger:
        stranger.sendall(patient.ask(authorization="Bearer x", **{"content-length": "5000"}))
        assert rest(stranger).startswith(b"HTTP/1.1 401")
    assert served.service.entered == patient.service.entered == 0


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /openapi.json HTTP/1.1\r\n" + b"x: y\r\n" * 4_000 + b"\r\n",
        b"GET /openapi.json HTTP/1.1\r\nx: " + b"a" * 1_000_000,
    ],
    ids=["url", "value", "lines", "endless"],
)
def test_a_header_has_a_bound(served: Served, head: bytes) -> None:
    """431, whether it ends or not."""
    with served.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(head)
        assert rest(connection).startswith(b"HTTP/1.1 431")


def flood(connection: socket.socket, block: bytes) -> None:
    """40 MB, beyond what lies in buffers."""
    for _ in range(1_000):
        connection.sendall(block)


CHUNKED = {"transfer-encoding": "chunked"}


def chunked(served: Served, **headers: str) -> bytes:
    """A question in one chunk, up to where its trailers may stand."""
    head, _, body = served.ask(**headers | CHUNKED).partition(b"\r\n\r\n")
    lines = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"content-length"))
    return lines + b"\r\n\r\n" + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n"


@pytest.mark.parametrize("token", [{}, {"authorization": "Bearer x"}], ids=["person", "stranger"])
@pytest.mark.parametrize(
    ("begin", "block"),
    [(b"", b"a: b\r\n" * 8_000), (b"a: ", b"b" * 40_000), (b"", b"a" * 40_000)],
    ids=["lines", "value", "name"],
)
def test_trailers_have_a_bound(make: Callable[..., Served], token: dict[str, str], begin: bytes, block: bytes) -> None:
    """Lines after a chunked body without end: none is kept, and the connection ends long before a time does that is set."""
    served = make()
    with served.connect() as connection:
        connection.sendall(chunked(served, **token) + begin)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            flood(connection, block)
    assert served.server is not None
    until(lambda: served.server is not None and served.server.connections == 0)
    assert served.service.entered == 0


def test_a_few_trailers_are_passed_over(served: Served) -> None:
    """They are none of the header: neither they nor their names reach anybody, and the next request is one of its own."""
    served.service.pieces = 1
    assert served.server is not None
    state = served.server._state
    with served.connect() as connection:
        for _ in range(2):
            connection.sendall(chunked(served) + b"authorization: Bearer x\r\n" * 100)
            until(lambda: [one._in_body for one in state.connections] == [True])  # type: ignore[union-attr]
            time.sleep(0.05)  # for the trailers to come too
            (inside,) = state.connections
            assert [name for name, _ in inside.headers].count(b"authorization") == 1  # type: ignore[union-attr]
            connection.sendall(b"\r\n")
            answer = b""
            while b"event: done" not in answer or not answer.endswith(b"0\r\n\r\n"):
                data = connection.recv(65536)
                assert data, answer
                answer += data
            assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"POST /chat/stream HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_is_told_so(make: Callable[..., Served], junk: bytes) -> None:
    """400 in JSON, with the headers of every response, and the connection's end; never a 5xx."""
    served = make(replace(LIMITS, idle_s=1))
    with served.connect() as connection:
        connection.sendall(junk)
        answer = rest(connection)
    assert answer.split()[1] in (b"400", b"401", b"404"), answer
    assert b"x-content-type-options: nosniff" in answer
    assert b'"reason":' in answer


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.binary(min_size=1, max_size=300),
    st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"POST /chat/stream HTTP/1.1\r\nhost: a\r\n"]),
)
def test_any_bytes_at_all_are_survived(impatient: Served, junk: bytes, before: bytes) -> None:
    """Closed, or told so; never a 5xx, and the next one is served."""
    served = impatient
    with served.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(before + junk + b"\r\n\r\n")
        answer = rest(connection)
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer
    assert served.service.entered == 0


def test_a_header_after_a_long_body_is_a_header_of_its_own(served: Served) -> None:
    """On one connection: the body does not count for the header that follows it, however its bytes arrive."""
    body = json.dumps({"question": "a" * 100_000}).encode()
    with served.connect() as connection:
        head = served.ask(**{"content-length": str(len(body))}).partition(b"\r\n\r\n")[0]
        served.service.pieces = 1
        for _ in range(2):
            connection.sendall(head[:30])
            time.sleep(0.02)
            connection.sendall(head[30:] + b"\r\n\r\n" + body[:50_000])
            time.sleep(0.02)
            connection.sendall(body[50_000:] + b"GET /openapi.json HT")
            time.sleep(0.02)
            connection.sendall(b"TP/1.1\r\nhost: localhost\r\n\r\n")
            answer = b""
            while b'"openapi"' not in answer:
                data = connection.recv(65536)
                assert data, answer
                answer += data
            assert answer.count(b"HTTP/1.1 200") == 2


def test_a_header_that_begins_in_one_read_with_a_whole_request_is_not_too_long(served: Served) -> None:
    """A read that ends one header, holds all of its body and begins the next counts for neither."""
    body = json.dumps({"question": "a" * 60_000}).encode()
    head = served.ask(**{"content-length": str(len(body))}).partition(b"\r\n\r\n")[0]
    served.service.pieces = 1
    with served.connect() as connection:
        connection.sendall(head[:30])
        assert served.server is not None
        until(lambda: [one._in_header for one in served.server._state.connections] == [True])  # type: ignore[union-attr]
        (inside,) = served.server._state.connections
        # How the system divides bytes into reads is not ours to choose.
        read = head[30:] + b"\r\n\r\n" + body + b"GET /openapi.json HTTP/1.1\r\nhost: local"
        assert served._loop is not None
        served._loop.call_soon_threadsafe(inside.data_received, read)
        until(lambda: inside._in_header and inside.url == b"/openapi.json")  # type: ignore[union-attr]
        connection.sendall(b"host\r\nconnection: close\r\n\r\n")
        assert rest(connection).count(b"HTTP/1.1 200") == 2


def test_a_token_that_is_sent_twice_is_none(served: Served) -> None:
    """Which one is meant nobody can tell."""
    for other in (served.token, "x"):
        with served.connect() as connection:
            twice = f"authorization: Bearer {other}\r\nhost: ".encode()
            connection.sendall(served.ask(connection="close").replace(b"host: ", twice, 1))
            assert rest(connection).startswith(b"HTTP/1.1 401")
    assert served.service.entered == 0


def test_a_head_request_is_admitted_as_its_get(served: Served) -> None:
    """No way round: without a token nobody learns whether there is something."""
    with served.connect() as connection:
        connection.sendall(b"HEAD /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 401")
    assert answer.endswith(b"\r\n\r\n")


def test_plaintext_gets_no_answer(served: Served) -> None:
    """There is no way in without TLS."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as plain:
        plain.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n")
        found = b""
        with contextlib.suppress(ConnectionError):
            found = plain.recv(1000)
        assert b"HTTP" not in found


def test_old_tls_is_refused(served: Served) -> None:
    """1.2 and 1.3 are spoken, nothing older."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=str(served.identity.ca))
        context.minimum_version = context.maximum_version = version
        with served.connect(context) as connection:
            assert connection.version() == version.name.replace("_", ".")
    context = ssl.create_default_context(cafile=str(served.identity.ca))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        served.connect(context)


def serial(served: Served, name: str | None) -> int:
    """Of the certificate that is shown, with or without a name in the handshake."""
    context = ssl.create_default_context(cafile=str(served.identity.ca))
    context.check_hostname = name is not None
    with served.connect(context, name) as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


@pytest.mark.parametrize("name", ["localhost", None], ids=["with a name", "without"])
def test_the_certificate_follows_its_files(make: Callable[..., Served], name: str | None) -> None:
    """Each new connection shows the newest; a torn pair leaves the former in force; connections go on."""
    served = make()
    seen = [serial(served, name)]
    with served.connect() as kept:
        for number in range(3):
            renewed = served.authority.issue(f"renewed-{number}", dns=["localhost"])
            renewed.key.replace(served.identity.key)
            assert serial(served, name) == seen[-1]  # its certificate is not there yet
            renewed.cert.replace(served.identity.cert)
            seen.append(serial(served, name))
            time.sleep(0.1)
        assert len(set(seen)) == 4
        served.identity.cert.write_bytes(b"not a certificate")
        assert serial(served, name) == seen[-1]
        kept.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert rest(kept).startswith(b"HTTP/1.1 200")


def test_a_connection_too_many_is_told_when_to_come_again(served: Served) -> None:
    """429 with Retry-After; with room it is served."""
    held = []
    for _ in range(LIMITS.connections):
        held.append(served.connect())
        held[-1].sendall(served.ask())
        assert held[-1].recv(100).startswith(b"HTTP/1.1 200")
    with served.connect() as more:
        more.sendall(served.ask())
        answer = rest(more)
    assert answer.startswith(b"HTTP/1.1 429")
    assert b"retry-after: 1" in answer
    assert b"OVERLOADED" in answer
    for connection in held:
        connection.close()
    until(lambda: served.server is not None and served.server.connections == 0)
    with served.connect() as more:
        more.sendall(served.ask())
        assert more.recv(100).startswith(b"HTTP/1.1 200")


def test_a_hang_up_cancels_the_handler(served: Served) -> None:
    """In a stream, while a whole answer is waited for, and between two events: the call is over at once."""
    served.service.pause_s = 60
    for path, body in (
        ("/chat/stream", {"question": "a"}),
        ("/v1/chat/completions", {"model": "a", "messages": [{"role": "user", "content": "a"}]}),
        ("/v1/chat/completions", {"model": "a", "stream": True, "messages": [{"role": "user", "content": "a"}]}),
    ):
        entered, cancelled = served.service.entered, served.service.cancelled
        connection = http.client.HTTPSConnection("localhost", served.port, context=served.context)
        headers = {"authorization": f"Bearer {served.token}", "content-type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        until(lambda seen=entered: served.service.entered == seen + 1)
        connection.close()
        until(lambda seen=cancelled: served.service.cancelled == seen + 1)
        until(lambda: served.edge is not None and served.edge.active == 0)


def test_a_client_that_does_not_read_is_left(make: Callable[..., Served]) -> None:
    """What nobody takes is not kept: the connection ends, and the handler with it."""
    served = make(replace(LIMITS, write_s=0.6))
    served.service.text, served.service.pieces, served.service.pause_s = "a" * 200_000, 10_000, 0
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with served.context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(served.ask())
            until(lambda: served.service.cancelled == 1)
            until(lambda: served.server is not None and served.server.connections == 0)


def test_a_stream_that_waits_says_that_it_lives(served: Served) -> None:
    """Comments, that every reader of event streams passes over."""
    served.service.held, served.service.pieces = True, 1
    with served.connect() as connection:
        connection.sendall(served.ask(connection="close"))
        answer = b""
        while answer.count(b": waiting\n\n") < 2:
            data = connection.recv(65536)
            assert data, answer
            answer += data
        served.service.held = False
        answer += rest(connection)
    assert answer.index(b"event: sources") < answer.index(b": waiting") < answer.index(b"event: token")


def test_a_drain_lets_streams_end_and_takes_nobody_new(make: Callable[..., Served]) -> None:
    """A stream in flight is whole; idle connections are closed at once, and nothing listens."""
    served = make()
    served.service.pieces, served.grace_s = 20, 600
    with served.connect() as streaming, served.connect() as idle:
        idle.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        streaming.sendall(served.ask())
        begun = streaming.recv(100)
        served.begin_stop()
        rest(idle)
        with pytest.raises(ConnectionError):
            served.connect()
        answer = begun + rest(streaming)
    assert answer.count(b"event: token") == 20
    assert b"event: done" in answer


def test_pages_of_other_origins_may_not_ask_unless_they_are_named(make: Callable[..., Served]) -> None:
    """Exactly as a browser writes an origin; the preflight needs no token, and is answered for named ones alone."""
    named, other = "https://chat.example:8443", "https://chat.example"
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}

    def said(served: Served, verb: str, origin: str, **more: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection("localhost", served.port, context=served.context)
        connection.request(verb, "/openapi.json", headers={"origin": origin, **more})
        response = connection.getresponse()
        response.read()
        connection.close()
        return response

    served = make(origins=frozenset({named}))
    allowed = said(served, "OPTIONS", named, **preflight)
    assert (allowed.status, allowed.getheader("access-control-allow-origin")) == (204, named)
    assert "authorization" in (allowed.getheader("access-control-allow-headers") or "")
    assert allowed.getheader("access-control-allow-credentials") is None
    assert said(served, "GET", named).getheader("access-control-allow-origin") == named
    for refused in (other, "null", "https://chat.example:8443.evil.example", "http://chat.example:8443", "*"):
        assert said(served, "OPTIONS", refused, **preflight).status == 403
        assert said(served, "GET", refused).getheader("access-control-allow-origin") is None
        assert said(served, "GET", refused).getheader("vary") == "origin"
    off = make()
    assert said(off, "OPTIONS", named, **preflight).status == 405
    assert said(off, "GET", named).getheader("access-control-allow-origin") is None


def test_a_request_for_another_host_is_misdirected(make: Callable[..., Served]) -> None:
    """Where the site's names are set: with or without a port, in any case; else any name is taken."""
    served = make(hosts=frozenset({"localhost", "rag.example:8443"}))

    def status(host: str) -> int:
        connection = http.client.HTTPSConnection("localhost", served.port, context=served.context)
        connection.request("GET", "/openapi.json", headers={"host": host})
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status

    assert [status(host) for host in ("localhost", "LocalHost:8443", "rag.example:8443")] == [200, 200, 200]
    assert [status(host) for host in ("rag.example", "evil.example", "", "localhost.evil.example")] == [421] * 4
