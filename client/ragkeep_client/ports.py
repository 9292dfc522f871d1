"""Which ports are free, and who has those that are not."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path

_LISTEN = "0A"


def taken(ports: Iterable[int]) -> dict[int, str]:
    """The ports of loopback that cannot be listened on, each with who has it or why ("" where that is not to be known)."""
    found = {}
    for port in ports:
        with socket.socket() as probe:
            # As the servers do: a port that waits for old packets only is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                found[port] = owner(port) if error.errno == errno.EADDRINUSE else (error.strerror or "")
    return found


def owner(port: int, proc: Path = Path("/proc")) -> str:
    """The process that listens on a port, as "name (pid 12)"; "" where the system does not tell."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            parts = line.split()
            if int(parts[1].rpartition(":")[2], 16) == port and parts[3] == _LISTEN:
                inodes.add(f"socket:[{parts[9]}]")
    if not inodes:
        return ""
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        try:
            for descriptor in (process / "fd").iterdir():
                if os.readlink(descriptor) in inodes:
                    return f"{_name(process)} (pid {process.name})"
        except OSError:
            continue  # another user's, or gone meanwhile
    return ""


def _name(process: Path) -> str:
    words = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    # Ours all run the same interpreter: the module tells them apart.
    module = next((word for word in words if word.startswith("ragkeep_")), "")
    return module.partition(".")[0].replace("_", "-") or (process / "comm").read_text().strip()
