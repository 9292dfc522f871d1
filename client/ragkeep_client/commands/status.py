"""`ragkeep status`: how each process of a data folder is, and what is missing."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import typer

from ragkeep_client.folder import DEFAULT, DataFolder, DataOption, Running, State
from ragkeep_client.output import NOT_RUNNING, CommandError, JsonOption, Output

if TYPE_CHECKING:
    from rich.text import Text

    from ragkeep_client.attention import Attention, HttpsLook


@dataclass(frozen=True, slots=True)
class Look:
    """One process, as it is now."""

    service: str
    running: bool
    ready: bool
    missing: str  # sentences; empty: nothing
    pid: int | None
    uptime_s: int | None
    address: str
    health: str
    engine: str
    restarts: int


def status(data: DataOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Say how each process is, and what needs attention. Exit code 0 only where all are ready and nothing does."""
    output = Output(as_json)
    folder = DataFolder(data)
    try:
        state = folder.state()
        if state is None:
            raise CommandError("NOT_RUNNING", f"Nothing runs on the data folder {folder.path}. {NOT_RUNNING}")
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    from ragkeep_client.attention import Attention, files_not_taken_over, look_at_https, unusable_certificates
    from ragkeep_client.certificates import HTTPS_FILE

    looks, watched = look(state)
    unusable = unusable_certificates(folder)
    looks = [_cut_off(one, unusable) for one in looks]
    https = look_at_https(state.https) if state.https else None
    about_others = [Attention(name, why) for name, why in unusable.items() if name not in (*state.services, HTTPS_FILE)]
    attention = [*about_others, *files_not_taken_over(folder, state)]
    if not watched:
        attention.append(Attention("up", "It is gone: nothing starts again what dies. `ragkeep down`, then `ragkeep up`."))
    ready = all(one.ready for one in looks) and (https is None or https.ready)
    for one in looks:
        output.line("process", asdict(one))
    if https is not None:
        output.line("https", asdict(https))
    for what in attention:
        output.line("attention", asdict(what))
    up = {"pid": state.up_pid, "watches": watched}
    output.line("status", {"ready": ready, "attention": len(attention), "data": str(folder.path), "up": up})
    if not as_json:
        _show(output, looks, https, attention)
        if watched:
            output.say(f"\nup (pid {state.up_pid}) starts again what dies. Data: {folder.path}", style="dim")
    if not ready or attention:
        raise typer.Exit(1)


def look(state: State) -> tuple[list[Look], bool]:
    """Each process, those that were not started yet too, and whether `up` is there to start them again."""
    from ragkeep_client.processes import ORDER, is_ours

    watched = is_ours(state.up_pid, state.up_started)
    return [_look_at(service, state.services.get(service), watched) for service in reversed(ORDER)], watched


def _cut_off(one: Look, unusable: dict[str, str]) -> Look:
    """Of one whose certificate cannot be used: it may be well, and nobody can call it."""
    why = unusable.get(one.service)
    return one if why is None else replace(one, ready=False, missing=f"{one.missing} {why}".strip())


def _look_at(service: str, one: Running | None, watched: bool) -> Look:
    from ragkeep_client.processes import is_ours, readiness

    if one is None:
        return Look(service, False, False, "It has not been started yet.", None, None, "", "", "", 0)
    if is_ours(one.pid, one.started):
        ready, missing = readiness(one.health)
        uptime_s = max(0, int(time.time() - one.since)) if one.since else None
        return Look(service, True, ready, missing, one.pid, uptime_s, one.address, one.health, one.engine, one.restarts)
    if watched and readiness(one.health)[0]:
        # Started again while the disk was full: `up` could not write its number down.
        return Look(service, True, True, "", None, None, one.address, one.health, one.engine, one.restarts)
    missing = f"It {one.ended or 'has ended'}"
    if watched and one.again_at:
        missing += f"; it starts again in {max(0.0, one.again_at - time.time()):.0f} s"
    missing += f". Why: ragkeep logs {service}"
    return Look(service, False, False, missing, None, None, one.address, one.health, one.engine, one.restarts)


def _show(output: Output, looks: list[Look], https: HttpsLook | None, attention: list[Attention]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    restarted = any(one.restarts for one in looks)
    for column in ("service", "state", "pid", "up for", "address", "health", *(["restarts"] if restarted else []), "engine"):
        table.add_column(column, no_wrap=column != "engine", overflow="fold")
    for one in looks:
        table.add_row(
            Text(one.service, "bold"),
            _word(one.ready, one.running),
            str(one.pid or "–"),
            duration(one.uptime_s),
            one.address,
            one.health.rpartition(":")[2],
            *([str(one.restarts)] if restarted else []),
            one.engine,
        )
    if https is not None:
        # The gateway's own: no process beside it.
        none = ["–"] if restarted else []
        table.add_row(Text("https", "bold"), _word(https.ready, True), "–", "–", https.address, "–", *none, "–")
    output.say(table)
    for service, missing in (*((one.service, one.missing) for one in looks), ("https", https.missing if https else "")):
        if missing:
            output.say(f"{service}: {missing}", style="yellow")
    for what in attention:
        output.say(f"{what.about}: {what.message}", style="yellow")


def _word(ready: bool, running: bool) -> Text:
    from rich.text import Text

    return Text("ready", "green") if ready else Text("not ready", "yellow") if running else Text("down", "red")


def duration(seconds: int | None) -> str:
    """2 d 3 h, 4 min 5 s: the two largest units."""
    if seconds is None:
        return "–"
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts[:2])
