"""RagService's RPCs for collections."""

from __future__ import annotations

from typing import Any

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep_gateway.audit.record import Audit
from ragkeep_gateway.catalogue import Catalogue
from ragkeep_gateway.presets import SERVICE_TICKETS, preset
from ragkeep_gateway.sealing.fields import SealedFields
from ragkeep_runtime.errors import InvalidRequest


class CollectionMethods:
    """Part of RagService."""

    _audit: Audit
    _catalogue: Catalogue
    _sealed_fields: SealedFields

    async def ListCollections(
        self, request: gateway_pb2.ListCollectionsRequest, context: Any
    ) -> gateway_pb2.ListCollectionsResponse:
        """The collections, with the number of the tenant's documents."""
        async with self._audit.asking() as record:
            found = await self._catalogue.all()
            await record.shown()
            return gateway_pb2.ListCollectionsResponse(
                collections=[
                    gateway_pb2.CollectionSummary(collection=item.collection, documents=item.documents) for item in found
                ]
            )

    async def GetCollection(self, request: gateway_pb2.GetCollectionRequest, context: Any) -> gateway_pb2.GetCollectionResponse:
        """One of them."""
        name = request.name or SERVICE_TICKETS
        async with self._audit.asking(collection=name) as record:
            found = await self._catalogue.summary(name)
            await record.shown()
            summary = gateway_pb2.CollectionSummary(collection=found.collection, documents=found.documents)
            return gateway_pb2.GetCollectionResponse(collection=summary)

    async def CreateCollection(
        self, request: gateway_pb2.CreateCollectionRequest, context: Any
    ) -> gateway_pb2.CreateCollectionResponse:
        """With the embedding space that is served now."""
        async with self._audit.acting(collection=request.collection.name, preset=request.preset):
            definition = preset(request.preset, request.collection.name) if request.preset else request.collection
            self._sealed_fields.check(definition)
            return gateway_pb2.CreateCollectionResponse(collection=await self._catalogue.create(definition))

    async def UpdateCollection(
        self, request: gateway_pb2.UpdateCollectionRequest, context: Any
    ) -> gateway_pb2.UpdateCollectionResponse:
        """Where it can be."""
        async with self._audit.acting(collection=request.collection.name) as record:
            if not request.collection.name:
                raise InvalidRequest("The request must name the collection.", field="collection.name")
            self._sealed_fields.check(request.collection)
            change = await self._catalogue.update(request.collection)
            record.did(revision=change.collection.revision)
            return gateway_pb2.UpdateCollectionResponse(collection=change.collection, import_again=change.import_again)

    async def DeleteCollection(
        self, request: gateway_pb2.DeleteCollectionRequest, context: Any
    ) -> gateway_pb2.DeleteCollectionResponse:
        """Where nobody has a document in it."""
        async with self._audit.acting(collection=request.name):
            if not request.name:
                raise InvalidRequest("The request must name the collection.", field="name")
            await self._catalogue.delete(request.name)
            return gateway_pb2.DeleteCollectionResponse()
