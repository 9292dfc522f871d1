"""RagService's RPCs for collections."""

from __future__ import annotations

from typing import Any

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_gateway.catalogue import Catalogue
from ragkeep_gateway.presets import SERVICE_TICKETS, preset
from ragkeep_runtime.call import call
from ragkeep_runtime.errors import InvalidRequest


class CollectionMethods:
    """Part of RagService."""

    _catalogue: Catalogue

    async def ListCollections(
        self, request: gateway_pb2.ListCollectionsRequest, context: Any
    ) -> gateway_pb2.ListCollectionsResponse:
        """The collections, with the number of the tenant's documents."""
        found = await self._catalogue.all(call().tenant)
        return gateway_pb2.ListCollectionsResponse(
            collections=[gateway_pb2.CollectionSummary(collection=item.collection, documents=item.documents) for item in found]
        )

    async def GetCollection(self, request: gateway_pb2.GetCollectionRequest, context: Any) -> gateway_pb2.GetCollectionResponse:
        """One of them."""
        found = await self._catalogue.summary(call().tenant, request.name or SERVICE_TICKETS)
        summary = gateway_pb2.CollectionSummary(collection=found.collection, documents=found.documents)
        return gateway_pb2.GetCollectionResponse(collection=summary)

    async def CreateCollection(
        self, request: gateway_pb2.CreateCollectionRequest, context: Any
    ) -> gateway_pb2.CreateCollectionResponse:
        """With the embedding space that is served now."""
        definition = preset(request.preset, request.collection.name) if request.preset else request.collection
        return gateway_pb2.CreateCollectionResponse(collection=await self._catalogue.create(definition))

    async def UpdateCollection(
        self, request: gateway_pb2.UpdateCollectionRequest, context: Any
    ) -> gateway_pb2.UpdateCollectionResponse:
        """Where it can be."""
        if not request.collection.name:
            raise InvalidRequest("The request must name the collection.", field="collection.name")
        change = await self._catalogue.update(request.collection)
        return gateway_pb2.UpdateCollectionResponse(collection=change.collection, import_again=change.import_again)

    async def DeleteCollection(
        self, request: gateway_pb2.DeleteCollectionRequest, context: Any
    ) -> gateway_pb2.DeleteCollectionResponse:
        """Where nobody has a document in it."""
        if not request.name:
            raise InvalidRequest("The request must name the collection.", field="name")
        await self._catalogue.delete(request.name)
        return gateway_pb2.DeleteCollectionResponse()
