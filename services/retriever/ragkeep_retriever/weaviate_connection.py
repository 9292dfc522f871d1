"""The connection to one Weaviate: classes and tenants as ragkeep names them, and its failures as domain errors."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import re
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import httpx

from ragkeep_retriever.weaviate_channel import LOST, WeaviateAddress
from ragkeep_retriever.weaviate_schema import manifests_class, passages_class, sealed_class
from ragkeep_runtime.errors import EngineFailed, EngineUnreachable
from ragkeep_runtime.logs import get_logger

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import weaviate
    from weaviate.classes.config import ConsistencyLevel
    from weaviate.classes.init import AdditionalConfig, Auth, Timeout
    from weaviate.classes.tenants import Tenant
    from weaviate.exceptions import (
        UnexpectedStatusCodeError,
        WeaviateBaseError,
        WeaviateClosedClientError,
        WeaviateConnectionError,
        WeaviateGRPCUnavailableError,
        WeaviateQueryError,
        WeaviateStartUpError,
    )

P = ParamSpec("P")
T = TypeVar("T")
log = get_logger()
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,61}")
_NAMESPACE = uuid.UUID("6f0c8f0e-6f6e-5a39-9c1e-7d1d1f2c9a54")
# How long a tenant that was seen is taken to be there: another replica may delete its collection.
_FRESH_S = 5.0
# What Weaviate says of a tenant that it does not have.
_NO_TENANT = "tenant not found"


class TenantGone(EngineFailed):
    """A tenant that was seen a moment ago is not there any more: another retriever, or another call, deleted it."""


def anew(method: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Takes the method once more where its tenant went meanwhile: now it is known, and the method says what that means."""

    @functools.wraps(method)
    async def taken(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except TenantGone:
            return await method(*args, **kwargs)

    return taken


class Connection:
    """One Weaviate. It connects when first needed, so the process starts, and recovers, without it."""

    def __init__(self, url: str, grpc_port: int, api_key: str) -> None:
        self._url = url
        # skip_init_checks: else the client asks a package index for its newest version.
        self.client = weaviate.WeaviateAsyncClient(
            connection_params=WeaviateAddress.from_url(url, grpc_port),
            auth_client_secret=Auth.api_key(api_key) if api_key else None,
            additional_config=AdditionalConfig(timeout=Timeout(init=2, query=10, insert=60), trust_env=False),
            skip_init_checks=True,
        )
        self._connecting = asyncio.Lock()
        self._seen: dict[tuple[str, str], float] = {}

    def passages(self, collection: str, tenant: str) -> Any:
        """The tenant's passages."""
        return self.client.collections.use(passages_class(collection)).with_tenant(tenant_name(tenant))

    def manifests(self, collection: str, tenant: str) -> Any:
        """The tenant's manifests."""
        return self._manifests(collection, tenant_name(tenant))

    async def sealed(self, collection: str, tenant: str, *, make: bool = False) -> Any:
        """The tenant's sealed values; None where it has none, and none are to be."""
        handle = self.client.collections.use(sealed_class(collection))
        key = (sealed_class(collection), tenant)
        if time.monotonic() - self._seen.get(key, -_FRESH_S) >= _FRESH_S:
            # A collection may have got its first sealed field after the tenant came.
            if not await handle.tenants.exists(tenant_name(tenant)):
                if not make:
                    return None
                await handle.tenants.create([Tenant(name=tenant_name(tenant))])
            self._seen[key] = time.monotonic()
        return handle.with_tenant(tenant_name(tenant)).with_consistency_level(ConsistencyLevel.QUORUM)

    def _manifests(self, collection: str, name: str) -> Any:
        handle = self.client.collections.use(manifests_class(collection)).with_tenant(name)
        return handle.with_consistency_level(ConsistencyLevel.QUORUM)

    async def has_tenant(self, collection: str, tenant: str) -> bool:
        """Whether the tenant ever put something into the collection."""
        key = (collection, tenant)
        if time.monotonic() - self._seen.get(key, -_FRESH_S) < _FRESH_S:
            return True
        handle = self.client.collections.use(manifests_class(collection))
        if not await handle.tenants.exists(tenant_name(tenant)):
            self._seen.pop(key, None)
            return False
        self._seen[key] = time.monotonic()
        return True

    async def make_tenant(self, collection: str, tenant: str) -> None:
        """Makes the tenant's part of the collection, where it is not there."""
        if await self.has_tenant(collection, tenant):
            return
        # Manifests last: that class is what is asked whether a tenant is there.
        for name in (passages_class(collection), manifests_class(collection)):
            handle = self.client.collections.use(name)
            if not await handle.tenants.exists(tenant_name(tenant)):
                await handle.tenants.create([Tenant(name=tenant_name(tenant))])

    async def tenants_of(self, collection: str) -> list[str]:
        """Every tenant that ever put something into the collection, as Weaviate names it."""
        return list(await self.client.collections.use(manifests_class(collection)).tenants.get())

    async def remove_tenant(self, collection: str, tenant: str) -> None:
        """The tenant's part of the collection, with all that is in it. Manifests first: without them nothing is there."""
        keys = ((collection, tenant), (sealed_class(collection), tenant))
        for key in keys:
            self._seen.pop(key, None)
        sealed = (sealed_class(collection),) if await self.client.collections.exists(sealed_class(collection)) else ()
        for name in (manifests_class(collection), passages_class(collection), *sealed):
            handle = self.client.collections.use(name)
            if await handle.tenants.exists(tenant_name(tenant)):
                await handle.tenants.remove([tenant_name(tenant)])
        for key in keys:
            self._seen.pop(key, None)

    async def every_tenants_manifests(self, collection: str) -> list[Any]:
        """The manifests of every tenant that ever put something into the collection."""
        return [self._manifests(collection, name) for name in await self.tenants_of(collection)]

    def forget(self, collection: str) -> None:
        """The collection is gone."""
        for key in [key for key in self._seen if key[0] in (collection, sealed_class(collection))]:
            del self._seen[key]

    async def ready(self) -> None:
        """Raises EngineUnreachable where Weaviate does not answer."""
        async with self.errors():
            if not await self.client.is_ready():
                raise self._unreachable()

    @contextlib.asynccontextmanager
    async def errors(self) -> AsyncIterator[None]:
        """Connects where that is needed; what fails inside becomes a domain error."""
        try:
            if not self.client.is_connected():
                async with self._connecting:
                    if not self.client.is_connected():
                        await self.client.connect()
            yield
        except (
            WeaviateClosedClientError,
            WeaviateConnectionError,
            WeaviateGRPCUnavailableError,
            WeaviateStartUpError,
            httpx.ConnectTimeout,
            httpx.NetworkError,
            httpx.RemoteProtocolError,
            ConnectionError,
        ):
            raise self._unreachable() from None
        except (UnexpectedStatusCodeError, WeaviateQueryError, WeaviateBaseError, httpx.HTTPError) as error:
            words = str(error)
            if LOST in words or "failed to connect" in words or "Connection refused" in words:
                raise self._unreachable() from None
            raise self.failed(type(error).__name__, words) from None

    def _unreachable(self) -> EngineUnreachable:
        message = f"Weaviate does not answer at {self._url}. Start it, or set RAGKEEP_WEAVIATE_URL and _GRPC_PORT."
        return EngineUnreachable(message, metadata={"engine": "weaviate", "address": self._url})

    def failed(self, what: str, words: str) -> EngineFailed:
        """The error to raise where Weaviate answers with one; its words go to the log."""
        if _NO_TENANT in words:
            self._seen.clear()
            return TenantGone("A tenant was deleted meanwhile.")
        log.error("weaviate_failed", what=what, engine_says=words[:300])
        return EngineFailed("Weaviate answered with an error; its words are in the retriever's log.")


def tenant_name(tenant: str) -> str:
    """As Weaviate takes it: the name itself where it can, else its hash."""
    return f"t-{tenant}" if _PLAIN_NAME.fullmatch(tenant) else f"h-{hashlib.sha256(tenant.encode()).hexdigest()[:60]}"


def object_id(name: str) -> uuid.UUID:
    """The id of an object that is known by a name."""
    return uuid.uuid5(_NAMESPACE, name)
