"""The HTTPS edge's application: routes on Starlette, each inside the same admission as gRPC's calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Protocol

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragkeep_gateway.http.errors import BadHttp, body_of, headers_of, openai_body_of
from ragkeep_gateway.http.exchange import Exchange, dumps
from ragkeep_gateway.http.limits import SECURITY_HEADERS, Limits
from ragkeep_gateway.http.openapi import document_of
from ragkeep_gateway.http.routes import OPENAPI_PATH, Route
from ragkeep_runtime.edge import REQUEST_ID_KEY, request_id_of
from ragkeep_runtime.errors import Internal, RagkeepError
from ragkeep_runtime.logs import get_logger

log = get_logger()
_ROUTE = "ragkeep.route"


class Admits(Protocol):
    """The edge of every transport, as this one uses it."""

    def admitted(
        self, method: str, metadata: Mapping[str, str], *, peer: None, request_id: str
    ) -> contextlib.AbstractAsyncContextManager[Any]:
        """The block runs only for a person who may call the method; raises RagkeepError."""


@dataclass(frozen=True, slots=True)
class Site:
    """What an installation says of its own address."""

    hosts: frozenset[str] = frozenset()  # that a request may name; none: any
    origins: frozenset[str] = frozenset()  # whose pages may ask, exactly as a browser writes them
    limits: Limits = field(default_factory=Limits)


def app_of(routes: Sequence[Route], edge: Admits, site: Site) -> ASGIApp:
    """The application: what is said with every response, around Starlette's routing, around the endpoints."""
    paths = [Path(route.path, _Endpoint(route, edge, site.limits), methods=[route.verb]) for route in routes]
    document = _Document(dumps(document_of(routes, site.limits)).encode(), site.limits)
    app = Starlette(
        routes=[*paths, Path(OPENAPI_PATH, document, methods=["GET"])],
        exception_handlers={HTTPException: _unrouted},
    )
    # A path is what it is: no redirect tells which others there are.
    app.router.redirect_slashes = False
    return _Everywhere(app, site)


class _Endpoint:
    """A route: admitted, then read, then handled. A refused caller's body is never parsed."""

    def __init__(self, route: Route, edge: Admits, limits: Limits) -> None:
        self._route, self._edge, self._limits = route, edge, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_ROUTE] = self._route.path
        exchange = Exchange(scope, receive, send, self._limits)
        metadata, request_id = exchange.metadata(), exchange.request_id
        try:
            async with self._edge.admitted(self._route.method, metadata, peer=None, request_id=request_id):
                body = await exchange.json() if self._route.verb == "POST" else {}
                async with exchange.attended():
                    await self._route.handler(exchange, body)
        except RagkeepError as error:
            await exchange.fail(error, self._route.errors)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not exchange.left or task is None:
                raise  # the server stops
            task.uncancel()


class _Document:
    """The OpenAPI document: the same for everybody, so it needs no token."""

    def __init__(self, document: bytes, limits: Limits) -> None:
        self._document, self._limits = document, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_ROUTE] = OPENAPI_PATH
        exchange = Exchange(scope, receive, send, self._limits)
        shape = {"content-type": "application/json; charset=utf-8", "content-length": str(len(self._document))}
        await exchange.start(200, shape)
        await exchange.end(self._document)


async def _unrouted(request: Request, raised: Exception) -> Response:
    """No such path, or no such verb at it."""
    status = raised.status_code if isinstance(raised, HTTPException) else 404
    message = "There is nothing at this address." if status == 404 else "This address does not know that verb."
    own = dict(raised.headers or {}) if isinstance(raised, HTTPException) else {}
    error = BadHttp(status, message, headers=own)
    shape = openai_body_of if request.url.path.startswith("/v1/") else body_of
    body = dumps(shape(error, request.scope["ragkeep.request_id"])).encode()
    headers = {"content-type": "application/json; charset=utf-8", **headers_of(error, with_token=False)}
    return Response(body, status, headers)


class _Everywhere:
    """What holds for every request: its id, its host, its origin, the headers of its response, and a line in the log."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app, self._site = app, site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        # Each request begins in a context of its own, so that nothing of another one's is in it: nor what the process bound.
        structlog.contextvars.bind_contextvars(service="gateway")
        loop = asyncio.get_running_loop()
        began, status = loop.time(), 0
        given = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = scope["ragkeep.request_id"] = request_id_of(given)
        said = SECURITY_HEADERS | {REQUEST_ID_KEY: request_id, "date": formatdate(usegmt=True)}
        if self._site.origins:
            said["vary"] = "origin"
            if given.get("origin") in self._site.origins:
                said["access-control-allow-origin"] = given["origin"]
                said["access-control-expose-headers"] = f"{REQUEST_ID_KEY}, retry-after"
        raw = [(name.encode(), value.encode("latin-1")) for name, value in said.items()]

        async def send_with(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *raw]}
            await send(message)

        try:
            await self._serve(scope, receive, send_with, given)
        except RagkeepError as error:
            await Exchange(scope, receive, send_with, self._site.limits).fail(error, body_of)
        except Exception:
            log.exception("request_failed", request_id=request_id)
            if status:
                raise  # something of a response is out: the connection ends
            defect = Internal("Something went wrong inside ragkeep; the log knows it by its request id.")
            await Exchange(scope, receive, send_with, self._site.limits).fail(defect, body_of)
        finally:
            # Beside the call's own line: what HTTP made of it. Of the path only which route it is.
            log.info(
                "request_finished",
                route=scope.get(_ROUTE, ""),
                verb=scope["method"] if scope["method"] in _VERBS else "",
                status=status,
                duration_ms=round((loop.time() - began) * 1000, 1),
                request_id=request_id,
            )

    async def _serve(self, scope: Scope, receive: Receive, send: Send, given: Mapping[str, str]) -> None:
        host = given.get("host", "").lower()
        if self._site.hosts and host not in self._site.hosts and host.rpartition(":")[0] not in self._site.hosts:
            raise BadHttp(421, "This server is not the host that the request names.")
        if scope["method"] == "OPTIONS" and "access-control-request-method" in given and self._site.origins:
            if given.get("origin") not in self._site.origins:
                raise BadHttp(403, "Pages of this origin may not ask here: RAGKEEP_HTTP_ORIGINS names those that may.")
            headers = {
                "access-control-allow-methods": "GET, POST",
                "access-control-allow-headers": "authorization, content-type, *",
                "access-control-max-age": "600",
            }
            await Response(status_code=204, headers=headers)(scope, receive, send)
            return
        # Routed as it was written: another spelling of a route (/v1%2fmodels) is none, here as for a proxy in front of it.
        scope["path"] = scope["raw_path"].decode("ascii")
        await self._app(scope, receive, send)


_VERBS = frozenset({"GET", "POST", "OPTIONS", "HEAD", "PUT", "PATCH", "DELETE"})
