"""`ragkeep collections`: what there is to ask."""

from __future__ import annotations

from dataclasses import asdict

from ragkeep_client.folder import DEFAULT, TENANT, DataOption, TenantOption
from ragkeep_client.output import JsonOption, Output, run


def collections(tenant: TenantOption = TENANT, data: DataOption = DEFAULT, as_json: JsonOption = False) -> None:
    """List the collections and how many of the tenant's documents are in each."""
    from ragkeep_client.connect import connected

    output = Output(as_json)

    async def work() -> None:
        async with connected(data, tenant) as client:
            found = await client.list_collections()
        for one in found:
            output.line("collection", asdict(one))
            fields = ", ".join(f"{field.name} ({field.type})" for field in one.fields)
            output.say(f"{one.name}: {one.documents} documents; {fields}")
        if not found:
            output.say("There is no collection yet: `ragkeep import FILE.csv` makes one.")

    run(output, work())
