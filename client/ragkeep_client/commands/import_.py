"""`ragkeep import`: files of rows → documents, with progress, and a reason for each row that is not taken."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragkeep_client.commands.search import CollectionOption
from ragkeep_client.folder import DEFAULT, TENANT, DataFolder, DataOption, TenantOption
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
    groups_column: Annotated[
        str | None,
        typer.Option(
            "--groups-column", help="That says which groups see a document, with ; between; by default groups or acl."
        ),
    ] = None,
    groups: Annotated[
        str | None, typer.Option("--groups", metavar="A,B", help="Groups of documents whose row names none; else all see them.")
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
    from ragkeep_client.documents import SERVICE_TICKETS, Columns
    from ragkeep_client.import_run import ImportRun
    from ragkeep_client.intake import Intake
    from ragkeep_client.mapping import read_mapping
    from ragkeep_client.rejected import RejectedFile
    from ragkeep_client.rows import UnreadableFile
    from ragkeep_client.source import find_sources

    output = Output(as_json)
    for_all = _groups(groups)
    # What the rows have to be imported with again: without --mapping they would lack a field, without --groups be open to all.
    meaning = _typed({"--mapping": mapping, "--id-column": id_column, "--groups-column": groups_column, "--groups": groups})
    place = {
        "--collection": collection if collection != SERVICE_TICKETS else None,
        "--tenant": tenant if tenant != TENANT else None,
    }
    same = " ".join(part for part in (meaning, _typed(place)) if part)

    async def work() -> ImportRun:
        try:
            found = find_sources(sources, format_.value if format_ else None)
        except UnreadableFile as error:
            raise CommandError(error.reason, error.message) from None
        async with connected(data, tenant) as client:
            fields = await _fields(client, collection)
            columns = replace(Columns.of(collection, fields, id_column, groups_column, for_all), options=meaning)
            renamed = read_mapping(mapping or [], columns.known)
            rejected_file = RejectedFile(rejected, found) if rejected else None
            done = ImportRun(output, found, Intake(found, columns, renamed), rejected_file, dry_run=dry_run)
            try:
                await done.run(client, collection)
            finally:
                if rejected_file is not None:
                    rejected_file.close()
                    _say_rejected(output, rejected_file, same, data)
        if renamed.unmet:
            names = ", ".join(plain(name) for name in renamed.unmet)
            output.note(f"No file has the columns that --mapping names: {names}", style="yellow")
        return done

    _say(output, run(output, work()), collection, tenant, dry_run)


def _groups(text: str | None) -> list[str]:
    names = [name for name in (part.strip() for part in (text or "").split(",")) if name]
    if text is not None and (not names or any(len(name) > 128 or name == "*" for name in names)):
        raise typer.BadParameter("--groups takes names of up to 128 characters, with commas between them; * is none.")
    return list(dict.fromkeys(names))


def _say(output: Output, done: ImportRun, collection: str, tenant: str, dry_run: bool) -> None:
    from ragkeep_client.import_run import COUNTED, words
    from ragkeep_client.no_documents import whose

    summary = {name: done.counts[name] for name in COUNTED}
    facts = {
        "rows": done.counts["rows"],
        "files": done.files,
        "with_groups": done.with_groups,
        "dry_run": dry_run,
        "collection": collection,
        "tenant": tenant,
    }
    output.line("imported", {**summary, **facts})
    if done.encodings:
        output.say(
            f"{words(done.counts, dry_run)}, {', '.join(done.encodings)}, into {collection} of {whose(tenant)}", style="green"
        )
    if done.with_groups:
        output.note(f"Of the rows' documents {done.with_groups} are for their groups alone, the others for all of the tenant.")
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


def _typed(options: Mapping[str, str | list[str] | None]) -> str:
    """Options as they are typed, without those that were not given."""
    pairs = [(name, one) for name, some in options.items() for one in (some if isinstance(some, list) else [some]) if one]
    return shlex.join(word for pair in pairs for word in pair)


def _say_rejected(output: Output, file: RejectedFile, same: str, data: Path) -> None:
    from ragkeep_client.hints import data_option
    from ragkeep_client.source import SUFFIXES

    for path, rows in file.written.items():
        format_ = "" if path.suffix.lower() in SUFFIXES else f" --format {file.formats[path]}"
        line = f"ragkeep import {shlex.quote(str(path))}{format_}{f' {same}' if same else ''}{data_option(DataFolder(data))}"
        output.line("rejected_file", {"file": str(path), "rows": rows, "import": line})
        output.note(f"Rejected rows are in {plain(str(path))} ({rows}). Correct them, and import that file:", style="yellow")
        # A line that is pasted is one line.
        output.notes.print(f"  {plain(line)}", soft_wrap=True)
    if file.left_out:
        output.note(f"Rejected rows that are too large to be written there: {file.left_out}.", style="yellow")
