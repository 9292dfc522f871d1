"""`ragkeep up` for daily use, as its user types it: status, logs, what happens when a process dies."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragkeep_client.certificates import Certificates
from ragkeep_client.processes import started
from tests.e2e.test_command import Command
from tests.ports import free_ports
from tests.waiting import until

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("sqlite"), pytest.mark.engine("quote")]

RAGKEEP = [str(Path(sys.executable).with_name("ragkeep"))]
TICKETS = """ticket_id,title,description,solution,category
{id},VPN error 809 after an update,It stops with error 809.,Set AssumeUDPEncapsulationContextOnSendRule to 2.,网络与VPN
"""


def ports() -> list[str]:
    """Options for ports of one's own."""
    first = free_ports(8)
    return ["--ports", str(first), "--health-ports", str(first + 4)]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A running installation with a ticket in it."""
    found = Command(tmp_path_factory.mktemp("daily"))
    (found.folder / "one.csv").write_text(TICKETS.format(id="T-1042"))
    try:
        found("up", "--detach", *ports())
        found("import", str(found.folder / "one.csv"))
        yield found
    finally:
        found("down")


def processes(command: Command, code: int = 0) -> dict[str, dict[str, object]]:
    """What `ragkeep status` says of each."""
    found = [line["process"] for line in command.lines("status", code=code) if "process" in line]
    return {str(one["service"]): one for one in found}  # type: ignore[index]


def wait_until_ready(command: Command) -> dict[str, dict[str, object]]:
    """What `ragkeep status` says of each, once all are ready."""

    def ready() -> dict[str, dict[str, object]]:
        ragkeep = str(Path(sys.executable).with_name("ragkeep"))
        ran = subprocess.run([ragkeep, "status", "--json"], env=command.env, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in ran.stdout.splitlines()] if ran.returncode == 0 else []
        return {line["process"]["service"]: line["process"] for line in lines if "process" in line}

    return until(ready)


def test_status_says_how_each_process_is(command: Command) -> None:
    """For people and for machines; exit code 0 where all are ready."""
    found = processes(command)
    assert list(found) == ["gateway", "generator", "retriever", "embedder"]
    for one in found.values():
        assert one["ready"] is True
        assert Path(f"/proc/{one['pid']}").exists()
        assert str(one["address"]).startswith("127.0.0.1:")
    https = next(line["https"] for line in command.lines("status") if "https" in line)
    assert https == {"address": f"https://localhost:{command.env['RAGKEEP_HTTP_PORT']}", "ready": True, "missing": ""}
    text = command("status").stdout
    assert "sqlite" in text
    assert text.count(" ready ") == 5
    assert https["address"] in text


def test_status_says_which_files_were_not_taken_over(command: Command) -> None:
    """A broken policy as it lies there, a broken secret of tokens as the gateway found it; nothing once they are mended."""
    token = command.folder / "someone.key"
    token.write_text(command("token", "li.wei").stdout)
    kept = {name: (command.folder / "data" / name).read_bytes() for name in ("policy.json", "token-secret")}
    for name in kept:
        (command.folder / "data" / name).write_text("{}")
    asking = Command(command.folder)
    asking.env["RAGKEEP_TOKEN_FILE"] = str(token)

    def attention(code: int) -> dict[str, str]:
        # A call makes the gateway look.
        asking("search", "VPN error 809")
        lines = command.lines("status", code=code)
        assert lines[-1]["status"]["ready"] is True  # type: ignore[index]
        return {line["attention"]["about"]: line["attention"]["message"] for line in lines if "attention" in line}  # type: ignore[index]

    try:
        until(lambda: "jwt_secret" in attention(1))
        found = attention(1)
        assert found.keys() == {"policy", "jwt_secret"}
        assert "policy.json is not in force, the one before it still is: callers: Field required." in found["policy"]
        assert found["jwt_secret"].startswith("token-secret (")
    finally:
        for name, content in kept.items():
            (command.folder / "data" / name).write_bytes(content)
    while subprocess.run([*RAGKEEP, "status"], env=command.env, capture_output=True, check=False).returncode:
        asking("search", "VPN error 809")
    assert attention(0) == {}


def test_logs_are_readable_and_json_is_as_it_was_written(command: Command) -> None:
    """Time, level, who, event, keys."""
    text = command("logs", "gateway", "--lines", "200").stdout
    assert "call_finished" in text
    assert "outcome=OK" in text
    assert "embedder " not in text
    events = command.lines("logs", "--lines", "500")
    assert {event["service"] for event in events} == {"gateway", "embedder", "retriever", "generator", "up"}
    stamps = [str(event["timestamp"])[:19] for event in events]
    assert stamps == sorted(stamps)
    assert len(command.lines("logs", "--lines", "3")) == 3


def test_logs_follow(command: Command) -> None:
    """A call that comes later is shown, until Ctrl-C."""
    ragkeep = str(Path(sys.executable).with_name("ragkeep"))
    arguments = [ragkeep, "logs", "gateway", "-f", "--lines", "1", "--json"]
    with subprocess.Popen(arguments, env=command.env, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline()  # what was there; from here on it follows
        command("search", "VPN error 809")
        while True:
            event = json.loads(following.stdout.readline())
            if event["event"] == "call_finished":
                break
        following.send_signal(signal.SIGINT)
        assert following.wait(300) == 0
    assert event["method"].endswith("/Search")


def test_a_process_that_died_is_started_again_and_it_is_said(command: Command) -> None:
    """In status and in the log; calls work again."""
    before = processes(command)
    os.kill(int(str(before["retriever"]["pid"])), signal.SIGKILL)
    # By then it says that it died.
    until(lambda: "process_restarted" in {event["event"] for event in command.lines("logs", "up")})
    after = wait_until_ready(command)
    assert after["retriever"]["restarts"] == 1
    assert after["retriever"]["pid"] != before["retriever"]["pid"]
    assert after["gateway"]["pid"] == before["gateway"]["pid"]
    told = {event["event"]: event for event in command.lines("logs", "up")}
    assert told["process_died"]["how"] == "was ended by SIGKILL"
    assert told["process_restarted"]["of"] == "retriever"
    assert "T-1042" in command("search", "VPN error 809").stdout


def test_certificates_are_renewed_under_what_runs(command: Command) -> None:
    """No restart: each process shows its new one, and questions are answered with them."""
    before = {line["certificate"]["name"]: line["certificate"] for line in command.lines("certs", "show")}  # type: ignore[index]
    pids = {name: one["pid"] for name, one in processes(command).items()}
    renewed = [line["renewed"] for line in command.lines("certs", "renew")]
    assert {one["name"]: one["taken_over"] for one in renewed} == {  # type: ignore[index]
        "embedder": True, "retriever": True, "generator": True, "gateway": True, "cli": None, "https": None,
    }  # fmt: skip
    after = {line["certificate"]["name"]: line["certificate"] for line in command.lines("certs", "show")}  # type: ignore[index]
    assert after["ca"] == before["ca"]
    assert all(after[name]["serial"] != before[name]["serial"] for name in after if name != "ca")
    assert "T-1042" in command("search", "VPN error 809").stdout
    assert {name: one["pid"] for name, one in processes(command).items()} == pids
    text = command("certs", "show").stdout
    assert "spiffe://ragkeep.internal/caller/local/cli" in text
    assert "ragkeep local authority" in text


def test_certificates_of_a_wrong_clock_are_named_and_renewed(command: Command) -> None:
    """Made while the clock was four hours ahead: nobody accepts them yet, and the command says so instead of "handshake"."""
    ahead = dt.datetime.now(dt.UTC) + dt.timedelta(hours=4)
    Certificates(command.folder / "data" / "certificates").renew(ahead)
    ran = command("search", "VPN error 809", code=1)
    assert "cli.crt is not valid yet" in ran.stderr
    assert "ragkeep certs renew" in ran.stderr
    assert "cli: it is not valid yet" in command("certs", "show", code=1).stdout
    command("certs", "renew")
    assert "T-1042" in command("search", "VPN error 809").stdout


def test_in_the_foreground_a_death_is_said_at_once(tmp_path: Path) -> None:
    """On the terminal that `up` runs in."""
    command = Command(tmp_path)
    ragkeep = str(Path(sys.executable).with_name("ragkeep"))
    with (tmp_path / "out").open("w") as out:
        up = subprocess.Popen([ragkeep, "up", *ports()], env=command.env, stdout=out, stderr=out)
    try:
        wait_until_ready(command)
        os.kill(int(str(processes(command)["generator"]["pid"])), signal.SIGKILL)
        until(lambda: "was started again" in (tmp_path / "out").read_text())
        wait_until_ready(command)
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(300) == 0
    text = (tmp_path / "out").read_text()
    assert "The generator was ended by SIGKILL; it starts again in 1 s." in text
    assert "The generator was started again." in text
    command("status", code=1)


def test_what_runs_outlives_up_itself_and_down_ends_it(tmp_path: Path) -> None:
    """Detached, a killed `up` takes nothing with it; status says that nothing is started again now."""
    command = Command(tmp_path)
    command("up", "--detach", *ports())
    try:
        line = command.lines("status")[-1]["status"]
        assert line["up"]["watches"] is True  # type: ignore[index]
        os.kill(line["up"]["pid"], signal.SIGKILL)  # type: ignore[index]
        until(lambda: not started(line["up"]["pid"]))  # type: ignore[index]
        line = command.lines("status", code=1)[-1]["status"]
        assert line["up"]["watches"] is False  # type: ignore[index]
        assert (line["ready"], line["attention"]) == (True, 1)  # type: ignore[index]
        assert "nothing starts again what dies" in command("status", code=1).stdout
        assert command.lines("up", code=1)[-1]["error"]["reason"] == "ALREADY_RUNNING"  # type: ignore[index]
    finally:
        stopped = command.lines("down")[-1]["stopped"]
    assert len(stopped) == 4  # type: ignore[arg-type]
    assert "Nothing was running" in command("down").stdout


def test_a_start_that_fails_is_an_error_up_front_and_leaves_nothing(tmp_path: Path) -> None:
    """Detached too: the exit code and the last lines of its log come back to the terminal."""
    command = Command(tmp_path)
    command.env["RAGKEEP_OTLP_ENDPOINT"] = "http://collector.example:4317"
    ran = command("up", "--detach", *ports(), code=1)
    assert "RAGKEEP_OTLP_ENDPOINT must be https" in ran.stderr
    assert "ended with exit code 1" in ran.stderr
    assert "Nothing was running" in command("down").stdout


def test_settings_come_from_a_file_and_wrong_ones_stop_the_start(tmp_path: Path) -> None:
    """Ports from the file too; each value with where it came from; all that is wrong before anything starts."""
    command = Command(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    first = free_ports(8)
    text = f"[up]\nports = {first}\nhealth_ports = {first + 4}\n[gateway]\ndefault_limit = 3\n[embedder]\nconcurrent = "
    (data / "ragkeep.toml").write_text(text + "0\n")
    command.env["RAGKEEP_WAITING"] = "many"
    ran = command("up", "--detach", code=1)
    assert "2 settings are wrong; nothing was started." in ran.stderr
    assert "[embedder] concurrent: " in ran.stderr
    assert "RAGKEEP_WAITING: " in ran.stderr
    assert not (data / "logs" / "embedder.log").exists()
    assert "SETTINGS_WRONG" in command("config", "show", "--json", code=1).stdout

    (data / "ragkeep.toml").write_text(text + "2\n")
    command.env["RAGKEEP_WAITING"] = "9"
    try:
        command("up", "--detach")
        assert processes(command)["gateway"]["address"] == f"127.0.0.1:{first}"
        shown = [line["setting"] for line in command.lines("config", "show")]
        found = {(one["service"], one["name"]): (one["value"], one["source"]) for one in shown}  # type: ignore[index]
        assert found["gateway", "default_limit"] == ("3", "file")
        assert found["embedder", "concurrent"] == ("2", "file")
        assert found["embedder", "waiting"] == ("9", "environment")
        assert found["retriever", "engine"] == ("sqlite", "chosen at first start")
        assert found["generator", "num_ctx"] == ("8192", "default")
        pid = processes(command)["embedder"]["pid"]
        given = Path(f"/proc/{pid}/environ").read_text().split("\0")
        assert {"RAGKEEP_CONCURRENT=2", "RAGKEEP_WAITING=9", "RAGKEEP_ENGINE=e5"} <= set(given)
        assert "default_limit" in command("config", "show", "gateway").stdout
    finally:
        command("down")


def test_ports_stay_with_the_folder(tmp_path: Path) -> None:
    """A plain `up` comes back on those last given; the file's win, and `config show` says which they are."""
    command = Command(tmp_path)
    options = ports()
    try:
        command("up", "--detach", *options)
        command("down")
        command("up", "--detach")
        gateway = f"127.0.0.1:{options[1]}"
        assert processes(command)["gateway"]["address"] == gateway
    finally:
        command("down")

    def listens() -> dict[str, tuple[str, str]]:
        shown = [line["setting"] for line in command.lines("config", "show", "gateway")]
        return {one["name"]: (one["value"], one["source"]) for one in shown}  # type: ignore[index]

    assert listens()["listen"] == (gateway, "kept from an earlier up")
    (tmp_path / "data" / "ragkeep.toml").write_text("[up]\nports = 50961\n")
    assert listens()["listen"] == ("127.0.0.1:50961", "file")
    assert listens()["embedder"] == ("127.0.0.1:50962", "file")
    assert listens()["health_listen"] == (f"127.0.0.1:{options[3]}", "kept from an earlier up")
    assert listens()["policy_file"][1] == "ragkeep up"


def test_without_an_installation_status_and_logs_say_so(tmp_path: Path) -> None:
    """With the way out."""
    command = Command(tmp_path)
    assert "ragkeep up" in command("status", code=1).stderr
    assert command.lines("logs", code=1)[0]["error"]["reason"] == "NOT_RUNNING"  # type: ignore[index]
