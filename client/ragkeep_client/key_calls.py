"""The gateway's RPC for the keys of sealed fields, typed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

import grpc

from ragkeep.gateway.v1 import keys_pb2
from ragkeep.gateway.v1.keys_pb2_grpc import KeyServiceStub
from ragkeep_client.calls import Calls
from ragkeep_runtime.errors import DeadlineExceeded

# As long as a gateway lets one call take.
_ROTATE_S = 300.0


@dataclass(frozen=True, slots=True)
class Rotation:
    """How far the keys' rotation is; what it counted so far."""

    active_key: str  # that values are sealed with anew
    total_documents: int  # as counted at the beginning
    documents: int  # looked at
    resealed_documents: int
    unreadable_values: int  # that could not be opened
    values_by_key: Mapping[str, int]
    done: bool = False
    unused_keys: tuple[str, ...] = ()  # of the keyring, that nothing needs any more; once it is done
    missing_keys: tuple[str, ...] = ()  # that values need and the keyring does not hold; once it is done


class KeyCalls(Calls):
    """Part of `Client`."""

    _channel: grpc.aio.Channel

    async def rotate_keys(self, *, dry_run: bool = False) -> AsyncGenerator[Rotation]:
        """Seals all that is sealed anew with the keyring's active key, for the operator's admins; the last one is `done`.

        A call lasts five minutes at most: as long as it came further meanwhile, it is gone on with. One that broke is repeated;
        what was done is passed over. `dry_run` seals nothing, and counts.
        """
        stub = KeyServiceStub(self._channel)
        request = keys_pb2.RotateKeysRequest(dry_run=dry_run)
        while True:
            before = request.resume.documents
            call = stub.RotateKeys(request, timeout=_ROTATE_S, metadata=self._metadata)
            try:
                with self._errors():
                    async for message in call:
                        request.resume.CopyFrom(message.state)
                        yield _rotation(message)
                return
            except DeadlineExceeded:
                if request.resume.documents <= before:
                    raise
            finally:
                call.cancel()


def _rotation(message: keys_pb2.RotateKeysResponse) -> Rotation:
    state = message.state
    return Rotation(
        active_key=state.active_key,
        total_documents=state.total_documents,
        documents=state.documents,
        resealed_documents=state.resealed_documents,
        unreadable_values=state.unreadable_values,
        values_by_key=dict(state.values_by_key),
        done=message.done,
        unused_keys=tuple(message.unused_keys),
        missing_keys=tuple(message.missing_keys),
    )
