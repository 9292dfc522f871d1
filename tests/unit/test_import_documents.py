"""Rows → documents: ids, types, groups, duplicates, and a reason for each row that is none."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragkeep.types.v1.types_pb2 import Value
from ragkeep_client.cells import WrongCell, value_of
from ragkeep_client.documents import TICKET_FIELDS, Columns, Duplicate, Found, Rejected
from ragkeep_client.events import Field
from ragkeep_client.mapping import Mapping, read_mapping
from ragkeep_client.output import CommandError
from ragkeep_client.rows import UnreadableFile, options_in, reason_of
from ragkeep_client.seen import Seen
from ragkeep_runtime.errors import REASONS
from tests.reading import documents_of

HEADER = "ticket_id,title,description,solution,category\n"
GOOD = "T-1,忘记密码,登录不了系统,请重置密码, 账号管理 \n"
FIELDS = (
    Field("title", "text", filterable=False, required=True),
    Field("team", "keyword", filterable=True, required=False),
    Field("cost", "number", filterable=True, required=False),
    Field("open", "boolean", filterable=True, required=False),
    Field("opened", "timestamp", filterable=True, required=False),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def noted(path: Path, content: str, format_: str = "csv", id_column: str | None = None) -> list[Found | Rejected | Duplicate]:
    return documents_of(path, content, FIELDS, format_, "notes", id_column)


def only(found: list[Found | Rejected | Duplicate]) -> Found:
    assert len(found) == 1
    assert isinstance(found[0], Found), found[0]
    return found[0]


def test_a_ticket_becomes_a_document(path: Path) -> None:
    """The id is the ticket's; texts are texts as they stand, id and category are keywords without blanks around them."""
    found = only(documents_of(path, HEADER + GOOD))
    assert (found.line, found.document.id) == (2, "T-1")
    fields = found.document.fields
    assert {name: value.WhichOneof("kind") for name, value in fields.items()} == {
        "ticket_id": "keyword", "title": "text", "description": "text", "solution": "text", "category": "keyword",
    }  # fmt: skip
    assert fields["category"].keyword == "账号管理"


def test_exact_repetitions_count_once_and_other_content_is_rejected(path: Path) -> None:
    """The first document of an id is taken; the same again is a duplicate, another one with that id is an error."""
    found = documents_of(path, HEADER + GOOD + "T-2,t,d,s,c\n" + GOOD + "T-1,t,d,s,c\n")
    assert [type(one) for one in found] == [Found, Found, Duplicate, Rejected]
    last = found[-1]
    assert isinstance(last, Rejected)
    assert (last.line, last.reason) == (5, "DUPLICATE_ID")
    assert "line 2" in last.message


def test_a_row_that_was_rejected_for_its_id_does_not_replace_the_document_later(path: Path) -> None:
    """In a file of rejected rows it is taken with an id of its own, or without its reason; in both formats."""
    why = "DUPLICATE_ID: The id T-1 came before, in line 2, with other content; the first one is taken."
    rows = f'"{why}",T-1,t,d,s,c\n"{why}",T-9,t,d,s,c\n,T-1,t,d,s,c\n'
    still, other, emptied = documents_of(path, "_reason," + HEADER + rows)
    assert isinstance(still, Rejected)
    assert still.reason == "DUPLICATE_ID"
    assert "empty its _reason" in still.message
    # Rejected once more it says so again.
    assert reason_of(still.reason, still.message).startswith("DUPLICATE_ID: The id T-1 came before,")
    assert isinstance(other, Found)
    assert isinstance(emptied, Found)
    line = {"ticket_id": "T-1", "title": "t", "description": "d", "solution": "s", "category": "c"}
    lines = [{"_reason": why, **line}, {"_reason": why, **line, "ticket_id": "T-9"}, line]
    found = documents_of(path, "".join(json.dumps(one) + "\n" for one in lines), format_="jsonl")
    assert [type(one) for one in found] == [Rejected, Found, Found]


def test_a_rejected_row_is_not_imported_with_other_options(path: Path) -> None:
    """What was for a group would be open to all; until its reason is emptied, or the same is said."""
    why = reason_of("FIELD_MISSING", "The column is empty: title.", "--groups 'hr  all'")
    assert why == "FIELD_MISSING: The column is empty: title. (imported with --groups 'hr all')"
    content = f'_reason,{HEADER}"{why}",T-1,t,d,s,c\n,T-2,t,d,s,c\nFIELD_MISSING: (x),T-3,t,d,s,c\n'
    other, emptied, without = documents_of(path, content)
    assert isinstance(other, Rejected)
    assert (other.document_id, other.reason, other.options) == ("T-1", "ROW_INVALID", "--groups 'hr all'")
    assert "say the same, or empty its _reason" in other.message
    assert isinstance(emptied, Found)
    assert isinstance(without, Found)
    # Rejected once more it still has them, not those of this import.
    assert options_in(reason_of(other.reason, other.message, other.options)) == "--groups 'hr all'"
    same = Columns("service-tickets", {one.name: one for one in TICKET_FIELDS}, "ticket_id", options="--groups 'hr  all'")
    assert [type(one) for one in documents_of(path, content, columns=same)] == [Found, Found, Found]


def test_a_rejected_row_does_not_take_its_id(path: Path) -> None:
    """A row with an empty field is rejected by name; a later whole one with the same id is imported."""
    first, second = documents_of(path, HEADER + "T-1,,d, ,c\n" + GOOD)
    assert isinstance(first, Rejected)
    assert (first.reason, first.document_id) == ("FIELD_MISSING", "T-1")
    assert "title, solution" in first.message
    assert isinstance(second, Found)


def test_cells_of_csv_are_converted_to_their_fields_types(path: Path) -> None:
    """An empty cell of a field that need not be there is no value."""
    content = "id,title,team,cost,open,opened\n1,a,x, 12.50 ,Yes,2026-01-31T20:00:00+08:00\n2,b,,,,\n"
    full, empty = noted(path, content)
    assert isinstance(full, Found)
    assert isinstance(empty, Found)
    fields = full.document.fields
    assert (fields["cost"].number, fields["open"].boolean) == (12.5, True)
    assert fields["opened"].timestamp.ToJsonString() == "2026-01-31T12:00:00Z"
    assert set(empty.document.fields) == {"title"}


def test_a_flat_object_of_json_is_a_row(path: Path) -> None:
    """Null is no value; a number may be an id; blanks are what they are."""
    line = {"ID": 7, "Title": " a ", "cost": 3, "open": False, "team": None, "opened": "2026-01-31T12:00:00Z", "groups": ["hr"]}
    document = only(noted(path, json.dumps(line), "jsonl")).document
    assert (document.id, list(document.groups)) == ("7", ["hr"])
    assert {name: value.WhichOneof("kind") for name, value in document.fields.items()} == {
        "title": "text", "cost": "number", "open": "boolean", "opened": "timestamp",
    }  # fmt: skip
    assert document.fields["title"].text == " a "


@pytest.mark.parametrize(
    ("header", "cell", "groups"),
    [
        ("groups", "hr", ["hr"]),
        ("ACL", " hr ; it;;hr ", ["hr", "it"]),
        ("acl", "CN=hr,OU=clinic", ["CN=hr,OU=clinic"]),
        ("groups", " ", []),
        ("nobody", "hr", []),
    ],
)
def test_a_column_says_who_may_see_a_document(path: Path, header: str, cell: str, groups: list[str]) -> None:
    """Of the name groups or acl, unless told otherwise; several in one cell, each once; an empty cell opens it to all."""
    document = only(noted(path, f'id,title,{header}\n1,a,"{cell}"\n')).document
    assert list(document.groups) == groups


def test_another_column_may_say_it_and_then_every_row_must(path: Path) -> None:
    """Also one that is a field; without it the file, or the row, would be open by mistake."""
    named = Columns.of("notes", FIELDS, groups_column="Team")
    found = only(documents_of(path, "id,title,team\n1,a,hr;it\n", columns=named))
    assert isinstance(found, Found)
    assert (list(found.document.groups), found.document.fields["team"].keyword) == (["hr", "it"], "hr;it")
    with pytest.raises(UnreadableFile, match="lacks team"):
        documents_of(path, "id,title,groups\n1,a,hr\n", columns=named)
    lines = '{"id": "1", "title": "a", "team": null}\n{"id": "2", "title": "b", "groups": ["hr"]}\n'
    first, second = documents_of(path, lines, format_="jsonl", columns=named)
    assert isinstance(first, Found)
    assert isinstance(second, Rejected)
    assert (second.reason, list(first.document.groups)) == ("FIELD_MISSING", [])


def test_groups_and_acl_that_differ_are_no_row(path: Path) -> None:
    """Neither is guessed to be the right one."""
    first, second = noted(path, "id,title,groups,acl\n1,a,hr,it\n2,b,hr;it,hr; it\n")
    assert isinstance(first, Rejected)
    assert "--groups-column" in first.message
    assert isinstance(second, Found)
    assert list(second.document.groups) == ["hr", "it"]


def test_a_field_of_that_name_is_a_field(path: Path) -> None:
    """A collection may have groups of its own; then acl alone says who sees a document."""
    fields = (*FIELDS, Field("groups", "keyword", filterable=True, required=False))
    found = only(documents_of(path, "id,title,groups,acl\n1,a,blue,hr\n", fields, collection="notes"))
    assert isinstance(found, Found)
    assert (found.document.fields["groups"].keyword, list(found.document.groups)) == ("blue", ["hr"])


def test_groups_for_all_are_for_rows_that_name_none(path: Path) -> None:
    """A row's own say goes before what the command says."""
    columns = Columns.of("notes", FIELDS, groups=("staff", "it"))
    rows = documents_of(path, "id,title,groups\n1,a,\n2,b,hr\n", columns=columns)
    assert [list(row.document.groups) for row in rows if isinstance(row, Found)] == [["staff", "it"], ["hr"]]


def test_an_exported_document_comes_back_as_it_was(path: Path) -> None:
    """Empty text, blanks in keywords, nanoseconds and groups included: importing an export changes nothing."""
    fields = {"title": " \n", "team": " x ", "cost": 0.1, "open": False, "opened": "2026-01-31T12:00:00.123456789Z"}
    line = json.dumps({"id": "1", "fields": {**fields, "title": "a"}, "groups": ["b", "a"]})
    document = only(noted(path, line, "jsonl")).document
    assert document.fields["team"].keyword == " x "
    assert document.fields["opened"].timestamp.nanos == 123456789
    assert document.fields["cost"].number == 0.1
    assert list(document.groups) == ["b", "a"]
    optional = (Field("title", "text", filterable=False, required=False),)
    kept = only(documents_of(path, json.dumps({"id": "1", "fields": {"title": ""}}), optional, "jsonl", "notes"))
    assert kept.document.fields["title"].WhichOneof("kind") == "text"


@pytest.mark.parametrize(
    ("line", "reason", "word"),
    [
        ({"title": "a"}, "FIELD_MISSING", "id"),
        ({"id": "1"}, "FIELD_MISSING", "title"),
        ({"id": "1", "title": " "}, "FIELD_MISSING", "title"),
        ({"id": "1", "title": ["a"]}, "FIELD_TYPE_WRONG", "a list"),
        ({"id": "1", "title": {"a": 1}}, "FIELD_TYPE_WRONG", "an object"),
        ({"id": "1", "title": True}, "FIELD_TYPE_WRONG", "true"),
        ({"id": "1", "title": 1.5}, "FIELD_TYPE_WRONG", "1.5"),
        ({"id": 1.5, "title": "a"}, "FIELD_TYPE_WRONG", "The id"),
        ({"id": "1", "title": "a\0b"}, "TEXT_INVALID", "NUL"),
        ({"id": "1", "title": "a\ud800b"}, "TEXT_INVALID", "surrogate"),
        ({"id": "\udfff", "title": "a"}, "TEXT_INVALID", "surrogate"),
        ({"id": "1", "title": "a", "cost": "twelve"}, "FIELD_TYPE_WRONG", "twelve"),
        ({"id": "1", "title": "a", "cost": 10**400}, "FIELD_TYPE_WRONG", "cost"),
        ({"id": "1", "title": "a", "cost": 2**53 + 1}, "FIELD_TYPE_WRONG", "digits"),
        ({"id": "1", "title": "a", "open": 1}, "FIELD_TYPE_WRONG", "true or false"),
        ({"id": "1", "title": "a", "opened": "yesterday"}, "FIELD_TYPE_WRONG", "2026-01-31T12:00:00Z"),
        ({"id": "1", "title": "a", "groups": [1.5]}, "FIELD_TYPE_WRONG", "group"),
        ({"fields": {"title": "a"}}, "DOCUMENT_ID_INVALID", "id"),
        ({"id": "1", "fields": {"title": "a", "more": "x"}}, "FIELD_UNKNOWN", "it has title, team"),
        ({"id": "1", "fields": {"title": "a"}, "groups": "hr"}, "FIELD_TYPE_WRONG", "groups"),
    ],
)
def test_a_row_that_is_no_document_says_why(path: Path, line: dict[str, Any], reason: str, word: str) -> None:
    """A reason for machines and a sentence for people; the rows around it are taken."""
    good = json.dumps({"id": "good", "title": "x"})
    first, second = noted(path, f"{json.dumps(line)}\n{good}", "jsonl")
    assert isinstance(first, Rejected)
    assert first.reason == reason
    assert word in first.message
    first.document_id.encode()
    assert isinstance(second, Found)


@pytest.mark.parametrize(
    "cell",
    ["", "nan", "inf", "-Infinity", "1_000", "1,5", "1 000", "0x10", "１２", "12€", "1e999", "9007199254740993", "--1", "."],
)
def test_what_is_no_plain_number_is_none(cell: str) -> None:
    """Nothing is guessed: no thousands, no decimal comma, nothing that would lose digits."""
    with pytest.raises(WrongCell):
        value_of("cost", "number", cell)


@pytest.mark.parametrize(
    "cell",
    ["2026-01-31", "2026-01-31T12:00:00", "2026-02-30T12:00:00Z", "2026-01-31T24:00:01Z", "2026-01-31T12:00:60Z", "1769860800",
     "2026-01-31T12:00:00+0800", "0000-01-01T00:00:00Z", "2026-01-31T12:00:00.1234567891Z", "20260131T120000Z"],
)  # fmt: skip
def test_what_is_no_moment_with_its_zone_is_none(cell: str) -> None:
    """A time without a zone could be eight hours off, and nobody would see it."""
    with pytest.raises(WrongCell):
        value_of("opened", "timestamp", cell)


@given(number=st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_survives_being_written(number: float) -> None:
    """As Python and JSON write it, to the last bit."""
    assert value_of("cost", "number", repr(number)).number == number
    assert value_of("cost", "number", json.loads(json.dumps(number))).number == number


@given(cell=st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2))
@pytest.mark.parametrize("kind", ["text", "keyword", "number", "boolean", "timestamp", "other"])
def test_any_cell_is_a_value_or_says_why_not(kind: str, cell: Any) -> None:
    """A reader's values and nothing else."""
    try:
        value = value_of("field", kind, cell)
    except WrongCell as error:
        error.message.encode()
        said = error.message
    else:
        said = "."
        assert value.WhichOneof("kind") == kind
        assert Value.FromString(value.SerializeToString()) == value
    assert said.endswith(".")


def test_another_id_column_and_other_names(path: Path) -> None:
    """The id may be a field as well; what a mapping names wins over a column of that name."""
    found = documents_of(path, "team,title\nx,a\n", FIELDS, "csv", "notes", "Team")
    document = only(found).document
    assert (document.id, document.fields["team"].keyword) == ("x", "x")
    own = (Field("ticket_id", "keyword", filterable=True, required=True), *FIELDS)
    assert only(documents_of(path, "ticket_id,title\nT-1,a\n", own, "csv", "mine")).document.id == "T-1"
    mapping = Mapping(("id", "title"), {"nr": "id", "other": "title"})
    assert mapping.renamed(["nr", "id", "title", "more"]) == ["id", "", "title", "more"]
    assert mapping.unmet == {"other": "title"}


def test_a_mapping_is_named_or_lies_in_a_file(tmp_path: Path) -> None:
    """Several, in either way; names are compared without case; a # begins a remark; an equals sign may be in an old name."""
    file = tmp_path / "names"
    file.write_text("\ufeff# theirs = ours\n\nTicket Nr = id\n", encoding="utf-8")
    mapping = read_mapping([str(file), "a=b=title"], ("id", "title"))
    assert mapping.renamed(["ticket nr", "a=b"]) == ["id", "title"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nr=number"], "no column number"),
        (["=id"], "not old=new"),
        (["a=id", "a=title"], "mapped twice"),
        (["a=id", "b=id"], "Two columns"),
        (["/not/there"], "cannot be read"),
    ],
)
def test_a_wrong_mapping_is_refused_before_anything_is_read(arguments: list[str], says: str) -> None:
    """With the columns that there are."""
    with pytest.raises(CommandError, match=says) as refused:
        read_mapping(arguments, ("id", "title"))
    assert refused.value.reason == "MAPPING_INVALID"


def test_ids_are_remembered_without_being_kept_in_memory() -> None:
    """A hundred thousand need no more of Python's memory than a thousand, and each is known again."""
    peaks = []
    for count in (1_000, 100_000):
        seen = Seen()
        tracemalloc.start()
        assert all(seen.earlier(f"id-{n}", b"content", 0, n) is None for n in range(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        again, other = seen.earlier(f"id-{count - 1}", b"content", 1, 5), seen.earlier("id-0", b"other", 1, 6)
        assert again is not None
        assert (again.same, again.source, again.line) == (True, 0, count - 1)
        assert other is not None
        assert not other.same
        seen.close()
    assert peaks[1] < 1.15 * peaks[0]


_VALUE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6)
_OBJECT = st.dictionaries(
    st.sampled_from(["id", "title", "team", "cost", "open", "opened", "groups", "fields", "more", ""]),
    _VALUE | st.lists(_VALUE, max_size=2) | st.dictionaries(st.sampled_from(["title", "cost", "more"]), _VALUE, max_size=3),
    max_size=7,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(objects=st.lists(_OBJECT, max_size=5), pretend=st.booleans())
def test_any_objects_are_documents_or_say_why_not(path: Path, objects: list[dict[str, Any]], pretend: bool) -> None:
    """As many outcomes as lines, in their order; what is a document has an id and only the collection's fields."""
    for one in objects if pretend else []:
        one |= {"id": "same", "title": "t"}
    found = noted(path, "".join(json.dumps(one) + "\n" for one in objects), "jsonl")
    assert [one.line for one in found] == list(range(1, len(objects) + 1))
    for one in found:
        if isinstance(one, Found):
            assert one.document.id
            assert set(one.document.fields) <= {field.name for field in FIELDS}
        elif isinstance(one, Rejected):
            assert one.reason in REASONS
            one.document_id.encode()
            one.message.encode()
