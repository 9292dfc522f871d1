"""Strangers who begin handshakes with the HTTPS edge and do not end them: bounded by number, and nobody else is kept out."""

from __future__ import annotations

import contextlib
import resource
import socket
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ragkeep_gateway.http.limits import Limits
from tests.https import Site
from tests.integration.test_http_limits import LIMITS, Served, make, rest
from tests.waiting import until

__all__ = ["make"]
# Half of a ClientHello: it says that more is to come.
BEGUN = bytes([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3])
GET = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def begin(port: int, stack: contextlib.ExitStack, *, say: bytes = b"") -> socket.socket:
    """A connection whose handshake does not end."""
    plain = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=300))
    plain.sendall(say)
    return plain


def is_over(plain: socket.socket) -> bool:
    """Whether the other side ended it; waits for that."""
    with contextlib.suppress(ConnectionError):
        return plain.recv(100) == b""
    return True


@pytest.mark.parametrize("say", [b"", BEGUN], ids=["silent", "begun"])
def test_who_holds_every_handshake_keeps_nobody_out(make: Callable[..., Served], say: bytes) -> None:
    """A newcomer takes the oldest one's place, again and again; who is in stays in; never are there more than that."""
    served = make(replace(LIMITS, handshakes=8))
    assert served.server is not None
    server = served.server
    served.service.pieces = 1_000_000
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(served.connect())
        stream.sendall(served.ask())
        assert stream.recv(100).startswith(b"HTTP/1.1 200")
        held = [begin(served.port, stack, say=say) for _ in range(8)]
        until(lambda: server.half_open == 8)
        for _ in range(12):
            with served.connect() as newcomer:
                newcomer.sendall(GET)
                assert rest(newcomer).startswith(b"HTTP/1.1 200")
            assert is_over(held.pop(0))
            held.append(begin(served.port, stack, say=say))
            until(lambda: server.half_open == 8)
        for _ in range(8):
            begin(served.port, stack, say=say)
        assert all(is_over(plain) for plain in held)
        assert server.half_open == 8
        # Far more than what was on the way before.
        assert sum(len(stream.recv(65536)) for _ in range(20)) > 20
        assert served.service.cancelled == 0
    until(lambda: server.half_open == 0)


def test_a_handshake_that_does_not_end_is_over_in_time(make: Callable[..., Served]) -> None:
    """However few there are."""
    served = make(replace(LIMITS, handshake_s=0.5))
    with contextlib.ExitStack() as stack:
        assert all(is_over(begin(served.port, stack, say=say)) for say in (b"", BEGUN, b"GET / HTTP/1.1\r\n\r\n"))


def test_a_stop_does_not_wait_for_handshakes(make: Callable[..., Served]) -> None:
    """They are dropped at once, and nothing listens any more."""
    served = make()
    assert served.server is not None
    server = served.server
    with contextlib.ExitStack() as stack:
        held = [begin(served.port, stack, say=say) for say in (b"", BEGUN)]
        until(lambda: server.half_open == 2)
        served.begin_stop()
        assert all(is_over(plain) for plain in held)
        with pytest.raises(ConnectionError):
            served.connect()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A real one, started where few descriptors are allowed and more can be had."""
    site = Site(tmp_path_factory.mktemp("half-open"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
        site.stack.start("gateway")
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        yield site
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        site.stack.stop()


def _value(site: Site, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{site.stack.health_ports['gateway']}/metrics", timeout=300) as page:
        text = page.read().decode()
    return sum(one.value for family in text_string_to_metric_families(text) for one in family.samples if one.name == name)


def test_a_process_takes_the_descriptors_that_it_may_have(gateway: Site) -> None:
    """Its soft limit is its hard limit."""
    soft, hard = resource.prlimit(gateway.stack.processes["gateway"].pid, resource.RLIMIT_NOFILE)
    assert soft == hard


def test_a_gateway_drops_the_oldest_handshakes_and_counts_them(gateway: Site) -> None:
    """Far more than it keeps: an honest request is answered, its descriptors are bounded, and what was dropped is counted."""
    most, more = Limits().handshakes, 100
    before = _value(gateway, "process_open_fds")

    def flood() -> bool:
        with contextlib.ExitStack() as stack:
            held = [begin(gateway.port, stack, say=BEGUN) for _ in range(most + more)]
            assert all(is_over(plain) for plain in held[:more])
            plain = begin(gateway.port, stack)
            with gateway.tls.wrap_socket(plain, server_hostname="localhost") as honest:
                honest.sendall(GET)
                assert rest(honest).startswith(b"HTTP/1.1 200")
            assert _value(gateway, "process_open_fds") < before + most + more / 2
            return _value(gateway, "ragkeep_handshakes_dropped_total") > more

    until(flood)  # again where the machine is so slow that the oldest ended by their time


def test_who_comes_while_no_descriptor_is_free_is_served_later(gateway: Site) -> None:
    """The log says so, and as soon as one is free the connection is taken that waited."""
    pid = gateway.stack.processes["gateway"].pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
        try:
            waiting = begin(gateway.port, stack)
            until(lambda: "connection_not_taken" in gateway.stack.log("gateway"))
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        with gateway.tls.wrap_socket(waiting, server_hostname="localhost") as served:
            served.sendall(GET)
            assert rest(served).startswith(b"HTTP/1.1 200")
