"""The gateway's RPCs, typed: every call has a deadline, every failure is a `RagkeepError` with a stable reason."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Sequence
from typing import Self

import grpc

from ragkeep.gateway.v1 import gateway_pb2
from ragkeep.gateway.v1.audit_pb2_grpc import AuditServiceStub
from ragkeep.gateway.v1.gateway_pb2_grpc import RagServiceStub
from ragkeep.gateway.v1.tenants_pb2_grpc import TenantServiceStub
from ragkeep.generator.v1 import generator_pb2
from ragkeep.types.v1 import types_pb2
from ragkeep_client.audit_calls import AuditCalls
from ragkeep_client.batch_calls import MODES, BatchCalls, search_message
from ragkeep_client.calls import SERVICE_TICKETS, writable
from ragkeep_client.collection_calls import CollectionCalls
from ragkeep_client.document_calls import DocumentCalls
from ragkeep_client.events import Event, Outcome, Source, event_from, source_from
from ragkeep_client.importer import AnyDocument, Importer
from ragkeep_client.key_calls import KeyCalls
from ragkeep_client.model_calls import ModelCalls
from ragkeep_client.tenant_calls import TenantCalls
from ragkeep_client.values import Filter, Mode, Search, Turn, filter_message
from ragkeep_runtime.channel import open_channel
from ragkeep_runtime.edge import has_reason
from ragkeep_runtime.errors import DeadlineExceeded, FilterTypeWrong, InvalidRequest, NotReady, RagkeepError, from_rpc_error
from ragkeep_runtime.expiry import invalid_now
from ragkeep_runtime.tls import Identity

# What the slowest embedder that is still waited for takes in, two chunks a second; and seconds after which every handler ends.
_SLOWEST_BYTES_S, _LONGEST_S = 2048, 300.0


class IdentityUnusable(RagkeepError):
    """A file of the caller's identity is missing, unreadable, does not match the others, or has ended; nothing was done."""

    reason = "CERTIFICATE_UNUSABLE"


class Client(AuditCalls, BatchCalls, CollectionCalls, DocumentCalls, KeyCalls, ModelCalls, TenantCalls):
    """A connection to a gateway, for one tenant. Use it as `async with Client(...) as client:`.

    `target` is host:port or dns:///host:port; `tenant` may stay empty where the policy binds the caller to one alone.
    `token` is the JWT of the person for whom the calls are made, or gives the one to use now, since a token is short-lived; the
    tenant is then the person's.
    Reads the identity's files when it is made: raises IdentityUnusable where they are missing or do not match.
    """

    def __init__(
        self,
        target: str,
        identity: Identity,
        *,
        tenant: str = "",
        token: str | Callable[[], str] = "",
        trust_domain: str = "ragkeep.internal",
    ) -> None:
        if not (tenant.isascii() and tenant.isprintable()):
            raise InvalidRequest("A tenant's name travels in a header: it must be printable ASCII.", field="tenant")
        self._target, self._identity = target, identity
        try:
            self._channel = open_channel(target, "gateway", identity, trust_domain)
        except OSError as error:  # ssl.SSLError is one
            paths = (identity.cert, identity.key, identity.ca)
            why = next((f"{path} is not there" for path in paths if not path.exists()), str(error))
            raise IdentityUnusable(
                f"The identity's files cannot be used: {why}. Identity(cert, key, ca) names PEM files.", field="identity"
            ) from error
        self._stub = RagServiceStub(self._channel)
        self._audit_stub = AuditServiceStub(self._channel)
        self._tenants = TenantServiceStub(self._channel)
        self._tenant = tenant
        self._token = token

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """Of a call that begins now."""
        found = (("ragkeep-tenant", self._tenant),) if self._tenant else ()
        token = self._token if isinstance(self._token, str) else self._token()
        if not token:
            return found
        if not (token.isascii() and token.isprintable()) or " " in token:
            # Not a word of it: it is a secret.
            raise InvalidRequest("The token is not a JWT: it has blanks or characters outside ASCII.", field="token")
        return (*found, ("authorization", f"Bearer {token}"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        await self._channel.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            found = from_rpc_error(error)
            if not has_reason(error) and type(found) is NotReady:
                # The gateway ends the connection of one whose certificate has ended, and cannot tell it why.
                if fault := invalid_now(self._identity.cert):
                    raise IdentityUnusable(f"The certificate {self._identity.cert} {fault}.", field="identity") from error
                cause = "TLS" if "handshake" in found.message.lower() else "connection"
                found = NotReady(f"The gateway cannot be reached at {self._target} ({cause}).", metadata={"unreachable": cause})
            elif type(found) is FilterTypeWrong and found.metadata.items() >= {("wanted", "keyword"), ("given", "text")}:
                hint = 'In Python a keyword is Keyword("x"); a plain str is text.'
                found = FilterTypeWrong(f"{found.message} {hint}", field=found.field, metadata=found.metadata)
            elif not has_reason(error) and type(found) is DeadlineExceeded:
                slow = "it, or a service or engine that it waits for, is slow"
                found = DeadlineExceeded(f"The gateway at {self._target} did not answer in time: {slow}.")
            raise found from error

    async def ask(
        self,
        question: str,
        *,
        collection: str = SERVICE_TICKETS,
        limit: int | None = None,
        mode: Mode = "hybrid",
        filter: Filter | None = None,
        history: Sequence[Turn] = (),
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        model: str = "",
        language: str = "",
        alpha: float | None = None,
        minimum_cosine: float | None = None,
        passages_per_document: int = 0,
        minimum_coverage: float | None = None,
        minimum_margin: float | None = None,
        explain: bool = False,
        timeout_s: float = 120.0,
    ) -> AsyncGenerator[Event]:
        """Streams status, sources, status, delta ..., citations, usage, done; with history (up to 20 turns, oldest first)
        first status and rewritten. Leaving the loop cancels the call; to have that at once wherever the iterator is kept,
        wrap it in `contextlib.aclosing`."""
        with writable():
            request = gateway_pb2.AskRequest(
                collection=collection,
                question=question,
                filter=None if filter is None else filter_message(filter),
                limit=limit,
                mode=MODES[mode],
                options=generator_pb2.Options(
                    temperature=temperature, max_tokens=max_tokens, seed=seed, stop=stop, model=model, language=language
                ),
                alpha=alpha,
                minimum_cosine=minimum_cosine,
                passages_per_document=passages_per_document,
                explain=explain,
                minimum_evidence=types_pb2.MinimumEvidence(coverage=minimum_coverage, margin=minimum_margin),
                history=[generator_pb2.Turn(question=turn.question, answer=turn.answer) for turn in history],
            )
        call = self._stub.Ask(request, timeout=timeout_s, metadata=self._metadata)
        try:
            with self._errors():
                async for message in call:
                    event = event_from(message)
                    if event is not None:
                        yield event
        finally:
            # Leaving `async for` alone would not end it, and the engine would go on.
            call.cancel()

    async def search(
        self,
        query: str,
        *,
        collection: str = SERVICE_TICKETS,
        limit: int | None = None,
        mode: Mode = "hybrid",
        filter: Filter | None = None,
        alpha: float | None = None,
        minimum_cosine: float | None = None,
        passages_per_document: int = 0,
        explain: bool = False,
        timeout_s: float = 10.0,
    ) -> list[Source]:
        """Passages, best first; with `explain` their scores bring their ranks in both halves."""
        wanted = Search(query, collection, limit, mode, filter, alpha, minimum_cosine, passages_per_document, explain)
        with writable():
            request = search_message(wanted)
        with self._errors():
            response = await self._stub.Search(request, timeout=timeout_s, metadata=self._metadata)
        return [source_from(source) for source in response.sources]

    def import_documents(
        self,
        documents: Iterable[AnyDocument] | AsyncIterable[AnyDocument],
        *,
        collection: str = SERVICE_TICKETS,
        dry_run: bool = False,
        in_flight: int = 3,
        timeout_s: float = 120.0,
    ) -> AsyncGenerator[Outcome]:
        """Imports as many documents as there are, a few batches at a time, and yields an outcome for each as it is known.

        Documents are read only as fast as they are taken in. An import that broke is resumed by running it again. With
        `dry_run` nothing is embedded or stored, and the outcomes say what would become of the documents.
        """

        async def send(batch: Sequence[types_pb2.Document]) -> Sequence[types_pb2.Outcome]:
            request = gateway_pb2.ImportDocumentsRequest(collection=collection, documents=batch, dry_run=dry_run)
            # A batch is sized towards ten seconds, but one document can be long and an engine slow.
            seconds = max(timeout_s, min(timeout_s + request.ByteSize() / _SLOWEST_BYTES_S, _LONGEST_S))
            with self._errors():
                response = await self._stub.ImportDocuments(request, timeout=seconds, metadata=self._metadata)
            return response.outcomes

        return Importer(send, in_flight=in_flight).run(documents)
