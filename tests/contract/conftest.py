"""Each store in turn, and a fresh collection in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ragkeep_retriever.sqlite import SqliteStore
from ragkeep_retriever.store import PassageStore
from ragkeep_retriever.values import Collection
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
def place(request: pytest.FixtureRequest, store: PassageStore, tmp_path: Path) -> tuple[str, str, str]:
    """Where the store is, for another process: engine, folder or address, port."""
    if isinstance(store, SqliteStore):
        return "sqlite", str(tmp_path), "0"
    server: WeaviateProcess = request.getfixturevalue("weaviate_server")
    return "weaviate", server.url, str(server.grpc_port)


@pytest.fixture
async def second_store(place: tuple[str, str, str]) -> AsyncIterator[PassageStore]:
    """Another process's view of the same store."""
    engine, where, port = place
    found: PassageStore
    if engine == "sqlite":
        found = SqliteStore(Path(where))
    else:
        from ragkeep_retriever.weaviate import WeaviateStore

        found = WeaviateStore(where, int(port))
    yield found
    await found.close()


@pytest.fixture
async def collection(store: PassageStore) -> Collection:
    """A fresh collection."""
    return await store.create_collection(definition())
