"""Manifests, which decide what exists, as a scope sees them: its groups are a condition of the engine's query."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ragkeep_retriever.values import Scope
from ragkeep_retriever.weaviate_catalogue import WeaviateCatalogue, count
from ragkeep_retriever.weaviate_connection import Connection, object_id
from ragkeep_retriever.weaviate_objects import (
    LIVE,
    UNTOLD,
    Manifest,
    manifest_of,
    open_groups,
    passage_id,
    seen_by,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from weaviate.classes.query import Filter as WeaviateFilter
    from weaviate.classes.query import Sort

# Manifests may have 1 MiB each: they are read in such numbers.
AT_ONCE = 64


class Manifests:
    """Reads them; its methods run inside `Connection.errors()`."""

    def __init__(self, connection: Connection, catalogue: WeaviateCatalogue) -> None:
        self._connection = connection
        self._catalogue = catalogue

    async def of(self, collection: str, tenant: str, document_ids: Sequence[str]) -> dict[str, Manifest]:
        """By document id, whoever may see them; what is deleted has none."""
        ids = [object_id(document_id) for document_id in document_ids]
        found = await self._connection.manifests(collection, tenant).query.fetch_objects_by_ids(ids, limit=len(ids))
        current = [manifest_of(one) for one in found.objects]
        return {manifest.document_id: manifest for manifest in current if manifest is not None}

    async def with_groups(self, collection: str, tenant: str, document_ids: Sequence[str]) -> dict[str, Manifest]:
        """As `of`, each with its groups."""
        found = await self.of(collection, tenant, document_ids)
        told = await self._told(collection, tenant, list(found.values()))
        return {one.document_id: one for one in told if one is not None}

    async def seen(self, scope: Scope, collection: str, document_ids: Sequence[str]) -> dict[str, Manifest]:
        """As `of`, with their groups, and only those that the scope sees."""
        if not await self._connection.has_tenant(collection, scope.tenant):
            return {}
        if not scope.limited:
            return await self.with_groups(collection, scope.tenant, document_ids)
        ids = [object_id(document_id) for document_id in document_ids]
        condition = WeaviateFilter.all_of([WeaviateFilter.by_id().contains_any(ids), await self._seen(scope, collection)])
        handle = self._connection.manifests(collection, scope.tenant)
        found = (await handle.query.fetch_objects(filters=condition, limit=len(ids))).objects
        told = await self._told(collection, scope.tenant, [manifest_of(one) for one in found])
        return {one.document_id: one for one in told if one is not None and one.seen_by(scope)}

    async def page(
        self, scope: Scope, collection: str, after: uuid.UUID | None
    ) -> tuple[list[tuple[str, Manifest | None]], bool]:
        """The next of them by their objects' ids, None for what is no document or is not seen; and whether more may follow."""
        handle = self._connection.manifests(collection, scope.tenant)
        if scope.limited:
            # The engine's cursor takes no condition; an order and a bound do the same.
            conditions = [await self._seen(scope, collection)]
            if after is not None:
                conditions.append(WeaviateFilter.by_property("_id").greater_than(str(after)))
            by_id = Sort.by_property("_id")
            found = await handle.query.fetch_objects(limit=AT_ONCE, filters=WeaviateFilter.all_of(conditions), sort=by_id)
        else:
            found = await handle.query.fetch_objects(limit=AT_ONCE, after=after)
        told = await self._told(collection, scope.tenant, [manifest_of(one) for one in found.objects])
        pairs = zip(found.objects, told, strict=True)
        seen = [(str(one.uuid), manifest if manifest and manifest.seen_by(scope) else None) for one, manifest in pairs]
        return seen, len(seen) == AT_ONCE

    async def count(self, scope: Scope, collection: str) -> int:
        """How many documents the scope sees."""
        if not await self._connection.has_tenant(collection, scope.tenant):
            return 0
        handle = self._connection.manifests(collection, scope.tenant)
        if scope.groups is None:
            return await self._catalogue.count(collection, scope.tenant)
        await self._catalogue.tell_groups(collection)
        told = await count(handle, seen_by(scope.groups))
        return told + await self._untold(scope, collection)

    async def _untold(self, scope: Scope, collection: str) -> int:
        """Of the catalogue's first version: each is asked for its passage."""
        untold = WeaviateFilter.all_of([LIVE, UNTOLD])
        handle = self._connection.manifests(collection, scope.tenant)
        seen = offset = 0
        while True:
            found = (await handle.query.fetch_objects(filters=untold, limit=AT_ONCE, offset=offset)).objects
            told = await self._told(collection, scope.tenant, [manifest_of(one) for one in found])
            seen += sum(1 for one in told if one is not None and one.seen_by(scope))
            offset += len(found)
            if len(found) < AT_ONCE:
                return seen

    async def _seen(self, scope: Scope, collection: str) -> Any:
        """The condition for what a limited scope sees, and for what does not say it."""
        await self._catalogue.tell_groups(collection)
        return WeaviateFilter.any_of([seen_by(scope.groups or frozenset()), WeaviateFilter.all_of([LIVE, UNTOLD])])

    async def _told(self, collection: str, tenant: str, manifests: Sequence[Manifest | None]) -> list[Manifest | None]:
        """Manifests of the catalogue's first version have no groups: their passages know them."""
        ids = [passage_id(one.generation, 0) for one in manifests if one is not None and one.groups is None]
        if not ids:
            return list(manifests)
        passages = self._connection.passages(collection, tenant)
        found = await passages.query.fetch_objects_by_ids(ids, limit=len(ids), return_properties=["generation", "groups"])
        groups = {str(one.properties["generation"]): open_groups(one.properties["groups"]) for one in found.objects}
        return [
            replace(one, groups=groups[one.generation]) if one is not None and one.generation in groups else one
            for one in manifests
        ]
