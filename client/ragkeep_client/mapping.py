"""Columns of a file → columns that a collection knows: `--mapping old=new`, several or a file of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ragkeep_client.output import CommandError


class Mapping:
    """New names by old ones. `columns` are those that are imported."""

    def __init__(self, columns: Sequence[str], new_by_old: dict[str, str] | None = None) -> None:
        self.columns = tuple(columns)
        self.unmet = dict(new_by_old or {})  # those that no file had so far
        self._new_by_old = new_by_old or {}

    def renamed(self, names: Sequence[str]) -> list[str]:
        """The names of a row's columns under their new names. One that another is renamed to is itself passed over: ""."""
        for name in self._new_by_old.keys() & set(names):
            self.unmet.pop(name, None)
        taken = {self._new_by_old[name] for name in names if name in self._new_by_old}
        return [self._new_by_old.get(name) or ("" if name in taken else name) for name in names]


def read_mapping(arguments: Sequence[str], columns: Sequence[str]) -> Mapping:
    """The mapping that `--mapping` means: each is old=new, or a file with such lines. Raises CommandError."""
    found: dict[str, str] = {}
    for argument in arguments:
        lines = [argument] if "=" in argument else _lines(Path(argument))
        for line in lines:
            old, equals, new = (part.strip() for part in line.rpartition("="))
            old = old.lower()
            if not equals or not old:
                raise _wrong(f"{line!r} is not old=new.")
            if new not in columns:
                raise _wrong(f"There is no column {new} to map {old} to; there are {', '.join(columns)}.")
            if found.get(old, new) != new:
                raise _wrong(f"The column {old} is mapped twice.")
            if any(other != old and to == new for other, to in found.items()):
                raise _wrong(f"Two columns are mapped to {new}.")
            found[old] = new
    return Mapping(columns, found)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _wrong(f"The file {path} cannot be read: {why}. Name a file of old=new lines, or say old=new.") from None
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _wrong(message: str) -> CommandError:
    return CommandError("MAPPING_INVALID", message)
