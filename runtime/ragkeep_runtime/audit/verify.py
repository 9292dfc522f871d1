"""Proves the log of one replica, or names the first line that is not as it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ragkeep_runtime.audit.chain import BEGINNING, Line, LineDamaged, mac_of, read_line
from ragkeep_runtime.audit.heads import CUTS, HEADS_SUFFIX, Head, read_heads

SUFFIX = ".jsonl"
DAY_FILE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]" + SUFFIX


class Wrong(StrEnum):
    """What became of a line."""

    CHANGED = "changed"
    REMOVED = "removed"
    REORDERED = "reordered"
    DUPLICATED = "duplicated"
    TORN = "torn"
    KEY_MISSING = "key missing"
    HEAD_FALSE = "head false"


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that is not as it was written."""

    what: Wrong
    sequence: int  # the line's number in the replica, as it has to be
    file: str  # the day's file where that was found; "" where there is none
    line: int  # the place in the file, from 1
    why: str  # a sentence


@dataclass(slots=True)
class Verdict:
    """What is proven of one replica."""

    replica: str
    lines: int = 0
    first: int = 0
    last: int = 0
    heads: int = 0  # signed heads that the log agrees with
    head_sequence: int = 0  # up to which line heads prove it
    repaired: list[int] = field(default_factory=list)  # lines that record a repair
    with_key: bool = True  # whether the HMACs were computed, or only the heads' digests
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Until:
    """Where the log ended when the proof began; what is written meanwhile is left out."""

    file: str
    size: int


def day_files(folder: Path) -> list[Path]:
    """A replica's files, oldest first."""
    return sorted(folder.glob(DAY_FILE))


def heads_in(*folders: Path) -> list[Head]:
    """Every head of these folders, once. Raises OSError or ValueError."""
    found: dict[bytes, Head] = {}
    for folder in folders:
        for path in sorted(folder.glob("*" + HEADS_SUFFIX)):
            found |= {head.line(): head for head in read_heads(path)}
    return sorted(found.values(), key=lambda head: head.sequence)


def verify(
    folder: Path,
    *,
    keys: Mapping[str, bytes],
    signers: Sequence[Ed25519PublicKey] = (),
    heads: Sequence[Head] = (),
    until: Until | None = None,
    progress: Callable[[int], None] = lambda _lines: None,
) -> Verdict:
    """Reads all of it. `keys` are the lines' keys by name; without any only the heads' digests prove the lines. Without
    `signers` heads are not looked at. Raises OSError."""
    proof = _Proof(folder, keys, signers, heads)
    count = 0
    for path in day_files(folder):
        if until is not None and path.name > until.file:
            break
        size = until.size if until is not None and path.name == until.file else None
        for raw in _lines(path, size):
            count += 1
            if count % 20_000 == 0:
                progress(count)
            if not proof.takes(path.name, raw):
                return proof.verdict
    proof.close()
    return proof.verdict


def _lines(path: Path, size: int | None) -> Iterator[bytes]:
    with path.open("rb") as file:
        left = size
        for raw in file:
            if left is not None:
                if left <= 0:
                    return
                raw, left = raw[:left], left - len(raw)
            yield raw


class _Proof:
    def __init__(
        self, folder: Path, keys: Mapping[str, bytes], signers: Sequence[Ed25519PublicKey], heads: Sequence[Head]
    ) -> None:
        self.verdict = Verdict(folder.name, with_key=bool(keys))
        self._folder = folder
        self._keys = keys
        self._key = next(iter(keys.values()), b"")
        self._named = ""  # the name of the key
        self._replaced: dict[str, int] = {}  # keys of before, and the line in which another took over
        self._before, self._sequence = BEGINNING, 0
        self._file, self._place, self._size = "", 0, 0
        self._digest = hashlib.sha256()
        self._signers = signers
        self._heads = list(heads) if signers else []
        self._next_head = 0

    def _fault(self, what: Wrong, why: str, sequence: int | None = None) -> bool:
        self.verdict.fault = Fault(what, self._sequence + 1 if sequence is None else sequence, self._file, self._place, why)
        return False

    def takes(self, file: str, raw: bytes) -> bool:
        """Whether the line is the one that follows."""
        if file != self._file:
            self._file, self._place, self._size, self._digest = file, 0, 0, hashlib.sha256()
        self._place += 1
        if not raw.endswith(b"\n"):
            return self._fault(
                Wrong.TORN, "It was not written to its end: a crash, or a line being written. The next start repairs it."
            )
        try:
            line = read_line(raw)
        except LineDamaged as error:
            return self._fault(Wrong.CHANGED, f"It is not a line of this log: {error}.")
        if not self.verdict.lines and not self._begins(line):
            return False
        expected = self._sequence + 1
        if self._keys and line.sequence == expected and not self._knows_key(line):
            return False
        genuine = not self._keys or mac_of(self._key, self._before, line.body) == line.mac
        if line.sequence != expected:
            return self._misplaced(line, expected)
        if not genuine or line.facts["replica"] != self._folder.name:
            return self._fault(Wrong.CHANGED, "What it says is not what was written: its HMAC does not fit.")
        self._before, self._sequence = line.mac, expected
        self._size += len(raw)
        self._digest.update(raw)
        self.verdict.lines += 1
        self.verdict.first = self.verdict.first or expected
        self.verdict.last = expected
        if line.facts["kind"] == "repaired":
            self.verdict.repaired.append(expected)
        return self._agrees(line)

    def _knows_key(self, line: Line) -> bool:
        """Whether there is a key for the line: the one before, or the one that a gateway names when it starts."""
        if line.facts["kind"] != "started":
            if not self.verdict.lines:  # the line that names its key went with age
                fitting = (name for name, key in self._keys.items() if mac_of(key, self._before, line.body) == line.mac)
                self._named = next(fitting, "")
                if not self._named:
                    return self._fault(
                        Wrong.CHANGED,
                        "No key that is given wrote it: it was changed, or is of an earlier key that is not given.",
                    )
                self._key = self._keys[self._named]
            return True
        named = str(line.facts.get("key", ""))
        if named not in self._keys:
            why = f"From here on lines are written with the key {named}, which is not given"
            return self._fault(Wrong.KEY_MISSING, f"{why} (a gateway is given it by RAGKEEP_AUDIT_EARLIER_KEYS).")
        if named in self._replaced:
            return self._fault(
                Wrong.CHANGED,
                f"The key {named} was replaced in line {self._replaced[named]}: who has it from then could go on with it.",
            )
        if self._named and named != self._named:
            self._replaced[self._named] = line.sequence
        self._named, self._key = named, self._keys[named]
        return True

    def _begins(self, line: Line) -> bool:
        """Where what is before the first line was removed by age, a signed cut says so."""
        if line.sequence <= 1:
            return True
        path = self._folder / CUTS
        try:
            cuts = read_heads(path) if path.exists() else []
        except ValueError:
            cuts = []
        for cut in sorted(cuts, key=lambda one: one.sequence, reverse=True):
            if cut.cut and cut.sequence < line.sequence and (not self._signers or cut.is_signed_by(self._signers)):
                # Where the line is not the next one, `takes` says what became of that.
                self._before, self._sequence = bytes.fromhex(cut.mac), cut.sequence
                while self._next_head < len(self._heads) and self._heads[self._next_head].sequence <= cut.sequence:
                    self._next_head += 1
                return True
        if self._comes_later(1):
            return self._fault(Wrong.REORDERED, f"Line {line.sequence} stands here; line 1 comes later.", 1)
        return self._fault(
            Wrong.REMOVED, f"Lines 1 to {line.sequence - 1} are not here, and no signed cut says that age removed them.", 1
        )

    def _misplaced(self, line: Line, expected: int) -> bool:
        if line.sequence < expected:
            return self._fault(Wrong.DUPLICATED, f"Line {line.sequence} stands here once more, or in the wrong place.")
        if self._comes_later(expected):
            return self._fault(Wrong.REORDERED, f"Line {line.sequence} stands here; line {expected} comes later.")
        return self._fault(Wrong.REMOVED, f"Line {line.sequence} stands here: those from {expected} on before it are gone.")

    def _comes_later(self, sequence: int) -> bool:
        for path in day_files(self._folder):
            if path.name < self._file:
                continue
            with path.open("rb") as file:
                for raw in file:
                    try:
                        if read_line(raw).sequence == sequence:
                            return True
                    except LineDamaged:
                        continue
        return False

    def _agrees(self, line: Line) -> bool:
        """Whether the heads about this line say the same."""
        while self._next_head < len(self._heads) and self._heads[self._next_head].sequence <= line.sequence:
            head = self._heads[self._next_head]
            self._next_head += 1
            if head.sequence < line.sequence:
                continue
            if head.replica != self._folder.name or not head.is_signed_by(self._signers):
                return self._fault(Wrong.HEAD_FALSE, f"The head of {head.time} is not signed by the key given.", line.sequence)
            same = (head.mac, head.file, head.size, head.sha256) == (
                line.mac.hex(),
                self._file,
                self._size,
                self._digest.hexdigest(),
            )
            if not same:
                since = self.verdict.head_sequence + 1
                return self._fault(
                    Wrong.CHANGED,
                    f"The head of {head.time} was signed over other lines, of those from {since} on.",
                    line.sequence,
                )
            self.verdict.heads += 1
            self.verdict.head_sequence = head.sequence
        return True

    def close(self) -> None:
        """After the last line: no head may know of more."""
        if self._next_head < len(self._heads):
            head = self._heads[-1]
            if not head.is_signed_by(self._signers):
                self._fault(Wrong.HEAD_FALSE, f"The head of {head.time} is not signed by the key given.")
            else:
                self._place += 1
                self._fault(Wrong.REMOVED, f"The log ends here, but the head of {head.time} knows of line {head.sequence}.")


def replicas_in(folder: Path) -> list[Path]:
    """The replicas' folders in an audit folder; the folder itself where it is one of a replica."""
    if day_files(folder) or (folder / CUTS).exists():
        return [folder]
    return sorted(path for path in folder.iterdir() if path.is_dir() and day_files(path))
