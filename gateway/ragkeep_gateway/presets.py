"""Collections that ragkeep knows how to make by itself."""

from __future__ import annotations

from ragkeep.types.v1.types_pb2 import Chunking, Collection, Field, FieldType, VectorIndex

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


PRESETS = {SERVICE_TICKETS: service_ticket}
