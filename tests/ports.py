"""Ports for what a test starts: none is given twice in a run, and neither another run nor an outgoing connection takes one.

A port that is asked of the system, let go and then listened on may meanwhile belong to somebody else.
"""

from __future__ import annotations

import random
import socket
import threading
from pathlib import Path

from ragkeep_client.ports import taken

# A run claims blocks of so many ports, by listening on the first of each until it ends.
BLOCK = 200
# Where tests' ports lie if the system gives all of them to connections: it is then as good as any other place.
_ANYWHERE = range(12_000, 32_000)
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def outside_ephemeral(given: Path = _EPHEMERAL) -> range:
    """The larger part of the ports, from 12000 on, that the system gives to no outgoing connection."""
    try:
        first, last = (int(word) for word in given.read_text().split())
    except (OSError, ValueError):
        return _ANYWHERE
    below, above = range(_ANYWHERE.start, min(first, 65_536)), range(max(last + 1, _ANYWHERE.start), 65_536)
    found = max(below, above, key=len)
    return found if len(found) >= 10 * BLOCK else _ANYWHERE


class Ports:
    """What one process of a test run gives away."""

    def __init__(self, within: range) -> None:
        self._within = within
        self._guards: list[socket.socket] = []
        self._lock = threading.Lock()
        self._left = range(0)

    def consecutive(self, count: int) -> int:
        """The first of so many ports in a row; each is free, and given to nobody else."""
        if count >= BLOCK:
            raise ValueError(f"at most {BLOCK - 1} at once")
        with self._lock:
            while True:
                while len(self._left) < count:
                    self._left = self._claim()
                found, self._left = self._left[:count], self._left[count:]
                occupied = taken(found)
                if not occupied:
                    return found.start
                # A stranger's: go on after the last of them.
                self._left = range(max(occupied) + 1, self._left.stop)

    def _claim(self) -> range:
        for first in random.sample(
            range(self._within.start, self._within.stop - BLOCK, BLOCK), k=len(self._within) // BLOCK - 1
        ):
            guard = socket.socket()
            try:
                guard.bind(("127.0.0.1", first))
                guard.listen(1)
            except OSError:
                guard.close()
                continue
            # Kept while this process lives; with it, it goes.
            self._guards.append(guard)
            return range(first + 1, first + BLOCK)
        raise OSError("no block of ports is left for this run")


_PORTS = Ports(outside_ephemeral())


def free_port() -> int:
    """A port of one's own."""
    return _PORTS.consecutive(1)


def free_ports(count: int) -> int:
    """The first of so many in a row."""
    return _PORTS.consecutive(count)
