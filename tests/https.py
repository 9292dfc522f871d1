"""An installation with its HTTPS edge, and a client that comes as a person would."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.tls import Identity
from tests.ports import free_ports
from tests.stack import Stack
from tests.tickets import SAMPLE
from tests.tokens import Issuer, settings_for
from tests.waiting import until_true


@contextlib.asynccontextmanager
async def connections(tls: ssl.SSLContext, *, force_close: bool = False) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose connections are gone when it is.

    aiohttp does not wait for those that the server closes after an answer, or whose answer was not read to its end. What is left of
    them when the loop ends is found by the garbage collector, in the middle of some other test, which fails for the warning.
    """
    opened: list[socket.socket] = []

    def remembered(address: tuple[Any, ...]) -> socket.socket:
        found = socket.socket(*address[:3])
        opened.append(found)
        return found

    connector = aiohttp.TCPConnector(ssl=tls, socket_factory=remembered, force_close=force_close)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session
    await until_true(lambda: all(one.fileno() < 0 for one in opened))


@dataclass(frozen=True)
class Answer:
    """A response, read whole."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.text)

    @property
    def reason(self) -> str:
        """Of an error."""
        return str(self.json["error"]["reason"])

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Of a stream: names and data."""
        return [event for block in self.text.split("\n\n") if (event := event_of(block))]


def event_of(block: str) -> tuple[str, dict[str, Any]] | None:
    """The event of a block of lines; None for a comment."""
    lines = dict(line.split(": ", 1) for line in block.strip().splitlines() if not line.startswith(":"))
    return (lines.get("event", ""), json.loads(lines["data"])) if lines.get("data", "").startswith("{") else None


class Site:
    """Four processes, the gateway with its HTTPS edge, and an identity provider."""

    def __init__(
        self,
        folder: Path,
        env: dict[str, dict[str, str]] | None = None,
        modules: dict[str, str] | None = None,
        **settings: str,
    ) -> None:
        self.issuer = Issuer("ES256")
        self.keys = folder / "jwks.json"
        self.issuer.write(self.keys)
        self.port = free_ports(1)
        self.stack = Stack(folder, {**(env or {})}, modules)
        self.identity: Identity = self.stack.authority.issue("https", dns=["localhost"])
        self.stack.env["gateway"] = {
            **self.stack.env.get("gateway", {}),
            **settings_for(self.keys, self.issuer),
            "RAGKEEP_HTTP_LISTEN": f"127.0.0.1:{self.port}",
            "RAGKEEP_HTTP_CERT": str(self.identity.cert),
            "RAGKEEP_HTTP_KEY": str(self.identity.key),
            **settings,
        }
        self.tls = ssl.create_default_context(cafile=str(self.identity.ca))

    @property
    def url(self) -> str:
        """Of the edge."""
        return f"https://localhost:{self.port}"

    def token(self, **claims: Any) -> str:
        """A reader's, unless the claims say otherwise."""
        return self.issuer.token(**claims)

    async def import_sample(self, *documents: Any, tenant: str = "demo") -> None:
        """The sample tickets, over gRPC."""
        async with open_channel(self.stack.target("gateway"), "gateway", self.stack.cli) as channel:
            request = gateway_pb2.ImportDocumentsRequest(documents=documents or SAMPLE)
            await RagServiceStub(channel).ImportDocuments(request, metadata=(("ragkeep-tenant", tenant),), timeout=300)


class Person:
    """Asks over HTTPS with a token; None: with none."""

    def __init__(self, site: Site, session: aiohttp.ClientSession, token: str | None) -> None:
        self.site, self.session, self.token = site, session, token

    async def __call__(self, verb: str, path: str, body: object = None, **headers: str) -> Answer:
        """One request; a body that is text or bytes goes as it is."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            given.setdefault("authorization", f"Bearer {self.token}")
        data: Any = body
        if body is not None:
            raw = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else json.dumps(body).encode()
            data = io.BytesIO(raw)
        if body is not None:
            given.setdefault("content-type", "application/json")
        async with self.session.request(verb, self.site.url + path, data=data, headers=given, allow_redirects=False) as found:
            text = await found.text()
            return Answer(found.status, {name.lower(): value for name, value in found.headers.items()}, text)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """On the embedded engines, with the sample tickets in the tenant demo."""
    found = Site(tmp_path_factory.mktemp("https"))
    try:
        found.stack.start()
        asyncio.run(found.import_sample())
        yield found
    finally:
        found.stack.stop()


@pytest.fixture
async def session(site: Site) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections of one test."""
    async with connections(site.tls) as found:
        yield found


@pytest.fixture
def reader(site: Site, session: aiohttp.ClientSession) -> Person:
    """A person who may read in the tenant demo."""
    return Person(site, session, site.token())
