"""Data folders that something is wrong with: each gets a sentence with a way out, and nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.test_command import Command
from tests.e2e.test_daily import TICKETS, ports, processes, wait_until_ready

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


class Disk:
    """A small disk of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, options: str) -> None:
        """Skips where this user may not."""
        owner = f"uid={os.getuid()},gid={os.getgid()}"
        try:
            ran = subprocess.run(
                [*AS_ROOT, "mount", "-t", "tmpfs", "-o", f"{options},{owner}", "tmpfs", str(self.path)],
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError as error:
            pytest.skip(f"a small disk needs root or sudo: {error}")
        if ran.returncode:
            pytest.skip(f"a small disk needs the right to mount: {ran.stderr.strip()}")

    def make_read_only(self) -> None:
        """As after an error of the disk."""
        subprocess.run([*AS_ROOT, "mount", "-o", "remount,ro", str(self.path)], check=True)

    def fill(self) -> None:
        """To the last byte."""
        with (self.path / "fill").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                return

    def make_room(self) -> None:
        """Again."""
        (self.path / "fill").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    found = Disk(path)
    yield found
    if path.is_mount():
        subprocess.run([*AS_ROOT, "umount", "--lazy", str(path)], check=True)


def running_on(folder: Path) -> list[int]:
    """Processes of ragkeep that were started for a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("RAGKEEP_TLS_CERT", ""):
                found.append(process.pid)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def search_until_refused(command: Command) -> str:
    """What a search says once nothing fits any more: the audit log's last block takes a few lines that a full disk does not.

    A service that was killed is waited for.
    """
    program = str(Path(sys.executable).with_name("ragkeep"))
    while True:
        ran = subprocess.run([program, "search", "VPN error 809"], env=command.env, capture_output=True, text=True, timeout=300)
        assert not ran.returncode or "T-1" not in ran.stdout
        if "NOT_READY" in ran.stderr:
            time.sleep(0.3)
        elif ran.returncode:
            return ran.stderr


def test_a_full_disk_shows_and_changes_nothing_until_there_is_room(tmp_path: Path, disk: Disk) -> None:
    """What cannot be recorded is not done; a process that dies comes back, and with room again all is as before, by itself."""
    disk.mount("size=8m")
    command = Command(tmp_path)
    data = disk.path / "data"
    command.env["RAGKEEP_DATA"] = str(data)
    tickets = tmp_path / "tickets.csv"
    tickets.write_text(TICKETS.format(id="T-1"))
    others = tmp_path / "others.csv"
    others.write_text(TICKETS.format(id="T-2"))
    try:
        command("up", "--detach", *ports())
        command("import", str(tickets))
        disk.fill()
        assert "AUDIT_UNAVAILABLE" in search_until_refused(command)
        refused = command("import", str(others), code=1).stderr
        assert "AUDIT_UNAVAILABLE" in refused or "STORAGE_FULL" in refused
        before = processes(command)
        os.kill(int(str(before["embedder"]["pid"])), signal.SIGKILL)
        assert "No space left" in command("certs", "renew", code=1).stderr
        assert "AUDIT_UNAVAILABLE" in search_until_refused(command)
        disk.make_room()
        wait_until_ready(command)
        assert "T-1" in command("search", "VPN error 809").stdout
        assert "are as they were written" in command("audit", "verify").stdout
        assert "what=unavailable" in command("audit", "show", "--kind", "repaired").stdout
        assert "1 created" in command("import", str(others)).stdout
        command("certs", "renew")
    finally:
        command("down")
    assert running_on(data) == []


def test_on_a_full_disk_nothing_starts_and_nothing_stays(tmp_path: Path, disk: Disk) -> None:
    """At the first start, and at a later one."""
    disk.mount("size=4m")
    command = Command(tmp_path)
    data = disk.path / "data"
    command.env["RAGKEEP_DATA"] = str(data)
    data.mkdir()
    disk.fill()
    error = command.lines("up", "--detach", *ports(), code=1)[-1]["error"]
    assert error["reason"] == "STORAGE_FULL"  # type: ignore[index]
    assert "make room" in error["message"]  # type: ignore[index]
    disk.make_room()
    command("up", "--detach", *ports())
    command("down")
    disk.fill()
    assert "STORAGE_FULL" in command("up", "--detach", *ports(), code=1).stderr
    assert running_on(data) == []


def test_a_read_only_folder_is_refused_with_the_systems_own_reason(tmp_path: Path, disk: Disk) -> None:
    """Before anything is started."""
    disk.mount("size=4m")
    command = Command(tmp_path)
    command.env["RAGKEEP_DATA"] = str(disk.path / "data")
    (disk.path / "data").mkdir()
    disk.make_read_only()
    ran = command("up", "--detach", code=1)
    assert "cannot be written: Read-only file system" in ran.stderr
    assert "--data DIR" in ran.stderr


def test_a_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """Who wrote it is told; no file is touched."""
    command = Command(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    (data / "folder.json").write_text(json.dumps({"format": 2, "ragkeep": "9.1.0"}))
    error = command.lines("up", "--detach", *ports(), code=1)[-1]["error"]
    assert error["reason"] == "DATA_FOLDER_VERSION"  # type: ignore[index]
    assert "ragkeep 9.1.0" in error["message"]  # type: ignore[index]
    assert not list((data / "certificates").iterdir())


def test_two_starts_at_once_on_one_folder_make_one_installation(tmp_path: Path) -> None:
    """The other one says where it runs already, or that it is just being started."""
    command = Command(tmp_path)
    ragkeep = [str(Path(sys.executable).with_name("ragkeep")), "up", "--detach", "--json"]
    both = [
        subprocess.Popen([*ragkeep, *ports()], env=command.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        outs = [one.communicate(timeout=300)[0] for one in both]
        assert sorted(one.returncode for one in both) == [0, 1]
        refused = json.loads(outs[[one.returncode for one in both].index(1)].splitlines()[-1])
        assert refused["error"]["reason"] == "ALREADY_RUNNING"
        assert len(running_on(tmp_path / "data")) == 4
    finally:
        command("down")
    assert running_on(tmp_path / "data") == []
