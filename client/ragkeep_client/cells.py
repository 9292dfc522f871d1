"""A cell of a file → a value of the field's type, exactly; or a sentence that says what would have been one."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ragkeep.types.v1 import types_pb2

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_MOMENT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})", re.ASCII
)
_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_SHOWN = 40


class WrongCell(ValueError):
    """`reason` is a name of errors.proto without its prefix."""

    def __init__(self, message: str, reason: str = "FIELD_TYPE_WRONG") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


def value_of(name: str, kind: str, cell: Any) -> types_pb2.Value:
    """The value of a field; `kind` is its type as the client names types. Raises WrongCell."""
    if kind == "text":
        return types_pb2.Value(text=text_of(name, cell))
    if kind == "keyword":
        return types_pb2.Value(keyword=text_of(name, cell))
    if kind == "number":
        return types_pb2.Value(number=_number(name, cell))
    if kind == "boolean":
        return types_pb2.Value(boolean=_boolean(name, cell))
    if kind == "timestamp":
        return _timestamp(name, cell)
    raise WrongCell(f"The field {name} is of a type that this version of the command does not know.")


def text_of(name: str, cell: Any) -> str:
    """A text, or a whole number as it is written. Raises WrongCell."""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    if not isinstance(cell, str):
        raise WrongCell(f"{name} must be text, and it is {_said(cell)}.")
    if "\0" in cell:
        raise WrongCell(f"{name} holds a NUL character.", "TEXT_INVALID")
    if any("\ud800" <= letter <= "\udfff" for letter in cell):
        raise WrongCell(f"{name} holds half of a character (a lone surrogate).", "TEXT_INVALID")
    return cell


def _number(name: str, cell: Any) -> float:
    found: float = math.nan
    if isinstance(cell, float) or (isinstance(cell, int) and not isinstance(cell, bool)):
        try:
            found = float(cell)
        except OverflowError:
            found = math.inf
        if isinstance(cell, int) and math.isfinite(found) and int(found) != cell:
            raise WrongCell(f"{name}: {str(cell)[:_SHOWN]} has more digits than a number keeps; a keyword keeps them all.")
    elif isinstance(cell, str) and _NUMBER.fullmatch(cell.strip()):
        text = cell.strip()
        found = float(text)
        if text.lstrip("+-").isdecimal() and math.isfinite(found) and len(text) < 400 and int(found) != int(text):
            raise WrongCell(f"{name}: {text[:_SHOWN]} has more digits than a number keeps; a keyword keeps them all.")
    if not math.isfinite(found):
        raise WrongCell(f"{name} must be a finite number like 12.5, and it is {_said(cell)}.")
    return found


def _boolean(name: str, cell: Any) -> bool:
    if isinstance(cell, bool):
        return cell
    found = _BOOLEANS.get(cell.strip().lower()) if isinstance(cell, str) else None
    if found is None:
        raise WrongCell(f"{name} must be true or false, and it is {_said(cell)}.")
    return found


def _timestamp(name: str, cell: Any) -> types_pb2.Value:
    match = _MOMENT.fullmatch(cell.strip()) if isinstance(cell, str) else None
    value = types_pb2.Value()
    try:
        if match is None:
            raise ValueError
        day, time, fraction, zone = match.groups()
        # Not by way of datetime, which has no nanoseconds.
        value.timestamp.FromJsonString(f"{day}T{time}{fraction or ''}{zone.upper()}")
        value.timestamp.ToJsonString()
    except ValueError:
        raise WrongCell(
            f"{name} must be a moment with its zone like 2026-01-31T12:00:00Z or 2026-01-31T20:00:00+08:00, "
            f"and it is {_said(cell)}."
        ) from None
    return value


def _said(cell: Any) -> str:
    if isinstance(cell, str):
        text = "".join(letter if letter.isprintable() else "?" for letter in cell[:_SHOWN])
        return f"“{text}”" if len(cell) <= _SHOWN else f"“{text}…”"
    if isinstance(cell, dict | list):
        return "an object" if isinstance(cell, dict) else "a list"
    return json.dumps(cell)[:_SHOWN]
