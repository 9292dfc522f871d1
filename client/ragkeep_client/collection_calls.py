"""The gateway's RPCs for collections, typed."""

from __future__ import annotations

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.types.v1 import types_pb2
from ragkeep_client.calls import SERVICE_TICKETS, Calls, writable
from ragkeep_client.events import Change, Collection, collection_from
from ragkeep_client.schema import Schema, schema_from, schema_message


class CollectionCalls(Calls):
    """Part of `Client`. Creating, updating and deleting need the role admin."""

    async def list_collections(self, *, timeout_s: float = 10.0) -> list[Collection]:
        """The collections by name, with the number of the tenant's documents."""
        with self._errors():
            response = await self._stub.ListCollections(
                gateway_pb2.ListCollectionsRequest(), timeout=timeout_s, metadata=self._metadata
            )
        return [collection_from(summary) for summary in response.collections]

    async def get_collection(self, name: str = SERVICE_TICKETS, *, timeout_s: float = 10.0) -> Collection:
        """One of them. Raises CollectionUnknown."""
        with writable():
            request = gateway_pb2.GetCollectionRequest(name=name)
        with self._errors():
            response = await self._stub.GetCollection(request, timeout=timeout_s, metadata=self._metadata)
        return collection_from(response.collection)

    async def create_collection(self, schema: Schema, *, timeout_s: float = 30.0) -> Schema:
        """Makes it, with the embedding model that is served now; returns it with its defaults. Raises CollectionExists."""
        with writable():
            request = gateway_pb2.CreateCollectionRequest(collection=schema_message(schema))
        with self._errors():
            response = await self._stub.CreateCollection(request, timeout=timeout_s, metadata=self._metadata)
        return schema_from(response.collection)

    async def create_preset(self, preset: str, name: str = "", *, timeout_s: float = 30.0) -> Schema:
        """Makes a collection that ragkeep knows how to make ("ServiceTicket"), under a name of one's own or the preset's."""
        with writable():
            collection = types_pb2.Collection(name=name)
            request = gateway_pb2.CreateCollectionRequest(collection=collection, preset=preset)
        with self._errors():
            response = await self._stub.CreateCollection(request, timeout=timeout_s, metadata=self._metadata)
        return schema_from(response.collection)

    async def update_collection(self, schema: Schema, *, revision: int = 0, timeout_s: float = 30.0) -> Change:
        """Gives it this definition in place of its own; `revision` is that of the one read before, 0 for any.

        Raises CollectionFixed for what cannot be changed, CollectionChanged where it has another revision.
        """
        with writable():
            collection = schema_message(schema)
            collection.revision = revision
            request = gateway_pb2.UpdateCollectionRequest(collection=collection)
        with self._errors():
            response = await self._stub.UpdateCollection(request, timeout=timeout_s, metadata=self._metadata)
        return Change(schema_from(response.collection), response.collection.revision, response.import_again)

    async def delete_collection(self, name: str, *, timeout_s: float = 60.0) -> None:
        """Deletes a collection without documents. Raises CollectionInUse."""
        with writable():
            request = gateway_pb2.DeleteCollectionRequest(name=name)
        with self._errors():
            await self._stub.DeleteCollection(request, timeout=timeout_s, metadata=self._metadata)
