"""A Weaviate that goes away while the retriever is connected to it: said at once, and found again when it is back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ragkeep_retriever.values import Put, Query
from ragkeep_retriever.weaviate import WeaviateStore
from ragkeep_runtime.errors import EngineUnreachable
from tests.engines.weaviate import WeaviateProcess
from tests.stores import ALL, definition, document, ids, vector


@pytest.mark.engine("weaviate")
async def test_a_lost_weaviate_is_named_at_once_and_found_again(tmp_path: Path) -> None:
    """The client would ask again for a minute; what callers get then is their own deadline, which names nothing."""
    weaviate = WeaviateProcess(tmp_path)
    store = WeaviateStore(weaviate.url, weaviate.grpc_port)
    try:
        weaviate.start()
        collection = await store.create_collection(definition())
        assert await store.put(ALL, collection, [document("a")]) == [Put.CREATED]
        query = Query(None, vector("text of a"), limit=10)
        assert ids(await store.search(ALL, collection, query)) == ["a"]

        weaviate.kill()
        # Several times: the first finds the connection broken, the others find none. Far below the client's minute.
        async with asyncio.timeout(30):
            for _ in range(5):
                with pytest.raises(EngineUnreachable, match=str(weaviate.http_port)):
                    await store.search(ALL, collection, query)
                with pytest.raises(EngineUnreachable, match=str(weaviate.http_port)):
                    await store.put(ALL, collection, [document("b")])

        weaviate.start()
        while True:
            try:
                assert await store.put(ALL, collection, [document("b")]) == [Put.CREATED]
            except EngineUnreachable:
                await asyncio.sleep(0.1)  # the test's own time limit ends this
            else:
                break
        assert sorted(ids(await store.search(ALL, collection, query))) == ["a", "b"]
    finally:
        await store.close()
        weaviate.stop()
