"""The HTTPS edge as the settings say: put together, started beside gRPC, drained with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ragkeep_gateway.http.app import Site, app_of
from ragkeep_gateway.http.limits import Limits
from ragkeep_gateway.http.routes import routes_of
from ragkeep_gateway.http.server import HttpServer
from ragkeep_runtime.logs import get_logger

if TYPE_CHECKING:
    from ragkeep_gateway.service import RagService
    from ragkeep_gateway.settings import Settings
    from ragkeep_runtime.edge import Edge
    from ragkeep_runtime.process import Server

log = get_logger()
# Of the drain, what is left for an answer that is being written when the time is up.
_MARGIN_S = 0.5


def serve_http(settings: Settings, server: Server, service: RagService) -> None:
    """Nothing where no address is set. Raises ValueError where it could not be served as it must: by TLS, for people."""
    if not settings.http_listen:
        return
    cert, key = settings.http_cert, settings.http_key
    if cert is None or key is None:
        raise ValueError("RAGKEEP_HTTP_LISTEN needs RAGKEEP_HTTP_CERT and RAGKEEP_HTTP_KEY: nothing is served without TLS")
    if server.verify_token is None:
        raise ValueError("RAGKEEP_HTTP_LISTEN needs RAGKEEP_JWT_JWKS or RAGKEEP_JWT_SECRET: people come with tokens alone")
    host, _, port = settings.http_listen.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"RAGKEEP_HTTP_LISTEN must be host:port, not {settings.http_listen}")
    site = Site(
        hosts=frozenset(name.lower() for name in _parts(settings.http_hosts)),
        origins=frozenset(_origin(one) for one in _parts(settings.http_origins)),
        limits=replace(Limits(), connections=settings.http_connections),
    )

    async def start(edge: Edge) -> None:
        http = HttpServer(app_of(routes_of(service), edge, site), cert, key, site.limits)
        server.follow(http.look)
        await http.start(host.strip("[]"), int(port))
        server.on_drain(lambda: http.stop(max(0.0, settings.drain_s - _MARGIN_S)))
        log.info("serving_https", listen=settings.http_listen)

    server.start_with(start)
    server.certificates["https"] = cert


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _origin(text: str) -> str:
    """As a browser writes it. Raises ValueError for what no browser would: a path, a wildcard, no scheme."""
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or f"{url.scheme}://{url.netloc}" != text or "*" in text:
        raise ValueError(f"RAGKEEP_HTTP_ORIGINS: {text} is no origin; write scheme://host[:port], exactly")
    return text.lower()
