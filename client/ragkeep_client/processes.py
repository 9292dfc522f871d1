"""Processes of a local installation: started, watched, told apart from strangers with the same number, and ended."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ragkeep_client.supervision import keep_small

# The gateway last: it starts when those that it calls are starting. It ends first, so that its calls can finish.
ORDER = ("embedder", "retriever", "generator", "gateway")
# Seconds from SIGTERM to SIGKILL; calls in flight may finish in less.
DRAIN_S = 8
END_S = 10.0
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
_PASSED_ON_PREFIXES = ("RAGKEEP_", "OTEL_")
# Said by the choice of engines alone.
_DECIDED = frozenset(f"RAGKEEP_{name}" for name in ("ENGINE", "MODEL", "OLLAMA_URL", "WEAVIATE_URL", "WEAVIATE_GRPC_PORT"))
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one service."""

    service: str
    settings: Mapping[str, str]  # RAGKEEP_...
    log: Path


def environment(settings: Mapping[str, str], outer: Mapping[str, str]) -> dict[str, str]:
    """A service's environment: its settings and a few of the user's variables; no proxy, no PYTHON..., nothing else."""
    base = {name: value for name, value in outer.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)}
    return {name: value for name, value in base.items() if name not in _DECIDED} | dict(settings)


def start(launch: Launch, *, lock: int, detached: bool) -> tuple[subprocess.Popen[bytes], int]:
    """Starts a service; returns it and the size of its log so far.

    It has a session of its own, so that the terminal's Ctrl-C reaches `up` alone, and inherits the folder's lock. Unless
    detached it gets SIGTERM when `up` is gone, however that ended (Linux).
    """
    keep_small(launch.log)
    descriptor = os.open(launch.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        log_start = os.fstat(descriptor).st_size
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            # -P: the folder it is started in does not shadow modules.
            [sys.executable, "-P", "-m", f"ragkeep_{launch.service}.main"],
            env=environment(launch.settings, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            pass_fds=(lock,),
            preexec_fn=None if detached else _end_with_parent(),
        )
        return process, log_start
    finally:
        os.close(descriptor)


def _end_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    # Loaded before the fork: between fork and exec as little as possible is done.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it ended before this was arranged
            os._exit(1)

    return arrange


def started(pid: int) -> str:
    """When a process began, as the system writes it; with the pid that names it for ever. "" where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _started_elsewhere(pid)
    return "" if fields[0] in ("Z", "X") else fields[19]


def _started_elsewhere(pid: int) -> str:
    if Path("/proc/self/stat").exists():
        return ""
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return found.stdout.strip()


def is_ours(pid: int, began: str) -> bool:
    """Whether the process with this number is still the one that was started: same beginning, and one of ragkeep's."""
    if pid <= 1 or not began or started(pid) != began:
        return False
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self/stat").exists()
    # Empty for an instant while it is being started.
    return not command or b"ragkeep" in command


def end(processes: Mapping[str, tuple[int, str]], *, at_once: Callable[[], bool] = lambda: False) -> list[str]:
    """Ends processes {service: (pid, began)}: SIGTERM, the gateway first, then SIGKILL after ten seconds or when `at_once`
    says so. Returns the services that had to be killed."""
    until = time.monotonic() + END_S
    alive = {service: process for service, process in processes.items() if is_ours(*process)}

    def wait(services: list[str]) -> None:
        while any(is_ours(*alive[service]) for service in services) and time.monotonic() < until and not at_once():
            for service in services:
                reap(alive[service][0])
            time.sleep(0.05)

    for group in (["gateway"], [service for service in ORDER if service != "gateway"]):
        present = [service for service in group if service in alive]
        for service in present:
            _signal(alive[service], signal.SIGTERM)
        wait(present)
    killed = [service for service, process in alive.items() if is_ours(*process)]
    for service in killed:
        _signal(alive[service], signal.SIGKILL)
    patience = time.monotonic() + 2
    while any(is_ours(*alive[service]) for service in killed) and time.monotonic() < patience:
        for service in killed:
            reap(alive[service][0])
        time.sleep(0.02)
    return killed


def reap(pid: int) -> None:
    """Takes note of a child's end; nothing for others' children."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _signal(process: tuple[int, str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process[0], number)


def readiness(health: str) -> tuple[bool, str]:
    """(ready, what is missing) of the process whose health port is `health`."""
    host, _, port = health.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=2)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read(65536)
        if response.status == 200:
            return True, ""
        missing = json.loads(body).get("missing", {})
        return False, " ".join(str(sentence) for sentence in missing.values())
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        return False, "It does not answer yet."
    finally:
        connection.close()


def last_lines(log: Path, since: int = 0, count: int = 15) -> str:
    """The end of a log, not going back before byte `since`."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, log.stat().st_size - 16384))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-count:])
    except OSError:
        return ""
