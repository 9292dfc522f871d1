"""The port: what a store of passages must do, in domain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ragkeep_retriever.values import (
    Change,
    Collection,
    Filter,
    Found,
    ListedDocument,
    Page,
    Put,
    Query,
    Scope,
    SealedUpdate,
    StoredDocument,
    TenantRecord,
    Tenants,
    Versions,
)


class PassageStore(Protocol):
    """Documents in, passages out. Every error is one of `ragkeep_runtime.errors`.

    A document appears whole or not at all, in place of its older version. What `put` has returned survives `kill -9` of
    any process and is found afterwards, by vector and by keyword. All methods may run concurrently.
    """

    async def create_collection(self, collection: Collection) -> Collection:
        """Makes it with revision 1; returns the stored one if it exists with the same definition (revision aside).

        Raises CollectionExists where the definition differs.
        """
        ...

    async def collection(self, name: str, *, any_analyzer: bool = False) -> Collection:
        """The collection's definition. Raises CollectionUnknown, CatalogueTooNew, and AnalyzerMismatch where the index was made
        with another analyzer: only documents can be read of it, by who says `any_analyzer`.
        """
        ...

    async def collections(self, scope: Scope) -> list[tuple[Collection, int]]:
        """All collections by name, whatever their analyzer, each with the number of documents in it that the scope sees."""
        ...

    async def update_collection(self, wanted: Collection) -> Change:
        """Gives the collection another definition, and a higher revision where it differs. `wanted.space` does not count.

        Raises CollectionUnknown, CollectionFixed; CollectionChanged where `wanted.revision` is neither 0 nor the stored one.
        """
        ...

    async def delete_collection(self, name: str) -> None:
        """Deletes a collection without documents. Raises CollectionUnknown; CollectionInUse where a tenant has one in it."""
        ...

    async def versions(self, scope: Scope, collection: str, document_ids: Sequence[str]) -> Versions:
        """Those of the documents that are there, whole. Raises CollectionUnknown."""
        ...

    async def put(
        self, scope: Scope, collection: Collection, documents: Sequence[StoredDocument], *, record: bytes = b""
    ) -> list[Put]:
        """Stores documents (each id once), in order; one whose version is there already is left alone. What the scope does not
        see is not replaced, and what it would not see is not stored.

        Raises CollectionChanged (stored revision differs from `collection.revision`), StorageFull, and TenantInactive or
        TenantUnknown where the tenant's record says so; where it has none yet, it may put. With a `record` it must be that one:
        what was made and sealed for a tenant is not another's that has the name now.
        """
        ...

    async def search(self, scope: Scope, collection: Collection, query: Query) -> Found:
        """Finds passages. An unknown tenant has none.

        To a limited scope nothing that is returned tells of documents that it does not see, but where an engine's own order by
        words does: see docs/access.md.
        """
        ...

    async def document(self, scope: Scope, collection: Collection, document_id: str) -> ListedDocument | None:
        """The document as it is stored; None where the scope does not see one."""
        ...

    async def documents(
        self, scope: Scope, collection: Collection, *, filter: Filter | None = None, after: str = "", limit: int = 100
    ) -> Page:
        """A page of documents in the store's own order; `after` is that of the page before.

        A document that is neither added, changed nor deleted meanwhile is on exactly one page. Raises InvalidRequest for an
        `after` that is none.
        """
        ...

    async def delete(
        self, scope: Scope, collection: Collection, wanted: Mapping[str, bytes | None], *, dry_run: bool = False
    ) -> list[str]:
        """Deletes those of the documents that the scope sees, each whole; the value is the version it must have, None for any.

        Returns the ids of those that were there, in the order of `wanted`; `dry_run` deletes nothing. What is deleted is not
        found afterwards, and stays away after `kill -9` of any process.
        """
        ...

    async def update_sealed(self, scope: Scope, collection: Collection, updates: Sequence[SealedUpdate]) -> list[str]:
        """Puts other sealed values in place of a document's own, all at once, where the scope sees it in that version, with
        sealed values of just those fields. Returns the ids of those where that was done, in order.

        Passages and version stay. One that became another document meanwhile, or none, is never touched, whoever is killed.
        """
        ...

    async def ensure_tenant(self, name: str) -> tuple[TenantRecord, bool]:
        """The tenant's record, and whether it was made now: where there was none, or the tenant had been deleted.

        Whoever asks at the same time gets the same salt.
        """
        ...

    async def tenant(self, name: str) -> TenantRecord:
        """The tenant's record; one that has documents of a version without records gets it now. Raises TenantUnknown."""
        ...

    async def tenants(self, *, count: bool = True) -> Tenants:
        """All that have a record or documents; without `count` no documents are counted."""
        ...

    async def set_tenant_active(self, name: str, active: bool) -> TenantRecord:
        """A put for a tenant that is not active is refused with TenantInactive; reading is the gateway's to refuse.

        Raises TenantUnknown; TenantInactive where its deletion began.
        """
        ...

    async def delete_tenant(self, name: str) -> dict[str, int]:
        """Removes all that the tenant has, then its record with the salt. Returns how many documents went, by collection.

        Killed midway, another call goes on and still tells all. A put that runs meanwhile either ends before, or is refused.
        Raises TenantUnknown for one that never was; one that was deleted has nothing.
        """
        ...

    async def ready(self) -> None:
        """Raises EngineUnreachable where the engine does not answer."""
        ...

    async def close(self) -> None:
        """Lets go of files and connections."""
        ...
