"""`ragkeep ask`: sources first, then the answer as it is written, then what it cites."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ragkeep_client.commands.search import CollectionOption, LimitOption, ModeOption, SearchMode
from ragkeep_client.filters import FilterOption
from ragkeep_client.folder import DEFAULT, TENANT, DataOption, TenantOption
from ragkeep_client.output import JsonOption, Output, plain, run

if TYPE_CHECKING:
    from ragkeep_client.events import Event, Source


def ask(
    question: Annotated[str, typer.Argument(help="The question, in Chinese or English.")],
    limit: LimitOption = 5,
    filters: FilterOption = None,
    mode: ModeOption = SearchMode.HYBRID,
    max_tokens: Annotated[int | None, typer.Option(min=1, max=8192, help="Tokens of the answer at most.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, max=2.0, help="How freely it is worded.")] = None,
    seed: Annotated[int | None, typer.Option(min=-(2**31), max=2**31 - 1, help="Makes an answer repeatable.")] = None,
    collection: CollectionOption = "service-tickets",
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Ask a question of the documents."""
    from ragkeep_client.connect import connected
    from ragkeep_client.filters import filter_for

    output = Output(as_json)

    async def work() -> None:
        answer = _Answer(output)
        try:
            async with connected(data, tenant) as client:
                events = client.ask(
                    question,
                    collection=collection,
                    limit=limit,
                    mode=mode.value,
                    filter=await filter_for(client, collection, filters or []),
                    temperature=temperature,
                    max_tokens=max_tokens,
                    seed=seed,
                )
                async with aclosing(events):
                    async for event in events:
                        answer.take(event)
        finally:
            answer.end_line()

    run(output, work())


class _Answer:
    """Shows events as they come."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._console = output.console
        self._sources: dict[int, Source] = {}
        self._cited: dict[int, None] = {}
        self._in_line = False
        self._spinner = output.notes.status("")

    def take(self, event: Event) -> None:
        """Shows one."""
        from ragkeep_client.events import Citation, Delta, Done, Sources, Status, Usage
        from ragkeep_client.present import source_facts, source_line

        kind = type(event).__name__.lower()
        self._spinner.stop()
        if isinstance(event, Sources):
            self._sources = {source.number: source for source in event.sources}
            self._output.line(kind, [source_facts(source) for source in event.sources])
            for source in event.sources:
                self._console.print(source_line(source))
            self._console.print()
            return
        self._output.line(kind, asdict(event))
        if isinstance(event, Status) and self._output.notes.is_terminal:
            self._spinner.update({"retrieving": "looking …", "generating": "writing …"}.get(event.stage, "…"))
            self._spinner.start()
        elif isinstance(event, Delta):
            self._console.print(plain(event.text), end="", soft_wrap=True)
            self._console.file.flush()
            self._in_line = True
        elif isinstance(event, Citation):
            self._cited[event.number] = None
        elif isinstance(event, Usage):
            left_out = sorted(set(self._sources) - set(event.used))
            if left_out:
                self.end_line()
                numbers = ", ".join(f"[{number}]" for number in left_out)
                self._console.print(f"Not read, as the model's window was full: {numbers}.", style="yellow")
        elif isinstance(event, Done):
            self._done(event.finish, event.model, event.quoted)

    def end_line(self) -> None:
        """Ends the answer's last line, where it has not ended."""
        self._spinner.stop()
        if self._in_line:
            self._console.print()
            self._in_line = False

    def _done(self, finish: str, model: str, quoted: bool) -> None:
        self.end_line()
        if self._cited:
            self._console.print()
        for number in self._cited:
            source = self._sources.get(number)
            if source is not None:
                self._console.print(f"[{number}] {plain(source.document_id)} {plain(source.title)}", style="cyan")
        if finish == "no_evidence":
            self._console.print("The answer is not in the documents.", style="yellow")
        elif finish == "length":
            self._console.print("The answer is cut: --max-tokens or the model's window was reached.", style="yellow")
        if quoted and finish != "no_evidence":
            self._console.print("Quoted from the documents, no language model.", style="dim")
        elif not quoted:
            self._console.print(f"Written by {plain(model)}.", style="dim")
