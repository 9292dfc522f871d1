"""`ragkeep collections`: what there is to ask, and how it is made, changed and deleted."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragkeep_client.folder import DEFAULT, TENANT, DataOption, TenantOption
from ragkeep_client.output import CommandError, JsonOption, Output, run

if TYPE_CHECKING:
    from ragkeep_client.events import Collection
    from ragkeep_client.schema import Schema

collections = typer.Typer(
    help="List collections; make, change and delete them.", invoke_without_command=True, rich_markup_mode=None
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The collection.")]
# Of a schema file read from standard input or disk; more is none.
_MOST_BYTES = 1024 * 1024 + 1


@collections.callback()
def collections_or_list(
    context: typer.Context, tenant: TenantOption = TENANT, data: DataOption = DEFAULT, as_json: JsonOption = False
) -> None:
    """List the collections and how many of the tenant's documents are in each; or what a command below says."""
    if context.invoked_subcommand is None:
        list_(tenant, data, as_json)
        return
    given = [name for name in context.params if "COMMANDLINE" in str(context.get_parameter_source(name))]
    if given:
        # They would be passed over: the command has options of its own.
        option = given[0].replace("as_json", "json")
        raise typer.BadParameter(f"--{option} goes after the command: ragkeep collections {context.invoked_subcommand} …")


@collections.command("list")
def list_(tenant: TenantOption = TENANT, data: DataOption = DEFAULT, as_json: JsonOption = False) -> None:
    """List the collections and how many of the tenant's documents are in each."""
    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> None:
        async with connected(data, tenant) as client:
            found = await client.list_collections()
        for one in found:
            output.line("collection", _facts(one))
            output.say(f"{one.name}: {one.documents} documents of {tenant}")
            output.say("\n".join(_lines_of(one)), style="dim")
        if not found:
            output.say("There is no collection yet: `ragkeep import FILE.csv` makes one.")

    run(output, work())


@collections.command()
def show(name: NameArgument, tenant: TenantOption = TENANT, data: DataOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Write a collection's definition as a schema file.

    Edit it for `ragkeep collections update`, or give it another name for `ragkeep collections create`.
    """
    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> None:
        from ragkeep_client.schema_file import write_schema

        async with connected(data, tenant) as client:
            found = await client.get_collection(name)
        if as_json:
            output.line("collection", _facts(found) | {"schema": asdict(found.schema)})
            return
        about = f"# {found.documents} documents of {tenant}, embedded by {found.embedding_model}; revision {found.revision}"
        # As it is: a terminal's width must not break a template.
        print(f"{about}\n{write_schema(found.schema)}", end="")

    run(output, work())


@collections.command()
def create(
    source: Annotated[
        str, typer.Argument(metavar="FILE.yaml", help="A schema file, - for standard input, or a preset: ServiceTicket.")
    ],
    name: Annotated[str, typer.Option("--name", help="Another name than the file's or preset's.")] = "",
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Make a collection, for every tenant, with the embedding model that is served now."""
    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> None:
        schema = _schema(source, name) if source == "-" or _is_file(source) else None
        async with connected(data, tenant) as client:
            before = {one.name for one in await client.list_collections()}
            made = await (client.create_collection(schema) if schema else client.create_preset(source, name))
        there = made.name in before
        output.line("created", asdict(made) | {"new": not there})
        how = "was there already, with this definition; nothing was changed." if there else "was created."
        output.say(f"The collection {made.name} {how}", style="green")

    run(output, work())


@collections.command()
def update(
    source: Annotated[str, typer.Argument(metavar="FILE.yaml", help="A schema file, or - for standard input.")],
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Give a collection the definition of a schema file in place of its own.

    What the file leaves out gets its default; `ragkeep collections show NAME` writes the file to begin with.
    """
    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> None:
        schema = _schema(source, "")
        async with connected(data, tenant) as client:
            change = await client.update_collection(schema)
        output.line("updated", asdict(change))
        output.say(f"The collection {schema.name} has revision {change.revision}.", style="green")
        if change.import_again:
            output.note(
                "Documents keep the passages that were made under the old definition until they are imported again: "
                f"`ragkeep export {schema.name} -o FILE.jsonl`, then `ragkeep import FILE.jsonl --collection {schema.name}`.",
                style="yellow",
            )

    run(output, work())


@collections.command()
def delete(name: NameArgument, tenant: TenantOption = TENANT, data: DataOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Delete a collection in which no tenant has documents."""
    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> None:
        async with connected(data, tenant) as client:
            await client.delete_collection(name)
        output.line("deleted", {"collection": name})
        output.say(f"The collection {name} is gone.", style="green")

    run(output, work())


def _facts(found: Collection) -> dict[str, Any]:
    facts = asdict(found)
    del facts["schema"]
    return facts


def _lines_of(found: Collection) -> list[str]:
    """A line a field: name, type, and what it is for."""
    title = found.schema.title_field
    width = max((len(field.name) for field in found.schema.fields), default=0)
    lines = []
    for field in found.schema.fields:
        marks = [name for name in ("searchable", "filterable", "required", "sealed") if getattr(field, name)]
        marks += ["title"] if field.name == title else []
        lines.append(f"  {field.name:{width}}  {', '.join([field.type, *marks])}")
    return lines


def _is_file(source: str) -> bool:
    path = Path(source)
    return path.suffix in (".yaml", ".yml", ".json") or path.parent != Path() or path.exists()


def _schema(source: str, name: str) -> Schema:
    """The file's schema, under another name if one is given. Raises CommandError."""
    from dataclasses import replace

    from ragkeep_client.schema_file import read_schema

    try:
        if source == "-":
            content = sys.stdin.buffer.read(_MOST_BYTES)
        else:
            with Path(source).open("rb") as file:
                content = file.read(_MOST_BYTES)
    except OSError as error:
        raise CommandError("FILE_UNREADABLE", f"{source}: {error.strerror or error}.") from None
    schema = read_schema(content, "standard input" if source == "-" else source)
    return replace(schema, name=name) if name else schema
