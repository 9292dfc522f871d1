"""The audit log's proof: whatever is done to its files, the first line that is not as it was written is named."""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkeep_gateway.audit.files import AuditFiles
from ragkeep_runtime.audit.chain import Keys
from ragkeep_runtime.audit.heads import Head, signed
from ragkeep_runtime.audit.verify import Verdict, Wrong, day_files, heads_in, verify

KEYS = Keys.of(b"k" * 32)
SIGNING = Ed25519PrivateKey.from_private_bytes(KEYS.signing)
BEGAN = dt.datetime(2026, 11, 24, 23, 59, 50, tzinfo=dt.UTC)


class Clock:
    """A second a look: ten lines before midnight, the rest after."""

    def __init__(self, began: dt.datetime = BEGAN) -> None:
        self.now = began

    def __call__(self) -> dt.datetime:
        self.now += dt.timedelta(seconds=1)
        return self.now


def write(folder: Path, lines: int = 30, *, head_every: int = 0, clock: Clock | None = None) -> AuditFiles:
    """A log of so many lines over two days, closed, with a head at its end."""
    files = AuditFiles(folder, "gateway-0", KEYS.lines, SIGNING, heads=folder / "heads", clock=clock or Clock())
    files.open()
    files.append([{"kind": "started", "key": KEYS.name}])
    for number in range(1, lines):
        files.append([{"kind": "asked", "question": f"问题 {number}", "documents": [f"T-{number}"]}])
        if head_every and number % head_every == 0:
            files.head()
    files.head()
    files.close()
    return files


def proven(folder: Path, *, key: bool = True) -> Verdict:
    """What verify says of it."""
    heads = heads_in(folder / "heads" / "gateway-0")
    keys = {KEYS.name: KEYS.lines} if key else {}
    return verify(folder / "gateway-0", keys=keys, signers=[SIGNING.public_key()], heads=heads)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that each test copies."""
    folder = tmp_path_factory.mktemp("audit")
    write(folder, head_every=7)
    return folder


def copy_of(original: Path) -> tempfile.TemporaryDirectory[str]:
    """A copy to spoil."""
    found = tempfile.TemporaryDirectory()
    shutil.copytree(original, found.name, dirs_exist_ok=True)
    return found


def lines_of(folder: Path) -> list[tuple[Path, bytes]]:
    """(file, line) of all, in order."""
    return [(path, line) for path in day_files(folder / "gateway-0") for line in path.read_bytes().splitlines(keepends=True)]


def rewrite(lines: list[tuple[Path, bytes]], paths: list[Path]) -> None:
    """Writes them back into their files."""
    for path in paths:
        path.write_bytes(b"".join(line for file, line in lines if file == path))


@pytest.mark.parametrize("key", [True, False])
def test_an_untouched_log_is_proven(original: Path, key: bool) -> None:
    """With the key by every HMAC, without it by the digests of signed heads; across the boundary of its two files."""
    assert len(day_files(original / "gateway-0")) == 2
    verdict = proven(original, key=key)
    assert verdict.fault is None
    assert (verdict.lines, verdict.first, verdict.last, verdict.head_sequence) == (30, 1, 30, 30)
    assert verdict.heads == 5  # one of them by the end of the day


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_byte_that_changes_is_found_in_its_line(original: Path, data: st.DataObject) -> None:
    """One byte of one line, its end included, becomes any other."""
    with copy_of(original) as name:
        folder = Path(name)
        lines = lines_of(folder)
        number = data.draw(st.integers(0, len(lines) - 1))
        path, line = lines[number]
        place = data.draw(st.integers(0, len(line) - 1))
        other = data.draw(st.integers(0, 255).filter(lambda value: value != line[place]))
        lines[number] = (path, line[:place] + bytes([other]) + line[place + 1 :])
        rewrite(lines, day_files(folder / "gateway-0"))
        fault = proven(folder).fault
        assert fault is not None
        in_file = [one for one, _ in lines[: number + 1]].count(path)
        assert (fault.sequence, fault.file, fault.line) == (number + 1, path.name, in_file)
        without_key = proven(folder, key=False).fault
        assert without_key is not None
        assert without_key.sequence >= number + 1  # the head behind it, or the line itself


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_lines_removed_reordered_or_doubled_are_named(original: Path, data: st.DataObject) -> None:
    """The first line that is not where it has to be, and what became of it."""
    with copy_of(original) as name:
        folder = Path(name)
        lines, paths = lines_of(folder), day_files(folder / "gateway-0")
        first = data.draw(st.integers(0, len(lines) - 1))
        kind = data.draw(st.sampled_from([Wrong.REMOVED, Wrong.REORDERED, Wrong.DUPLICATED]))
        if kind is Wrong.REMOVED:
            count = data.draw(st.integers(1, len(lines) - first))
            del lines[first : first + count]
            expected = first + 1
        elif kind is Wrong.DUPLICATED:
            behind = data.draw(st.integers(first, len(lines) - 1))
            lines.insert(behind + 1, (lines[behind][0], lines[first][1]))
            expected = behind + 2
        else:
            other = data.draw(st.integers(0, len(lines) - 1).filter(lambda place: place != first))
            low, high = sorted((first, other))
            (file_low, low_line), (file_high, high_line) = lines[low], lines[high]
            lines[low], lines[high] = (file_low, high_line), (file_high, low_line)
            expected = low + 1
        rewrite(lines, paths)
        fault = proven(folder).fault
        assert fault is not None
        assert (fault.what, fault.sequence) == (kind, expected)
        assert proven(folder, key=False).fault is not None


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_log_that_was_cut_anywhere_is_noticed(original: Path, data: st.DataObject) -> None:
    """Inside a line it is torn; at a line's end the heads know of more."""
    with copy_of(original) as name:
        folder = Path(name)
        lines, paths = lines_of(folder), day_files(folder / "gateway-0")
        whole = b"".join(line for _, line in lines)
        size = data.draw(st.integers(0, len(whole) - 1))
        kept, left = [], size
        for path, line in lines:
            kept.append((path, line[:left]))
            left = max(0, left - len(line))
        rewrite(kept, paths)
        fault = proven(folder).fault
        assert fault is not None
        complete = whole[:size].count(b"\n")
        assert fault.sequence == complete + 1
        assert fault.what is (Wrong.REMOVED if whole[:size].endswith(b"\n") or not size else Wrong.TORN)


def test_a_whole_file_that_is_gone_is_noticed(original: Path) -> None:
    """The first day's, though the second day's lines are all as they were."""
    with copy_of(original) as name:
        folder = Path(name)
        day_files(folder / "gateway-0")[0].unlink()
        fault = proven(folder).fault
        assert fault is not None
        assert (fault.what, fault.sequence) == (Wrong.REMOVED, 1)


def test_who_has_the_lines_key_but_not_the_heads_cannot_write_another_past(tmp_path: Path) -> None:
    """A log written anew with the right HMACs does not fit the heads that were signed."""
    write(tmp_path)
    forged = tmp_path / "forged"
    write(forged, clock=Clock(BEGAN + dt.timedelta(microseconds=1)))
    shutil.copytree(forged / "gateway-0", tmp_path / "gateway-0", dirs_exist_ok=True)
    assert verify(tmp_path / "gateway-0", keys={KEYS.name: KEYS.lines}).fault is None
    fault = proven(tmp_path).fault
    assert fault is not None
    assert (fault.what, fault.sequence) == (Wrong.CHANGED, 9)  # where the first head was signed, at the end of the first day


def test_a_head_of_another_key_is_not_believed(tmp_path: Path) -> None:
    """Its signature is looked at before what it says."""
    write(tmp_path)
    folder = tmp_path / "heads" / "gateway-0"
    for path in folder.iterdir():
        path.unlink()
    other = Ed25519PrivateKey.generate()
    head = signed(Head("gateway-0", 30, "00" * 32, "2026-11-25T00:00:00Z", "2026-11-25.jsonl", 1, "00" * 32), other)
    (folder / "2026-11-25.heads.jsonl").write_bytes(head.line())
    fault = proven(tmp_path).fault
    assert fault is not None
    assert fault.what is Wrong.HEAD_FALSE


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"a":' * 200_000, "9" * 5000, '1,"seq":-1', f'1,"seq":{1 << 64}'],
    ids=["lists", "objects", "digits", "negative", "large"],
)
def test_a_line_that_no_reader_takes_is_named(tmp_path: Path, text: str) -> None:
    """Nested without end, or with a number that is none of a line: damaged as any other, and heads like that are damaged too."""
    write(tmp_path, lines=5)
    path = day_files(tmp_path / "gateway-0")[-1]
    with path.open("ab") as file:
        file.write(b'{"seq":' + text.encode() + b',"time":"","replica":"gateway-0","kind":"","mac":"' + b"0" * 64 + b'"}\n')
    fault = proven(tmp_path).fault
    assert fault is not None
    assert (fault.what, fault.sequence) == (Wrong.CHANGED, 6)
    heads = tmp_path / "heads" / "gateway-0" / "2026-11-30.heads.jsonl"
    heads.write_text(text + "\n")
    with pytest.raises(ValueError):  # noqa: PT011 - whoever catches it says which folder
        heads_in(heads.parent)


def test_another_key_is_named_not_mistaken_for_a_change(tmp_path: Path) -> None:
    """Whoever verifies with the wrong secret file hears that, by the key's name."""
    write(tmp_path)
    other = Keys.of(b"o" * 32)
    fault = verify(tmp_path / "gateway-0", keys={other.name: other.lines}).fault
    assert fault is not None
    assert fault.what is Wrong.KEY_MISSING
    assert KEYS.name in fault.why


def test_lines_of_two_keys_are_proven_with_both(tmp_path: Path) -> None:
    """A new secret begins with a line that names it."""
    write(tmp_path, lines=5)
    other = Keys.of(b"o" * 32)
    files = AuditFiles(tmp_path, "gateway-0", other.lines, SIGNING, heads=tmp_path / "heads")
    files.open()
    files.append([{"kind": "started", "key": other.name}, {"kind": "asked"}])
    files.close()
    both = {KEYS.name: KEYS.lines, other.name: other.lines}
    assert verify(tmp_path / "gateway-0", keys=both).fault is None
    fault = verify(tmp_path / "gateway-0", keys={KEYS.name: KEYS.lines}).fault
    assert fault is not None
    assert (fault.what, fault.sequence) == (Wrong.KEY_MISSING, 6)
