"""`ragkeep ask`: sources first, then the answer as it is written, then what it cites."""

from __future__ import annotations

import json
import sys
from contextlib import aclosing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from ragkeep_client.output import CommandError, JsonOption, Output, run

if TYPE_CHECKING:
    from ragkeep_client.values import Turn


class AnswerLanguage(StrEnum):
    """What the answer is written in."""

    AUTO, ZH, EN, JA, KO, DE, FR, ES = "auto", "zh", "en", "ja", "ko", "de", "fr", "es"

    @property
    def code(self) -> str:
        """As the contract wants it: empty for the question's."""
        return "" if self is AnswerLanguage.AUTO else self.value


MaxTokensOption = Annotated[int | None, typer.Option("--max-tokens", min=1, max=8192, help="Tokens of the answer at most.")]
TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", min=0.0, max=2.0, help="How freely it is worded.  [default: 0.2]")
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=-(2**31), max=2**31 - 1, help="Makes an answer repeatable while the generator runs.")
]
ModelOption = Annotated[
    str, typer.Option("--model", help="A language model that the generator allows.  [default: the one served]")
]
LanguageOption = Annotated[AnswerLanguage, typer.Option("--language", help="Of the answer; auto: the question's.")]
MinimumCoverageOption = Annotated[
    float | None,
    typer.Option("--minimum-coverage", min=0.0, max=1.0, help="Evidence: least share of the question's words.  [default: 0.5]"),
]
MinimumMarginOption = Annotated[
    float | None,
    typer.Option(
        "--minimum-margin", min=-2.0, max=2.0, help="Evidence: else least cosine above unrelated questions.  [default: 0.04]"
    ),
]


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
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
    history: Annotated[
        Path | None,
        typer.Option(
            "--history",
            metavar="FILE",
            help='Earlier turns, oldest first, as JSON lines {"question": …, "answer": …}; - reads standard input.',
        ),
    ] = None,
    explain: ExplainOption = False,
    collection: CollectionOption = "service-tickets",
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Ask a question of the documents."""
    from ragkeep_client.answer import AnswerView
    from ragkeep_client.connect import connected
    from ragkeep_client.filters import filter_for
    from ragkeep_client.no_documents import say_no_documents

    output = Output(as_json)

    async def work() -> None:
        turns = _turns(history) if history is not None else []
        view = AnswerView(output, question, explain=explain, mode=mode.value)
        try:
            async with connected(data, tenant) as client:
                events = client.ask(
                    question,
                    collection=collection,
                    limit=limit,
                    mode=mode.value,
                    filter=await filter_for(client, collection, filters or []),
                    history=turns,
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
                async with aclosing(events):
                    async for event in events:
                        view.take(event)
                if not view.sources:
                    await say_no_documents(output, client, collection, tenant)
        finally:
            view.end_line()

    run(output, work())


def _turns(path: Path) -> list[Turn]:
    """The turns of a file. Raises OSError, or CommandError with the line that is wrong."""
    from ragkeep_client.values import Turn

    text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig", errors="replace")
    turns = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            asked, answer = found["question"], found.get("answer", "")
            if not (isinstance(asked, str) and isinstance(answer, str)):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError):
            example = '{"question": "…", "answer": "…"}'
            raise CommandError("HISTORY_INVALID", f"Line {number} of {path} is not {example}.") from None
        turns.append(Turn(asked, answer))
    return turns
