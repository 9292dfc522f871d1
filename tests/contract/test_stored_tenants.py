"""One suite for every store: tenants' records, and the end of a tenant."""

from __future__ import annotations

import asyncio
import base64
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ragkeep_retriever.sqlite import SqliteStore
from ragkeep_retriever.store import PassageStore
from ragkeep_retriever.tenant_records import digest
from ragkeep_retriever.values import Collection, Put, Query, Scope, TenantRecord
from ragkeep_runtime.errors import TenantInactive, TenantUnknown
from tests.engines.weaviate import WeaviateProcess
from tests.stores import definition, document, ids

NAMES = pytest.mark.parametrize("shape", ["t-{}", "张三/Org:{}"], ids=["plain", "hashed"])


def fresh(shape: str = "t-{}") -> str:
    """A tenant's name that nobody else has."""
    return shape.format(uuid.uuid4().hex[:12])


async def listed(store: PassageStore, name: str) -> tuple[TenantRecord, dict[str, int]] | None:
    """The tenant's place in the list."""
    return next((one for one in (await store.tenants()).tenants if one[0].name == name), None)


@NAMES
async def test_a_tenant_is_made_once(store: PassageStore, shape: str) -> None:
    """With a salt that stays; asked again, it is the same one; what nobody made is unknown."""
    name = fresh(shape)
    with pytest.raises(TenantUnknown):
        await store.tenant(name)
    made, is_new = await store.ensure_tenant(name)
    assert (made.name, made.active, made.deleting, is_new, len(made.salt)) == (name, True, None, True, 32)
    assert datetime.now(UTC) - made.created < timedelta(minutes=1)
    assert await store.ensure_tenant(name) == (made, False)
    assert await store.tenant(name) == made
    assert await listed(store, name) == (made, {})
    other, _ = await store.ensure_tenant(fresh(shape))
    assert other.salt != made.salt
    assert str(made.salt) not in repr(made)


async def test_who_makes_a_tenant_at_once_gets_the_same_salt(store: PassageStore, second_store: PassageStore) -> None:
    """From two processes' stores, each asked twice: exactly one made it."""
    name = fresh()
    found = await asyncio.gather(*(one.ensure_tenant(name) for one in (store, second_store, store, second_store)))
    assert len({record.salt for record, _ in found}) == 1
    assert [is_new for _, is_new in found].count(True) == 1
    assert await second_store.tenant(name) == found[0][0]


@NAMES
async def test_documents_of_a_tenant_without_a_record_make_it_known(
    store: PassageStore, collection: Collection, shape: str
) -> None:
    """As an older version left them: asked for by its name it has a record; by a plain name it is in the list before."""
    name = fresh(shape)
    before = await store.tenants()
    assert await store.put(Scope(name, None), collection, [document("a"), document("b")]) == [Put.CREATED, Put.CREATED]
    after = await store.tenants()
    if shape.isascii():
        found = await listed(store, name)
        assert found is not None
        assert found[1] == {collection.name: 2}
        assert after.unnamed == before.unnamed
    else:
        assert await listed(store, name) is None
        assert after.unnamed == before.unnamed + 1
    record = await store.tenant(name)
    assert await listed(store, name) == (record, {collection.name: 2})
    assert (await store.tenants()).unnamed == before.unnamed
    assert (await store.tenants(count=False)).tenants == [(one, {}) for one, _ in (await store.tenants()).tenants]


async def test_a_tenant_that_is_not_active_takes_no_documents(store: PassageStore, collection: Collection) -> None:
    """Until it is active again; what it has stays."""
    name = fresh()
    made, _ = await store.ensure_tenant(name)
    await store.put(Scope(name, None), collection, [document("a")])
    stopped = await store.set_tenant_active(name, False)
    assert (stopped.active, stopped.salt, stopped.created) == (False, made.salt, made.created)
    assert await store.tenant(name) == stopped
    assert await store.ensure_tenant(name) == (stopped, False)
    with pytest.raises(TenantInactive, match="activate"):
        await store.put(Scope(name, None), collection, [document("b")])
    assert await listed(store, name) == (stopped, {collection.name: 1})
    assert await store.set_tenant_active(name, True) == made
    assert await store.put(Scope(name, None), collection, [document("b")]) == [Put.CREATED]
    with pytest.raises(TenantUnknown):
        await store.set_tenant_active(fresh(), True)


@NAMES
async def test_a_deleted_tenant_leaves_nothing_but_others(store: PassageStore, collection: Collection, shape: str) -> None:
    """All that it had in every collection, counted; its record and salt; whoever comes under its name begins with nothing."""
    second = await store.create_collection(definition())
    name, other = fresh(shape), fresh(shape)
    made, _ = await store.ensure_tenant(name)
    for tenant in (name, other):
        await store.put(Scope(tenant, None), collection, [document("a", "text one", "text two"), document("b")])
        await store.put(Scope(tenant, None), second, [document("c")])
    assert ids(await store.search(Scope(name, None), collection, Query(text="text"))) != []
    await store.set_tenant_active(name, False)
    assert await store.delete_tenant(name) == {collection.name: 2, second.name: 1}

    with pytest.raises(TenantUnknown):
        await store.tenant(name)
    assert await listed(store, name) is None
    assert ids(await store.search(Scope(name, None), collection, Query(text="text"))) == []
    assert (await store.versions(Scope(name, None), collection.name, ["a", "b"])).seen == {}
    assert (await store.documents(Scope(name, None), second)).documents == []
    assert {one.name: count for one, count in await store.collections(Scope(name, None))}[collection.name] == 0
    assert len(ids(await store.search(Scope(other, None), collection, Query(text="text", passages_per_document=1)))) == 2
    assert len((await store.documents(Scope(other, None), second)).documents) == 1
    with pytest.raises(TenantUnknown, match="deleted"):
        await store.put(Scope(name, None), collection, [document("a")])
    assert await store.delete_tenant(name) == {}
    with pytest.raises(TenantUnknown):
        await store.delete_tenant(fresh())

    again, is_new = await store.ensure_tenant(name)
    assert is_new
    assert again.salt != made.salt
    assert (await store.documents(Scope(name, None), collection)).documents == []
    assert await store.put(Scope(name, None), collection, [document("d")]) == [Put.CREATED]
    assert ids(await store.search(Scope(name, None), collection, Query(text="text"))) == ["d"]


async def test_what_was_made_for_a_deleted_tenant_is_not_put_into_the_next_of_its_name(
    store: PassageStore, second_store: PassageStore, collection: Collection
) -> None:
    """Whoever deleted it: the put names the record that it was made and sealed for."""
    name = fresh()
    scope = Scope(name, None)
    with pytest.raises(TenantUnknown, match="deleted"):
        await store.put(scope, collection, [document("a")], record=b"r" * 32)
    before = digest((await store.ensure_tenant(name))[0])
    assert await store.put(scope, collection, [document("a")], record=before) == [Put.CREATED]
    await second_store.delete_tenant(name)
    now = digest((await second_store.ensure_tenant(name))[0])
    with pytest.raises(TenantUnknown, match="deleted"):
        await store.put(scope, collection, [document("a")], record=before)
    assert (await store.documents(scope, collection)).documents == []
    assert await store.put(scope, collection, [document("b")], record=now) == [Put.CREATED]


async def test_a_tenant_that_another_process_deletes_has_nothing_from_then_on(
    store: PassageStore, second_store: PassageStore, collection: Collection
) -> None:
    """Nor is it a defect to ask: a store that saw the tenant a moment ago has not heard of it."""
    calls: list[Callable[[Scope], Awaitable[object]]] = [
        lambda scope: store.documents(scope, collection),
        lambda scope: store.document(scope, collection, "a"),
        lambda scope: store.versions(scope, collection.name, ["a"]),
        lambda scope: store.delete(scope, collection, {"a": None}),
        lambda scope: store.search(scope, collection, Query("text", None)),
        lambda scope: store.collections(scope),
    ]
    for call in calls:
        name = fresh()
        scope = Scope(name, None)
        await store.ensure_tenant(name)
        nothing = await call(scope)
        await store.put(scope, collection, [document("a")])
        assert len((await store.search(scope, collection, Query("text", None))).hits) == 1
        await second_store.delete_tenant(name)
        assert await call(scope) == nothing
        with pytest.raises(TenantUnknown, match="deleted"):
            await store.put(scope, collection, [document("b")])


async def test_a_put_and_the_deletion_of_its_tenant_never_both_leave_something(
    store: PassageStore, collection: Collection
) -> None:
    """Whoever comes first: afterwards nothing of the tenant is there, and what was acknowledged is counted."""
    for round_ in range(5):
        name = fresh()
        await store.ensure_tenant(name)
        await store.put(Scope(name, None), collection, [document("before")])

        async def put(tenant: str, delay: float) -> int:
            await asyncio.sleep(delay)
            try:
                return len(await store.put(Scope(tenant, None), collection, [document(f"d{n}") for n in range(20)]))
            except (TenantInactive, TenantUnknown):
                return 0

        acknowledged, deleted = await asyncio.gather(put(name, round_ * 0.01), store.delete_tenant(name))
        assert deleted[collection.name] >= 1 + acknowledged
        assert (await store.documents(Scope(name, None), collection)).documents == []
        assert await listed(store, name) is None


DELETER = """
import asyncio, os, signal, sys
from pathlib import Path
engine, place, port, name, step = sys.argv[1:]
if engine == "sqlite":
    from ragkeep_retriever.sqlite import SqliteStore
    store = SqliteStore(Path(place))
else:
    from ragkeep_retriever.weaviate import WeaviateStore
    store = WeaviateStore(place, int(port))
removed = 0
def killed():
    global removed
    removed += 1
    if removed == int(step):
        os.kill(os.getpid(), signal.SIGKILL)
if engine == "sqlite":
    sys.addaudithook(lambda event, args: killed() if event == "os.remove" else None)
else:
    from weaviate.collections.tenants import _TenantsAsync as Tenants
    remove = Tenants.remove
    async def counted(self, *args):
        killed()
        return await remove(self, *args)
    Tenants.remove = counted
print(asyncio.run(store.delete_tenant(name)))
"""


@pytest.mark.parametrize("step", [1, 2, 3])
async def test_a_killed_deletion_is_ended_by_another(
    store: PassageStore, second_store: PassageStore, collection: Collection, place: tuple[str, str, str], step: int
) -> None:
    """kill -9 before the first, second, third thing is removed: it is known as going, takes nothing, and tells all at its end."""
    second = await store.create_collection(definition())
    name = fresh()
    await store.ensure_tenant(name)
    for one in (collection, second):
        await store.put(Scope(name, None), one, [document(f"d{n}") for n in range(3)])
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", DELETER, *place, name, str(step))
    assert await process.wait() == -9
    going = await second_store.tenant(name)
    assert not going.active
    assert going.deleting == {collection.name: 3, second.name: 3}
    with pytest.raises(TenantInactive, match="being deleted"):
        await second_store.put(Scope(name, None), collection, [document("x")])
    with pytest.raises(TenantInactive):
        await second_store.set_tenant_active(name, True)
    assert await second_store.delete_tenant(name) == {collection.name: 3, second.name: 3}
    assert await listed(second_store, name) is None
    assert (await second_store.documents(Scope(name, None), collection)).documents == []


@pytest.mark.engine("sqlite")
async def test_a_deleted_tenants_file_is_gone_while_others_search(tmp_path: Path) -> None:
    """From the disk, also where every thread had it open, and its salt with it; searches beside it go on."""
    store = SqliteStore(tmp_path)
    collection = await store.create_collection(definition())
    salt = base64.b64encode((await store.ensure_tenant("goes"))[0].salt)
    await store.set_tenant_active("goes", False)
    await store.set_tenant_active("goes", True)
    assert any(salt in path.read_bytes() for path in tmp_path.iterdir())
    for tenant in ("stays", "goes"):
        await store.put(Scope(tenant, None), collection, [document(f"d{n}") for n in range(50)])
    query = Query(text="text", limit=50)
    searches = [store.search(Scope(tenant, None), collection, query) for tenant in ("stays", "goes") * 20]
    results, deleted = await asyncio.gather(asyncio.gather(*searches), store.delete_tenant("goes"))
    assert deleted == {collection.name: 50}
    assert {len(found.hits) for found in results[::2]} == {50}
    assert [path.name for path in tmp_path.glob("tenant-goes*")] == []
    assert not any(salt in path.read_bytes() for path in tmp_path.iterdir())
    opened = {str(target) for link in Path("/proc/self/fd").iterdir() if (target := read(link)) is not None}
    assert not any("tenant-goes" in one for one in opened)
    await store.close()


def read(link: Path) -> Path | None:
    """What a descriptor stands for; None where it was closed meanwhile."""
    try:
        return link.readlink()
    except FileNotFoundError:
        return None


@pytest.mark.engine("weaviate")
async def test_a_proposal_that_was_left_behind_harms_nobody(weaviate_server: WeaviateProcess) -> None:
    """A retriever that died between proposing and writing: the next one makes the tenant, and both salts die with it."""
    import weaviate

    from ragkeep_retriever.tenant_records import dump, new_record
    from ragkeep_retriever.weaviate import WeaviateStore
    from ragkeep_retriever.weaviate_schema import TENANTS
    from ragkeep_retriever.weaviate_tenants import _proposed

    store, name = WeaviateStore(weaviate_server.url, weaviate_server.grpc_port), fresh()
    await store.ensure_tenant(fresh())
    port = int(weaviate_server.url.rpartition(":")[2])
    async with weaviate.use_async_with_local(port=port, grpc_port=weaviate_server.grpc_port, skip_init_checks=True) as client:
        objects = client.collections.use(TENANTS)
        await objects.data.insert({"name": _proposed(name), "record": dump(new_record(name))})
        made, _ = await store.ensure_tenant(name)
        assert await store.tenant(name) == made
        await store.delete_tenant(name)
        left = [
            one.properties for one in (await objects.query.fetch_objects(limit=1000)).objects if name in str(one.properties)
        ]
    assert [("salt" in str(one["record"]), "deleted" in str(one["record"])) for one in left] == [(False, True)]
    await store.close()
