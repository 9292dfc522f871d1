"""`ragkeep models`: what the engines have, what is in memory and where, which models fit which machine; load, unload, pull."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragkeep_client.folder import DEFAULT, TENANT, DataOption, TenantOption
from ragkeep_client.output import JsonOption, Output, plain, run
from ragkeep_client.suggested_models import GB, SUGGESTED

if TYPE_CHECKING:
    from ragkeep_client.models import InstalledModel, LoadedModel, ServiceModels

models_app = typer.Typer(
    help="List the engines' models; load, unload and pull them.", invoke_without_command=True, rich_markup_mode=None
)


class Service(StrEnum):
    """Whose model."""

    EMBEDDER, GENERATOR = "embedder", "generator"


NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model, as the engine names it.")]
ServiceOption = Annotated[
    Service | None,
    typer.Option("--service", help="Whose model.  [default: the service that serves it, or can use it]"),
]


@models_app.callback()
def models_or_list(
    context: typer.Context, tenant: TenantOption = TENANT, data: DataOption = DEFAULT, as_json: JsonOption = False
) -> None:
    """List the engines' models, what is in memory and where, and which models are suggested; or what a command below says."""
    if context.invoked_subcommand is None:
        list_(tenant, data, as_json)
        return
    given = [name for name in context.params if "COMMANDLINE" in str(context.get_parameter_source(name))]
    if given:
        # They would be passed over: the command has options of its own.
        option = given[0].replace("as_json", "json")
        raise typer.BadParameter(f"--{option} goes after the command: ragkeep models {context.invoked_subcommand} …")


@models_app.command("list")
def list_(tenant: TenantOption = TENANT, data: DataOption = DEFAULT, as_json: JsonOption = False) -> None:
    """List the engines' models, what is in memory and where, and which models are suggested for which machine."""
    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> None:
        async with connected(data, tenant) as client:
            found = await client.list_models()
        for service in found:
            _tell(output, service)
        _suggest(output)

    run(output, work())


@models_app.command()
def load(
    name: NameArgument,
    service: ServiceOption = None,
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Load a model into memory with the service's own options, so that the next question does not wait for it."""
    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> None:
        async with connected(data, tenant) as client:
            with output.notes.status(f"loading {plain(name)} …"):
                model = await client.load_model(name, service=None if service is None else service.value)
        output.line("model", _facts(model))
        output.say(f"{plain(model.name)} is loaded: {_where(model.loaded)}.")

    run(output, work())


@models_app.command()
def unload(
    name: NameArgument,
    service: ServiceOption = None,
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Take a model out of memory. The next question that needs it loads it again."""
    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> None:
        async with connected(data, tenant) as client:
            model = await client.unload_model(name, service=None if service is None else service.value)
        output.line("model", _facts(model))
        name_ = plain(model.name)
        output.say(f"{name_} is not loaded." if model.loaded is None else f"{name_} is in use, and goes when its requests end.")

    run(output, work())


@models_app.command()
def pull(
    name: NameArgument,
    service: ServiceOption = None,
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Have the engine pull a model from the registry that RAGKEEP_PULL_FROM names, and from no other."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=output.notes, transient=True, disable=not output.notes.is_terminal) as bar:
            task = bar.add_task("asking the registry", total=None)
            async with connected(data, tenant) as client:
                events = client.pull_model(name, service=None if service is None else service.value)
                async with aclosing(events):
                    async for progress in events:
                        output.line("progress", asdict(progress))
                        total = progress.total_bytes or None
                        bar.update(task, description=progress.stage, completed=progress.completed_bytes, total=total)
        output.say(f"{plain(name)} is installed.")

    run(output, work())


def _tell(output: Output, service: ServiceModels) -> None:
    from rich.table import Table
    from rich.text import Text

    if service.reason:
        output.line("unavailable", {"service": service.service, "reason": service.reason, "message": service.message})
        output.say(Text.assemble((f"{service.service}: ", "bold"), plain(service.message), (f"  {service.reason}", "dim")))
        output.say("")
        return
    output.line("service", {"service": service.service, "engine": service.engine, "pull_from": service.pull_from})
    pulls = f"pulls from {service.pull_from}" if service.pull_from else ""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("model", "size", "parameters", "stored as", "can", "in memory", ""):
        table.add_column(column, no_wrap=column == "model", justify="right" if column == "size" else "left")
    for model in service.models:
        output.line("model", {"service": service.service, "engine": service.engine} | _facts(model))
        table.add_row(
            Text(plain(model.name), "bold" if model.served else ""),
            _amount(model.size_bytes),
            plain(model.parameter_size),
            plain(model.quantization),
            plain(", ".join(model.capabilities)),
            _where(model.loaded),
            "served" if model.served else "may be asked for" if model.allowed else "",
        )
    output.say(Text.assemble((service.service, "bold"), f" on {plain(service.engine)}", (f"  {plain(pulls)}", "dim")))
    output.say(table if service.models else "  no model")
    output.say("")


def _suggest(output: Output) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", title_justify="left")
    for column in ("memory", "suggested", "for", "download", "needs", "good for"):
        table.add_column(column, justify="right" if column in ("memory", "download", "needs") else "left")
    for one in sorted(SUGGESTED, key=lambda model: (model.machine_gib(), model.kind)):
        needs, download = one.needs_bytes(), int(one.weights_gb * GB)
        facts = {
            "name": one.name,
            "kind": one.kind,
            "machine_gib": one.machine_gib(),
            "download_bytes": download,
            "needs_bytes": needs,
            "good_for": one.good_for,
        }
        output.line("suggestion", facts)
        kind = "answers" if one.kind == "language" else "vectors"
        table.add_row(f"{one.machine_gib()} GB", one.name, kind, _amount(download), _amount(needs), one.good_for)
    output.say(table)


def _facts(model: InstalledModel) -> dict[str, Any]:
    facts = asdict(model)
    if model.loaded is not None:
        facts["loaded"]["until"] = None if model.loaded.until is None else model.loaded.until.isoformat()
        facts["loaded"]["where"] = _place(model.loaded)
    return facts


def _place(loaded: LoadedModel) -> str:
    """cpu, gpu, or the share on the graphics card."""
    if not loaded.vram_bytes:
        return "cpu"
    return "gpu" if loaded.vram_bytes >= loaded.size_bytes else f"{100 * loaded.vram_bytes // loaded.size_bytes} % gpu"


def _where(loaded: LoadedModel | None) -> str:
    """120 MB on CPU, window 2048, until 12:30"""
    if loaded is None:
        return "–"
    parts = [f"{_amount(loaded.size_bytes)} on {_place(loaded).upper()}" if loaded.size_bytes else "always"]
    if loaded.context_tokens:
        parts.append(f"window {loaded.context_tokens}")
    if loaded.until is not None:
        parts.append(f"until {loaded.until.astimezone():%H:%M}")
    return ", ".join(parts)


def _amount(size: float) -> str:
    if not size:
        return "–"
    return f"{size / GB:.1f} GB" if size >= GB else f"{size / 1_000_000:.0f} MB"
