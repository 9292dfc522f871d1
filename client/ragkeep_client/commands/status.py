"""`ragkeep status`: how each process of a data folder is, and what is missing."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import typer

from ragkeep_client.folder import DEFAULT, DataFolder, DataOption, Running, State
from ragkeep_client.output import NOT_RUNNING, CommandError, JsonOption, Output


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
    """Say how each process is. Exit code 0 only where all are ready."""
    output = Output(as_json)
    folder = DataFolder(data)
    try:
        state = folder.state()
        if state is None:
            raise CommandError("NOT_RUNNING", f"Nothing runs on the data folder {folder.path}. {NOT_RUNNING}")
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    looks, watched = look(state)
    ready = all(one.ready for one in looks)
    for one in looks:
        output.line("process", asdict(one))
    up = {"pid": state.up_pid, "watches": watched}
    output.line("status", {"ready": ready, "data": str(folder.path), "up": up})
    if not as_json:
        _show(output, looks, folder, state, watched)
    if not ready:
        raise typer.Exit(1)


def look(state: State) -> tuple[list[Look], bool]:
    """Each process, those that were not started yet too, and whether `up` is there to start them again."""
    from ragkeep_client.processes import ORDER, is_ours

    watched = is_ours(state.up_pid, state.up_started)
    return [_look_at(service, state.services.get(service), watched) for service in reversed(ORDER)], watched


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


def _show(output: Output, looks: list[Look], folder: DataFolder, state: State, watched: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    restarted = any(one.restarts for one in looks)
    for column in ("service", "state", "pid", "up for", "address", "health", *(["restarts"] if restarted else []), "engine"):
        table.add_column(column, no_wrap=column != "engine", overflow="fold")
    for one in looks:
        word, style = ("ready", "green") if one.ready else ("not ready", "yellow") if one.running else ("down", "red")
        table.add_row(
            Text(one.service, "bold"),
            Text(word, style),
            str(one.pid or "–"),
            duration(one.uptime_s),
            one.address,
            one.health.rpartition(":")[2],
            *([str(one.restarts)] if restarted else []),
            one.engine,
        )
    output.say(table)
    for one in looks:
        if one.missing:
            output.say(f"{one.service}: {one.missing}", style="yellow")
    if watched:
        output.say(f"\nup (pid {state.up_pid}) starts again what dies. Data: {folder.path}", style="dim")
    else:
        output.say("\n`up` itself is gone: nothing starts again what dies. `ragkeep down`, then `ragkeep up`.", style="yellow")


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
