"""Values of fields, as Python and JSON know them."""

from __future__ import annotations

from typing import Any

from ragkeep.types.v1.types_pb2 import Value


def plain(value: Value) -> Any:
    """The value as Python and JSON know it; a timestamp as its ISO text."""
    kind = value.WhichOneof("kind")
    if kind == "timestamp":
        return value.timestamp.ToJsonString()
    return getattr(value, kind) if kind else None
