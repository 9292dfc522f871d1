"""RagService: requests ↔ the gateway's work, a screen per method. The tenant comes from the admitted call alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ragkeep.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ragkeep.generator.v1 import generator_pb2
from ragkeep_gateway.batch_methods import BatchMethods
from ragkeep_gateway.catalogue import Catalogue
from ragkeep_gateway.collection_methods import CollectionMethods
from ragkeep_gateway.document_methods import DocumentMethods
from ragkeep_gateway.importing import Importer
from ragkeep_gateway.model_methods import ModelMethods
from ragkeep_gateway.presets import SERVICE_TICKETS
from ragkeep_gateway.retrieval import Retrieval, wanted_of
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
        catalogue: Catalogue,
        retrieval: Retrieval,
        importer: Importer,
        retriever: RetrieverServiceAsyncStub,
        embedder: EmbedderServiceAsyncStub,
        generator: GeneratorServiceAsyncStub,
        import_gate: Gate,
        ask_gate: Gate,
    ) -> None:
        self._catalogue = catalogue
        self._retrieval = retrieval
        self._importer = importer
        self._retriever = retriever
        self._embedder = embedder
        self._generator = generator
        self._import_gate = import_gate
        self._ask_gate = ask_gate

    async def Ask(self, request: gateway_pb2.AskRequest, context: Any) -> AsyncGenerator[gateway_pb2.AskResponse]:
        """Retrieve, then generate; see the contract for the order of events."""
        async with self._ask_gate:
            sequence = 0
            async with aclosing(self._events(request)) as events:
                async for event in events:
                    sequence += 1
                    event.sequence = sequence
                    yield event

    async def _events(self, request: gateway_pb2.AskRequest) -> AsyncGenerator[gateway_pb2.AskResponse]:
        wanted = wanted_of(request, request.question, "question", request.minimum_evidence)
        self._retrieval.check(wanted)
        if request.history:
            yield gateway_pb2.AskResponse(status=gateway_pb2.Status(stage=gateway_pb2.STAGE_REWRITING))
            rewritten = await self._rewritten(request)
            yield gateway_pb2.AskResponse(rewritten=rewritten)
            wanted = replace(wanted, text=rewritten.question)
        yield gateway_pb2.AskResponse(status=gateway_pb2.Status(stage=gateway_pb2.STAGE_RETRIEVING))
        sources = await self._retrieval.sources_that_suffice(call().tenant, wanted)
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
        async with self._ask_gate:
            return gateway_pb2.SearchResponse(sources=await self._retrieval.sources(call().tenant, wanted))

    async def ImportDocuments(
        self, request: gateway_pb2.ImportDocumentsRequest, context: Any
    ) -> gateway_pb2.ImportDocumentsResponse:
        """An outcome for each document."""
        if not request.documents:
            raise InvalidRequest("There is no document in the request.", field="documents")
        if len(request.documents) > MAX_DOCUMENTS or request.ByteSize() > MAX_BYTES:
            raise RequestTooLarge(
                f"A request holds at most {MAX_DOCUMENTS} documents and {MAX_BYTES} bytes.", field="documents"
            )
        name = request.collection or SERVICE_TICKETS
        async with self._import_gate:
            outcomes = await self._importer.run(call().tenant, name, request.documents, dry_run=request.dry_run)
        return gateway_pb2.ImportDocumentsResponse(outcomes=outcomes)
