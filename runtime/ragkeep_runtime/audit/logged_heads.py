"""Heads in a gateway's own log, where each is an event `audit_head` among others; so a collector of logs holds them too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ragkeep_runtime.audit.heads import Head, head_of

EVENT = "audit_head"
# Of a file that is one JSON text: the manifest of an export, or lines that a collector's tool wrote as a list.
_WHOLE_BYTES = 512 * 1024 * 1024
# Where the JSON of a line may begin: so many are tried.
_BRACES = 8
_NUMBERS = ("sequence", "size")


def event_of(head: Head) -> dict[str, Any]:
    """A head as it is logged. Its time is called `said`, as a log line has a time of its own."""
    facts = asdict(head)
    return {"replica": facts.pop("replica"), "said": facts.pop("time")} | {key: facts[key] for key in facts if key != "cut"}


def heads_of_log(path: Path) -> list[Head]:
    """Every head in a file, once; whatever else is there is passed over. Raises OSError.

    A line is a gateway's own, or one of a collector that holds it: behind a time or a name, as a text inside JSON, or taken
    apart into OTLP's attributes. A file of heads and the manifest of an export are read too.
    """
    found: dict[bytes, Head] = {}
    with path.open("rb") as file:
        for raw in file:
            if b"signature" in raw:
                found |= {head.line(): head for head in _in_text(raw.decode("utf-8", "replace"))}
    if not found and path.is_file() and path.stat().st_size <= _WHOLE_BYTES:
        found = {head.line(): head for head in _in_text(path.read_text("utf-8", "replace"))}
    return list(found.values())


def _in_text(text: str) -> list[Head]:
    try:
        return list(_heads(text))
    except RecursionError:  # nested without end, as no line with a head is
        return []


def _heads(value: Any) -> Iterator[Head]:
    if isinstance(value, str):
        begin = -1
        for _ in range(_BRACES if "signature" in value else 0):
            begin = value.find("{", begin + 1)
            try:
                found = json.JSONDecoder().raw_decode(value, begin)[0] if begin >= 0 else None
            except ValueError:
                continue  # labels before the line, say
            yield from _heads(found)
            return
    elif isinstance(value, Mapping):
        head = _head(value)
        if head is not None:
            yield head
            return
        for one in value.values():
            yield from _heads(one)
    elif isinstance(value, list):
        attributes = {
            one["key"]: _plain(one["value"])
            for one in value
            if isinstance(one, Mapping) and isinstance(one.get("key"), str) and "value" in one
        }
        if attributes:
            yield from _heads(attributes)
        else:
            for one in value:
                yield from _heads(one)


def _plain(value: Any) -> Any:
    """OTLP says of a value what it is: {"intValue": "7"}."""
    return next(iter(value.values())) if isinstance(value, Mapping) and len(value) == 1 else value


def _head(facts: Mapping[str, Any]) -> Head | None:
    if "signature" not in facts or facts.get("event", EVENT) != EVENT:
        return None
    names = ("replica", "sequence", "mac", "file", "size", "sha256", "signature")
    try:
        known = {name: int(facts[name]) if name in _NUMBERS else facts[name] for name in names}
        return head_of(known | {"time": facts["said"] if "said" in facts else facts["time"], "cut": facts.get("cut", False)})
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
