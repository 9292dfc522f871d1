"""Each store in turn, and a fresh collection in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ragkeep_retriever.sqlite import SqliteStore
from ragkeep_retriever.store import Collection, PassageStore
from tests.engines.weaviate import WeaviateProcess
from tests.stores import ADAPTERS, definition


@pytest.fixture(params=ADAPTERS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[PassageStore]:
    """Each adapter in turn."""
    found: PassageStore
    if request.param == "sqlite":
        found = SqliteStore(tmp_path)
    else:
        from ragkeep_retriever.weaviate import WeaviateStore

        server: WeaviateProcess = request.getfixturevalue("weaviate_server")
        found = WeaviateStore(server.url, server.grpc_port)
    yield found
    await found.close()


@pytest.fixture
async def collection(store: PassageStore) -> Collection:
    """A fresh collection."""
    return await store.create_collection(definition())
