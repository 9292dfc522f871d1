"""RagService: requests ↔ the gateway's work, a screen per method. The tenant comes from the admitted call alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ragkeep.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ragkeep.generator.v1 import generator_pb2
from ragkeep.types.v1 import types_pb2
from ragkeep_gateway.audit.record import Asking, Audit
from ragkeep_gateway.batch_methods import BatchMethods
from ragkeep_gateway.catalogue import Catalogue
from ragkeep_gateway.collection_methods import CollectionMethods
from ragkeep_gateway.document_methods import DocumentMethods
from ragkeep_gateway.importing import Importer
from ragkeep_gateway.model_methods import ModelMethods
from ragkeep_gateway.presets import SERVICE_TICKETS
from ragkeep_gateway.quotas import QuotaKeeper
from ragkeep_gateway.retrieval import Retrieval, wanted_of
from ragkeep_gateway.sealing.fields import SealedFields
from ragkeep_gateway.spending import spending
from ragkeep_runtime.call import call
from ragkeep_runtime.channel import errors_of, stream
from ragkeep_runtime.errors import InvalidRequest, RequestTooLarge
from ragkeep_runtime.gate import Gate

if TYPE_CHECKING:
    from ragkeep.embedder.v1.embedder_pb2_grpc import EmbedderServiceAsyncStub
    from ragkeep.generator.v1.generator_pb2_grpc import GeneratorServiceAsyncStub
    from ragkeep.retriever.v1.retriever_pb2_grpc import RetrieverServiceAsyncStub

MAX_DOCUMENTS, MAX_BYTES = 100, 4 * 1024 * 1024


class RagService(BatchMethods, CollectionMethods, DocumentMethods, ModelMethods, gateway_pb2_grpc.RagServiceServicer):
    """What callers see."""

    def __init__(
        self,
        *,
        audit: Audit,
        catalogue: Catalogue,
        retrieval: Retrieval,
        importer: Importer,
        sealed_fields: SealedFields,
        retriever: RetrieverServiceAsyncStub,
        embedder: EmbedderServiceAsyncStub,
        generator: GeneratorServiceAsyncStub,
        import_gate: Gate,
        ask_gate: Gate,
        quotas: QuotaKeeper,
    ) -> None:
        self._audit = audit
        self._catalogue = catalogue
        self._retrieval = retrieval
        self._importer = importer
        self._sealed_fields = sealed_fields
        self._retriever = retriever
        self._embedder = embedder
        self._generator = generator
        self._import_gate = import_gate
        self._ask_gate = ask_gate
        self._quotas = quotas

    async def Ask(self, request: gateway_pb2.AskRequest, context: Any) -> AsyncGenerator[gateway_pb2.AskResponse]:
        """Retrieve, then generate; see the contract for the order of events."""
        asked = self._audit.asking(
            collection=request.collection or SERVICE_TICKETS, question=request.question, model=request.options.model
        )
        async with asked as record, spending(self._quotas, request, record) as spend, self._ask_gate:
            sequence = 0
            async with aclosing(self._events(request, record)) as events:
                async for event in events:
                    sequence += 1
                    spend.see(event)
                    event.sequence = sequence
                    yield event

    async def _events(self, request: gateway_pb2.AskRequest, record: Asking) -> AsyncGenerator[gateway_pb2.AskResponse]:
        wanted = wanted_of(request, request.question, "question", request.minimum_evidence)
        self._retrieval.check(wanted)
        # An unknown collection is said before anything is begun: over HTTP it is the response's status.
        await self._catalogue.get(wanted.collection)
        if request.history:
            yield gateway_pb2.AskResponse(status=gateway_pb2.Status(stage=gateway_pb2.STAGE_REWRITING))
            rewritten = await self._rewritten(request)
            yield gateway_pb2.AskResponse(rewritten=rewritten)
            wanted = replace(wanted, text=rewritten.question)
        yield gateway_pb2.AskResponse(status=gateway_pb2.Status(stage=gateway_pb2.STAGE_RETRIEVING))
        sources = await self._retrieval.sources_that_suffice(wanted)
        await record.shown(source.passage.document_id for source in sources.sources)
        yield gateway_pb2.AskResponse(sources=sources)
        yield gateway_pb2.AskResponse(status=gateway_pb2.Status(stage=gateway_pb2.STAGE_GENERATING))
        generate = generator_pb2.GenerateRequest(
            question=request.question,
            passages=[
                generator_pb2.NumberedPassage(number=source.number, title=source.title, text=source.passage.text)
                for source in sources.sources
            ],
            options=request.options,
            history=request.history,
            searched=wanted.text,
            prompt_template=(await self._catalogue.get(wanted.collection)).prompt_template,
        )
        async with aclosing(stream(self._generator.Generate(generate), "generator")) as events:
            async for event in events:
                kind = event.WhichOneof("event")
                if kind == "usage":
                    record.did(prompt_tokens=event.usage.prompt_tokens, completion_tokens=event.usage.completion_tokens)
                elif kind == "done":
                    record.did(model=event.done.model, finish=_finish(event.done.finish))
                if kind:
                    yield gateway_pb2.AskResponse(**{kind: getattr(event, kind)})

    async def _rewritten(self, request: gateway_pb2.AskRequest) -> gateway_pb2.Rewritten:
        """The question made whole by its history; the generator knows how."""
        rewrite = generator_pb2.RewriteQuestionRequest(
            question=request.question, history=request.history, options=request.options
        )
        with errors_of("generator"):
            response = await self._generator.RewriteQuestion(rewrite)
        return gateway_pb2.Rewritten(question=response.question, model=response.model)

    async def Search(self, request: gateway_pb2.SearchRequest, context: Any) -> gateway_pb2.SearchResponse:
        """Numbered sources, best first."""
        wanted = wanted_of(request, request.query, "query")
        async with self._audit.asking(collection=wanted.collection, question=wanted.text) as record:
            self._quotas.ask(call())
            async with self._ask_gate:
                sources = await self._retrieval.sources(wanted)
            await record.shown(source.passage.document_id for source in sources)
            return gateway_pb2.SearchResponse(sources=sources)

    async def ImportDocuments(
        self, request: gateway_pb2.ImportDocumentsRequest, context: Any
    ) -> gateway_pb2.ImportDocumentsResponse:
        """An outcome for each document."""
        name = request.collection or SERVICE_TICKETS
        ids = [document.id for document in request.documents[:MAX_DOCUMENTS]]
        async with self._audit.acting(collection=name, documents=ids, dry_run=request.dry_run) as record:
            if not request.documents:
                raise InvalidRequest("There is no document in the request.", field="documents")
            if len(request.documents) > MAX_DOCUMENTS or request.ByteSize() > MAX_BYTES:
                raise RequestTooLarge(
                    f"A request holds at most {MAX_DOCUMENTS} documents and {MAX_BYTES} bytes.", field="documents"
                )
            async with self._import_gate:
                outcomes = await self._importer.run(name, request.documents, dry_run=request.dry_run)
            record.did(outcomes=dict(Counter(_kind(one) for one in outcomes)))
            # Not why: the reason tells of some that there is a document which the caller does not see.
            rejected = [one.document_id for one in outcomes if one.kind == types_pb2.OUTCOME_KIND_REJECTED]
            if rejected:
                record.did(rejected=list(dict.fromkeys(rejected)))
            return gateway_pb2.ImportDocumentsResponse(outcomes=outcomes)


def _finish(finish: generator_pb2.Finish.ValueType) -> str:
    return generator_pb2.Finish.Name(finish).removeprefix("FINISH_").lower()


def _kind(outcome: types_pb2.Outcome) -> str:
    return types_pb2.OutcomeKind.Name(outcome.kind).removeprefix("OUTCOME_KIND_").lower()
