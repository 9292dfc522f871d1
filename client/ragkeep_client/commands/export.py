"""`ragkeep export`: documents as JSON lines, such that importing them again changes nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragkeep_client.filters import FilterOption
from ragkeep_client.folder import DEFAULT, TENANT, DataOption, TenantOption
from ragkeep_client.output import CommandError, JsonOption, Output, run

if TYPE_CHECKING:
    from rich.progress import Progress

# Other programs take these for ends of lines too.
_LINE_ENDS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}


def export(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", envvar="RAGKEEP_COLLECTION", help="The collection.")],
    to: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to.  [default: stdout]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE where it exists already.")] = False,
    filters: FilterOption = None,
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Write the tenant's documents as JSON lines: {"id": …, "fields": {…}, "groups": […]}.

    Sealed values are in it for an unsealer alone; others get {"sealed": true}, which keeps them when it is imported.

    `ragkeep import FILE.jsonl --collection COLLECTION` reads them. A file is there whole or not at all, and one
    that exists already is only replaced with --force.
    """
    from ragkeep_client.connect import connected
    from ragkeep_client.filters import filter_for

    output = Output(as_json)
    if as_json and to is None:
        raise typer.BadParameter("--json needs --output FILE: without it the documents are on stdout.")
    keep = not force

    async def work() -> tuple[int, int]:
        from ragkeep_client.values import Sealed

        count = hidden = 0
        if to is not None and keep:
            check_absent(to)
        async with connected(data, tenant) as client:
            total = None if filters else (await client.get_collection(collection)).documents
            wanted = await filter_for(client, collection, filters or [])
            found = client.list_documents(collection=collection, filter=wanted)
            with _progress(output) as progress, target(to, keep) as write:
                bar = progress.add_task("exporting", total=total)
                async with aclosing(found):
                    async for document in found:
                        hidden += any(isinstance(value, Sealed) for value in document.fields.values())
                        write(export_line(document.id, document.fields, document.groups))
                        count += 1
                        progress.update(bar, completed=count)
        return count, hidden

    count, hidden = run(output, work())
    where = str(to) if to else "stdout"
    output.line("exported", {"documents": count, "collection": collection, "file": where, "with_hidden_values": hidden})
    output.note(f"{count} documents of {tenant} in {collection} → {where}", style="green")
    if hidden:
        output.note(
            f"{hidden} of them have sealed values that you may not see. They are not in it; importing it here keeps them."
        )


def export_line(document_id: str, fields: Any, groups: tuple[str, ...]) -> str:
    """One document; its fields in the order of their names, so that two exports can be compared."""
    from ragkeep_client.present import fact

    facts = {name: fact(fields[name]) for name in sorted(fields)}
    line = json.dumps({"id": document_id, "fields": facts, "groups": list(groups)}, ensure_ascii=False)
    return line.translate(_LINE_ENDS) + "\n"


def check_absent(to: Path) -> None:
    """Raises CommandError where something is there already, a link that leads nowhere included."""
    if os.path.lexists(to):
        raise CommandError("FILE_EXISTS", f"{to} exists already: --force replaces it, or choose another FILE.")


@contextmanager
def target(to: Path | None, keep: bool) -> Iterator[Callable[[str], object]]:
    """Writes to stdout, or to a file that appears when all is written. Documents are for their owner alone: 0600."""
    if to is None:
        yield lambda line: sys.stdout.buffer.write(line.encode())
        sys.stdout.buffer.flush()
        return
    half = to.with_name(to.name + ".part")
    try:
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            yield lambda line: file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        if keep:
            check_absent(to)  # it may have come in the meantime
        half.replace(to)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def _progress(output: Output) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=output.notes,
        transient=True,
        disable=not output.notes.is_terminal,
    )
