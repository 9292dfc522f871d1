"""An installation with a keyring, a collection with sealed fields, and callers who may and may not see them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from ragkeep.gateway.v1 import gateway_pb2 as pb
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.gateway.v1.keys_pb2 import RotateKeysRequest, RotateKeysResponse, RotationState
from ragkeep.gateway.v1.keys_pb2_grpc import KeyServiceStub
from ragkeep.retriever.v1 import retriever_pb2
from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceStub
from ragkeep.types.v1.types_pb2 import (
    FIELD_TYPE_BOOLEAN,
    FIELD_TYPE_KEYWORD,
    FIELD_TYPE_NUMBER,
    FIELD_TYPE_TEXT,
    FIELD_TYPE_TIMESTAMP,
    Collection,
    Document,
    Field,
    Scope,
    Value,
)
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.keyring import Keyring, dump_keyring, new_keyring
from tests.engines.weaviate import WeaviateProcess
from tests.stack import CLI, Stack

UNSEALER, ONLY_UNSEALER = "caller/local/unsealer", "caller/local/only-unsealer"
# Who sees the values and imports them.
KEEPER = "caller/local/keeper"
# Values that are found nowhere by chance.
PLANTED = ("planted-diagnosis-8731", "planted-pin-5527", "918273645.125", "1893-07-11")
GRANTS = {
    CLI: {"tenants": ["*"], "roles": ["reader", "editor", "admin"], "groups": ["*"]},
    UNSEALER: {"tenants": ["*"], "roles": ["reader", "unsealer"], "groups": ["*"]},
    KEEPER: {"tenants": ["*"], "roles": ["reader", "editor", "unsealer"], "groups": ["*"]},
    ONLY_UNSEALER: {"tenants": ["demo"], "roles": ["unsealer"], "groups": ["*"]},
}


def staff(name: str = "staff") -> Collection:
    """Two fields in the open, and a sealed one of each type."""
    return Collection(
        name=name,
        fields=[
            Field(name="name", type=FIELD_TYPE_TEXT, searchable=True, required=True),
            Field(name="team", type=FIELD_TYPE_KEYWORD, filterable=True),
            Field(name="diagnosis", type=FIELD_TYPE_TEXT, sealed=True),
            Field(name="pin", type=FIELD_TYPE_KEYWORD, sealed=True),
            Field(name="salary", type=FIELD_TYPE_NUMBER, sealed=True),
            Field(name="remote", type=FIELD_TYPE_BOOLEAN, sealed=True),
            Field(name="born", type=FIELD_TYPE_TIMESTAMP, sealed=True),
        ],
        title_field="name",
    )


def secrets() -> dict[str, Value]:
    """The planted values, by field."""
    born = Value()
    born.timestamp.FromJsonString("1893-07-11T00:00:00Z")
    return {
        "diagnosis": Value(text="planted-diagnosis-8731"),
        "pin": Value(keyword="planted-pin-5527"),
        "salary": Value(number=918273645.125),
        "remote": Value(boolean=True),
        "born": born,
    }


def person(document_id: str, name: str = "Ada Lovelace", sealed: Mapping[str, Value] | None = None) -> Document:
    """Somebody of the staff."""
    fields = {"name": Value(text=name), "team": Value(keyword="engines")} | dict(secrets() if sealed is None else sealed)
    return Document(id=document_id, fields=fields)


class Sealed:
    """Such an installation."""

    def __init__(self, folder: Path, env: dict[str, dict[str, str]] | None = None, *, tenant: str = "demo") -> None:
        self.keyring_file = folder / "keyring.json"
        self.keyring = new_keyring("k1")
        env = env or {}
        env["gateway"] = {"RAGKEEP_KEYRING": str(self.keyring_file), **env.get("gateway", {})}
        self.stack = Stack(folder, env)
        self.stack.policy.write_text(json.dumps({"operator_tenant": "ops", "callers": GRANTS}))
        self.metadata = (("ragkeep-tenant", tenant),)
        self.write(self.keyring)

    def write(self, keyring: Keyring) -> None:
        """Another keyring, in place of the file at once."""
        self.keyring = keyring
        half = self.keyring_file.with_suffix(".new")
        half.write_bytes(dump_keyring(keyring))
        half.replace(self.keyring_file)

    @asynccontextmanager
    async def rag(self, caller: str = CLI) -> AsyncGenerator[RagServiceStub]:
        """The gateway, as a caller."""
        identity = self.stack.cli if caller == CLI else self.stack.authority.caller(caller)
        async with open_channel(self.stack.target("gateway"), "gateway", identity) as channel:
            yield RagServiceStub(channel)

    async def put(
        self, *documents: Document, collection: str = "staff", dry_run: bool = False, tenant: str = "", caller: str = CLI
    ) -> list[tuple[int, str]]:
        """Imports them; (kind, reason) of each."""
        metadata = (("ragkeep-tenant", tenant),) if tenant else self.metadata
        async with self.rag(caller) as rag:
            request = pb.ImportDocumentsRequest(collection=collection, documents=documents, dry_run=dry_run)
            response = await rag.ImportDocuments(request, metadata=metadata)
        return [(outcome.kind, outcome.reason) for outcome in response.outcomes]

    async def version(self, document_id: str) -> bytes:
        """A document's version, as any reader sees it."""
        async with self.rag() as rag:
            request = pb.GetDocumentRequest(collection="staff", document_id=document_id)
            return (await rag.GetDocument(request, metadata=self.metadata)).document.version

    async def listed(self, caller: str = CLI, collection: str = "staff", tenant: str = "") -> dict[str, Mapping[str, Value]]:
        """Every document's fields by its id, as a caller sees them."""
        metadata = (("ragkeep-tenant", tenant),) if tenant else self.metadata
        async with self.rag(caller) as rag:
            request = pb.ListDocumentsRequest(collection=collection, page_size=1000)
            response = await rag.ListDocuments(request, metadata=metadata)
        return {one.document.id: one.document.fields for one in response.documents}

    async def rotated(
        self, resume: RotationState | None = None, *, dry_run: bool = False, events: int = 0, caller: str = CLI
    ) -> list[RotateKeysResponse]:
        """The events of a rotation; the first few of them, and then the call is cancelled, where `events` says so."""
        identity = self.stack.cli if caller == CLI else self.stack.authority.caller(caller)
        found: list[RotateKeysResponse] = []
        async with open_channel(self.stack.target("gateway"), "gateway", identity) as channel:
            call = KeyServiceStub(channel).RotateKeys(
                RotateKeysRequest(resume=resume, dry_run=dry_run), metadata=(("ragkeep-tenant", "demo"),)
            )
            async for event in call:
                found.append(event)
                if len(found) == events:
                    break
            call.cancel()
        return found

    async def stored_keys(self, tenant: str, collection: str = "staff") -> dict[str, set[str]]:
        """The keys of each document's values as the retriever has them."""
        identity = self.stack.identities["gateway"]
        async with open_channel(self.stack.target("retriever"), "retriever", identity) as channel:
            scope = Scope(tenant=tenant, every_document=True)
            request = retriever_pb2.ListDocumentsRequest(scope=scope, collection=collection, page_size=1000)
            page = await RetrieverServiceStub(channel).ListDocuments(request)
        return {
            one.document.id: {value.sealed.key_id for value in one.document.fields.values() if value.HasField("sealed")}
            for one in page.documents
        }


@contextmanager
def sealed_on(store: str, folder: Path) -> Iterator[Sealed]:
    """A running installation on one of the stores, with the collection `staff`."""
    env: dict[str, dict[str, str]] = {}
    with ExitStack() as ending:
        if store == "weaviate":
            weaviate = WeaviateProcess(folder)
            ending.callback(weaviate.stop)
            weaviate.start()
            address = {"RAGKEEP_WEAVIATE_URL": weaviate.url, "RAGKEEP_WEAVIATE_GRPC_PORT": str(weaviate.grpc_port)}
            env["retriever"] = {"RAGKEEP_ENGINE": "weaviate", **address}
        found = Sealed(folder, env)
        ending.callback(found.stack.stop)
        found.stack.start()

        async def create() -> None:
            async with found.rag() as rag:
                await rag.CreateCollection(pb.CreateCollectionRequest(collection=staff()), metadata=found.metadata)

        asyncio.run(create())
        yield found
