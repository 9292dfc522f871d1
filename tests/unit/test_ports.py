"""Ports of tests: each is given once, and not where the system's own choice could take it."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ports import BLOCK, Ports, free_port, free_ports, outside_ephemeral


def test_no_port_is_given_twice() -> None:
    """To one or to several in a row, from any thread."""
    with ThreadPoolExecutor(8) as pool:
        firsts = list(pool.map(lambda number: (free_ports(1 + number % 9), 1 + number % 9), range(60)))
    given = [port for first, count in firsts for port in range(first, first + count)]
    assert len(given) == len(set(given))
    assert free_port() not in given


def test_two_runs_at_once_share_none() -> None:
    """Even where there is room for few."""
    within = range(outside_ephemeral().start, outside_ephemeral().start + 20 * BLOCK)
    one, other = Ports(within), Ports(within)
    try:
        seen = [{ports.consecutive(1) for _ in range(BLOCK + 5)} for ports in (one, other)]
        assert seen[0].isdisjoint(seen[1])
    finally:
        for guard in (*one._guards, *other._guards):
            guard.close()


def test_a_port_that_somebody_has_is_passed_over() -> None:
    """Whoever began to listen there."""
    next_one = free_port() + 1
    with socket.socket() as stranger:
        try:
            stranger.bind(("127.0.0.1", next_one))
        except OSError:
            next_one = 0  # the end of a block
        first = free_ports(3)
        assert next_one not in range(first, first + 3)


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ("32768\t60999\n", range(12_000, 32_768)),
        ("10000 40000", range(40_001, 65_536)),
        ("1024 65535", range(12_000, 32_000)),
        ("", range(12_000, 32_000)),
    ],
)
def test_ports_lie_where_no_outgoing_connection_takes_them(tmp_path: Path, said: str, where: range) -> None:
    """By what the kernel says; where it leaves no room, anywhere."""
    file = tmp_path / "range"
    file.write_text(said)
    assert outside_ephemeral(file) == where
