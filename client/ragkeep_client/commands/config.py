"""`ragkeep config`: every setting of every process, and where it comes from."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ragkeep_client.folder import DEFAULT, DataFolder, DataOption
from ragkeep_client.output import CommandError, JsonOption, Output

if TYPE_CHECKING:
    from ragkeep_client.settings import FirstPorts, Setting, SettingsFile

config = typer.Typer(no_args_is_help=True, help="Show the settings and where each comes from.")
# Read by scripts of the source tree, and by the commands that call a gateway.
_ELSEWHERE = {"RAGKEEP_CACHE", "RAGKEEP_GATEWAY", "RAGKEEP_TOKEN_FILE"}


class Process(StrEnum):
    """Whose settings."""

    GATEWAY, EMBEDDER, RETRIEVER, GENERATOR = "gateway", "embedder", "retriever", "generator"


@config.command()
def show(
    process: Annotated[Process | None, typer.Argument(help="Of this one alone.")] = None,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Say what the next `ragkeep up` gives each process: value, and whether it is the default, from the file, the
    environment, chosen at the first start, kept from an earlier one, set by `up` itself, or for an engine that was not
    chosen. Exit code 0 only where none is wrong."""
    from ragkeep_client import settings

    output = Output(as_json)
    folder = DataFolder(data)
    try:
        file = settings.SettingsFile.read(folder.path)
        found = settings_of(folder, file, file.first_ports(folder.ports()))
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    shown = [one for one in found if process is None or one.service == process]
    for one in shown:
        facts = {"service": one.service, "name": one.name, "variable": one.variable, "value": one.shown}
        output.line("setting", facts | {"source": one.source.value, "description": one.description})
    if not as_json:
        _show(output, shown, file)
    for note in settings.unused(os.environ, variables_of_the_command()):
        output.note(note, style="yellow")
    try:
        settings.check(file, found)
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None


def settings_of(folder: DataFolder, file: SettingsFile, ports: FirstPorts) -> list[Setting]:
    """Every setting of every process of a folder."""
    from dataclasses import replace

    from ragkeep_client.launching import addresses_of, own_settings
    from ragkeep_client.settings import Source, resolve

    own = own_settings(folder, addresses_of(ports.ports, ports.health_ports), ports.http_port)
    found = resolve(file, os.environ, own, folder.engines())
    return [replace(one, source=ports.source(one.name)) if one.source is Source.UP else one for one in found]


def variables_of_the_command() -> set[str]:
    """The RAGKEEP_ variables that the command's own options read."""
    from ragkeep_client.command import app

    found = set(_ELSEWHERE)
    waiting = [typer.main.get_command(app)]
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        for parameter in command.params:
            variables = parameter.envvar or ()
            found |= {variables} if isinstance(variables, str) else set(variables)
    return found


def _show(output: Output, shown: list[Setting], file: SettingsFile) -> None:
    from rich.table import Table
    from rich.text import Text

    from ragkeep_client.settings import Source

    styles = {Source.FILE: "green", Source.ENVIRONMENT: "cyan", Source.CHOSEN: "yellow", Source.KEPT: "yellow"}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("process", "setting", "value", "from"):
        table.add_column(column, no_wrap=column != "value")
    before = ""
    for one in shown:
        service, before = ("" if one.service == before else one.service), one.service
        dim = "dim" if one.source in (Source.DEFAULT, Source.UP, Source.UNUSED) else ""
        table.add_row(
            Text(service, "bold"),
            Text(one.name, dim),
            Text(one.shown or "–", dim),
            Text(one.source, styles.get(one.source, dim)),
        )
    output.say(table)
    there = "" if file.path.exists() else ", which is not there"
    output.say(f"\nThe file is {file.path}{there}. Environment variables are RAGKEEP_<SETTING>.", style="dim")
