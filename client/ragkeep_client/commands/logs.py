"""`ragkeep logs`: what the processes wrote, readable."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ragkeep_client.folder import DEFAULT, DataFolder, DataOption
from ragkeep_client.output import JsonOption, Output, plain

if TYPE_CHECKING:
    from ragkeep_client.log_lines import Line

_STYLES = {"debug": "dim", "info": "green", "warning": "yellow", "error": "bold red", "critical": "bold red"}


class Service(StrEnum):
    """Whose log."""

    GATEWAY, EMBEDDER, RETRIEVER, GENERATOR, UP = "gateway", "embedder", "retriever", "generator", "up"


def logs(
    service: Annotated[Service | None, typer.Argument(help="Of this one alone; up: starts, ends and restarts.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=1_000_000, help="How many of the last lines.")] = 50,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Show what the processes wrote, all by time; with --json as they wrote it."""
    from ragkeep_client import log_lines

    output = Output(as_json)
    folder = DataFolder(data)
    wanted = [service] if service else list(Service)
    files = {one.value: folder.logs / f"{one.value}.log" for one in wanted}
    if not folder.logs.is_dir():
        raise output.fail("NOT_RUNNING", f"There are no logs in {folder.path}: `ragkeep up` was never run with it.")
    try:
        followers = [log_lines.Follower(name, log) for name, log in files.items()]
        # Up to where the followers begin: a line that comes in between is shown once.
        for line in log_lines.last(files, lines, {one.service: one.begins for one in followers}):
            _show(output, line)
        while follow:
            for one in followers:
                for line in one.lines():
                    _show(output, line)
            time.sleep(log_lines.LOOK_S)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output.fail("DATA_FOLDER_UNUSABLE", f"{error.filename}: {error.strerror or error}.") from None


def _show(output: Output, line: Line) -> None:
    from rich.text import Text

    from ragkeep_client import log_lines

    if output.as_json:
        if line.event is None:
            output.line("text", {"service": line.service, "text": line.text})
        else:
            print(line.text, flush=True)
        return
    if line.event is None:
        output.say(Text.assemble((f"{line.service:9} ", "bold"), plain(line.text)))
        return
    level = str(line.event.get("level", ""))
    parts = [
        (f"{log_lines.clock(line.timestamp)} ", "dim"),
        (f"{level:7} ", _STYLES.get(level, "")),
        (f"{line.service:9} ", "bold"),
        (plain(str(line.event.get("event", ""))), ""),
    ]
    for key, value in log_lines.keys(line.event):
        parts += [(f"  {plain(key)}=", "dim"), (plain(value), "cyan")]
    output.console.print(Text.assemble(*parts), soft_wrap=True)
    for place in log_lines.traceback(line.event):
        output.console.print(Text(f"    {plain(place)}", "red"), soft_wrap=True)
