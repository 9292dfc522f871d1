"""`ragkeep chat`: questions one after the other, each understood with those before it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ragkeep_client.commands.ask import (
    AnswerLanguage,
    LanguageOption,
    MaxTokensOption,
    MinimumCoverageOption,
    MinimumMarginOption,
    ModelOption,
    SeedOption,
    TemperatureOption,
)
from ragkeep_client.commands.search import (
    AlphaOption,
    CollectionOption,
    ExplainOption,
    LimitOption,
    MinimumCosineOption,
    ModeOption,
    PassagesPerDocumentOption,
    SearchMode,
)
from ragkeep_client.filters import FilterOption
from ragkeep_client.folder import DEFAULT, TENANT, DataOption, TenantOption
from ragkeep_client.output import CommandError, JsonOption, Output, failure_of, plain

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ragkeep_client.client import Client
    from ragkeep_client.events import Event, Source
    from ragkeep_client.values import Filter, Turn

# What a request takes (gateway.proto); older turns are not sent any more.
MAX_TURNS, MAX_CHARACTERS = 20, 32_000
_HELP = (
    "/sources  what the last answer was made from\n"
    "/clear    forget the conversation\n"
    "/help     this\n"
    "/quit     leave; Ctrl-D too\n"
    "Ctrl-C cancels an answer. A question that begins with / is written with //."
)


def chat(
    limit: LimitOption = 5,
    filters: FilterOption = None,
    mode: ModeOption = SearchMode.HYBRID,
    alpha: AlphaOption = None,
    minimum_cosine: MinimumCosineOption = None,
    passages_per_document: PassagesPerDocumentOption = None,
    minimum_coverage: MinimumCoverageOption = None,
    minimum_margin: MinimumMarginOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    seed: SeedOption = None,
    model: ModelOption = "",
    language: LanguageOption = AnswerLanguage.AUTO,
    explain: ExplainOption = False,
    collection: CollectionOption = "service-tickets",
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Ask questions in a conversation; follow-ups are understood. Reads a question a line, from a terminal or a pipe.

    /help lists what else can be typed. From a pipe, the exit code is 1 where a question failed.
    """
    output = Output(as_json)

    def ask(client: Client, question: str, history: list[Turn], wanted: Filter | None) -> AsyncGenerator[Event]:
        return client.ask(
            question,
            collection=collection,
            limit=limit,
            mode=mode.value,
            filter=wanted,
            history=history,
            alpha=alpha,
            minimum_cosine=minimum_cosine,
            passages_per_document=passages_per_document or 0,
            minimum_coverage=minimum_coverage,
            minimum_margin=minimum_margin,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
            model=model,
            language=language.code,
            explain=explain,
        )

    with asyncio.Runner() as runner:
        chat = _Chat(output, ask, explain, mode.value)
        try:
            runner.run(chat.open(data, tenant, collection, filters or []))
            chat.talk(runner)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except Exception as error:
            from ragkeep_client.connect import explained

            failure = failure_of(explained(error, data))
            if failure is None:
                raise
            raise output.fail(failure.reason, failure.message) from None
        finally:
            runner.run(chat.close())
            # As in `output.run`: what is left of the channel lies in a cycle.
            gc.collect()
    if chat.failed and not chat.interactive:
        raise typer.Exit(1)


class _Chat:
    """One conversation."""

    def __init__(
        self,
        output: Output,
        ask: Callable[[Client, str, list[Turn], Filter | None], AsyncGenerator[Event]],
        explain: bool,
        mode: str,
    ) -> None:
        self.interactive = sys.stdin.isatty()
        self.failed = False
        self._output = output
        self._ask = ask
        self._explain, self._mode = explain, mode
        self._open = contextlib.AsyncExitStack()
        self._client: Client | None = None
        self._where = "", ""
        self._failure: Callable[[Exception], CommandError | None] = failure_of
        self._filter: Filter | None = None
        self._turns: list[Turn] = []
        self._sources: dict[int, Source] = {}

    async def open(self, data: Path, tenant: str, collection: str, filters: list[str]) -> None:
        """Connects. Raises CommandError where nothing runs."""
        from ragkeep_client.connect import connected, explained
        from ragkeep_client.filters import filter_for

        self._where = collection, tenant
        self._failure = lambda error: failure_of(explained(error, data))
        self._client = await self._open.enter_async_context(connected(data, tenant))
        self._filter = await filter_for(self._client, collection, filters)

    async def close(self) -> None:
        """Closes the connection."""
        await self._open.aclose()

    def talk(self, runner: asyncio.Runner) -> None:
        """Until the input ends or /quit."""
        if self.interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - arrow keys and earlier lines
            self._output.note("Ask a question. /help lists the commands, Ctrl-D leaves.", style="dim")
        while True:
            try:
                line = self._read()
            except KeyboardInterrupt:
                self._output.note("/quit or Ctrl-D leaves.", style="dim")
                continue
            if line is None or line == "/quit":
                return
            if not line:
                continue
            if line.startswith("/") and not line.startswith("//"):
                self._command(line)
                continue
            question = line.removeprefix("/")
            try:
                runner.run(self._answer(question))
            except KeyboardInterrupt:
                # The call was cancelled, and with it the engine's work. What was not answered is no turn.
                self._output.line("cancelled", {"question": question})
                self._output.note("Cancelled.", style="yellow")
            except Exception as error:
                failure = self._failure(error)
                if failure is None:
                    raise
                self.failed = True
                self._output.fail(failure.reason, failure.message)

    def _read(self) -> str | None:
        """The next line without blanks around it; None at the end."""
        if self.interactive and not self._output.as_json:
            try:
                return input("› ").strip()
            except EOFError:
                self._output.note("")
                return None
        if self.interactive:
            self._output.notes.print("› ", end="")
        line = sys.stdin.readline()
        if not line:
            return None
        if not self.interactive and line.strip():
            # A transcript without its questions could not be read.
            self._output.say(f"› {plain(line.strip())}", style="bold")
        return line.strip()

    def _command(self, line: str) -> None:
        from ragkeep_client.present import source_facts, source_line

        if line == "/help":
            self._output.note(_HELP)
        elif line == "/clear":
            self._output.line("cleared", len(self._turns))
            self._turns, self._sources = [], {}
            self._output.note("The conversation is forgotten.", style="dim")
        elif line == "/sources":
            self._output.line("sources", [source_facts(source) for source in self._sources.values()])
            for source in self._sources.values():
                self._output.say(source_line(source))
                self._output.say("    " + plain(source.text).replace("\n", "\n    "), style="dim")
            if not self._sources:
                self._output.say("There is no source: nothing was asked yet, or nothing was found.")
        else:
            self.failed = True
            self._output.fail("COMMAND_UNKNOWN", f"There is no command {line.split()[0]}; /help lists them.")

    async def _answer(self, question: str) -> None:
        from ragkeep_client.answer import AnswerView
        from ragkeep_client.no_documents import say_no_documents
        from ragkeep_client.values import Turn

        if self._client is None:
            raise CommandError("NOT_RUNNING", "There is no connection.")
        self._output.line("question", question)
        view = AnswerView(self._output, question, explain=self._explain, mode=self._mode)
        try:
            async with aclosing(self._ask(self._client, question, self._turns, self._filter)) as events:
                async for event in events:
                    view.take(event)
            if not view.sources:
                await say_no_documents(self._output, self._client, *self._where)
        finally:
            view.end_line()
            self._sources = view.sources or self._sources
        self._output.console.print()
        self._remember(Turn(question, view.text))

    def _remember(self, turn: Turn) -> None:
        self._turns.append(turn)
        forgotten = 0
        while len(self._turns) > MAX_TURNS or sum(len(one.question) + len(one.answer) for one in self._turns) > MAX_CHARACTERS:
            self._turns.pop(0)
            forgotten += 1
        if forgotten:
            self._output.note("The oldest turn is not sent any more: a request takes no more.", style="dim")
