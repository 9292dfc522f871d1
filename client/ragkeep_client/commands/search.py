"""`ragkeep search`: passages, without an answer."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ragkeep_client.filters import FilterOption
from ragkeep_client.folder import DEFAULT, TENANT, DataOption, TenantOption
from ragkeep_client.output import JsonOption, Output, plain, run

AlphaOption = Annotated[
    float | None,
    typer.Option("--alpha", min=0.0, max=1.0, help="Weight of meaning against words in hybrid mode.  [default: 0.6]"),
]
MinimumCosineOption = Annotated[
    float | None,
    typer.Option("--minimum-cosine", min=-1.0, max=1.0, help="Drop what is only found by meaning, below this cosine."),
]
PassagesPerDocumentOption = Annotated[
    int | None,
    typer.Option("--passages-per-document", min=1, max=1000, help="Passages of one document.  [default: any number]"),
]
ExplainOption = Annotated[bool, typer.Option("--explain", help="Say which half found each passage, and at which place.")]
CollectionOption = Annotated[str, typer.Option("--collection", envvar="RAGKEEP_COLLECTION", help="The collection.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=1000, help="Passages at most.")]
_EXCERPT = 240


class SearchMode(StrEnum):
    """How to search."""

    HYBRID, VECTOR, KEYWORD = "hybrid", "vector", "keyword"


ModeOption = Annotated[SearchMode, typer.Option("--mode", help="By meaning and words, by meaning, or by words.")]


def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    mode: ModeOption = SearchMode.HYBRID,
    limit: LimitOption = 5,
    filters: FilterOption = None,
    alpha: AlphaOption = None,
    minimum_cosine: MinimumCosineOption = None,
    passages_per_document: PassagesPerDocumentOption = None,
    explain: ExplainOption = False,
    collection: CollectionOption = "service-tickets",
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Find passages."""
    from ragkeep_client.connect import connected
    from ragkeep_client.filters import filter_for
    from ragkeep_client.no_documents import say_no_documents, whose
    from ragkeep_client.present import explanation, source_facts, source_line

    output = Output(as_json)

    async def work() -> None:
        async with connected(data, tenant) as client:
            wanted = await filter_for(client, collection, filters or [])
            found = await client.search(
                query,
                collection=collection,
                limit=limit,
                mode=mode.value,
                filter=wanted,
                alpha=alpha,
                minimum_cosine=minimum_cosine,
                passages_per_document=passages_per_document or 0,
                explain=explain,
            )
            if not found:
                await say_no_documents(output, client, collection, tenant)
        for source in found:
            output.line("source", source_facts(source))
            output.say(source_line(source))
            if explain:
                output.say(explanation(source, mode.value), style="dim")
            text = " ".join(plain(source.text).split())
            output.say("    " + text[:_EXCERPT] + ("…" if len(text) > _EXCERPT else ""), style="dim")
        if not found:
            output.say(f"Nothing was found in {plain(collection)} of {whose(tenant)}.")

    run(output, work())
