"""`ragkeep import`: a file of service tickets → documents, with progress, and a reason for each row that is not taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragkeep_client.commands.search import CollectionOption
from ragkeep_client.folder import DEFAULT, TENANT, DataOption, TenantOption
from ragkeep_client.output import JsonOption, Output, plain, run

if TYPE_CHECKING:
    from rich.progress import Progress

    from ragkeep_client.tickets import Rejected, Tickets
    from ragkeep_client.values import Document

# For people: further ones are only counted. With --json each is a line.
_SHOWN = 50


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="UTF-8 or GB18030, with a header.")],
    collection: CollectionOption = "service-tickets",
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Import service tickets from a CSV file.

    Needs the columns ticket_id, title, description, solution and category. Run it again to resume what broke off.
    """
    from ragkeep_client.csv_file import CsvFile, UnreadableFile
    from ragkeep_client.tickets import COLUMNS, Tickets

    output = Output(as_json)
    try:
        opened = CsvFile.open(file, COLUMNS)
    except UnreadableFile as error:
        raise output.fail(error.reason, error.message) from None
    try:
        counts = run(output, _Import(output, Tickets(opened)).run(data, tenant, collection))
    finally:
        opened.close()
    summary = {name: counts[name] for name in ("created", "updated", "unchanged", "rejected", "duplicates")}
    output.line("imported", {**summary, "rows": counts["rows"], "encoding": opened.encoding, "collection": collection})
    words = ", ".join(f"{number} {name}" for name, number in summary.items())
    output.say(f"{words} (of {counts['rows']} rows, {opened.encoding})", style="green")
    ignored = [plain(name) for name in opened.columns if name not in COLUMNS and name]
    if ignored:
        output.note(f"Columns that are not imported: {', '.join(ignored[:20])}", style="dim")
    if not (counts["created"] or counts["updated"] or counts["unchanged"]):
        raise output.fail("NOTHING_IMPORTED", "No row of the file could be imported.")


class _Import:
    """One run of the command."""

    def __init__(self, output: Output, tickets: Tickets) -> None:
        self.output = output
        self.tickets = tickets
        self.counts: Counter[str] = Counter()
        self._lines: dict[int, int] = {}  # by position, of documents on their way

    async def run(self, data: Path, tenant: str, collection: str) -> Counter[str]:
        from ragkeep_client.connect import connected
        from ragkeep_client.tickets import Rejected

        async with connected(data, tenant) as client:
            with _progress(self.output) as progress:
                bar = progress.add_task("importing", total=self.tickets.file.size or None, documents=0)
                outcomes = client.import_documents(self._documents(), collection=collection)
                async with aclosing(outcomes):
                    async for outcome in outcomes:
                        line = self._lines.pop(outcome.position, 0)
                        if outcome.kind == "rejected":
                            self._reject(Rejected(line, outcome.document_id, outcome.reason, outcome.message))
                        else:
                            self.counts[outcome.kind] += 1
                        done = sum(self.counts[kind] for kind in ("created", "updated", "unchanged"))
                        progress.update(bar, completed=self.tickets.file.bytes_read, documents=done)
        if self.counts["rejected"] > _SHOWN:
            self.output.note(f"… and {self.counts['rejected'] - _SHOWN} more rejected rows; --json shows each.", style="yellow")
        return self.counts + self.tickets.counts

    def _documents(self) -> Iterator[Document]:
        from ragkeep_client.tickets import Rejected

        position = 0
        for found in self.tickets:
            if isinstance(found, Rejected):
                self._reject(found)
                continue
            self._lines[position] = found[0]
            position += 1
            yield found[1]

    def _reject(self, row: Rejected) -> None:
        self.counts["rejected"] += 1
        self.output.line("rejected", asdict(row))
        if self.counts["rejected"] <= _SHOWN:
            name = f" {plain(row.document_id)[:64]}" if row.document_id else ""
            self.output.note(f"line {row.line}{name}: {plain(row.message)} {row.reason}", style="yellow")


def _progress(output: Output) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[documents]} documents"),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=output.notes,
        transient=True,
        disable=not output.notes.is_terminal,
    )
