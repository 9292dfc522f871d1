"""`ragkeep up`: certificates, policy and engine choice made at the first start, then four processes with mutual TLS."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragkeep_client.folder import DEFAULT, TENANT, DataFolder, DataOption, write_private
from ragkeep_client.output import CommandError, JsonOption, Output, mute_stdout
from ragkeep_client.supervision import go_into_background

if TYPE_CHECKING:
    from ragkeep_client.engines import Choice, Wanted
    from ragkeep_client.processes import Launch


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
        str | None, typer.Option(envvar="OLLAMA_HOST", help="Where Ollama is.  [default: http://127.0.0.1:11434]")
    ] = None,
    weaviate_url: Annotated[
        str | None, typer.Option(envvar="WEAVIATE_URL", help="Where Weaviate is.  [default: http://127.0.0.1:8080]")
    ] = None,
    weaviate_grpc_port: Annotated[
        int | None, typer.Option(envvar="WEAVIATE_GRPC_PORT", min=1, max=65535, help="Its gRPC port.  [default: 50051]")
    ] = None,
    ports: Annotated[
        int, typer.Option(min=1, max=65532, help="First of four gRPC ports: gateway, embedder, retriever, generator.")
    ] = 50061,
    health_ports: Annotated[int, typer.Option(min=1, max=65532, help="First of their four health ports.")] = 9161,
    as_json: JsonOption = False,
) -> None:
    """Start ragkeep on this machine.

    Takes the real engine where one answers with what is needed, else the embedded one; the choice stays with the data folder.
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
    background = go_into_background() if detach else None
    try:
        _start(DataFolder(data), output, wanted, ports, health_ports, background)
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise output.fail("DATA_FOLDER_UNUSABLE", f"{where}{error.strerror or error}.") from None


def _start(
    folder: DataFolder, output: Output, wanted: Wanted, ports: int, health_ports: int, background: Callable[[Path], None] | None
) -> None:
    from ragkeep_client.engines import choose
    from ragkeep_client.installation import Installation

    folder.prepare()
    lock = folder.lock()
    choices = choose(wanted, folder.engines())
    addresses = _addresses(ports, health_ports)
    launches = _launches(folder, choices, addresses)
    installation = Installation(folder, output, background, lock=lock)

    def ready() -> None:
        folder.write_engines({service: choice.kept for service, choice in choices.items()})
        pids = {service: process.pid for service, process in installation.processes.items()}
        try:
            _tell(folder, output, choices, addresses, pids, detached=background is not None)
        except (BrokenPipeError, SystemExit):  # rich makes the latter of the former
            # Whoever read the table has gone; what was started stays.
            mute_stdout()

    engines = {service: _engine(service, choices) for service in addresses}
    installation.run(launches, engines, addresses, ready)
    if background is None:
        output.note("Stopped.", style="green")


def _launches(folder: DataFolder, choices: dict[str, Choice], addresses: dict[str, tuple[str, str]]) -> list[Launch]:
    """Certificates, policy, and the settings of each process."""
    from ragkeep_client.certificates import CLI, TRUST_DOMAIN, Certificates
    from ragkeep_client.processes import ORDER, Launch

    certificates = Certificates(folder.certificates)
    certificates.ensure()
    if not folder.policy.exists():
        # Whoever can read the command's key is this user: any tenant, so that several can be tried.
        policy = {"callers": {CLI: {"tenants": ["*"], "roles": ["reader", "editor"]}}}
        write_private(folder.policy, json.dumps(policy, indent=1).encode())
    launches = []
    for service in ORDER:
        cert, key = certificates.files(service)
        settings = {
            "RAGKEEP_LISTEN": addresses[service][0],
            "RAGKEEP_HEALTH_LISTEN": addresses[service][1],
            "RAGKEEP_TLS_CERT": str(cert),
            "RAGKEEP_TLS_KEY": str(key),
            "RAGKEEP_TLS_CA": str(certificates.ca),
            "RAGKEEP_TRUST_DOMAIN": TRUST_DOMAIN,
            "RAGKEEP_DATA": str(folder.store),
        }
        if service == "gateway":
            settings["RAGKEEP_POLICY_FILE"] = str(folder.policy)
            settings |= {f"RAGKEEP_{other.upper()}": addresses[other][0] for other in ORDER if other != service}
        else:
            settings |= choices[service].environment()
        launches.append(Launch(service, settings, folder.logs / f"{service}.log"))
    return launches


def _tell(
    folder: DataFolder,
    output: Output,
    choices: dict[str, Choice],
    addresses: dict[str, tuple[str, str]],
    pids: dict[str, int],
    *,
    detached: bool,
) -> None:
    from rich.table import Table
    from rich.text import Text

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
    output.line("ready", {"gateway": addresses["gateway"][0], "data": str(folder.path), "tenant": TENANT})
    output.say(table)
    default = folder.path == DEFAULT.expanduser().absolute() or "RAGKEEP_DATA" in os.environ
    option = "" if default else f" --data {folder.path}"
    output.say(f"\nReady. All of it is in {folder.path}\n", style="green")
    output.say(f'  ragkeep import FILE.csv{option}\n  ragkeep ask{option} "打印机脱机了怎么办？"')
    output.say(f"  ragkeep down{option}" if detached else "  Ctrl-C stops it.")


def _engine(service: str, choices: dict[str, Choice]) -> tuple[str, str]:
    if service == "gateway":
        return "–", "puts the three together"
    choice = choices[service]
    model = choice.kept.get("model")
    return (f"{choice.engine} ({model})" if model else choice.engine), choice.why


def _addresses(ports: int, health_ports: int) -> dict[str, tuple[str, str]]:
    """(gRPC, health) of each service. Raises CommandError where a port is taken."""
    from ragkeep_client.ports import taken

    names = ("gateway", "embedder", "retriever", "generator")
    grpc, health = range(ports, ports + 4), range(health_ports, health_ports + 4)
    if set(grpc) & set(health):
        raise CommandError("PORT_IN_USE", "--ports and --health-ports name four ports each, and theirs overlap.")
    occupied = taken([*grpc, *health])
    if occupied:
        each = [f"{port} is in use by {who}" if who else f"{port} is in use" for port, who in occupied.items()]
        others = [f"--ports {ports + 100}"] if set(grpc) & set(occupied) else []
        others += [f"--health-ports {health_ports + 100}"] if set(health) & set(occupied) else []
        raise CommandError("PORT_IN_USE", f"Port {'; port '.join(each)}. Choose others, e.g. {' '.join(others)}.")
    return {name: (f"127.0.0.1:{one}", f"127.0.0.1:{other}") for name, one, other in zip(names, grpc, health, strict=True)}
