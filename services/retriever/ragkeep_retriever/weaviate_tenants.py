"""The tenants' records in Weaviate: an object each in a class of their own, under an id that the name makes.

Weaviate can neither compare and swap nor lock, and two retrievers that make a tenant at once must agree on its salt. So each
proposes a record, waits until proposals of the same moment can be seen, and all write the earliest.
"""

from __future__ import annotations

import asyncio
import uuid
import warnings
from dataclasses import replace
from typing import Any

from ragkeep_retriever.tenant_records import check_takes_documents, dump, going, inactive, load, new_record, tombstone, unknown
from ragkeep_retriever.values import TenantRecord, Tenants
from ragkeep_retriever.weaviate_catalogue import WeaviateCatalogue
from ragkeep_retriever.weaviate_connection import Connection, object_id, tenant_name
from ragkeep_retriever.weaviate_schema import TENANTS, create_tenants

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from weaviate.classes.config import ConsistencyLevel
    from weaviate.classes.query import Filter as WeaviateFilter
    from weaviate.classes.query import MetadataQuery
    from weaviate.exceptions import UnexpectedStatusCodeError

# Longer than a proposal takes from its moment in Weaviate until others see it.
_SETTLED_S = 1.0
_PAGE, _COUNTED_AT_ONCE = 500, 16


class WeaviateTenants:
    """Knows tenants; its methods run inside `Connection.errors()`."""

    def __init__(self, connection: Connection, catalogue: WeaviateCatalogue, replicas: int) -> None:
        self._connection = connection
        self._client = connection.client
        self._catalogue = catalogue
        self._replicas = replicas
        self._changing = asyncio.Lock()
        self._is_there = False

    async def ensure(self, name: str) -> tuple[TenantRecord, bool]:
        """See the port."""
        found = load(await self._text(name))
        if found is not None:
            return found, False
        async with self._changing:
            text = await self._text(name)
            found = load(text)
            if found is not None:
                return found, False
            await create_tenants(self._client, self._replicas)
            if text is not None:
                # A put that was killed may have left something behind the tombstone.
                await self._remove_documents(name)
            return await self._agree(name, text)

    async def get(self, name: str) -> TenantRecord:
        """See the port."""
        text = await self._text(name)
        found = load(text)
        if found is not None:
            return found
        if text is None and await self._has_documents(name):
            return (await self.ensure(name))[0]
        raise unknown(name)

    async def all(self, count: bool) -> Tenants:
        """See the port."""
        texts = await self._texts()
        stored = {one for collection in await self._collections() for one in await self._connection.tenants_of(collection)}
        for name in sorted(one.removeprefix("t-") for one in stored if one.startswith("t-")):
            if name not in texts:
                texts[name] = dump((await self.ensure(name))[0])
        unnamed = len(stored - {tenant_name(name) for name in texts})
        records = {name: found for name, text in texts.items() if (found := load(text)) is not None}
        at_once = asyncio.Semaphore(_COUNTED_AT_ONCE)

        async def counted(name: str) -> dict[str, int]:
            async with at_once:
                return await self._counts(name) if count else {}

        names = sorted(records)
        counts = await asyncio.gather(*map(counted, names))
        return Tenants([(records[name], one) for name, one in zip(names, counts, strict=True)], unnamed)

    async def set_active(self, name: str, active: bool) -> TenantRecord:
        """See the port."""
        await self.get(name)
        async with self._changing:
            found = load(await self._text(name))
            if found is None:
                raise unknown(name)
            if found.deleting is not None:
                raise inactive(found)
            changed = replace(found, active=active)
            await self._replace(name, dump(changed))
            return changed

    async def delete(self, name: str) -> dict[str, int]:
        """See the port. The mark first: a put looks for it at its end."""
        text = await self._text(name)
        if text is not None and load(text) is None:
            return {}
        await self.get(name)
        async with self._changing:
            found = load(await self._text(name))
            if found is None:
                return {}
            found = going(found, await self._counts(name))
            await self._replace(name, dump(found))
            # Puts that were acknowledged while the mark was written.
            found = going(found, await self._counts(name))
            await self._replace(name, dump(found))
            await self._remove_documents(name)
            await self._objects().data.delete_many(where=WeaviateFilter.by_property("name").equal(_proposed(name)))
            await self._replace(name, tombstone(name))
            return dict(found.deleting or {})

    async def check_takes_documents(self, tenant: str, record: bytes) -> bytes:
        """Before a put: the record's digest. Raises TenantInactive, TenantUnknown."""
        return check_takes_documents(await self._text(tenant), tenant, record)

    async def check_took_documents(self, tenant: str, collection: str, record: bytes) -> None:
        """After a put: the tenant is the same one. Where it was deleted meanwhile, what was put goes too. Raises as above."""
        text = await self._text(tenant)
        found = load(text)
        if text is not None and (found is None or found.deleting is not None):
            await self._connection.remove_tenant(collection, tenant)
        check_takes_documents(text, tenant, record)

    async def _agree(self, name: str, text: str | None) -> tuple[TenantRecord, bool]:
        objects, mine = self._objects(), new_record(name)
        my_id = await objects.data.insert({"name": _proposed(name), "record": dump(mine)}, uuid=uuid.uuid4())
        await asyncio.sleep(_SETTLED_S)
        proposals = (
            await objects.query.fetch_objects(
                filters=WeaviateFilter.by_property("name").equal(_proposed(name)),
                limit=_PAGE,
                return_metadata=MetadataQuery(creation_time=True),
            )
        ).objects
        first = min(proposals, key=lambda one: (one.metadata.creation_time, str(one.uuid)))
        now = await self._text(name)
        if now == text:
            try:
                entry = {"name": name, "record": str(first.properties["record"])}
                if text is None:
                    await objects.data.insert(entry, uuid=object_id(name))
                else:
                    await objects.data.replace(uuid=object_id(name), properties=entry)
            except UnexpectedStatusCodeError:
                # Another retriever was quicker, with the same record.
                if await self._text(name) is None:
                    raise
        found = load(await self._text(name))
        if found is None:
            raise unknown(name)
        await objects.data.delete_by_id(my_id)
        return found, found.salt == mine.salt

    async def _collections(self) -> list[str]:
        return [one.name for one in await self._catalogue.all()]

    async def _has_documents(self, tenant: str) -> bool:
        return any([await self._connection.has_tenant(name, tenant) for name in await self._collections()])

    async def _counts(self, tenant: str) -> dict[str, int]:
        counts = {name: await self._catalogue.count(name, tenant) for name in await self._collections()}
        return {name: count for name, count in sorted(counts.items()) if count}

    async def _remove_documents(self, tenant: str) -> None:
        for name in await self._collections():
            await self._connection.remove_tenant(name, tenant)

    async def _texts(self) -> dict[str, str]:
        """Every record and tombstone by name."""
        if not await self._exists():
            return {}
        found: dict[str, str] = {}
        after: uuid.UUID | None = None
        while True:
            page = (await self._objects().query.fetch_objects(limit=_PAGE, after=after)).objects
            for one in page:
                if one.uuid == object_id(str(one.properties["name"])):
                    found[str(one.properties["name"])] = str(one.properties["record"])
            if len(page) < _PAGE:
                return found
            after = page[-1].uuid

    async def _text(self, name: str) -> str | None:
        if not await self._exists():
            return None
        found = await self._objects().query.fetch_object_by_id(object_id(name))
        return str(found.properties["record"]) if found else None

    async def _replace(self, name: str, text: str) -> None:
        await self._objects().data.replace(uuid=object_id(name), properties={"name": name, "record": text})

    def _objects(self) -> Any:
        return self._client.collections.use(TENANTS).with_consistency_level(ConsistencyLevel.QUORUM)

    async def _exists(self) -> bool:
        # It is never deleted: once seen, it is there.
        self._is_there = self._is_there or bool(await self._client.collections.exists(TENANTS))
        return self._is_there


def _proposed(name: str) -> str:
    """The name that proposals stand under. No tenant's: those have 128 characters at most."""
    return f"{'proposed ' * 16}{name}"
