"""What is read from Weaviate: hits, pages of documents, documents whole. Passages that no manifest names are dropped."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ragkeep_retriever.fusion import CANDIDATES
from ragkeep_retriever.matching import matches
from ragkeep_retriever.values import (
    MAX_PAGE_BYTES,
    Collection,
    Filter,
    Hit,
    ListedDocument,
    Query,
    Scope,
    Sealed,
)
from ragkeep_retriever.weaviate_connection import Connection
from ragkeep_retriever.weaviate_manifests import Manifests
from ragkeep_retriever.weaviate_objects import Manifest, hit_of
from ragkeep_retriever.weaviate_schema import where
from ragkeep_retriever.weaviate_sealed import LOST, SealedObjects
from ragkeep_runtime.errors import InvalidRequest
from ragkeep_runtime.logs import get_logger

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from weaviate.classes.query import MetadataQuery

log = get_logger()
_MOST_PAGES = 20
# A list looks at so many documents for one page.
_LOOKED_AT = 5000
# How often a document is read that others replace all the while.
_READ_TIMES = 5


class WeaviateReader:
    """Reads; its methods run inside `Connection.errors()`."""

    def __init__(self, connection: Connection, manifests: Manifests, sealed: SealedObjects) -> None:
        self._connection = connection
        self._manifests = manifests
        self._sealed = sealed

    async def live_hits(self, scope: Scope, collection: Collection, query: Query, question: list[str]) -> list[Hit]:
        """Hits of passages that their document's manifest names; further pages until there are enough."""
        page = max(CANDIDATES, query.limit)
        hits: list[tuple[str, Hit]] = []  # with the passage's id
        of_hits: dict[str, Manifest] = {}
        taken: dict[str, int] = {}
        for number in range(_MOST_PAGES):
            found = await self._page(scope, collection, query, question, page, number * page)
            ids = list(dict.fromkeys(str(one.properties["document_id"]) for one in found))
            manifests = await self._manifests.of(collection.name, scope.tenant, ids) if ids else {}
            for one in found:
                document_id = str(one.properties["document_id"])
                manifest = manifests.get(document_id)
                if manifest is None or manifest.generation != one.properties["generation"]:
                    continue
                hit = hit_of(one, manifest, collection, query)
                if query.minimum_cosine is not None and hit.bm25 is None and (hit.cosine or -1) < query.minimum_cosine:
                    continue
                taken[document_id] = taken.get(document_id, 0) + 1
                if query.passages_per_document and taken[document_id] > query.passages_per_document:
                    continue
                hits.append((str(one.uuid), hit))
                of_hits[document_id] = manifest
                if len(hits) == query.limit:
                    break
            if len(found) < page or len(hits) == query.limit:
                break
        if any(manifest.sealed for manifest in of_hits.values()):
            hits = await self._with_sealed(scope, collection, hits, of_hits)
        if query.explain and hits:
            return await self._with_ranks(scope, collection, query, question, hits, (number + 1) * page)
        return [hit for _, hit in hits]

    async def _with_sealed(
        self, scope: Scope, collection: Collection, hits: list[tuple[str, Hit]], manifests: dict[str, Manifest]
    ) -> list[tuple[str, Hit]]:
        """The hits with their documents' sealed values. One whose document was replaced while it was read is none any more."""
        whole = {one.id: one for one in await self.whole(scope, collection, list(manifests.values()))}
        return [
            (key, replace(hit, sealed=whole[hit.document_id].sealed))
            for key, hit in hits
            if hit.document_id in whole and whole[hit.document_id].version == hit.version
        ]

    async def _with_ranks(
        self, scope: Scope, collection: Collection, query: Query, question: list[str], hits: list[tuple[str, Hit]], depth: int
    ) -> list[Hit]:
        """The hits with their places in each half. A hybrid query does not tell them, so each half is asked alone."""
        halves = []
        for half in (replace(query, text=None), replace(query, vector=None)):
            asked = half.vector is not None or (half.text is not None and question)
            words = question if half.text is not None else []
            found = await self._page(scope, collection, half, words, depth, 0) if asked else []
            halves.append({str(one.uuid): place for place, one in enumerate(found, 1)})
        by_vector, by_keyword = halves
        least = query.minimum_cosine
        return [
            replace(
                hit,
                vector_rank=None if least is not None and hit.cosine is not None and hit.cosine < least else by_vector.get(key),
                keyword_rank=by_keyword.get(key),
            )
            for key, hit in hits
        ]

    async def _page(
        self, scope: Scope, collection: Collection, query: Query, question: list[str], limit: int, offset: int
    ) -> list[Any]:
        handle = self._connection.passages(collection.name, scope.tenant)
        shared: dict[str, Any] = {
            "filters": where(query.filter, scope.groups),
            "limit": limit,
            "offset": offset,
            "return_properties": ["document_id", "generation", "chunk", "text"],
        }
        if query.vector is None:
            if not question:
                return []
            metadata = MetadataQuery(score=True)
            result = await handle.query.bm25(
                " ".join(question), query_properties=["tokens"], return_metadata=metadata, **shared
            )
        elif not question:
            metadata = MetadataQuery(distance=True)
            result = await handle.query.near_vector(list(query.vector), return_metadata=metadata, **shared)
        else:
            metadata = MetadataQuery(score=True, explain_score=True)
            result = await handle.query.hybrid(
                " ".join(question),
                vector=list(query.vector),
                alpha=query.alpha,
                query_properties=["tokens"],
                include_vector=True,
                return_metadata=metadata,
                **shared,
            )
        return list(result.objects)

    async def listed(
        self, scope: Scope, collection: Collection, filter: Filter | None, after: str, limit: int
    ) -> tuple[list[Manifest], str]:
        """The manifests of a page, and where the next one begins; empty: there is none."""
        documents: list[Manifest] = []
        looked_at = size = 0
        if not await self._connection.has_tenant(collection.name, scope.tenant):
            return [], ""
        cursor = _uuid(after)
        while looked_at < _LOOKED_AT:
            found, more = await self._manifests.page(scope, collection.name, cursor)
            for place, manifest in found:
                cursor = uuid.UUID(place)
                if manifest is None:
                    # A limited scope's page token must not name a document that it does not see, nor count it.
                    looked_at += not scope.limited
                    continue
                if matches(filter, manifest.listed(collection, {}).fields):
                    size += len(manifest.fields.encode()) + sum(manifest.sealed.values())
                    if len(documents) == limit or (documents and size > MAX_PAGE_BYTES):
                        return documents, after
                    documents.append(manifest)
                after, looked_at = place, looked_at + 1
            if not more:
                return documents, ""
        return documents, after if scope.limited else str(cursor)

    async def whole(self, scope: Scope, collection: Collection, manifests: Sequence[Manifest]) -> list[ListedDocument]:
        """Documents with their sealed values; of one that was replaced while it was read the new one, of one deleted none."""
        sealed: dict[str, Mapping[str, Sealed]] = {}
        wanted = {one.document_id: one for one in manifests}
        for _ in range(_READ_TIMES):
            asked = [one.generation for one in wanted.values() if one.sealed and one.generation not in sealed]
            sealed |= await self._sealed.of(collection.name, scope.tenant, asked)
            late = [one for one in wanted.values() if one.sealed and one.generation not in sealed]
            if not late:
                break
            now = await self._manifests.seen(scope, collection.name, [one.document_id for one in late])
            for one in late:
                if one.document_id not in now:
                    del wanted[one.document_id]
                elif now[one.document_id].generation == one.generation:
                    log.error("sealed_values_lost", collection=collection.name)
                    sealed[one.generation] = dict.fromkeys(one.sealed, LOST)
                else:
                    wanted[one.document_id] = now[one.document_id]
        return [one.listed(collection, sealed.get(one.generation, dict.fromkeys(one.sealed, LOST))) for one in wanted.values()]


def _uuid(after: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(after) if after else None
    except ValueError:
        raise InvalidRequest("The page token is not one of this list: begin without one.", field="page_token") from None
