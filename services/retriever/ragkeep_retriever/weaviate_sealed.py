"""Sealed values in Weaviate: an object for each generation of a document. Re-sealing writes that alone, and a race that is lost
touches a generation that nobody reads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ragkeep_retriever.sealed_values import dumped, loaded
from ragkeep_retriever.values import Sealed
from ragkeep_retriever.weaviate_connection import Connection, object_id

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from weaviate.classes.data import DataObject
    from weaviate.classes.query import Filter as WeaviateFilter

# What stands for a value that should be there and is not: no key opens it, so an unsealer is told that it is damaged.
LOST = Sealed("", b"", b"")


class SealedObjects:
    """Writes and reads them; its methods run inside `Connection.errors()`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(
        self, collection: str, tenant: str, by_generation: Mapping[str, Mapping[str, Sealed]], *, make: bool = False
    ) -> None:
        """Each generation's values, in place of what is there; `make`: they may be the tenant's first."""
        handle = await self._connection.sealed(collection, tenant, make=make) if by_generation else None
        if handle is None:
            return
        objects = [
            DataObject(properties={"generation": generation, "fields": dumped(sealed)}, uuid=_id(generation))
            for generation, sealed in by_generation.items()
        ]
        result = await handle.data.insert_many(objects)
        if result.has_errors:
            raise self._connection.failed("sealed", str(next(iter(result.errors.values())).message))

    async def of(self, collection: str, tenant: str, generations: Sequence[str]) -> dict[str, dict[str, Sealed]]:
        """The values of those generations that have some."""
        handle = await self._connection.sealed(collection, tenant) if generations else None
        if handle is None:
            return {}
        ids = [_id(generation) for generation in generations]
        found = await handle.query.fetch_objects_by_ids(ids, limit=len(ids))
        return {str(one.properties["generation"]): loaded(str(one.properties["fields"])) for one in found.objects}

    async def remove(self, collection: str, tenant: str, generations: Sequence[str]) -> None:
        """Those of generations that are no more."""
        handle = await self._connection.sealed(collection, tenant) if generations else None
        if handle is not None:
            await handle.data.delete_many(where=WeaviateFilter.by_property("generation").contains_any(list(generations)))


def _id(generation: str) -> Any:
    return object_id(f"{generation}/sealed")
