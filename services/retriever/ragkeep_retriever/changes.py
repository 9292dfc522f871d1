"""What of a collection can become something else, and what to do about the rest."""

from __future__ import annotations

from dataclasses import replace

from ragkeep_retriever.values import Change, Collection, Field
from ragkeep_runtime.errors import CollectionChanged, CollectionFixed

_ANEW = "Make another collection with it, export the documents and import them there."


def changed(stored: Collection, wanted: Collection) -> Change:
    """The stored definition as it is wanted, with a revision more where it differs.

    Raises CollectionChanged where `wanted` was made from another revision, CollectionFixed where it asks for too much.
    """
    if wanted.revision not in (0, stored.revision):
        raise CollectionChanged(
            f"The collection {stored.name} has revision {stored.revision}, and the change was made from {wanted.revision}; "
            "read it again."
        )
    _check_fields({field.name: field for field in stored.fields}, {field.name: field for field in wanted.fields})
    if replace(wanted.vector_index, ef=0) != replace(stored.vector_index, ef=0):
        raise CollectionFixed(
            f"Of the vector index only ef can be changed; ef_construction, max_connections and quantization are fixed. {_ANEW}",
            field="collection.vector_index",
        )
    found = replace(wanted, space=stored.space, revision=stored.revision)
    if found == stored:
        return Change(stored, False)
    made_from = [(one.content_template, one.cjk_characters, one.latin_characters) for one in (stored, found)]
    return Change(replace(found, revision=stored.revision + 1), made_from[0] != made_from[1])


def new_fields(stored: Collection, wanted: Collection) -> list[Field]:
    """Those that the stored definition does not have."""
    known = {field.name for field in stored.fields}
    return [field for field in wanted.fields if field.name not in known]


def _check_fields(stored: dict[str, Field], wanted: dict[str, Field]) -> None:
    gone = [name for name in stored if name not in wanted]
    if gone:
        raise CollectionFixed(
            f"Fields cannot be taken away, documents may have them: {', '.join(gone)}. {_ANEW}", field="collection.fields"
        )
    for name, field in wanted.items():
        before = stored.get(name)
        if field.required and (before is None or not before.required):
            raise CollectionFixed(
                f"The field {name} cannot become required: documents that are there may lack it. Add it without. {_ANEW}",
                field="collection.fields",
            )
        if before is not None and _fixed(field) != _fixed(before):
            raise CollectionFixed(
                f"The field {name} is a {before.type.value}, {'' if before.filterable else 'not '}filterable and "
                f"{'' if before.sealed else 'not '}sealed; all three are fixed. "
                f"Add a field of another name, or {_ANEW[0].lower()}{_ANEW[1:]}",
                field="collection.fields",
            )


def _fixed(field: Field) -> tuple[object, ...]:
    return field.type, field.filterable, field.sealed
