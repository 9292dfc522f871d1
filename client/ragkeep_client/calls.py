"""What every group of the client's calls stands on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ragkeep_runtime.errors import InvalidRequest

if TYPE_CHECKING:
    from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceAsyncStub

SERVICE_TICKETS = "service-tickets"


class Calls:
    """A part of `Client`, which brings the connection."""

    _stub: RagServiceAsyncStub

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        raise NotImplementedError

    def _errors(self) -> AbstractContextManager[None]:
        """What fails inside becomes a RagkeepError."""
        raise NotImplementedError


@contextlib.contextmanager
def writable() -> Iterator[None]:
    """What cannot be written into a message becomes an InvalidRequest."""
    try:
        yield
    except (ValueError, TypeError) as error:
        # protobuf refuses -1 for a uint32, and lone surrogates.
        raise InvalidRequest(f"The request cannot be written: {error}") from None
