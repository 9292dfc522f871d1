"""KeyService: what is sealed, for the operator."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ragkeep.gateway.v1 import keys_pb2, keys_pb2_grpc
from ragkeep_gateway.audit.record import Audit
from ragkeep_gateway.sealing.keyring import KeyringFile
from ragkeep_gateway.sealing.rotation import Rotation

if TYPE_CHECKING:
    from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub


class KeyService(keys_pb2_grpc.KeyServiceServicer):
    """Serves one keyring."""

    def __init__(self, audit: Audit, keyring: KeyringFile, retriever: RetrieverServiceAsyncStub) -> None:
        self._audit = audit
        self._keyring = keyring
        self._retriever = retriever

    async def RotateKeys(
        self, request: keys_pb2.RotateKeysRequest, context: Any
    ) -> AsyncGenerator[keys_pb2.RotateKeysResponse]:
        """How far it is, until all is sealed anew."""
        current = self._keyring.current()
        active = "" if current is None else current.active
        async with self._audit.acting(active_key=active, dry_run=request.dry_run) as record:
            keyring = self._keyring.needed()
            rotation = Rotation(self._retriever, keyring, dry_run=request.dry_run)
            async with aclosing(rotation.run(request.resume)) as events:
                async for event in events:
                    record.did(of_documents=event.state.documents, resealed=event.state.resealed_documents)
                    yield event
