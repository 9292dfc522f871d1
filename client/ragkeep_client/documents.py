"""Rows of files → documents of a collection. Each row that is none has its reason; a repeated document counts once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragkeep.types.v1 import types_pb2
from ragkeep_client.cells import WrongCell, text_of, value_of
from ragkeep_client.events import Field
from ragkeep_client.rows import BadRow, Row, options_in, reason_of, same_options
from ragkeep_client.seen import Seen

SERVICE_TICKETS = "service-tickets"
# Of which one may say who sees a document, unless they are fields. Passed over, they would open what was meant for a few.
GROUPS_COLUMNS = ("groups", "acl")
# Between several groups in one cell. Names of groups hold commas.
GROUPS_SEPARATOR = ";"
# Of the preset, which the gateway makes when it is first imported into: until then it cannot be asked for its fields.
TICKET_FIELDS = (
    Field("ticket_id", "keyword", filterable=True, required=True),
    Field("title", "text", filterable=False, required=True),
    Field("description", "text", filterable=False, required=True),
    Field("solution", "text", filterable=False, required=True),
    Field("category", "keyword", filterable=True, required=True),
)

_STILL = "and the row still has it: give it an id of its own; or empty its _reason, and it replaces what is there."


@dataclass(frozen=True, slots=True)
class Columns:
    """What a row needs in order to be a document."""

    collection: str
    fields: Mapping[str, Field]
    id_column: str
    groups_columns: tuple[str, ...] = ()  # one of them says which groups may see a document
    needs_groups: bool = False  # every row must have that column: without it a document would be open by mistake
    groups: tuple[str, ...] = ()  # of documents whose row names none
    options: str = ""  # of the import, as they are typed: those that decide what a row's columns mean

    @classmethod
    def of(
        cls,
        collection: str,
        fields: Sequence[Field],
        id_column: str | None = None,
        groups_column: str | None = None,
        groups: Sequence[str] = (),
    ) -> Columns:
        """`id_column` is by default `id`; where there is a field `ticket_id` and none `id`, as tickets have it, that.
        `groups_column` is by default `groups` or `acl`, where these are no fields.
        """
        by_name = {field.name: field for field in fields}
        default = "ticket_id" if "ticket_id" in by_name and "id" not in by_name else "id"
        of_groups = tuple(name for name in GROUPS_COLUMNS if name not in by_name)
        if groups_column:
            of_groups = (groups_column.strip().lower(),)
        id_name = (id_column or default).strip().lower()
        return cls(collection, by_name, id_name, of_groups, bool(groups_column), tuple(groups))

    @property
    def known(self) -> tuple[str, ...]:
        """That are imported."""
        return tuple(dict.fromkeys((self.id_column, *self.fields, *self.groups_columns)))

    @property
    def in_header(self) -> tuple[str, ...]:
        """Without which no file is imported."""
        return tuple(dict.fromkeys((*self.needed, *(self.groups_columns if self.needs_groups else ()))))

    @property
    def needed(self) -> tuple[str, ...]:
        """Without which no row is a document."""
        return tuple(dict.fromkeys((self.id_column, *(field.name for field in self.fields.values() if field.required))))


@dataclass(frozen=True, slots=True)
class Found:
    """A document of a file."""

    line: int  # of the file, where its row begins
    document: types_pb2.Document
    raw: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that is not imported."""

    line: int
    document_id: str  # empty where it could not be read
    reason: str  # a name of errors.proto without its prefix
    message: str
    raw: bytes | None = None  # None: too large to be kept
    fatal: bool = False  # nothing after it could be read
    options: str | None = None  # with which it has to be imported; None: those of this import


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A row that says once more what an earlier one said."""

    line: int


class Documents:
    """Makes documents of rows; remembers ids over all files of an import."""

    def __init__(self, columns: Columns, names: list[str]) -> None:
        self._columns = columns
        self._names = names  # of the sources, as they are shown
        self._seen = Seen()

    def close(self) -> None:
        """Forgets the ids."""
        self._seen.close()

    def of(self, rows: Iterable[Row | BadRow], source: int) -> Iterator[Found | Rejected | Duplicate]:
        """What each row of a file is; `source` is the file's place among the names."""
        for row in rows:
            if isinstance(row, BadRow):
                yield Rejected(row.line, "", row.reason, row.message, row.raw, row.fatal)
                continue
            options = options_in(row.reason) if row.reason else ""
            if options and not same_options(options, self._columns.options):
                # Without --groups it would be open to all, without --mapping lack a field.
                message = f"It was rejected in an import with {options}: say the same, or empty its _reason."
                yield Rejected(row.line, self._shown_id(row), "ROW_INVALID", message, row.raw, options=options)
                continue
            try:
                document = self._document(row)
            except WrongCell as error:
                yield Rejected(row.line, self._shown_id(row), error.reason, error.message, row.raw)
                continue
            if row.reason and row.reason.startswith(_came_before(document.id)):
                yield Rejected(row.line, document.id, "DUPLICATE_ID", f"{_message(document.id)}, {_STILL}", row.raw)
                continue
            content = document.SerializeToString(deterministic=True)
            earlier = self._seen.earlier(document.id, content, source, row.line)
            if earlier is None:
                yield Found(row.line, document, row.raw)
            elif earlier.same:
                yield Duplicate(row.line)
            else:
                where = f"in line {earlier.line}" + (f" of {self._names[earlier.source]}" if earlier.source != source else "")
                message = f"{_message(document.id)}, {where}, with other content; the first one is taken."
                yield Rejected(row.line, document.id, "DUPLICATE_ID", message, row.raw)

    def _document(self, row: Row) -> types_pb2.Document:
        """Raises WrongCell."""
        columns = self._columns
        document_id = self._id(row)
        if row.whole:
            unknown = [name for name in row.cells if name not in columns.fields]
            if unknown:
                known = ", ".join(columns.fields)
                problem = f"The collection {columns.collection} has no field {unknown[0][:64]}; it has {known}."
                raise WrongCell(problem, "FIELD_UNKNOWN")
        empty = [
            name for name in columns.needed if (name != columns.id_column or not row.whole) and _is_empty(row.cells.get(name))
        ]
        if empty:
            plural = "s are" if len(empty) > 1 else " is"
            raise WrongCell(f"The column{plural} empty: {', '.join(empty)}.", "FIELD_MISSING")
        fields = {}
        for name, field in columns.fields.items():
            cell = row.cells.get(name)
            # A CSV cell cannot say whether it is empty or not there.
            if cell is None or (row.text and not cell.strip()):
                continue
            if field.sealed and _keeps(cell):
                # As `ragkeep export` writes what it was not shown: the stored value stays.
                fields[name] = types_pb2.Value(sealed=types_pb2.SealedValue())
                continue
            fields[name] = value_of(name, field.type, cell.strip() if row.text and field.type == "keyword" else cell)
        return types_pb2.Document(id=document_id, fields=fields, groups=self._groups(row))

    def _id(self, row: Row) -> str:
        cell = row.document_id if row.whole else row.cells.get(self._columns.id_column)
        if _is_empty(cell):
            if row.whole:
                raise WrongCell("The document has no id.", "DOCUMENT_ID_INVALID")
            return ""  # said with the other empty columns
        found = text_of("The id", cell)
        return found.strip() if row.text else found

    def _groups(self, row: Row) -> list[str]:
        """Of who may see the document. Raises WrongCell."""
        columns = self._columns
        found = row.groups
        if not row.whole:
            if columns.needs_groups and columns.groups_columns[0] not in row.cells:
                name = columns.groups_columns[0]
                raise WrongCell(
                    f"The row has no {name}, which says who may see it; an empty one says: everyone.", "FIELD_MISSING"
                )
            said = [row.cells[name] for name in columns.groups_columns if not _is_empty(row.cells.get(name))]
            if len(said) > 1 and set(_names(said[0])) != set(_names(said[1])):
                raise WrongCell("The row has groups and acl, and they differ: --groups-column says which one counts.")
            found = said[0] if said else found
        elif isinstance(found, str):
            raise WrongCell("The groups must be a list of names.")
        return _names(found) or list(columns.groups)

    def _shown_id(self, row: Row) -> str:
        cell = row.document_id if row.whole else row.cells.get(self._columns.id_column)
        return cell.strip().encode("utf-8", "replace").decode()[:256] if isinstance(cell, str) else ""


def _message(document_id: str) -> str:
    return f"The id {document_id[:64]} came before"


def _came_before(document_id: str) -> str:
    """What the reason begins with where a row was rejected for this id."""
    return reason_of("DUPLICATE_ID", f"{_message(document_id)},")


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _keeps(cell: Any) -> bool:
    return isinstance(cell, dict) and cell.get("sealed") is True


def _names(groups: Any) -> list[str]:
    """Of a list, or of a cell with a separator between them; each once. Raises WrongCell."""
    if groups is None:
        return []
    if isinstance(groups, str):
        groups = [name for name in (part.strip() for part in text_of("A group", groups).split(GROUPS_SEPARATOR)) if name]
    if not isinstance(groups, list):
        raise WrongCell(f"The groups must be a list of names, or text with {GROUPS_SEPARATOR} between them.")
    return list(dict.fromkeys(text_of("A group", group) for group in groups))
