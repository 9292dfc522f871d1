"""`ragkeep import`: files of rows → documents, with progress, and a reason for each row that is not taken."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragkeep_client.commands.search import CollectionOption
from ragkeep_client.folder import DEFAULT, TENANT, DataOption, TenantOption
from ragkeep_client.output import CommandError, JsonOption, Output, plain, run

if TYPE_CHECKING:
    from ragkeep_client.client import Client
    from ragkeep_client.events import Field
    from ragkeep_client.import_run import ImportRun
    from ragkeep_client.rejected import RejectedFile


class Format(StrEnum):
    """How a file's rows are written."""

    CSV, TSV, JSONL = "csv", "tsv", "jsonl"


def import_(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE", help="Files, folders (with all below them), or - for standard input.")
    ],
    format_: Annotated[
        Format | None, typer.Option("--format", help="Of files whose suffix does not tell, and of standard input.")
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--mapping", metavar="OLD=NEW|FILE", help="A column's other name, or a file of such lines; several."),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id-column", help="That holds a document's id; by default id, of tickets ticket_id.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check everything, say what would be done, and do nothing.")
    ] = False,
    rejected: Annotated[
        Path | None, typer.Option("--rejected", metavar="FILE", help="Write rejected rows there, to be corrected and imported.")
    ] = None,
    collection: CollectionOption = "service-tickets",
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Import documents from CSV, TSV and JSONL.

    Columns are the collection's fields and an id. Run it again to resume what broke off: what is there is not embedded again.
    Exit codes: 0 something was taken, 1 nothing was or a file could not be read whole, 2 wrong usage, 130 cancelled.
    """
    from ragkeep_client.connect import connected
    from ragkeep_client.documents import Columns
    from ragkeep_client.import_run import ImportRun
    from ragkeep_client.intake import Intake
    from ragkeep_client.mapping import read_mapping
    from ragkeep_client.rejected import RejectedFile
    from ragkeep_client.rows import UnreadableFile
    from ragkeep_client.source import find_sources

    output = Output(as_json)

    async def work() -> ImportRun:
        try:
            found = find_sources(sources, format_.value if format_ else None)
        except UnreadableFile as error:
            raise CommandError(error.reason, error.message) from None
        async with connected(data, tenant) as client:
            columns = Columns.of(collection, await _fields(client, collection), id_column)
            renamed = read_mapping(mapping or [], columns.known)
            rejected_file = RejectedFile(rejected, found) if rejected else None
            done = ImportRun(output, found, Intake(found, columns, renamed), rejected_file, dry_run=dry_run)
            try:
                await done.run(client, collection)
            finally:
                if rejected_file is not None:
                    rejected_file.close()
                    _say_rejected(output, rejected_file)
        if renamed.unmet:
            names = ", ".join(plain(name) for name in renamed.unmet)
            output.note(f"No file has the columns that --mapping names: {names}", style="yellow")
        return done

    _say(output, run(output, work()), collection, tenant, dry_run)


def _say(output: Output, done: ImportRun, collection: str, tenant: str, dry_run: bool) -> None:
    from ragkeep_client.import_run import COUNTED, words

    summary = {name: done.counts[name] for name in COUNTED}
    facts = {"rows": done.counts["rows"], "files": done.files, "dry_run": dry_run, "collection": collection, "tenant": tenant}
    output.line("imported", {**summary, **facts})
    whose = plain(tenant) or "the caller's tenant"
    if done.encodings:
        output.say(f"{words(done.counts, dry_run)}, {', '.join(done.encodings)}, into {collection} of {whose}", style="green")
    if done.ignored:
        output.note(f"Columns that are not imported: {', '.join(plain(name) for name in list(done.ignored)[:20])}", style="dim")
    if done.problems and done.files == 1:
        raise output.fail(done.problems[0].reason, done.problems[0].message)
    if done.problems:
        why = f"{len(done.problems)} of {done.files} files could not be read whole; each is named above."
        raise output.fail("FILES_FAILED", why)
    if not (done.counts["created"] or done.counts["updated"] or done.counts["unchanged"]):
        why = "No row could be imported." if done.counts["rows"] else "There is no row to import."
        raise output.fail("NOTHING_IMPORTED", why)


async def _fields(client: Client, collection: str) -> Sequence[Field]:
    from ragkeep_client.documents import SERVICE_TICKETS, TICKET_FIELDS

    for one in await client.list_collections():
        if one.name == collection:
            return one.fields
    if collection == SERVICE_TICKETS:
        return TICKET_FIELDS
    raise CommandError(
        "COLLECTION_UNKNOWN",
        f"There is no collection {collection}. `ragkeep collections` lists them; `ragkeep collections create` makes one.",
    )


def _say_rejected(output: Output, file: RejectedFile) -> None:
    for path, rows in file.written.items():
        output.line("rejected_file", {"file": str(path), "rows": rows})
        output.note(f"Rejected rows are in {plain(str(path))} ({rows}): correct them, and import that file.", style="yellow")
    if file.left_out:
        output.note(f"Rejected rows that are too large to be written there: {file.left_out}.", style="yellow")
