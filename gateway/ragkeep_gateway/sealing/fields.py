"""Sealed fields on their way: in, where an import is sealed; out, where a caller sees them opened, or that they are there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ragkeep.retriever.v1 import retriever_pb2
from ragkeep.types.v1.types_pb2 import Collection, Document, Scope, SealedValue, StoredDocument, Value
from ragkeep_gateway.documents import MARK_BYTES, NO_MARK, mark_of
from ragkeep_gateway.sealing.keyring import KeyringFile
from ragkeep_gateway.sealing.sealer import Place, TenantSealer
from ragkeep_runtime.call import call
from ragkeep_runtime.channel import errors_of
from ragkeep_runtime.errors import (
    DocumentRejected,
    DocumentUnknown,
    SealedValueDamaged,
    SealingKeyMissing,
    SealingUnavailable,
)

if TYPE_CHECKING:
    from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub

UNSEALER = "unsealer"
# Above so many values the event loop is left alone: opening one takes some microseconds.
_MANY = 100
_READ_AT_ONCE = 8
# Of a dry run for a tenant that is not there yet: nothing is stored with it.
_NO_SALT = bytes(32)

Fields = MutableMapping[str, Value]


class Records(Protocol):
    """Where tenants' salts come from."""

    async def get(self, name: str) -> retriever_pb2.TenantRecord | None:
        """The tenant's record; None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A document with all of its sealed values in the open, and the mark that its version gets."""

    document: Document
    mark: bytes


def sealed_names(collection: Collection) -> set[str]:
    """The names of a collection's sealed fields."""
    return {field.name for field in collection.fields if field.sealed}


class SealedFields:
    """Seals and shows."""

    def __init__(self, keyring: KeyringFile, records: Records, retriever: RetrieverServiceAsyncStub) -> None:
        self._keyring = keyring
        self._records = records
        self._retriever = retriever

    def check(self, definition: Collection) -> None:
        """Raises SealingUnavailable for a definition with sealed fields where there is no keyring."""
        if sealed_names(definition):
            self._keyring.needed()

    # In

    def sealer(self, tenant: str, collection: Collection, record: retriever_pb2.TenantRecord | None) -> TenantSealer | None:
        """What an import into the collection is sealed with, for the tenant of this record; None where no field is.

        Without a record nothing may be stored that it sealed. Raises SealingUnavailable.
        """
        if not sealed_names(collection):
            return None
        return TenantSealer(self._keyring.needed(), tenant, record.salt if record is not None else _NO_SALT)

    async def with_kept(
        self, sealer: TenantSealer, scope: Scope, collection: Collection, documents: Sequence[Document]
    ) -> list[Whole | DocumentRejected]:
        """The documents, with the stored value for each that is empty: who may not see it can import the rest.

        Callers see versions and whether one changed. Were a version always the same for the same values, who may not see them
        could import a guess, compare, and try the next. So a document for which such a caller spells a value out gets a random
        mark, and keeps it while its values are kept: no version of it is equal to one from before.
        """
        names = sealed_names(collection)
        at_once = asyncio.Semaphore(_READ_AT_ONCE)
        sees = UNSEALER in call().roles

        async def whole(document: Document) -> Whole | DocumentRejected:
            sealed = names & set(document.fields)
            kept = {name for name in sealed if _keeps(document.fields[name])}
            if not kept:
                return Whole(document, NO_MARK if sees or not sealed else os.urandom(MARK_BYTES))
            async with at_once:
                try:
                    found = await self._kept(sealer, scope, collection, document, kept)
                except DocumentRejected as error:
                    return error
            # Under the mark of another's guess an unsealer's value would tell whether the guess was right.
            if kept == sealed or (sees and found.mark == NO_MARK):
                return found
            return Whole(found.document, os.urandom(MARK_BYTES))

        return list(await asyncio.gather(*map(whole, documents)))

    async def _kept(
        self, sealer: TenantSealer, scope: Scope, collection: Collection, document: Document, names: set[str]
    ) -> Whole:
        request = retriever_pb2.GetDocumentRequest(scope=scope, collection=collection.name, document_id=document.id)
        stored = StoredDocument()
        # An id that is none gets its own reason later.
        if 1 <= len(document.id) <= 256:
            try:
                with errors_of("retriever"):
                    stored = (await self._retriever.GetDocument(request)).document
            except DocumentUnknown:
                pass
        values = stored.document.fields
        found = Document()
        found.CopyFrom(document)
        for name in sorted(names):
            if name not in values:
                message = f"The field {name} says that its value is kept, and none is stored: import the value itself."
                raise DocumentRejected("FIELD_SEALED", message)
            try:
                opened = sealer.open(Place(collection.name, document.id, name), values[name].sealed)
            except (SealingKeyMissing, SealedValueDamaged) as error:
                raise DocumentRejected(error.reason, error.message) from None
            found.fields[name].CopyFrom(opened)
        return Whole(found, mark_of(stored.version))

    def sealed(self, sealer: TenantSealer | None, collection: Collection, document: Document) -> Document:
        """The document as it may leave the gateway."""
        names = sealed_names(collection) & set(document.fields)
        if not names:
            return document
        if sealer is None:
            raise ValueError("a sealed field needs a sealer")
        found = Document()
        found.CopyFrom(document)
        for name in names:
            value = sealer.seal(Place(collection.name, document.id, name), document.fields[name])
            found.fields[name].CopyFrom(Value(sealed=value))
        return found

    # Out

    async def show(self, collection: str, documents: Iterable[tuple[str, Fields]], *, strict: bool = False) -> None:
        """Sealed values of (document id, fields) as the caller of this call sees them: opened for an unsealer, else empty.

        One that cannot be opened says so, and the others are shown; `strict`: it raises SealingKeyMissing, SealedValueDamaged
        or SealingUnavailable.
        """
        found = [
            (Place(collection, document_id, name), value) for document_id, fields in documents for name, value in _in(fields)
        ]
        if not found:
            return
        current = call()
        if UNSEALER not in current.roles:
            for _, value in found:
                value.sealed.Clear()
                value.sealed.SetInParent()
            return
        keyring = self._keyring.needed() if strict else self._keyring.current()
        if keyring is None:
            for _, value in found:
                value.sealed.CopyFrom(SealedValue(unreadable=SealingUnavailable.reason))
            return
        record = await self._records.get(current.tenant)
        sealer = TenantSealer(keyring, current.tenant, record.salt if record is not None else _NO_SALT)
        if len(found) > _MANY:
            await asyncio.to_thread(_open_all, sealer, found, strict)
        else:
            _open_all(sealer, found, strict)


def _keeps(value: Value) -> bool:
    return value.WhichOneof("kind") == "sealed" and value.sealed == SealedValue()


def _in(fields: Fields) -> list[tuple[str, Value]]:
    return [(name, value) for name, value in fields.items() if value.WhichOneof("kind") == "sealed"]


def _open_all(sealer: TenantSealer, found: Sequence[tuple[Place, Value]], strict: bool) -> None:
    for place, value in found:
        try:
            value.CopyFrom(sealer.open(place, value.sealed))
        except (SealingKeyMissing, SealedValueDamaged) as error:
            if strict:
                raise
            key_id = error.metadata.get("key_id", "")
            value.sealed.CopyFrom(SealedValue(unreadable=error.reason, key_id=key_id))
