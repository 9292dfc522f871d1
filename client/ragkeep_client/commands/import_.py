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
    from rich.progress import Progress, TaskID

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
        # By position, of documents on their way: their line, and the byte of the file where they end.
        self._on_the_way: dict[int, tuple[int, int]] = {}

    async def run(self, data: Path, tenant: str, collection: str) -> Counter[str]:
        from ragkeep_client.connect import connected
        from ragkeep_client.tickets import Rejected

        async with connected(data, tenant) as client:
            with _progress(self.output) as progress:
                bar = progress.add_task("importing", total=self.tickets.file.size or None, documents=0, rate="")
                outcomes = client.import_documents(self._documents(), collection=collection)
                async with aclosing(outcomes):
                    async for outcome in outcomes:
                        line, _ = self._on_the_way.pop(outcome.position, (0, 0))
                        if outcome.kind == "rejected":
                            self._reject(Rejected(line, outcome.document_id, outcome.reason, outcome.message))
                        else:
                            self.counts[outcome.kind] += 1
                        self._advance(progress, bar)
        if self.counts["rejected"] > _SHOWN:
            self.output.note(f"… and {self.counts['rejected'] - _SHOWN} more rejected rows; --json shows each.", style="yellow")
        return self.counts + self.tickets.counts

    def _advance(self, progress: Progress, bar: TaskID) -> None:
        # What is read is not yet imported: the oldest document on its way says how far it is.
        oldest = next(iter(self._on_the_way.values()), (0, self.tickets.file.bytes_read))
        documents = sum(self.counts[kind] for kind in ("created", "updated", "unchanged"))
        seconds = progress.tasks[bar].elapsed or 0.0
        rate = f"{documents / seconds:.0f}/s" if seconds > 1 else ""
        progress.update(bar, completed=oldest[1], documents=documents, rate=rate)

    def _documents(self) -> Iterator[Document]:
        from ragkeep_client.tickets import Rejected

        position = 0
        for found in self.tickets:
            if isinstance(found, Rejected):
                self._reject(found)
                continue
            self._on_the_way[position] = found[0], self.tickets.file.bytes_read
            position += 1
            yield found[1]

    def _reject(self, row: Rejected) -> None:
        self.counts["rejected"] += 1
        self.output.line("rejected", asdict(row))
        if self.counts["rejected"] <= _SHOWN:
            name = f" {plain(row.document_id)[:64]}" if row.document_id else ""
            self.output.note(f"line {row.line}{name}: {plain(row.message)} {row.reason}", style="yellow")


def _progress(output: Output) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[documents]} documents  {task.fields[rate]}"),
        TimeRemainingColumn(),
        console=output.notes,
        transient=True,
        disable=not output.notes.is_terminal,
    )
