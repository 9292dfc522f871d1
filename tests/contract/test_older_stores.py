"""Stores that an older ragkeep wrote: read as it meant them, and written in the new form at the next change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from ragkeep_retriever.analyzer import FINGERPRINT
from ragkeep_retriever.catalogue import VERSION, version_of
from ragkeep_retriever.sqlite import SqliteStore
from ragkeep_retriever.values import Collection, Put, Query
from ragkeep_runtime.errors import AnalyzerMismatch, CatalogueTooNew
from tests.engines.weaviate import WeaviateProcess
from tests.stores import ALL, definition, document, ids


def first_form(collection: Collection) -> str:
    """The entry as the catalogue's first version wrote it."""
    plain = {
        "name": collection.name,
        "fields": [
            {"name": f.name, "type": f.type.value, "filterable": f.filterable, "required": f.required}
            for f in collection.fields
        ],
        "content_template": collection.content_template,
        "space": {"model": "test", "digest": "digest", "dimension": 16, "probes": ""},
        "cjk_characters": 350,
        "latin_characters": 1000,
        "vector_index": {"ef": 200, "ef_construction": 256, "max_connections": 64},
        "title_field": "",
        "revision": 1,
    }
    return json.dumps({"version": 1, "analyzer": FINGERPRINT, "collection": plain})


@pytest.mark.engine("sqlite")
async def test_an_older_sqlite_store_is_used_and_upgraded(tmp_path: Path) -> None:
    """Documents stay; the entry has the new form after a change; a newer or foreign one is refused."""
    store = SqliteStore(tmp_path)
    collection = await store.create_collection(definition())
    await store.put(ALL, collection, [document("a")])
    catalogue = apsw.Connection(str(tmp_path / "catalogue.db"))

    def write(text: str) -> None:
        catalogue.execute("UPDATE collections SET definition = ?", (text,))

    write(first_form(collection))
    found = await store.collection(collection.name)
    assert found == replace(collection, space=replace(collection.space, probes=b""))
    assert await store.put(ALL, found, [document("a"), document("b")]) == [Put.UNCHANGED, Put.CREATED]
    change = await store.update_collection(replace(found, title_field="title"))
    assert change.collection.revision == 2
    (text,) = next(iter(catalogue.execute("SELECT definition FROM collections")))
    assert version_of(text) == VERSION

    write(json.dumps({**json.loads(text), "analyzer": "0/unicode-1"}))
    with pytest.raises(AnalyzerMismatch, match="Export"):
        await store.collection(collection.name)
    readable = await store.collection(collection.name, any_analyzer=True)
    assert [one.id for one in (await store.documents(ALL, readable)).documents] == ["a", "b"]
    assert await store.delete(ALL, readable, {"a": None}) == ["a"]
    assert [count for _, count in await store.collections(ALL)] == [1]

    write(json.dumps({**json.loads(text), "version": VERSION + 1}))
    for refused in (store.collection(collection.name), store.collections(ALL), store.delete_collection(collection.name)):
        with pytest.raises(CatalogueTooNew, match=collection.name):
            await refused
    catalogue.close()
    await store.close()


@pytest.mark.engine("weaviate")
async def test_an_older_weaviate_store_is_used_and_upgraded(weaviate_server: WeaviateProcess) -> None:
    """Its manifests have no groups: they are read from the passages, until the document is put again."""
    import weaviate
    from weaviate.classes.data import DataObject

    from ragkeep_retriever.weaviate import WeaviateStore
    from ragkeep_retriever.weaviate_connection import object_id, tenant_name
    from ragkeep_retriever.weaviate_schema import CATALOGUE, manifests_class

    store = WeaviateStore(weaviate_server.url, weaviate_server.grpc_port)
    collection = await store.create_collection(definition())
    await store.put(ALL, collection, [document("open"), document("hr", groups=["hr"])])
    port = int(weaviate_server.url.rpartition(":")[2])
    async with weaviate.use_async_with_local(port=port, grpc_port=weaviate_server.grpc_port, skip_init_checks=True) as client:
        # The class as it was then, with what was in it.
        name, tenant = manifests_class(collection.name), tenant_name("demo")
        objects = (await client.collections.use(name).with_tenant(tenant).query.fetch_objects()).objects
        config = await client.collections.export_config(name)
        config.properties = [one for one in config.properties if one.name != "groups"]
        await client.collections.delete(name)
        await client.collections.create_from_config(config)
        await client.collections.use(name).tenants.create([tenant])
        older = [
            DataObject(properties={k: v for k, v in one.properties.items() if k != "groups"}, uuid=one.uuid) for one in objects
        ]
        assert not (await client.collections.use(name).with_tenant(tenant).data.insert_many(older)).has_errors
        entry = {"name": collection.name, "definition": first_form(collection)}
        await client.collections.use(CATALOGUE).data.replace(uuid=object_id(collection.name), properties=entry)

        found = await store.collection(collection.name)
        hr = await store.document(ALL, found, "hr")
        assert hr is not None
        assert hr.groups == ("hr",)
        it = replace(ALL, groups=frozenset({"it"}))
        assert [one.id for one in (await store.documents(it, found)).documents] == ["open"]
        assert await store.delete(it, found, {"hr": None, "open": None}) == ["open"]
        assert await store.put(ALL, found, [document("hr", groups=["hr"]), document("new", groups=["it"])]) == [
            Put.UNCHANGED,
            Put.CREATED,
        ]
        properties = {one.name for one in (await client.collections.use(name).config.get()).properties}
        assert "groups" in properties
        text = await client.collections.use(CATALOGUE).query.fetch_object_by_id(object_id(collection.name))
        assert version_of(str(text.properties["definition"])) == VERSION
        assert {one.id for one in (await store.documents(it, found)).documents} == {"new"}
        assert set(ids(await store.search(ALL, found, Query(text="text")))) == {"hr", "new"}
    await store.close()
