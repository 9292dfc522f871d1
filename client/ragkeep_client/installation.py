"""The four processes of a data folder while `ragkeep up` runs: started, waited for, looked after, ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from ragkeep_client.certificates import Certificates
from ragkeep_client.folder import DataFolder, Running, State
from ragkeep_client.output import CommandError, Output
from ragkeep_client.processes import ORDER, Launch, end, last_lines, readiness, start, started
from ragkeep_client.supervision import Backoff, how_it_ended, keep_small

# A language model may take a while to load.
READY_S = 300.0
_PAUSE_S = 0.1
# How often logs are looked at, and certificates, in seconds.
_LOGS_S, _CERTIFICATES_S = 10.0, 6 * 3600.0

Addresses = Mapping[str, tuple[str, str]]  # (gRPC, health) by service


class Installation:
    """One run of `ragkeep up`. `background` is what `go_into_background` returned, or None in the foreground."""

    def __init__(
        self,
        folder: DataFolder,
        output: Output,
        background: Callable[[Path], None] | None,
        *,
        lock: int,
        https: str = "",  # where people come to
        ready_s: float = READY_S,
    ) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._folder = folder
        self._output = output
        self._background = background
        self._silent = False
        self._state_is_old = False  # as while the disk is full
        self._lock, self._https = lock, https
        self._signals = 0
        self._launches: dict[str, Launch] = {}
        self._running: dict[str, Running] = {}
        self._log_starts: dict[str, int] = {}  # bytes of each log that earlier runs wrote
        self._backoffs = {service: Backoff() for service in ORDER}
        self._due: dict[str, float] = {}  # when a process that died starts again, on the monotonic clock
        self._next_logs = self._next_certificates = time.monotonic()

    def run(
        self, launches: list[Launch], engines: Mapping[str, tuple[str, str]], addresses: Addresses, ready: Callable[[], None]
    ) -> None:
        """Starts all and calls `ready` when all are; then looks after them until a signal comes. `engines` is (engine, why).

        Raises CommandError where one dies or is not ready in time at this first start; nothing is left running then.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._signalled)
        if self._background is not None:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            for launch in launches:
                address, health = addresses[launch.service]
                engine, why = engines[launch.service]
                self._launches[launch.service] = launch
                self._running[launch.service] = Running(0, "", address, health, engine, why)
                self._launch(launch.service)
                # After each: `down` finds what runs, whatever happens to this process.
                self._write_state()
            self._wait_until_ready(addresses)
            ready()
            self._event("ready")
            if self._background is not None:
                self._silent = True
                self._background(self._folder.up_log)
            self._look_after()
        finally:
            self._stop()

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    def _launch(self, service: str) -> None:
        process, self._log_starts[service] = start(
            self._launches[service], lock=self._lock, detached=self._background is not None
        )
        self.processes[service] = process
        began = replace(self._running[service], pid=process.pid, started=started(process.pid), since=time.time())
        self._running[service] = replace(began, ended="", again_at=0.0)
        self._event("process_started", of=service, pid=process.pid, restarts=began.restarts)

    def _write_state(self) -> None:
        running = {service: one for service, one in self._running.items() if one.pid}
        self._state_is_old = True
        detached = self._background is not None
        self._folder.write_state(State(os.getpid(), started(os.getpid()), detached, running, self._https))
        self._state_is_old = False

    def _wait_until_ready(self, addresses: Addresses) -> None:
        until = time.monotonic() + READY_S
        waiting, missing = list(self.processes), ""
        with self._output.notes.status("starting …") as status:
            while waiting:
                self._check_first_start()
                if self._signals:
                    raise CommandError("CANCELLED", "Stopped before all was ready.")
                is_ready, missing = readiness(addresses[waiting[0]][1])
                if is_ready:
                    waiting.pop(0)
                    continue
                if time.monotonic() > until:
                    raise CommandError("NOT_READY", f"The {waiting[0]} is not ready after {READY_S:.0f} s. {missing}")
                status.update(f"waiting for the {waiting[0]} … {missing}")
                time.sleep(_PAUSE_S)

    def _check_first_start(self) -> None:
        for service, process in self.processes.items():
            code = process.poll()
            if code is not None:
                log = self._launches[service].log
                self._output.note(last_lines(log, self._log_starts[service]), style="dim")
                raise CommandError(
                    "PROCESS_DIED", f"The {service} {how_it_ended(code)}; its log's last lines are above, the rest is in {log}."
                )

    def _look_after(self) -> None:
        while not self._signals:
            for service in ORDER:
                try:
                    self._look_at(service, time.monotonic())
                except OSError as error:  # a full disk, no memory: that must not end what runs
                    self._say("not_written", f"{error.filename or service}: {error.strerror or error}.", of=service)
            self._tidy(time.monotonic())
            time.sleep(_PAUSE_S)
        self._say("stopping", "Stopping; once more Ctrl-C kills.")

    def _look_at(self, service: str, now: float) -> None:
        due = self._due.get(service)
        if due is None:
            code = self.processes[service].poll()
            if code is not None:
                self._died(service, code, now)
        elif now >= due:
            count = self._running[service].restarts + 1
            self._running[service] = replace(self._running[service], restarts=count)
            try:
                self._launch(service)
            except OSError:
                self._due[service] = now + self._backoffs[service].after(0)
                raise
            del self._due[service]
            self._say("process_restarted", f"The {service} was started again.", of=service, restarts=count)
            self._write_state()

    def _died(self, service: str, code: int, now: float) -> None:
        how, one = how_it_ended(code), self._running[service]
        wait_s = self._backoffs[service].after(time.time() - one.since)
        self._due[service] = now + wait_s
        self._running[service] = replace(one, ended=how, again_at=time.time() + wait_s)
        sentence = f"The {service} {how}; it starts again in {wait_s:.0f} s. Why: {self._launches[service].log}"
        self._say("process_died", sentence, of=service, how=how, again_in_s=wait_s)
        self._write_state()

    def _tidy(self, now: float) -> None:
        """Logs stay small, and no certificate runs out under a process that runs for a year."""
        try:
            if now >= self._next_logs:
                self._next_logs = now + _LOGS_S
                for log in (*(launch.log for launch in self._launches.values()), self._folder.up_log):
                    keep_small(log)
                if self._state_is_old:
                    self._write_state()
            if now >= self._next_certificates:
                self._next_certificates = now + _CERTIFICATES_S
                renewed = Certificates(self._folder.certificates).renew_due()
                if renewed:
                    self._say("certificates_renewed", f"New certificates for {', '.join(renewed)}.", names=renewed)
        except OSError as error:
            self._say("not_written", f"{error.filename or self._folder.path}: {error.strerror or error}.")

    def _stop(self) -> None:
        before = self._signals
        running = {service: (one.pid, one.started) for service, one in self._running.items() if one.pid}
        killed = end(running, at_once=lambda: self._signals > before)
        if killed:
            self._say("killed", f"Killed, as they did not end: {', '.join(killed)}.", names=killed)
        self._folder.forget_state()
        self._event("stopped")

    def _say(self, event: str, sentence: str, **keys: object) -> None:
        self._event(event, level="warning", **keys)
        if not self._silent:
            self._output.note(sentence, style="yellow")
            self._output.line(event, keys)

    def _event(self, event: str, *, level: str = "info", **keys: object) -> None:
        """A line of `logs/up.log`, in the shape of the processes' own. Lost where the disk is full."""
        line = {"event": event, "service": "up", **keys, "level": level, "timestamp": datetime.now(UTC).isoformat()}
        try:
            with os.fdopen(os.open(self._folder.up_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as log:
                log.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError:
            return
