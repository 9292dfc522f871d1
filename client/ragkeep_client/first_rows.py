"""JSONL has no header: its first rows tell whether a file is of the collection at all, before each row is refused by itself."""

from __future__ import annotations

from collections.abc import Iterator

from ragkeep_client.documents import Columns
from ragkeep_client.rows import BadRow, Row, RowFile, UnreadableFile, shown

# Where a column that every row needs is in none of so many, the file is meant for another collection. Fewer rows tell that only
# where they have none of the columns.
_ROWS, _BYTES = 10, 1024 * 1024


def first_checked(file: RowFile, columns: Columns, name: str) -> Iterator[Row | BadRow]:
    """The file's rows. Raises UnreadableFile where the first ones lack what the collection needs.

    Only rows that lack something are held back, and they are rejected in any case.
    """
    rows = file.rows()
    held: list[Row | BadRow] = []
    keys: dict[str, None] = {}
    missing: list[str] = []
    good = 0
    for row in rows:
        held.append(row)
        if isinstance(row, Row):
            good += 1
            keys |= dict.fromkeys(row.cells)
            if row.whole:
                keys[columns.id_column] = None
            missing = [one for one in columns.needed if one not in keys]
        if (good and not missing) or len(held) == _ROWS or sum(len(one.raw or b"") for one in held) > _BYTES:
            break
    # Documents of every collection have an id: it tells nothing of this one, unless nothing else is needed.
    told = [one for one in columns.needed if one != columns.id_column] or list(columns.needed)
    if missing and (good == _ROWS or set(told) <= set(missing)):
        found = ", ".join(shown(one) for one in [*keys, *file.ignored][:50]) or "none"
        raise UnreadableFile(
            "COLUMNS_MISSING",
            f"{name} lacks {', '.join(missing)}. The collection {columns.collection} needs the columns "
            f"{', '.join(columns.needed)}; found: {found}. --collection names another one, --mapping old=new renames a column.",
        )
    yield from held
    yield from rows
