"""Requests that two programs on the way may understand in two ways, by raw bytes: refused, never guessed at."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.test_http_limits import Served, make, rest, served

__all__ = ["make", "served"]
HOST, CHUNKED = "host: localhost", "transfer-encoding: chunked"
CHUNKS = b"f\r\n" + b'{"question":"a"' + b"\r\n1\r\n}\r\n0\r\n\r\n"


def said(served: Served, verb: str, path: str, *lines: str, version: str = "1.1", body: bytes = b"") -> bytes:
    """All that is answered to a person's request with these lines."""
    given = [f"{verb} {path} HTTP/{version}", *lines, f"authorization: Bearer {served.token}", "connection: close"]
    with served.connect() as connection:
        connection.sendall("\r\n".join([*given, "", ""]).encode() + body)
        return rest(connection)


@pytest.mark.parametrize(
    "hosts",
    [[HOST, HOST], [HOST, "Host: evil.example"], ["host: evil.example", HOST], []],
    ids=["the same", "another after", "another before", "none"],
)
def test_a_request_has_one_host(make: Callable[..., Served], hosts: list[str]) -> None:
    """Two are refused though one of them is right, and before anybody is asked who he is."""
    served = make(hosts=frozenset({"localhost"}))
    answer = said(served, "GET", "/openapi.json", *hosts)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"reason": "INVALID_REQUEST"' in answer
    assert b"x-content-type-options: nosniff" in answer
    assert said(served, "GET", "/openapi.json", HOST).startswith(b"HTTP/1.1 200 ")


def test_http_1_0_needs_no_host(served: Served) -> None:
    """It did not know it."""
    assert said(served, "GET", "/openapi.json", version="1.0").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("lines", "version"),
    [
        (["transfer-encoding: gzip, chunked"], "1.1"),
        (["transfer-encoding: gzip"], "1.1"),
        (["transfer-encoding: gzip", CHUNKED], "1.1"),
        ([CHUNKED, CHUNKED], "1.1"),
        (["transfer-encoding: chunked, chunked"], "1.1"),
        (["transfer-encoding: chunked, identity"], "1.1"),
        (["transfer-encoding: identity"], "1.1"),
        (["transfer-encoding: xchunked"], "1.1"),
        (["transfer-encoding:"], "1.1"),
        ([CHUNKED, "content-length: 15"], "1.1"),
        (["content-length: 15", "content-length: 16"], "1.1"),
        ([CHUNKED], "1.0"),
    ],
    ids=lambda found: " + ".join(found) if isinstance(found, list) else found,
)
def test_a_body_has_one_framing(served: Served, lines: list[str], version: str) -> None:
    """Anything but a length or chunks is refused, and the connection ends: where the next request begins nobody knows."""
    shape = [HOST, "content-type: application/json", *lines]
    answer = said(served, "POST", "/chat/stream", *shape, version=version, body=CHUNKS)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 4") == 1
    assert b'"reason": "INVALID_REQUEST"' in answer
    assert served.service.entered == 0


def test_chunks_are_taken_in_any_case(served: Served) -> None:
    """As every client writes them."""
    served.service.pieces = 1
    answer = said(
        served, "POST", "/chat/stream", HOST, "content-type: application/json", "Transfer-Encoding: Chunked", body=CHUNKS
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"event: done" in answer


@pytest.mark.parametrize("verb", ["GET", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1%2fmodels",
        "/v1%2Fmodels",
        "/%76%31/models",
        "/v1/chat%2fcompletions",
        "//v1/models",
        "/v1//models",
        "/v1/./models",
        "/chat/../v1/models",
        "/chat%2fstream",
        "/chat/stream/",
        "/v1/models%00",
        "/openapi%2ejson",
        "/v1%252fmodels",
    ],
)
def test_another_spelling_of_a_route_is_none(served: Served, verb: str, path: str) -> None:
    """A proxy in front of it that knows routes by their letters sees the same ones."""
    answer = said(served, verb, path, HOST, "content-length: 0")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"reason":"INVALID_REQUEST"' in answer or b'"code":"invalid_request"' in answer
    assert served.service.entered == 0
