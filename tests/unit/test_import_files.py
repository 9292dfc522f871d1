"""Odd files: each has the outcome that its owner expects, from a file and from a pipe alike."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from ragkeep_client.csv_file import MAX_RECORD_BYTES
from ragkeep_client.jsonl_file import MAX_LINE_BYTES
from ragkeep_client.rows import BadRow, Row, UnreadableFile
from ragkeep_client.source import OpenFile
from tests.reading import read, read_pipe, rows_of

AB = ("a", "b")
LARGE = 10 * 1024 * 1024
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "odd"


def cells(rows: list[Row | BadRow]) -> list[tuple[Any, ...] | str]:
    """The cells of rows, the reasons of others."""
    return [tuple(row.cells.values()) if isinstance(row, Row) else row.reason for row in rows]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize(("format_", "between"), [("csv", b","), ("tsv", b"\t")])
def test_rows_end_at_lf_crlf_or_cr(path: Path, end: bytes, format_: str, between: bytes) -> None:
    """Also inside quotes, where they are text; the numbers of lines count them."""
    lines = [b"a" + between + b"b", b"1" + between + b'"x' + end + end + b'y"', b"", b"2" + between + b"z"]
    content = end.join(lines)
    for rows in (read(path, content, AB, format_)[1], read_pipe(content, AB, format_)):
        text = end.decode()
        assert cells(rows) == [("1", f"x{text}{text}y"), ("2", "z")]
        assert [row.line for row in rows] == [2, 6]


def test_a_file_that_ends_without_a_line_end_loses_no_row(path: Path) -> None:
    """The last row counts as the others do."""
    assert cells(read(path, b"a,b\n1,2\n3,4", AB)[1]) == [("1", "2"), ("3", "4")]
    assert cells(read(path, b'a,b\n1,2\n3,"4"', AB)[1]) == [("1", "2"), ("3", "4")]


@pytest.mark.parametrize(
    "field",
    [
        "x" * LARGE,
        ("line of text\n" * (LARGE // 13)),
        ("1," + "2" * 60 + "\n") * (LARGE // 63),
        ("x" * 60 + '""') * (LARGE // 62),
    ],
    ids=["one-line", "many-lines", "lines-like-rows", "quotes"],
)
def test_a_field_of_ten_megabytes_costs_its_own_row_and_makes_none(path: Path, field: str) -> None:
    """Even where its lines look like rows; the memory that it takes is bounded."""
    content = f'a,b\n1,2\n9,"{field}"\n3,4\n'.encode()
    tracemalloc.start()
    _, rows = read(path, content, AB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert cells(rows) == [("1", "2"), "DOCUMENT_TOO_LARGE", ("3", "4")]
    assert [row.line for row in rows] == [2, 3, 4 + field.count("\n")]
    assert peak < 4 * MAX_RECORD_BYTES
    assert cells(read_pipe(content, AB)) == cells(rows)


ROW = "3," + "4" * 509 + "\n"


def test_an_open_quote_before_much_text_costs_its_own_row(path: Path) -> None:
    """The file is read to its end in search of the other quote, and the rows after it are rows nevertheless."""
    count = 3 * MAX_RECORD_BYTES // len(ROW)
    content = b'a,b\n"1,2\n' + ROW.encode() * count
    _, rows = read(path, content, AB)
    assert cells(rows[:2]) == ["ROW_INVALID", ("3", "4" * 509)]
    assert len(rows) == 1 + count
    assert [row.line for row in rows] == list(range(2, 3 + count))
    assert cells(read_pipe(content, AB)) == cells(rows)


def test_an_open_quote_that_a_pipe_has_passed_by_ends_the_reading_and_says_so() -> None:
    """What cannot be read twice is kept up to 16 MiB; the way out is to name the file."""
    rows = read_pipe(b'a,b\n1,2\n"3,4\n' + ROW.encode() * (20 * 1024 * 1024 // len(ROW)), AB)
    assert cells(rows) == [("1", "2"), "ROW_INVALID"]
    last = rows[-1]
    assert isinstance(last, BadRow)
    assert last.fatal
    assert "give the file by its name" in last.message


def test_every_control_character_but_nul_is_text(path: Path) -> None:
    """C0, DEL and C1 come through unchanged; what begins a new row does so only outside of quotes."""
    controls = "".join(map(chr, [*range(1, 0x20), *range(0x7F, 0xA0)]))
    _, rows = read(path, f'a,b\n1,"{controls.replace(chr(34), "")}"\n'.encode(), AB)
    assert cells(rows) == [("1", controls)]
    line = json.dumps({"a": "1", "b": controls})
    assert cells(read(path, line.encode(), AB, "jsonl")[1]) == [("1", controls)]


def test_a_nul_byte_costs_its_own_row(path: Path) -> None:
    """Wherever it stands after the header."""
    assert cells(read(path, b"a,b\n1,2\n\0,4\n5,6\n", AB)[1]) == [("1", "2"), "ROW_INVALID", ("5", "6")]


@pytest.mark.parametrize(
    "text",
    ["שלום, עולם \u200f\u202eabc\u202c", "👩‍👩‍👧‍👦🏳️‍🌈", "é vs é", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A", "\ufeffbom inside", "\u2028\u2029", "𝕏\U0010ffff"],
    ids=["right-to-left", "emoji", "composed", "combining", "bom", "separators", "astral"],
)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["", "bom"])
def test_text_of_any_script_comes_through_unchanged(path: Path, text: str, bom: bytes) -> None:
    """Not normalised, not stripped; a BOM is one only at the file's beginning."""
    _, rows = read(path, bom + f'a,b\n1,"{text}"\n'.encode(), AB)
    assert cells(rows) == [("1", text)]
    for ascii_only in (True, False):
        line = json.dumps({"a": "1", "b": text}, ensure_ascii=ascii_only).encode()
        assert cells(read(path, bom + line, AB, "jsonl")[1]) == [("1", text)]


def test_a_lone_surrogate_written_as_bytes_is_no_text(path: Path) -> None:
    """Such bytes are not UTF-8: the row is rejected, in either format."""
    assert cells(read(path, b"a,b\n1,\xed\xa0\x80\n3,4\n", AB)[1]) == ["ROW_INVALID", ("3", "4")]
    assert cells(read(path, b'{"a": "\xed\xa0\x80"}\n{"a": "1"}\n', AB, "jsonl")[1]) == ["ROW_INVALID", ("1",)]


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("format_", ["csv", "tsv", "jsonl"])
def test_utf16_is_refused_with_the_way_out(path: Path, codec: str, format_: str) -> None:
    """With a BOM it is called by its name."""
    with pytest.raises(UnreadableFile) as refused:
        read(path, 'a,b\n{"a": 1}\n'.encode(codec), AB, format_)
    assert ("iconv" in refused.value.message) == (codec in ("utf-16", "utf-32"))
    assert "UTF-16" in refused.value.message or "binary" in refused.value.message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[1, 2]", "JSONL is one object a line"),
        (b"\0\1\2", "binary"),
    ],
)
def test_what_is_no_jsonl_is_refused_as_a_whole(path: Path, content: bytes, says: str) -> None:
    """With what it is, or what would be right."""
    with pytest.raises(UnreadableFile, match=says):
        read(path, content, AB, "jsonl")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"not json", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": 1} {"a": 2}', "not JSON"),
        (b"[1]", "not an object"),
        (b'"a"', "not an object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": 1, " A ": 2}', "twice"),
        (b'{"b": {"c": 1, "c": 2}}', "twice"),
        (b'{"a": ' + b"1" * 5000 + b"}", "too long"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": "tab\there"}', "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "' + b"x" * MAX_LINE_BYTES + b'"}', "longer than"),
    ],
)
def test_a_bad_line_of_jsonl_spoils_only_itself(path: Path, line: bytes, says: str) -> None:
    """What is wrong is said with the line's number, and the lines around it are read."""
    _, rows = read(path, b'{"a": "before"}\n' + line + b'\n\n{"a": "after"}', AB, "jsonl")
    assert [row.line for row in rows] == [1, 2, 4]
    spoiled = rows[1]
    assert isinstance(spoiled, BadRow)
    assert says in spoiled.message
    assert cells([rows[0], rows[2]]) == [("before",), ("after",)]


@pytest.mark.parametrize(("line", "column"), [(b'{"a": 1,, "b": 2}', 9), (b'{"a": "x"', 10), (b'{"a": "x"\r', 10)])
def test_the_column_of_a_fault_is_the_lines(path: Path, line: bytes, column: int) -> None:
    """Counted from 1; behind the last character where something is missing."""
    _, (row,) = read(path, line + b"\n", AB, "jsonl")
    assert isinstance(row, BadRow)
    assert f"(column {column})" in row.message


def test_whole_documents_and_flat_objects_may_be_mixed(path: Path) -> None:
    """What has an object of fields is a document as it is exported; a list of groups is never passed over."""
    lines = [
        {"id": "1", "fields": {"a": "x"}, "groups": ["hr"]},
        {"A": "y", "groups": ["hr"], "more": 1},
        {"a": "z", "fields": "no object"},
    ]
    file, rows = read(path, "\n".join(map(json.dumps, lines)).encode(), AB, "jsonl")
    assert [(row.whole, row.document_id, row.cells, row.groups) for row in rows if isinstance(row, Row)] == [
        (True, "1", {"a": "x"}, ["hr"]),
        (False, None, {"a": "y"}, ["hr"]),
        (False, None, {"a": "z"}, None),
    ]
    assert list(file.ignored) == ["more", "fields"]


def test_a_file_that_shrinks_while_it_is_read_ends_there(path: Path) -> None:
    """What is left is read, and the file says that it changed."""
    path.write_bytes(b"a,b\n" + ROW.encode() * 10_000)
    opened = OpenFile(os.open(path, os.O_RDONLY), threading.Event(), own=True)
    rows = lazily(opened)
    assert next(rows) is not None
    assert not opened.changed()
    os.truncate(path, 4 + 5000 * len(ROW) + 1)
    # The row that was cut has too few columns.
    assert cells(list(rows)) == [("3", "4" * 509)] * 4999 + ["ROW_INVALID"]
    assert opened.changed()
    opened.close()


def test_a_file_that_grows_while_it_is_read_is_read_to_its_new_end(path: Path) -> None:
    """And says that it changed, because its last row may be half written."""
    path.write_bytes(b"a,b\n" + ROW.encode() * 10_000)
    opened = OpenFile(os.open(path, os.O_RDONLY), threading.Event(), own=True)
    rows = lazily(opened)
    assert next(rows) is not None
    with path.open("ab") as out:
        out.write(ROW.encode() * 1000)
    assert 1 + sum(1 for _ in rows) == 11_000
    assert opened.changed()
    opened.close()


def lazily(opened: OpenFile) -> Iterator[Row | BadRow]:
    from ragkeep_client.csv_file import CsvFile
    from ragkeep_client.mapping import Mapping

    return CsvFile.begin(opened, "file", "csv", AB, Mapping(AB)).rows()


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_TABLE = st.lists(st.tuples(_TEXT, _TEXT).filter(any), max_size=6)


@FUZZ
@given(table=_TABLE, end=st.sampled_from(["\n", "\r\n", "\r"]), format_=st.sampled_from(["csv", "tsv"]), quoting=st.booleans())
def test_whatever_python_writes_as_csv_is_read_back(
    path: Path, table: list[tuple[str, str]], end: str, format_: str, quoting: bool
) -> None:
    """No row is lost and none is invented, from a file and from a pipe; Python's own reader agrees."""
    # Where it quotes no more than it must, Python leaves a CR or LF bare in files whose rows end otherwise.
    assume(quoting or not any(one in cell for row in table for cell in row for one in "\r\n"))
    written = io.StringIO(newline="")
    writer = csv.writer(
        written,
        delimiter="," if format_ == "csv" else "\t",
        lineterminator=end,
        quoting=csv.QUOTE_ALL if quoting else csv.QUOTE_MINIMAL,
    )
    writer.writerows([AB, *table])
    content = written.getvalue().encode()
    with_python = list(csv.reader(io.StringIO(written.getvalue(), newline=""), delimiter="," if format_ == "csv" else "\t"))
    assert [tuple(row) for row in with_python if row][1:] == table
    assert cells(read(path, content, AB, format_)[1]) == table
    assert cells(read_pipe(content, AB, format_)) == table


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@FUZZ
@given(values=st.lists(_JSON, max_size=6), ascii_only=st.booleans(), end=st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_whatever_python_writes_as_json_is_read_back(path: Path, values: list[Any], ascii_only: bool, end: str) -> None:
    """Any value of JSON in a column's place; what becomes of it is for the field's type to say."""
    lines = [json.dumps({"a": value}, ensure_ascii=ascii_only) for value in values]
    content = end.join(lines).encode("utf-8", "surrogatepass")
    expected = [(value,) if ascii_only or _is_text(value) else "ROW_INVALID" for value in values]
    assert cells(read(path, content, AB, "jsonl")[1]) == expected
    assert cells(read_pipe(content, AB, "jsonl")) == expected


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


_PIECES = st.sampled_from(
    [b'"', b'""', b",", b"\t", b"\r", b"\n", b"\r\n", b"\0", b"{", b"}", b"[", b":", b'"a"', b'{"a": 1}', b"\xff", b"\xef\xbb\xbf", "密".encode(), b"\xc3\xdc", b"a,b\n"]
)  # fmt: skip
_JUNK = st.binary(max_size=120) | st.lists(_PIECES, max_size=24).map(b"".join)


@settings(FUZZ, max_examples=400)
@given(junk=_JUNK, format_=st.sampled_from(["csv", "tsv", "jsonl"]), headed=st.booleans())
@example(junk=b'"', format_="csv", headed=True)
@example(junk=b"\xef\xbb\xbf", format_="jsonl", headed=False)
def test_no_bytes_break_a_reader(path: Path, junk: bytes, format_: str, headed: bool) -> None:
    """Rows, reasons or one error of its own; a file and a pipe agree, and every record begins on a line of its own."""
    header = {"csv": b"a,b\n", "tsv": b"a\tb\n", "jsonl": b""}[format_] if headed else b""
    found: list[list[Row | BadRow] | None] = []
    for way in (lambda: read(path, header + junk, AB, format_)[1], lambda: read_pipe(header + junk, AB, format_)):
        rows = None
        with contextlib.suppress(UnreadableFile):
            rows = way()
            lines = [row.line for row in rows]
            assert lines == sorted(set(lines))
            assert len(rows) <= 1 + junk.count(b"\n") + junk.count(b"\r")
        found.append(rows)
    assert found[0] == found[1]


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_a_row_that_is_whole_is_found_after_any_other(path: Path, format_: str) -> None:
    """What is wrong in a line ends with it."""
    good = {"csv": b"1,2\n", "jsonl": b'{"a": "1", "b": "2"}\n'}[format_]
    head = b"a,b\n" if format_ == "csv" else b""
    for bad in (b"\xff\xfe,\n", b"\0\n", b"a\n", b'x"y,z"\n', b"{\n"):
        _, rows = read(path, head + good + bad + good * 3, AB, format_)
        assert cells(rows[-3:]) == [("1", "2")] * 3


def test_standard_input_is_read_from_where_it_stands(path: Path) -> None:
    """Of a file that was opened by another, what that one has read is not read again."""
    path.write_bytes(b"not for us\na,b\n1,2\n")
    descriptor = os.open(path, os.O_RDONLY)
    os.read(descriptor, len(b"not for us\n"))
    opened = OpenFile(descriptor, threading.Event(), own=True)
    assert cells(rows_of(opened, "standard input", AB, "csv")[1]) == [("1", "2")]
    opened.close()


def test_a_pipe_that_is_slow_is_read_as_it_comes() -> None:
    """Nobody waits for a full block before the first row is seen, and a character may come in two pieces."""
    reading, writing = os.pipe()
    opened = OpenFile(reading, threading.Event(), own=True)
    text = "a,b\n1,密\n".encode()
    os.write(writing, text[:-3])
    rows = lazily(opened)
    os.write(writing, text[-3:])
    assert cells([next(rows)]) == [("1", "密")]
    os.write(writing, b"2,x\n")
    assert cells([next(rows)]) == [("2", "x")]
    os.close(writing)
    assert list(rows) == []
    opened.close()
