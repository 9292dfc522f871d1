"""Collections that ragkeep knows how to make by itself."""

from __future__ import annotations

from ragkeep.types.v1.types_pb2 import Chunking, Collection, Field, FieldType, VectorIndex
from ragkeep_runtime.errors import InvalidRequest

SERVICE_TICKETS = "service-tickets"


def service_ticket() -> Collection:
    """`ServiceTicket`: what a helpdesk keeps. Made by the first import into `service-tickets`."""
    text, keyword = FieldType.FIELD_TYPE_TEXT, FieldType.FIELD_TYPE_KEYWORD
    return Collection(
        name=SERVICE_TICKETS,
        fields=[
            Field(name="ticket_id", type=keyword, filterable=True, required=True),
            Field(name="title", type=text, required=True),
            Field(name="description", type=text, required=True),
            Field(name="solution", type=text, required=True),
            Field(name="category", type=keyword, filterable=True, required=True),
        ],
        # The id and the category are part of it, so that "T-1042" and a category's words are found.
        content_template="{title}\n{description}\n{solution}\n{category} {ticket_id}",
        chunking=Chunking(cjk_characters=350, latin_characters=1000),
        vector_index=VectorIndex(ef=200, ef_construction=256, max_connections=64),
        title_field="title",
    )


# What an import makes where it is missing, by the collection's name; and what can be asked for by the preset's.
PRESETS = {SERVICE_TICKETS: service_ticket}
_BY_NAME = {"ServiceTicket": service_ticket}


def preset(name: str, collection: str) -> Collection:
    """The definition of a preset, for a collection of this name (empty: the preset's own). Raises InvalidRequest."""
    if name not in _BY_NAME:
        raise InvalidRequest(f"There is no preset {name[:64]!r}; there are: {', '.join(_BY_NAME)}.", field="preset")
    definition = _BY_NAME[name]()
    definition.name = collection or definition.name
    return definition
