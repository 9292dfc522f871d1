"""The collections in Weaviate: an entry each in a class of their own, which makes a collection exist, and its two classes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from ragkeep_retriever.catalogue import VERSION, dump, is_deleting, load, mark_deleting, same_or_raise, version_of
from ragkeep_retriever.changes import changed
from ragkeep_retriever.values import Change, Collection
from ragkeep_retriever.weaviate_connection import Connection, object_id
from ragkeep_retriever.weaviate_objects import LIVE
from ragkeep_retriever.weaviate_schema import (
    CATALOGUE,
    add_groups_to_manifests,
    change_classes,
    create_catalogue,
    create_classes,
    delete_classes,
)
from ragkeep_runtime.errors import CollectionInUse, CollectionUnknown


class WeaviateCatalogue:
    """Knows collections; its methods run inside `Connection.errors()`."""

    def __init__(self, connection: Connection, replicas: int) -> None:
        self._connection = connection
        self._client = connection.client
        self._replicas = replicas
        self._changing = asyncio.Lock()
        self._is_there = False
        self._telling: set[str] = set()

    async def get(self, name: str, *, any_analyzer: bool = False) -> Collection:
        """The definition. Raises CollectionUnknown."""
        text = await self._entry(name)
        if text is None or is_deleting(text):
            raise CollectionUnknown(f"There is no collection {name[:64]!r}. `ragkeep collections` lists those that are.")
        return load(text, any_analyzer=any_analyzer)

    async def for_writing(self, name: str) -> Collection | None:
        """The definition, with its classes as this version writes them; None where there is none."""
        text = await self._entry(name)
        if text is None or is_deleting(text):
            return None
        found = load(text)
        if version_of(text) < VERSION:
            async with self._changing:
                await add_groups_to_manifests(self._client, name)
                await self._replace(name, dump(found))
        return found

    async def all(self) -> list[Collection]:
        """Every definition, by name."""
        if not await self._exists():
            return []
        entries = (await self._client.collections.use(CATALOGUE).query.fetch_objects(limit=1000)).objects
        texts = [str(entry.properties["definition"]) for entry in entries]
        found = [load(text, any_analyzer=True) for text in texts if not is_deleting(text)]
        return sorted(found, key=lambda one: one.name)

    async def count(self, name: str, tenant: str) -> int:
        """The tenant's documents in the collection."""
        if not await self._connection.has_tenant(name, tenant):
            return 0
        return await count(self._connection.manifests(name, tenant))

    async def tell_groups(self, name: str) -> None:
        """Manifests can be asked for by their groups, also in a collection of the catalogue's first version."""
        if name in self._telling:
            return
        text = await self._entry(name)
        if text is not None and version_of(text) < VERSION:
            async with self._changing:
                await add_groups_to_manifests(self._client, name)
        self._telling.add(name)

    async def create(self, collection: Collection) -> Collection:
        """Classes first, the entry last: it is what makes the collection exist."""
        async with self._changing:
            text = await self._entry(collection.name)
            if text is not None and is_deleting(text):
                text = await self._end_deletion(collection.name, text)
            if text is not None:
                return same_or_raise(load(text), collection)
            made = replace(collection, revision=1)
            await create_classes(self._client, made, self._replicas)
            await create_catalogue(self._client, self._replicas)
            entry = {"name": made.name, "definition": dump(made)}
            await self._client.collections.use(CATALOGUE).data.insert(entry, uuid=object_id(made.name))
            return made

    async def update(self, wanted: Collection) -> Change:
        """The classes first: a new field can be filtered by as soon as it is there."""
        async with self._changing:
            stored = await self.get(wanted.name)
            change = changed(stored, wanted)
            if change.collection != stored:
                await change_classes(self._client, stored, change.collection, self._replicas)
                await add_groups_to_manifests(self._client, wanted.name)
                await self._replace(wanted.name, dump(change.collection))
            return change

    async def delete(self, name: str) -> None:
        """Raises CollectionInUse. Documents are counted once more when the entry is marked: a put looks for the mark at its
        end, so a document is either counted, or was not acknowledged."""
        async with self._changing:
            await self.get(name, any_analyzer=True)
            _check_unused(name, await self._counts(name))
            text = str(await self._entry(name))
            await self._replace(name, mark_deleting(text))
            if await self._end_deletion(name, text) is not None:
                _check_unused(name, await self._counts(name))

    async def _end_deletion(self, name: str, text: str) -> str | None:
        """None where the collection is gone; the entry without its mark where somebody's documents are in it."""
        if any(await self._counts(name)):
            restored = dump(load(text, any_analyzer=True)) if is_deleting(text) else text
            await self._replace(name, restored)
            return restored
        await delete_classes(self._client, name)
        await self._client.collections.use(CATALOGUE).data.delete_by_id(object_id(name))
        self._connection.forget(name)
        return None

    async def _counts(self, name: str) -> list[int]:
        manifests = await self._connection.every_tenants_manifests(name)
        return [await count(one) for one in manifests]

    async def _entry(self, name: str) -> str | None:
        if not await self._exists():
            return None
        entry = await self._client.collections.use(CATALOGUE).query.fetch_object_by_id(object_id(name))
        return str(entry.properties["definition"]) if entry else None

    async def _replace(self, name: str, text: str) -> None:
        entry = {"name": name, "definition": text}
        await self._client.collections.use(CATALOGUE).data.replace(uuid=object_id(name), properties=entry)

    async def _exists(self) -> bool:
        # It is never deleted: once seen, it is there.
        self._is_there = self._is_there or bool(await self._client.collections.exists(CATALOGUE))
        return self._is_there


async def count(manifests: Any, condition: Any = LIVE) -> int:
    """How many of a tenant's manifests there are."""
    return int((await manifests.aggregate.over_all(filters=condition, total_count=True)).total_count or 0)


def _check_unused(name: str, counts: list[int]) -> None:
    tenants = sum(1 for count in counts if count)
    if tenants:
        raise CollectionInUse(
            f"The collection {name} holds {sum(counts)} documents of {tenants} tenant{'s' if tenants > 1 else ''}. Delete the "
            "documents first.",
            metadata={"documents": str(sum(counts)), "tenants": str(tenants)},
        )
