"""`ragkeep up`: certificates, policy and engine choice made at the first start, then four processes with mutual TLS."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from enum import StrEnum
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ragkeep_client.folder import DEFAULT, TENANT, DataFolder, DataOption, Running, State
from ragkeep_client.output import CommandError, JsonOption, Output, mute_stdout

if TYPE_CHECKING:
    from ragkeep_client.engines import Choice
    from ragkeep_client.processes import Launch

# A language model may take a while to load.
READY_S = 120.0
_GRACE_S = 0.1


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
    try:
        _Up(DataFolder(data), output, detach).run(wanted, ports, health_ports)
    except CommandError as error:
        raise output.fail(error.reason, error.message) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise output.fail("DATA_FOLDER_UNUSABLE", f"{where}{error.strerror or error}.") from None


class _Up:
    """One run of the command."""

    def __init__(self, folder: DataFolder, output: Output, detach: bool) -> None:
        self.folder = folder
        self.output = output
        self.detach = detach
        self.signals = 0
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.began: dict[str, str] = {}
        self.log_starts: dict[str, int] = {}  # bytes of each log that earlier runs wrote

    def run(self, wanted: object, ports: int, health_ports: int) -> None:
        from ragkeep_client.engines import Wanted, choose

        assert isinstance(wanted, Wanted)  # noqa: S101 - for the checker
        self.folder.prepare()
        lock = self.folder.lock()
        choices = choose(wanted, self.folder.engines())
        addresses = _addresses(ports, health_ports)
        launches = self._prepare(choices, addresses)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._signalled)
        try:
            self._start(launches, choices, addresses, lock)
            self._wait_until_ready(addresses)
            self.folder.write_engines({service: choice.kept for service, choice in choices.items()})
            try:
                self._tell(choices, addresses)
            except (BrokenPipeError, SystemExit):  # rich makes the latter of the former
                # Whoever read the table has gone; what was started stays.
                mute_stdout()
            if self.detach:
                return
            self._watch()
        except BaseException:
            self._stop()
            raise
        self._stop()
        self.output.note("Stopped.", style="green")

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self.signals += 1

    def _prepare(self, choices: dict[str, Choice], addresses: dict[str, tuple[str, str]]) -> list[Launch]:
        """Certificates, policy, and the settings of each process."""
        from ragkeep_client.certificates import CLI, TRUST_DOMAIN, Certificates
        from ragkeep_client.processes import ORDER, Launch

        certificates = Certificates(self.folder.certificates)
        certificates.ensure()
        if self.folder.ensure_policy(CLI):
            self.output.note(f"The command has the new role admin in {self.folder.policy}: it may manage collections.")
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
                "RAGKEEP_DATA": str(self.folder.store),
            }
            if service == "gateway":
                settings["RAGKEEP_POLICY_FILE"] = str(self.folder.policy)
                settings |= {f"RAGKEEP_{other.upper()}": addresses[other][0] for other in ORDER if other != service}
            else:
                settings |= choices[service].environment()
            launches.append(Launch(service, settings, self.folder.logs / f"{service}.log"))
        return launches

    def _start(
        self, launches: list[Launch], choices: dict[str, Choice], addresses: dict[str, tuple[str, str]], lock: int
    ) -> None:
        from ragkeep_client.processes import start, started

        services = {}
        for launch in launches:
            process, self.log_starts[launch.service] = start(launch, lock=lock, detached=self.detach)
            self.processes[launch.service] = process
            self.began[launch.service] = started(process.pid)
            engine, why = _engine(launch.service, choices)
            address, health = addresses[launch.service]
            services[launch.service] = Running(process.pid, self.began[launch.service], address, health, engine, why)
            # After each: `down` finds what runs, whatever happens to this process.
            self.folder.write_state(State(os.getpid(), started(os.getpid()), self.detach, dict(services)))

    def _wait_until_ready(self, addresses: dict[str, tuple[str, str]]) -> None:
        from ragkeep_client.processes import readiness

        until = time.monotonic() + READY_S
        waiting, missing = list(self.processes), ""
        with self.output.notes.status("starting …") as status:
            while waiting:
                self._check_alive()
                if self.signals:
                    raise CommandError("CANCELLED", "Stopped before all was ready.")
                ready, missing = readiness(addresses[waiting[0]][1])
                if ready:
                    waiting.pop(0)
                    continue
                if time.monotonic() > until:
                    raise CommandError("NOT_READY", f"The {waiting[0]} is not ready after {READY_S:.0f} s. {missing}")
                status.update(f"waiting for the {waiting[0]} …")
                time.sleep(_GRACE_S)

    def _check_alive(self) -> None:
        from ragkeep_client.processes import last_lines

        for service, process in self.processes.items():
            code = process.poll()
            if code is not None:
                log = self.folder.logs / f"{service}.log"
                self.output.note(last_lines(log, self.log_starts[service]), style="dim")
                how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
                raise CommandError(
                    "PROCESS_DIED", f"The {service} {how}; its log's last lines are above, the rest is in {log}."
                )

    def _watch(self) -> None:
        while not self.signals:
            self._check_alive()
            time.sleep(_GRACE_S)
        self.output.note("Stopping; once more Ctrl-C kills.", style="yellow")

    def _stop(self) -> None:
        from ragkeep_client.processes import end

        before = self.signals
        running = {service: (process.pid, self.began[service]) for service, process in self.processes.items()}
        killed = end(running, at_once=lambda: self.signals > before)
        if killed:
            self.output.note(f"Killed, as they did not end: {', '.join(killed)}.", style="yellow")
        self.folder.forget_state()

    def _tell(self, choices: dict[str, Choice], addresses: dict[str, tuple[str, str]]) -> None:
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
            self.output.line("service", facts | {"pid": self.processes[service].pid})
        self.output.line("ready", {"gateway": addresses["gateway"][0], "data": str(self.folder.path), "tenant": TENANT})
        self.output.say(table)
        default = self.folder.path == DEFAULT.expanduser().absolute() or "RAGKEEP_DATA" in os.environ
        option = "" if default else f" --data {self.folder.path}"
        self.output.say(f"\nReady. All of it is in {self.folder.path}\n", style="green")
        self.output.say(f'  ragkeep import FILE.csv{option}\n  ragkeep ask{option} "打印机脱机了怎么办？"')
        self.output.say(f"  ragkeep down{option}" if self.detach else "  Ctrl-C stops it.")


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
