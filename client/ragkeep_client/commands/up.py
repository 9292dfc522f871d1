"""`ragkeep up`: certificates, policy and engine choice made at the first start, then four processes with mutual TLS."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragkeep_client.folder import DEFAULT, TENANT, DataFolder, DataOption
from ragkeep_client.output import CommandError, JsonOption, Output, mute_stdout
from ragkeep_client.supervision import go_into_background

if TYPE_CHECKING:
    from ragkeep_client.engines import Choice, Wanted
    from ragkeep_client.settings import Setting


class EmbedderEngine(StrEnum):
    """Who embeds."""

    AUTO, OLLAMA, E5 = "auto", "ollama", "e5"


class RetrieverEngine(StrEnum):
    """Who keeps and finds."""

    AUTO, WEAVIATE, SQLITE = "auto", "weaviate", "sqlite"


class GeneratorEngine(StrEnum):
    """Who answers."""

    AUTO, OLLAMA, QUOTE = "auto", "ollama", "quote"


def up(
    data: DataOption = DEFAULT,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once all is ready; `ragkeep down` stops it.")] = False,
    embedder: Annotated[EmbedderEngine, typer.Option(help="Engine of the embedder.")] = EmbedderEngine.AUTO,
    retriever: Annotated[RetrieverEngine, typer.Option(help="Engine of the retriever.")] = RetrieverEngine.AUTO,
    generator: Annotated[GeneratorEngine, typer.Option(help="Engine of the generator.")] = GeneratorEngine.AUTO,
    embedding_model: Annotated[str | None, typer.Option(help="Ollama's embedding model.  [default: nomic-embed-text]")] = None,
    language_model: Annotated[str | None, typer.Option(help="Ollama's language model.  [default: llama3.2]")] = None,
    ollama_url: Annotated[
        str | None,
        typer.Option(envvar=["RAGKEEP_OLLAMA_URL", "OLLAMA_HOST"], help="Where Ollama is.  [default: http://127.0.0.1:11434]"),
    ] = None,
    weaviate_url: Annotated[
        str | None,
        typer.Option(
            envvar=["RAGKEEP_WEAVIATE_URL", "WEAVIATE_URL"], help="Where Weaviate is.  [default: http://127.0.0.1:8080]"
        ),
    ] = None,
    weaviate_grpc_port: Annotated[
        int | None,
        typer.Option(
            envvar=["RAGKEEP_WEAVIATE_GRPC_PORT", "WEAVIATE_GRPC_PORT"],
            min=1,
            max=65535,
            help="Its gRPC port.  [default: 50051]",
        ),
    ] = None,
    ports: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65532,
            help="First of four gRPC ports: gateway, embedder, retriever, generator.  [default: the last, or 50061]",
        ),
    ] = None,
    health_ports: Annotated[
        int | None, typer.Option(min=1, max=65532, help="First of their four health ports.  [default: the last, or 9161]")
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(
            envvar="RAGKEEP_HTTP_PORT",
            min=0,
            max=65535,
            help="Port of the HTTPS edge for people; 0: none.  [default: the last, or 8443, or the next that is free]",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start ragkeep on this machine.

    Takes the real engine where one answers with what is needed, else the embedded one; choice and ports stay with the folder.
    Settings come from options, the environment and ragkeep.toml in the data folder; `ragkeep config show` tells each.
    """
    from ragkeep_client.engines import Wanted

    output = Output(as_json)
    wanted = Wanted(
        embedder=embedder.value,
        retriever=retriever.value,
        generator=generator.value,
        embedding_model=embedding_model or None,
        language_model=language_model or None,
        ollama_url=ollama_url or None,
        weaviate_url=weaviate_url or None,
        weaviate_grpc_port=weaviate_grpc_port,
    )
    folder = DataFolder(data)
    background = go_into_background() if detach else None
    try:
        _start(folder, output, wanted, {"ports": ports, "health_ports": health_ports, "http_port": http_port}, background)
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"The disk of the data folder {folder.path} is full: make room, or choose another with --data DIR."
            raise output.fail("STORAGE_FULL", message) from None
        where = f"{error.filename}: " if error.filename else ""
        raise output.fail("DATA_FOLDER_UNUSABLE", f"{where}{error.strerror or error}.") from None


def _start(
    folder: DataFolder,
    output: Output,
    wanted: Wanted,
    asked: dict[str, int | None],
    background: Callable[[Path], None] | None,
) -> None:
    from dataclasses import replace

    from ragkeep_client.commands.config import settings_of, variables_of_the_command
    from ragkeep_client.engines import choose
    from ragkeep_client.installation import Installation
    from ragkeep_client.launching import addresses_of, check_ports, free_http_port, launches_of, make_identities
    from ragkeep_client.settings import SettingsFile, Source, check, unused

    folder.prepare()
    lock = folder.lock()
    file = SettingsFile.read(folder.path)
    first = file.first_ports(folder.ports(), asked)
    if first.http_port_from is Source.DEFAULT and (free := free_http_port(first.http_port)) != first.http_port:
        output.note(f"Port {first.http_port} is in use, so HTTPS takes {free}; --http-port chooses.")
        first = replace(first, http_port=free)
    settings = settings_of(folder, file, first)
    for note in unused(os.environ, variables_of_the_command()):
        output.note(note, style="yellow")
    check(file, settings)
    choices = choose(wanted, folder.engines(), file)
    check_ports(first.ports, first.health_ports, first.http_port)
    addresses = addresses_of(first.ports, first.health_ports)
    said = make_identities(folder)
    if said:
        output.note(said)
    launches = launches_of(folder, settings, choices)
    installation = Installation(folder, output, background, lock=lock, https=https_of(settings))

    def ready() -> None:
        folder.write_engines({service: choice.kept for service, choice in choices.items()})
        # The one of HTTPS is kept however it was found: what people wrote into their programs goes on being right.
        now = {name: one for name, one in asked.items() if one is not None} | {"http_port": first.http_port}
        folder.write_ports(folder.ports() | now)
        pids = {service: process.pid for service, process in installation.processes.items()}
        try:
            _tell(folder, output, choices, addresses, pids, https_of(settings), detached=background is not None)
        except (BrokenPipeError, SystemExit):  # rich makes the latter of the former
            # Whoever read the table has gone; what was started stays.
            mute_stdout()

    engines = {service: _engine(service, choices) for service in addresses}
    installation.run(launches, engines, addresses, ready)
    if background is None:
        output.note("Stopped.", style="green")


def _tell(
    folder: DataFolder,
    output: Output,
    choices: dict[str, Choice],
    addresses: dict[str, tuple[str, str]],
    pids: dict[str, int],
    https: str,
    *,
    detached: bool,
) -> None:
    from rich.table import Table
    from rich.text import Text

    from ragkeep_client.hints import ask_line, curl_line, data_option, grpcurl_line
    from ragkeep_client.processes import ORDER

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("service", "engine", "address", "why"):
        table.add_column(column, no_wrap=column != "why")
    for service in reversed(ORDER):
        engine, why = _engine(service, choices)
        address, health = addresses[service]
        table.add_row(Text(service, "bold"), Text(engine, "cyan"), address, Text(why, "dim"))
        facts = {"service": service, "engine": engine, "why": why, "address": address, "health": health}
        output.line("service", facts | {"pid": pids[service]})
    if https:
        table.add_row(Text("https", "bold"), Text("–", "cyan"), https, Text("of the gateway, for people with a token", "dim"))
    gateway = addresses["gateway"][0]
    ask, grpcurl = ask_line(folder), grpcurl_line(folder, gateway)
    facts = {"gateway": gateway, "data": str(folder.path), "tenant": TENANT}
    curl = curl_line(folder, https) if https else ""
    output.line("ready", facts | {"https": https, "ask": ask, "grpcurl": grpcurl, "curl": curl})
    output.say(table)
    option = data_option(folder)
    output.say(f"\nReady. All of it is in {folder.path}\n", style="green")
    # Not broken by us: a line that is pasted is one line.
    for line in (f"  ragkeep import FILE.csv{option}", f"  {ask}", f"  {grpcurl}", *([f"  {curl}"] if curl else [])):
        output.console.print(line, soft_wrap=True)
    output.say(f"\n  ragkeep down{option}" if detached else "\n  Ctrl-C stops it.")


def https_of(settings: list[Setting]) -> str:
    """Where people come to, as a browser writes it; empty: nowhere."""
    listen = next((one.value for one in settings if one.service == "gateway" and one.name == "http_listen"), "")
    host, _, port = listen.rpartition(":")
    return f"https://{'localhost' if host in ('127.0.0.1', '[::1]', '0.0.0.0', '[::]') else host}:{port}" if port else ""  # noqa: S104 - read, not listened on


def _engine(service: str, choices: dict[str, Choice]) -> tuple[str, str]:
    if service == "gateway":
        return "–", "puts the three together"
    choice = choices[service]
    model = choice.kept.get("model")
    return (f"{choice.engine} ({model})" if model else choice.engine), choice.why
