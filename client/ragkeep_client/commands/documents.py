"""`ragkeep documents`: documents as they are stored."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from ragkeep_client.commands.search import CollectionOption
from ragkeep_client.filters import FilterOption
from ragkeep_client.folder import DEFAULT, TENANT, DataOption, TenantOption
from ragkeep_client.output import CommandError, JsonOption, Output, plain, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ragkeep_client.client import Client
    from ragkeep_client.values import Filter

documents = typer.Typer(help="Get, list and delete documents.", no_args_is_help=True, rich_markup_mode=None)
# For people: further ones are only counted. With --json each is a line.
_SHOWN = 50


@documents.command()
def get(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of documents.")],
    collection: CollectionOption = "service-tickets",
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Show documents, field by field."""
    from ragkeep_client.connect import connected
    from ragkeep_client.present import document_facts, document_text

    output = Output(as_json)

    async def work() -> None:
        async with connected(data, tenant) as client:
            order = [field.name for field in (await client.get_collection(collection)).schema.fields]
            for document_id in ids:
                found = await client.get_document(document_id, collection=collection)
                output.line("document", document_facts(found))
                output.say(document_text(found, order))

    run(output, work())


@documents.command("list")
def list_(
    filters: FilterOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Documents at most.")] = 50,
    everything: Annotated[bool, typer.Option("--all", help="However many there are.")] = False,
    collection: CollectionOption = "service-tickets",
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """List the tenant's documents, in an order of the store's own."""
    from ragkeep_client.connect import connected
    from ragkeep_client.filters import filter_for
    from ragkeep_client.present import document_facts, document_line

    output = Output(as_json)

    async def work() -> None:
        shown = 0
        async with connected(data, tenant) as client:
            title = (await client.get_collection(collection)).schema.title_field
            wanted = await filter_for(client, collection, filters or [])
            size = 100 if everything else min(limit + 1, 1000)
            found = client.list_documents(collection=collection, filter=wanted, page_size=size)
            async with aclosing(found):
                async for document in found:
                    if shown == limit and not everything:
                        output.note(f"… and more; --limit or --all shows them. `ragkeep export {collection}` writes them.")
                        break
                    shown += 1
                    output.line("document", document_facts(document))
                    output.say(document_line(document, title))
        if not shown:
            output.say("There is no such document." if filters else f"{tenant} has no document in {collection}.")

    run(output, work())


@documents.command()
def delete(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of documents.")] = None,
    filters: FilterOption = None,
    everything: Annotated[bool, typer.Option("--all", help="All of the tenant's documents in the collection.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; delete nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether --filter or --all is meant.")] = False,
    collection: CollectionOption = "service-tickets",
    tenant: TenantOption = TENANT,
    data: DataOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Delete documents by their ids, by a filter, or all of them; says which went."""
    from ragkeep_client.connect import connected
    from ragkeep_client.filters import filter_for

    output = Output(as_json)
    if bool(ids) + bool(filters) + everything != 1:
        raise typer.BadParameter("exactly one of ids, --filter and --all is to be given: it says which documents go.")

    async def work() -> None:
        async with connected(data, tenant) as client:
            wanted = await filter_for(client, collection, filters or [])
            if not (ids or dry_run or yes):
                await _ask(client, output, collection, tenant, wanted)
            with output.notes.status("") as status:
                gone = await client.delete_documents(
                    collection,
                    ids=ids or None,
                    filter=wanted,
                    every_document=everything,
                    dry_run=dry_run,
                    progress=lambda count: status.update(f"{count} documents …"),
                )
        _tell(output, gone, ids or [], dry_run)

    run(output, work())


async def _ask(client: Client, output: Output, collection: str, tenant: str, wanted: Filter | None) -> None:
    """Raises CommandError unless a person says yes."""
    if not sys.stdin.isatty() or output.as_json:
        raise CommandError("NOT_CONFIRMED", "Nobody is there to be asked: --dry-run says what would go, --yes deletes it.")
    going = await client.delete_documents(collection, filter=wanted, every_document=wanted is None, dry_run=True)
    shown = ", ".join(plain(one)[:64] for one in going[:5]) + (" …" if len(going) > 5 else "")
    output.note(f"{len(going)} documents of {tenant} in {collection}: {shown}")
    if not going or not typer.confirm("Delete them?", err=True):
        raise CommandError("CANCELLED", "Nothing was deleted.")


def _tell(output: Output, gone: Sequence[str], asked: Sequence[str], dry_run: bool) -> None:
    word = "would be deleted" if dry_run else "deleted"
    for document_id in gone:
        output.line("deleted", {"document_id": document_id, "dry_run": dry_run})
    for document_id in gone[:_SHOWN]:
        output.say(plain(document_id))
    if len(gone) > _SHOWN:
        output.say(f"… and {len(gone) - _SHOWN} more; --json names each.")
    there = set(gone)
    missing = [document_id for document_id in asked if document_id not in there]
    if missing:
        shown = ", ".join(plain(one)[:64] for one in missing[:20])
        output.note(f"Not there: {shown}{' …' if len(missing) > 20 else ''}", style="yellow")
    output.line("summary", {"deleted": len(gone), "not_there": len(missing), "dry_run": dry_run})
    if gone:
        output.say(f"{len(gone)} {word}", style="green")
    else:
        output.say(f"Nothing {'would be' if dry_run else 'was'} deleted: there is no such document.", style="yellow")
