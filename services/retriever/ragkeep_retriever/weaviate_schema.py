"""How collections, fields and filters are written in Weaviate: classes, properties, conditions."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from datetime import datetime
from typing import Any

from ragkeep_retriever.changes import new_fields
from ragkeep_retriever.values import (
    AllOf,
    AnyOf,
    Collection,
    Equals,
    Field,
    FieldType,
    FieldValue,
    Filter,
    InRange,
    Not,
    Quantization,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import weaviate
    from weaviate.classes.config import (
        Configure,
        DataType,
        Property,
        Reconfigure,
        StopwordsPreset,
        Tokenization,
        VectorDistances,
    )
    from weaviate.classes.query import Filter as WeaviateFilter
    from weaviate.collections.classes.config_vector_index import VectorFilterStrategy
    from weaviate.exceptions import UnexpectedStatusCodeError

CATALOGUE = "RagkeepCatalogue"
# Beside the fields of a manifest, and no field's name: which fields are sealed, and how many bytes each value has.
SEALED = "$sealed"
# Beside the catalogue and not in it: an older retriever, running until it is replaced, reads each entry there as a collection.
TENANTS = "RagkeepTenants"
_QUANTIZERS: dict[Quantization, Callable[[], Any]] = {
    Quantization.NONE: Configure.VectorIndex.Quantizer.none,
    Quantization.PQ: Configure.VectorIndex.Quantizer.pq,
    Quantization.BQ: Configure.VectorIndex.Quantizer.bq,
    Quantization.SQ: Configure.VectorIndex.Quantizer.sq,
    Quantization.RQ: Configure.VectorIndex.Quantizer.rq,
}
_TYPES = {
    FieldType.TEXT: DataType.TEXT,
    FieldType.KEYWORD: DataType.TEXT,
    FieldType.NUMBER: DataType.NUMBER,
    FieldType.BOOLEAN: DataType.BOOL,
    FieldType.TIMESTAMP: DataType.DATE,
}


def passages_class(collection: str) -> str:
    """The class of a collection's passages. A collection's name has no upper case, so D for - keeps names apart."""
    return f"RagkeepPassages_{collection.replace('-', 'D')}"


def manifests_class(collection: str) -> str:
    """The class of a collection's manifests."""
    return f"RagkeepManifests_{collection.replace('-', 'D')}"


def sealed_class(collection: str) -> str:
    """The class of a collection's sealed values, an object a generation; there where a field is sealed."""
    return f"RagkeepSealed_{collection.replace('-', 'D')}"


def classes_of(collection: Collection) -> tuple[str, ...]:
    """Every class that holds something of a collection; the manifests', which decides what exists, last."""
    sealed = (sealed_class(collection.name),) if any(field.sealed for field in collection.fields) else ()
    return (passages_class(collection.name), *sealed, manifests_class(collection.name))


def property_of(field: str) -> str:
    """The property of a filterable field; Weaviate refuses names like `id` and `vector`."""
    return f"f_{field}"


async def create_classes(client: weaviate.WeaviateAsyncClient, collection: Collection, replicas: int) -> None:
    """Makes the classes, where they are not there from an attempt before."""
    index = collection.vector_index
    fields = [_filterable(field) for field in collection.fields if field.filterable]
    hnsw = Configure.VectorIndex.hnsw(
        distance_metric=VectorDistances.COSINE,
        ef=index.ef,
        ef_construction=index.ef_construction,
        max_connections=index.max_connections,
        # The default, acorn, loses a third of the right hits under a filter.
        filter_strategy=VectorFilterStrategy.SWEEPING,
    )
    passages = [
        _keyword("document_id"),
        _keyword("generation"),
        Property(name="chunk", data_type=DataType.INT, index_filterable=False),
        Property(name="text", data_type=DataType.TEXT, index_filterable=False, index_searchable=False),
        # Our own tokens, divided by blanks: the only text that the keyword half sees.
        Property(
            name="tokens",
            data_type=DataType.TEXT,
            index_filterable=False,
            index_searchable=True,
            tokenization=Tokenization.WHITESPACE,
        ),
        _groups(),
    ]
    manifests = [
        _keyword("document_id"),
        _keyword("generation"),
        *(
            Property(name=name, data_type=DataType.TEXT, index_filterable=False, index_searchable=False)
            for name in ("version", "fields")
        ),
        Property(name="chunks", data_type=DataType.INT, index_filterable=False),
        _groups(),
    ]
    vectors = Configure.Vectors.self_provided(vector_index_config=hnsw, quantizer=_QUANTIZERS[index.quantization]())
    await _create(client, passages_class(collection.name), [*passages, *fields], vectors, replicas, tenants=True)
    await _create_sealed(client, collection, replicas)
    await _create(client, manifests_class(collection.name), manifests, _no_vectors(), replicas, tenants=True)


async def change_classes(client: weaviate.WeaviateAsyncClient, stored: Collection, wanted: Collection, replicas: int) -> None:
    """What of a change concerns the classes: ef, further fields to filter by, a first sealed one."""
    await _create_sealed(client, wanted, replicas)
    passages = client.collections.use(passages_class(stored.name)).config
    if wanted.vector_index.ef != stored.vector_index.ef:
        hnsw = Reconfigure.VectorIndex.hnsw(ef=wanted.vector_index.ef)
        await passages.update(vector_config=Reconfigure.Vectors.update(vector_index_config=hnsw))
    there = {one.name for one in (await passages.get()).properties}
    for field in new_fields(stored, wanted):
        if field.filterable and property_of(field.name) not in there:
            await passages.add_property(_filterable(field))


async def add_groups_to_manifests(client: weaviate.WeaviateAsyncClient, collection: str) -> None:
    """The catalogue's first version kept a document's groups beside its passages alone."""
    manifests = client.collections.use(manifests_class(collection)).config
    if "groups" not in {one.name for one in (await manifests.get()).properties}:
        await manifests.add_property(_groups())


async def delete_classes(client: weaviate.WeaviateAsyncClient, collection: str) -> None:
    """With all that is in them."""
    for name in (passages_class(collection), sealed_class(collection), manifests_class(collection)):
        await client.collections.delete(name)


async def _create_sealed(client: weaviate.WeaviateAsyncClient, collection: Collection, replicas: int) -> None:
    if not any(field.sealed for field in collection.fields):
        return
    values = Property(name="fields", data_type=DataType.TEXT, index_filterable=False, index_searchable=False)
    properties = [_keyword("generation"), values]
    await _create(client, sealed_class(collection.name), properties, _no_vectors(), replicas, tenants=True)


async def create_catalogue(client: weaviate.WeaviateAsyncClient, replicas: int) -> None:
    """Makes the class that lists the collections, once."""
    properties = [
        _keyword("name"),
        Property(name="definition", data_type=DataType.TEXT, index_filterable=False, index_searchable=False),
    ]
    await _create(client, CATALOGUE, properties, _no_vectors(), replicas, tenants=False)


async def create_tenants(client: weaviate.WeaviateAsyncClient, replicas: int) -> None:
    """Makes the class of the tenants' records, once."""
    properties = [
        _keyword("name"),
        Property(name="record", data_type=DataType.TEXT, index_filterable=False, index_searchable=False),
    ]
    await _create(client, TENANTS, properties, _no_vectors(), replicas, tenants=False)


def _keyword(name: str) -> Property:
    return Property(
        name=name, data_type=DataType.TEXT, index_filterable=True, index_searchable=False, tokenization=Tokenization.FIELD
    )


def _filterable(field: Field) -> Property:
    kind = _TYPES[field.type]
    return Property(
        name=property_of(field.name),
        data_type=kind,
        index_filterable=True,
        index_searchable=False,
        tokenization=Tokenization.FIELD if kind is DataType.TEXT else None,
    )


def _groups() -> Property:
    return Property(
        name="groups",
        data_type=DataType.TEXT_ARRAY,
        index_filterable=True,
        index_searchable=False,
        tokenization=Tokenization.FIELD,
    )


def _no_vectors() -> Any:
    # Saying nothing would still make an HNSW index.
    return Configure.Vectors.self_provided(vector_index_config=Configure.VectorIndex.none())


async def _create(
    client: weaviate.WeaviateAsyncClient, name: str, properties: list[Property], vectors: Any, replicas: int, *, tenants: bool
) -> None:
    if await client.collections.exists(name):
        return
    try:
        await client.collections.create(
            name,
            properties=properties,
            vector_config=vectors,
            multi_tenancy_config=Configure.multi_tenancy(enabled=tenants),
            replication_config=Configure.replication(factor=replicas),
            # No stop words: the analyzer decides about tokens. Null state: a negation holds for an absent field.
            inverted_index_config=Configure.inverted_index(stopwords_preset=StopwordsPreset.NONE, index_null_state=True),
        )
    except UnexpectedStatusCodeError:
        # Another replica was quicker.
        if not await client.collections.exists(name):
            raise


def stored(value: FieldValue) -> FieldValue:
    """As JSON and Weaviate hold it; a moment as RFC 3339."""
    return value.isoformat() if isinstance(value, datetime) else value


def decoded(fields: str, collection: Collection) -> dict[str, FieldValue]:
    """The fields of a manifest."""
    types = {field.name: field.type for field in collection.fields}
    found: dict[str, FieldValue] = {}
    for name, value in json.loads(fields).items():
        if name == SEALED:
            continue
        kind = types.get(name)
        if kind is FieldType.TIMESTAMP:
            found[name] = datetime.fromisoformat(value)
        else:
            found[name] = float(value) if kind is FieldType.NUMBER else value
    return found


def where(found: Filter | None, groups: frozenset[str] | None) -> Any:
    """The filter and the groups as one condition; None for none."""
    conditions = []
    if groups is not None:
        conditions.append(WeaviateFilter.by_property("groups").contains_any(["*", *sorted(groups)]))
    if found is not None:
        conditions.append(_condition(found))
    if len(conditions) < 2:
        return conditions[0] if conditions else None
    return WeaviateFilter.all_of(conditions)


def _condition(found: Filter) -> Any:
    match found:
        case Equals(field, values):
            by = WeaviateFilter.by_property(property_of(field))
            if len(values) == 1:
                return by.equal(values[0])
            if any(isinstance(value, bool) for value in values):
                return WeaviateFilter.any_of([by.equal(value) for value in values])
            mixed: Any = list(values)
            return by.contains_any(mixed)
        case InRange(field, low, high):
            by = WeaviateFilter.by_property(property_of(field))
            bounds = []
            if low is not None:
                bounds.append(by.greater_or_equal(low))
            if high is not None:
                bounds.append(by.less_than(high))
            return bounds[0] if len(bounds) == 1 else WeaviateFilter.all_of(bounds)
        case AllOf(filters):
            return WeaviateFilter.all_of([_condition(one) for one in filters])
        case AnyOf(filters):
            return WeaviateFilter.any_of([_condition(one) for one in filters])
        case Not(inner):
            return WeaviateFilter.not_(_condition(inner))
