"""Keys are rotated while all else goes on, over the real RPCs and on both stores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import grpc
import pytest

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.types.v1.types_pb2 import Value
from ragkeep_runtime.errors import from_rpc_error
from tests.sealing import GRANTS, UNSEALER, Sealed, person, sealed_on, secrets, staff
from tests.stack import READER
from tests.stores import ADAPTERS
from tests.waiting import until_next_call_reads_again

pytestmark = [pytest.mark.engine("e5"), pytest.mark.engine("quote")]
MANY = 130  # more than a page


@pytest.fixture(scope="module", params=ADAPTERS)
def sealed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealed]:
    """Two tenants' sealed values in two collections, on each store in turn."""
    with sealed_on(request.param, tmp_path_factory.mktemp("rotation")) as found:
        asyncio.run(_fill(found))
        yield found


async def _fill(sealed: Sealed) -> None:
    async with sealed.rag() as rag:
        other = pb.CreateCollectionRequest(collection=staff("others"))
        await rag.CreateCollection(other, metadata=sealed.metadata)
    documents = [person(f"D-{n}", f"P{n}", {"pin": Value(keyword=f"pin {n}"), "salary": Value(number=n)}) for n in range(MANY)]
    await sealed.put(*documents[:100])
    await sealed.put(*documents[100:])
    await sealed.put(person("E-1"), person("E-2", sealed={}), tenant="elsewhere")
    await sealed.put(person("F-1"), collection="others", tenant="elsewhere")


async def keys_in_use(sealed: Sealed) -> set[str]:
    """Of all that is stored."""
    found = [await sealed.stored_keys("demo"), await sealed.stored_keys("elsewhere")]
    found.append(await sealed.stored_keys("elsewhere", "others"))
    return {key for documents in found for keys in documents.values() for key in keys}


async def next_key(sealed: Sealed) -> str:
    """Makes another key active, and waits until the gateway has it."""
    name = f"k{len(sealed.keyring.keys) + 1}-{sealed.keyring.active}"[:40]
    sealed.write(sealed.keyring.with_key(name, active=True))
    await until_next_call_reads_again()
    return name


async def test_everything_is_sealed_anew_and_nothing_is_embedded(sealed: Sealed) -> None:
    """Of every tenant in every collection; versions stay, old keys open meanwhile, and afterwards they may be removed."""
    before = await keys_in_use(sealed)
    async with sealed.rag() as rag:
        request = pb.ListDocumentsRequest(collection="staff", page_size=1000)
        versions = {
            one.document.id: one.version for one in (await rag.ListDocuments(request, metadata=sealed.metadata)).documents
        }
    embedded = sealed.stack.log("embedder").count("EmbedderService/Embed")
    assert embedded > 0
    key = await next_key(sealed)
    assert (await sealed.listed(UNSEALER))["D-7"]["salary"].number == 7
    dry = (await sealed.rotated(dry_run=True))[-1]
    assert (dry.done, list(dry.unused_keys), dry.state.resealed_documents) == (True, [], 0)
    assert set(dry.state.values_by_key) == before == await keys_in_use(sealed)
    events = await sealed.rotated()
    last = events[-1]
    assert [event.done for event in events] == [False] * (len(events) - 1) + [True]
    assert [event.state.documents for event in events] == sorted(event.state.documents for event in events)
    assert len({event.state.documents for event in events}) > 3
    assert last.state.documents == last.state.total_documents == MANY + 3
    assert last.state.resealed_documents == MANY + 2
    assert dict(last.state.values_by_key) == {key: 2 * MANY + 2 * len(secrets())}
    assert (set(last.unused_keys), list(last.missing_keys), last.state.unreadable_values) == (
        set(sealed.keyring.keys) - {key},
        [],
        0,
    )
    assert await keys_in_use(sealed) == {key}
    again = (await sealed.rotated())[-1]
    assert (again.state.documents, again.state.resealed_documents) == (MANY + 3, 0)
    for old in last.unused_keys:
        sealed.write(sealed.keyring.without(old))
    await until_next_call_reads_again()
    listed = await sealed.listed(UNSEALER)
    assert [listed[f"D-{n}"]["salary"].number for n in range(MANY)] == list(range(MANY))
    assert (await sealed.listed(UNSEALER, "others", "elsewhere"))["F-1"]["pin"].keyword == "planted-pin-5527"
    async with sealed.rag() as rag:
        found = await rag.ListDocuments(request, metadata=sealed.metadata)
    assert {one.document.id: one.version for one in found.documents} == versions
    assert sealed.stack.log("embedder").count("EmbedderService/Embed") == embedded


async def test_what_was_broken_off_is_gone_on_with(sealed: Sealed) -> None:
    """From the last state that came, at a gateway that was killed meanwhile; counts go on, and nothing is left out."""
    key = await next_key(sealed)
    first = await sealed.rotated(events=3)
    assert 0 < first[-1].state.documents < MANY + 3
    sealed.stack.kill("gateway")
    sealed.stack.start("gateway")
    # The former one's too, unless the gateway was quicker than its end.
    assert key in await keys_in_use(sealed)
    rest = await sealed.rotated(first[-1].state)
    assert rest[0].state == first[-1].state
    assert rest[-1].state.documents == MANY + 3
    assert dict(rest[-1].state.values_by_key) == {key: 2 * MANY + 2 * len(secrets())}
    assert await keys_in_use(sealed) == {key}
    # A state of another active key is not gone on with.
    newer = await next_key(sealed)
    anew = await sealed.rotated(first[-1].state)
    assert anew[0].state.documents == 0
    assert set(anew[-1].state.values_by_key) == {newer}


async def test_imports_go_on_while_keys_are_rotated(sealed: Sealed) -> None:
    """Documents that change under the rotation keep the values that they were given, and have the active key at its end."""
    given: dict[str, float] = {}
    stop = asyncio.Event()

    async def write() -> None:
        number = 1000
        while not stop.is_set():
            for document_id in ("D-0", "D-50", "D-129"):
                number += 1
                values = {"pin": Value(keyword="changed"), "salary": Value(number=number)}
                await sealed.put(person(document_id, f"P{document_id}", values))
                given[document_id] = number

    key = await next_key(sealed)
    writing = asyncio.create_task(write())
    try:
        for _ in range(3):
            last = (await sealed.rotated())[-1]
            assert set(last.state.values_by_key) == {key}
            key = await next_key(sealed)
        last = (await sealed.rotated())[-1]
    finally:
        stop.set()
        await writing
    assert set(last.state.values_by_key) == {key}
    assert await keys_in_use(sealed) == {key}
    listed = await sealed.listed(UNSEALER)
    assert {name: listed[name]["salary"].number for name in given} == given
    assert listed["D-7"]["salary"].number == 7


async def test_a_lost_key_is_named_and_the_rest_is_sealed_anew(sealed: Sealed) -> None:
    """Its values are left as they are: with the key put back, another rotation takes them along."""
    whole = sealed.keyring
    await next_key(sealed)
    lost = sealed.keyring.active
    await sealed.put(person("L-1", "Lost"), tenant="elsewhere")
    with_lost = sealed.keyring
    sealed.write(sealed.keyring.activated(whole.active).without(lost))
    await until_next_call_reads_again()
    last = (await sealed.rotated())[-1]
    assert (list(last.missing_keys), last.state.unreadable_values) == ([lost], len(secrets()))
    assert (await sealed.stored_keys("elsewhere"))["L-1"] == {lost}
    sealed.write(with_lost.activated(whole.active))
    await until_next_call_reads_again()
    last = (await sealed.rotated())[-1]
    assert (list(last.missing_keys), last.state.unreadable_values, last.state.resealed_documents) == ([], 0, 1)
    assert lost in last.unused_keys
    assert (await sealed.listed(UNSEALER, tenant="elsewhere"))["L-1"]["pin"].keyword == "planted-pin-5527"


async def test_only_the_operators_admins_rotate(sealed: Sealed) -> None:
    """Neither an unsealer nor an admin of one tenant."""
    grants = {**GRANTS, READER: {"tenants": ["demo"], "roles": ["reader", "admin"], "groups": ["*"]}}
    sealed.stack.policy.write_text(json.dumps({"operator_tenant": "ops", "callers": grants}))
    await until_next_call_reads_again()
    for caller in (UNSEALER, READER):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await sealed.rotated(caller=caller)
        assert from_rpc_error(failed.value).reason == "NOT_ALLOWED"
