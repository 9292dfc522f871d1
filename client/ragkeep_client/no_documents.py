"""What is said where nothing was found because nothing is there: a mistyped tenant must not look like an honest no."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ragkeep_client.output import Output, plain
from ragkeep_runtime.errors import RagkeepError

if TYPE_CHECKING:
    from ragkeep_client.client import Client


def whose(tenant: str) -> str:
    """The tenant of the command's calls, in a sentence. With a token it is the person's, which only the gateway reads."""
    if os.environ.get("RAGKEEP_TOKEN_FILE"):
        return "the person's tenant"
    return plain(tenant) or "the caller's tenant"


async def say_no_documents(output: Output, client: Client, collection: str, tenant: str) -> None:
    """Says that the caller's tenant has no documents in the collection, where that is so and the caller may know."""
    try:
        found = [one for one in await client.list_collections() if one.name == collection]
    except RagkeepError:
        return  # the answer stands without it
    if not found or found[0].documents:
        return
    name = whose(tenant)
    owner = f"The tenant {name}" if name == plain(tenant) else name.capitalize()
    output.line("no_documents", {"collection": collection})
    # The count is of what the caller sees: who is limited to groups learns no more.
    output.note(f"{owner} has no documents in {plain(collection)} that you may see.", style="yellow")
