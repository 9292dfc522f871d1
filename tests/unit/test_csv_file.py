"""Reading ticket files: every byte sequence gives rows, reasons or one clear error, and never other people's characters."""

from __future__ import annotations

import csv
import io
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragkeep_client.csv_file import MAX_RECORD_BYTES, CsvFile
from ragkeep_client.mapping import Mapping
from ragkeep_client.rows import BadRow, Row, UnreadableFile
from ragkeep_client.source import Source
from tests.reading import TICKET_COLUMNS as COLUMNS
from tests.reading import read

HEADER = ",".join(COLUMNS) + "\n"
GOOD = "T-1,忘记密码,登录不了系统,请重置密码,账号管理\n"
# Enough ordinary lines for the file's encoding to be plain.
CHINESE = "".join(f"T-{number},打印机脱机,打印机显示脱机状态,重启后台打印服务,打印与外设\n" for number in range(100, 110))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tickets.csv"


@pytest.mark.parametrize(
    ("codec", "prefix", "name"),
    [("utf-8", b"", "UTF-8"), ("utf-8-sig", b"", "UTF-8 with BOM"), ("gb18030", b"", "GB18030")],
)
def test_the_encoding_is_recognised_and_named(path: Path, codec: str, prefix: bytes, name: str) -> None:
    """UTF-8 with and without BOM and GB18030 give the same characters."""
    file, rows = read(path, prefix + (HEADER + GOOD).encode(codec))
    assert file.encoding == name
    assert rows == [Row(2, dict(zip(COLUMNS, GOOD.strip().split(","), strict=True)), text=True)]


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_semicolons_and_tabs_are_recognised_by_the_header(path: Path, codec: str, delimiter: str) -> None:
    """As spreadsheets write CSV where the comma is for decimals; commas in cells, in quotes or not, are text then."""
    cells = ["T-1", "忘记密码, 再次", 'a "b"; c\td', "请重置密码, 1,5 次", "账号管理"]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerow(cells)
    header = HEADER.replace(",", delimiter)
    file, rows = read(path, (header + text.getvalue() + CHINESE.replace(",", delimiter)).encode(codec))
    assert file.delimiter == delimiter
    assert rows[0] == Row(2, dict(zip(COLUMNS, cells, strict=True)), text=True)
    assert len(rows) == 11


def test_a_header_with_a_comma_is_parted_by_commas(path: Path) -> None:
    """Whatever else stands in it; and a TSV by tabs."""
    file, rows = read(path, b'a,"b;c"\n1,2\n', ("a",))
    assert file.delimiter == ","
    assert rows == [Row(2, {"a": "1", "b;c": "2"}, text=True)]
    tabs, _ = read(path, b"a;b\tc\n", ("c",), format_="tsv")
    assert tabs.delimiter == "\t"
    one, _ = read(path, b'"a,b;c"\n', ("a,b;c",))
    assert one.delimiter == ","


def test_a_quoted_field_may_hold_newlines_commas_and_quotes(path: Path) -> None:
    """A record may span lines; the next one's line number counts them."""
    _, rows = read(path, (HEADER + 'T-1,"a, ""b""","one\r\ntwo\n",s,c\r\n\nT-2,t,d,s,c').encode())
    assert [row.line for row in rows] == [2, 6]
    first = rows[0]
    assert isinstance(first, Row)
    assert first.cells["title"] == 'a, "b"'
    assert first.cells["description"] == "one\r\ntwo\n"
    assert isinstance(rows[1], Row)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"T-2,t\xff\xfet,d,s,c\n", "Byte 2 of the column title"),
        ("T-2,忘记密码,登录不了系统,请重置密码,账号管理\n".encode("gb18030"), "UTF-8"),
        (b"T-2,t,d,s\n", "4 columns, and the header has 5"),
        (b"T-2,t,d,s,c,more\n", "6 columns"),
        (b'T-2,t,"never closed,s,c\n', "quote"),
        (b'T-2,t,"closed" early,s,c\n', "after the closing quote"),
        (b"T-2,t,\0,s,c\n", "NUL"),
        (b"T-2," + b"x" * (MAX_RECORD_BYTES + 5) + b",d,s,c\n", "larger than"),
        (b"T-2," + b"x" * 5 * MAX_RECORD_BYTES + b",d,s,c\n", "larger than"),
    ],
)
def test_a_bad_row_spoils_only_itself(path: Path, bad: bytes, says: str) -> None:
    """What is wrong in one row is said with its line; the rows around it are read."""
    _, rows = read(path, HEADER.encode() + CHINESE.encode() + bad + b'T-3,t,"d",s,c\nT-4,t,d,s,c\n')
    assert [row.line for row in rows] == list(range(2, 15))
    spoiled = rows[10]
    assert isinstance(spoiled, BadRow)
    assert says in spoiled.message
    assert all(isinstance(row, Row) for row in rows[:10] + rows[11:])


def test_a_utf8_row_in_a_gb18030_file_is_rejected(path: Path) -> None:
    """Its bytes have a meaning in GB18030 too, and that meaning is wrong."""
    _, rows = read(path, (HEADER + CHINESE).encode("gb18030") + GOOD.encode())
    assert isinstance(rows[-1], BadRow)
    assert all(isinstance(row, Row) for row in rows[:-1])


def test_latin1_is_not_taken_for_chinese(path: Path) -> None:
    """Accents followed by letters are valid GB18030 and would become rare characters."""
    file, rows = read(path, (HEADER + "T-1,Réseau général,la réponse générale,s,c\n" * 5).encode("latin-1"))
    assert file.encoding == "UTF-8"
    assert all(isinstance(row, BadRow) for row in rows)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "found is none"),
        (b"\xef\xbb\xbf\n\n", "empty"),
        (b"id,title\n1,x\n", "found: id, title"),
        (b"\x7fELF\0\0\0\1\2\n\0", "binary"),
        (b"PK\x03\x04rest", "workbook"),
        ((HEADER + GOOD).encode("utf-16"), "UTF-16"),
        (b"x," * 200_000, "lines of their own"),
        (b"ticket_id,title,title,description,solution,category\n", "twice"),
    ],
)
def test_a_file_that_cannot_be_imported_names_the_columns(path: Path, content: bytes, says: str) -> None:
    """One error for the whole file: what is needed and what was found."""
    with pytest.raises(UnreadableFile) as raised:
        read(path, content)
    assert says in raised.value.message
    assert "twice" in says or "ticket_id, title, description, solution, category" in raised.value.message


def test_columns_may_come_in_any_order_and_case(path: Path) -> None:
    """Names are compared without case and blanks; further columns are kept apart."""
    _, rows = read(path, b"Category, TITLE,Solution,extra,description,ticket_id\nc,t,s,x,d,T-1\n")
    assert isinstance(rows[0], Row)
    assert rows[0].cells == {
        "category": "c",
        "title": "t",
        "solution": "s",
        "extra": "x",
        "description": "d",
        "ticket_id": "T-1",
    }


_CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(rows=st.lists(st.tuples(_CELLS, _CELLS).filter(any), max_size=6))
def test_what_a_csv_writer_wrote_is_read_back(path: Path, rows: list[tuple[str, str]]) -> None:
    """Any text survives the way through Python's own writer."""
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    _, found = read(path, written.getvalue().encode(), ("a", "b"))
    assert [tuple(row.cells.values()) if isinstance(row, Row) else row for row in found] == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(junk=st.binary(max_size=200) | st.text('",\n\rab', max_size=60).map(str.encode))
def test_no_bytes_break_the_reader(path: Path, junk: bytes) -> None:
    """Whatever follows the header, reading ends, and the good row after a line's end is found unless a quote took it in."""
    _, rows = read(path, b"a,b\n" + junk + b"\n1,2\n3,4\n", ("a", "b"))
    lines = [row.line for row in rows]
    assert lines == sorted(lines)
    assert rows[-1].line == 4 + junk.count(b"\n") or b'"' in junk
    assert isinstance(rows[-1], Row)


def test_a_large_file_needs_the_memory_of_a_row(path: Path) -> None:
    """18 MB are read with less than 4 MB; progress ends at the file's size."""
    path.write_bytes(HEADER.encode() + ("T-1,标题,描述," + "密码" * 150 + ',"分类"\n').encode() * 20_000)
    tracemalloc.start()
    opened = Source(path, "csv").open()
    file = CsvFile.begin(opened, "tickets.csv", "csv", COLUMNS, Mapping(COLUMNS))
    assert sum(isinstance(row, Row) for row in file.rows()) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    opened.close()
    assert file.bytes_read == file.size > 18_000_000
    assert peak < 4_000_000
