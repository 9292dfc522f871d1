"""Rotation: every sealed value is sealed anew with the active key, page by page, while all else goes on.

A document's values are replaced in the version that was read, or not at all; one that became another meanwhile is looked at
again. Where it is travels with the caller, so any gateway can go on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragkeep.gateway.v1.keys_pb2 import RotateKeysResponse, RotationState
from ragkeep.retriever.v1 import retriever_pb2
from ragkeep.types.v1.types_pb2 import Collection, Scope, SealedValue, StoredDocument
from ragkeep_gateway.sealing.fields import sealed_names
from ragkeep_gateway.sealing.sealer import Place, TenantSealer
from ragkeep_runtime.channel import errors_of
from ragkeep_runtime.errors import CollectionUnknown, DocumentUnknown, SealedValueDamaged, SealingKeyMissing, TenantUnknown
from ragkeep_runtime.keyring import Keyring
from ragkeep_runtime.logs import get_logger

if TYPE_CHECKING:
    from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub

log = get_logger()
_PAGE = 100
# How often a document is looked at that others replace all the while.
_TIMES = 5


class Rotation:
    """One run, with the keyring as it was at its beginning."""

    def __init__(self, retriever: RetrieverServiceAsyncStub, keyring: Keyring, *, dry_run: bool) -> None:
        self._retriever = retriever
        self._keyring = keyring
        self._dry_run = dry_run

    async def run(self, resume: RotationState) -> AsyncGenerator[RotateKeysResponse]:
        """An event a page; the last one is done."""
        with errors_of("retriever"):
            tenants = (await self._retriever.ListTenants(retriever_pb2.ListTenantsRequest())).tenants
            scope = Scope(tenant=tenants[0].tenant.name, every_document=True) if tenants else None
            listed = (
                (await self._retriever.ListCollections(retriever_pb2.ListCollectionsRequest(scope=scope))).collections
                if scope is not None
                else []
            )
        collections = [one.collection for one in listed if sealed_names(one.collection)]
        state = RotationState(active_key=self._keyring.active)
        if resume.active_key == state.active_key:
            state.CopyFrom(resume)
        else:
            names = {one.name for one in collections}
            state.total_documents = sum(count for one in tenants for name, count in one.documents.items() if name in names)
        yield RotateKeysResponse(state=state)
        for collection in sorted(collections, key=lambda one: one.name):
            for tenant in sorted((one.tenant for one in tenants), key=lambda one: one.name):
                here, there = (collection.name, tenant.name), (state.collection, state.tenant)
                if here < there or (here == there and state.tenant_done):
                    continue
                if here != there:
                    state.collection, state.tenant = here
                    state.page_token, state.tenant_done = "", False
                sealer = await self._sealer(tenant.name)
                if sealer is None:
                    continue
                async for _ in self._tenant(sealer, collection, state):
                    yield RotateKeysResponse(state=state)
        what = "sealed_values_counted" if self._dry_run else "keys_rotated"
        log.info(what, active=state.active_key, documents=state.documents, resealed=state.resealed_documents)
        yield self._end(state)

    def _end(self, state: RotationState) -> RotateKeysResponse:
        used = {key_id for key_id, count in state.values_by_key.items() if count}
        unused = [] if self._dry_run else [one for one in self._keyring.keys if one not in used | {self._keyring.active}]
        missing = sorted(used - set(self._keyring.keys))
        return RotateKeysResponse(state=state, done=True, unused_keys=unused, missing_keys=missing)

    async def _sealer(self, tenant: str) -> TenantSealer | None:
        """None for a tenant that was deleted meanwhile."""
        try:
            with errors_of("retriever"):
                found = await self._retriever.GetTenant(retriever_pb2.GetTenantRequest(name=tenant))
        except TenantUnknown:
            return None
        return TenantSealer(self._keyring, tenant, found.tenant.salt)

    async def _tenant(self, sealer: TenantSealer, collection: Collection, state: RotationState) -> AsyncGenerator[None]:
        """Ends each page with the state moved on behind it."""
        scope = Scope(tenant=sealer.tenant, every_document=True)
        while True:
            request = retriever_pb2.ListDocumentsRequest(
                scope=scope, collection=collection.name, page_size=_PAGE, page_token=state.page_token
            )
            try:
                with errors_of("retriever"):
                    page = await self._retriever.ListDocuments(request)
            except (CollectionUnknown, TenantUnknown):
                return  # deleted meanwhile
            await self._page(sealer, scope, collection, page.documents, state)
            state.documents += len(page.documents)
            state.page_token = page.next_page_token
            state.tenant_done = not page.next_page_token
            yield
            if state.tenant_done:
                return

    async def _page(
        self, sealer: TenantSealer, scope: Scope, collection: Collection, page: Iterable[StoredDocument], state: RotationState
    ) -> None:
        left = list(page)
        for _ in range(_TIMES):
            looked_at = [self._look(sealer, collection, one) for one in left]
            updates = [one.update() for one in looked_at if one.anew]
            done: set[str] = set()
            if updates:
                request = retriever_pb2.UpdateFieldsRequest(scope=scope, collection=collection.name, documents=updates)
                with errors_of("retriever"):
                    done = set((await self._retriever.UpdateFields(request)).document_ids)
            state.resealed_documents += len(done)
            late = [one for one in looked_at if one.anew and one.document_id not in done]
            for one in looked_at:
                if one not in late:
                    one.count(state)
            if not late:
                return
            again = [await self._get(scope, collection, one.document_id) for one in late]
            left = [one for one in again if one is not None]
        for document in left:
            _Looked(document.document.id, document.version, _sealed_of(document), {}, 0).count(state)

    def _look(self, sealer: TenantSealer, collection: Collection, document: StoredDocument) -> _Looked:
        stored = _sealed_of(document)
        anew: dict[str, SealedValue] = {}
        unreadable = 0
        for name, value in stored.items():
            if value.key_id == self._keyring.active:
                continue
            place = Place(collection.name, document.document.id, name)
            try:
                anew[name] = sealer.seal(place, sealer.open(place, value))
            except (SealingKeyMissing, SealedValueDamaged):
                unreadable += 1
        # Values are written all at once, and what the store lost cannot be written back.
        if self._dry_run or any(not value.key_id for value in stored.values()):
            anew = {}
        return _Looked(document.document.id, document.version, stored, anew, unreadable)

    async def _get(self, scope: Scope, collection: Collection, document_id: str) -> StoredDocument | None:
        request = retriever_pb2.GetDocumentRequest(scope=scope, collection=collection.name, document_id=document_id)
        try:
            with errors_of("retriever"):
                return (await self._retriever.GetDocument(request)).document
        except (DocumentUnknown, CollectionUnknown):
            return None


@dataclass(frozen=True, slots=True)
class _Looked:
    """A document that was looked at."""

    document_id: str
    version: bytes
    stored: Mapping[str, SealedValue]
    anew: Mapping[str, SealedValue]  # those of another key, under the active one; empty: nothing is to be written
    unreadable: int

    def update(self) -> retriever_pb2.FieldsUpdate:
        """To be written, all of them: those that cannot be opened stay as they are."""
        return retriever_pb2.FieldsUpdate(
            document_id=self.document_id, version=self.version, sealed={**self.stored, **self.anew}
        )

    def count(self, state: RotationState) -> None:
        """As it is now."""
        state.unreadable_values += self.unreadable
        for value in {**self.stored, **self.anew}.values():
            if value.key_id:
                state.values_by_key[value.key_id] += 1


def _sealed_of(document: StoredDocument) -> dict[str, SealedValue]:
    fields = document.document.fields
    return {name: value.sealed for name, value in fields.items() if value.WhichOneof("kind") == "sealed"}
