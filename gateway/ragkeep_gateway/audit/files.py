"""The files of one replica's audit log: a file a day, appended and synced, torn ends repaired, old days removed.

Not for several threads at once. What raises OSError has written nothing: the log stands as it stood.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ragkeep_runtime.audit.chain import BEGINNING, LineDamaged, read_line, write_line
from ragkeep_runtime.audit.heads import CUTS, HEADS_SUFFIX, Head, head_of, read_heads, signed
from ragkeep_runtime.audit.verify import SUFFIX, Until, day_files

_sync = getattr(os, "fdatasync", os.fsync)
_READ = 1 << 16


def now() -> dt.datetime:
    """The time, in UTC."""
    return dt.datetime.now(dt.UTC)


def stamp(time: dt.datetime) -> str:
    """As it is written: UTC with microseconds."""
    return time.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class AuditFiles:
    """Appends to the folder of one replica, `<folder>/<replica>/`, of which it is the only writer."""

    def __init__(
        self,
        folder: Path,
        replica: str,
        key: bytes,
        signing: Ed25519PrivateKey,
        *,
        heads: Path | None = None,
        earlier_signers: Sequence[Ed25519PublicKey] = (),  # keys that were replaced
        clock: Callable[[], dt.datetime] = now,
    ) -> None:
        self.folder = folder / replica
        self.heads = (heads or folder) / replica
        self._replica, self._key, self.signing, self._clock = replica, key, signing, clock
        self._signers = (signing.public_key(), *earlier_signers)
        self._lock = self._file = -1
        self._day, self._size, self._digest = "", 0, hashlib.sha256()
        self._sequence, self._mac = 0, BEGINNING
        self._half_written = False  # whether a failed write may have left something behind the end
        self._said = -1  # the sequence of the last head

    def open(self) -> list[dict[str, Any]]:
        """Takes the folder over; what had to be repaired, each to be recorded. Raises OSError, ValueError where another
        process writes there."""
        for folder in (self.folder.parent, self.folder, self.heads.parent, self.heads):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process writes the audit log {self.folder}: each replica needs a RAGKEEP_AUDIT_REPLICA of its own"
            ) from None
        return self._take_over()

    def close(self) -> None:
        """Lets go of the folder."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._file = self._lock = -1

    @property
    def until(self) -> Until:
        """How far the log is on disk."""
        return Until(self._day + SUFFIX, self._size)

    def append(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Writes all of them, or none, with one sync. Raises OSError."""
        time = self._clock()
        repaired = self._ready(max(stamp(time)[:10], self._day))
        before = (self._sequence, self._mac, self._digest.copy(), self._size)
        written = 0
        try:
            lines = []
            for event in (*repaired, *events):
                self._sequence += 1
                facts = {"seq": self._sequence, "time": stamp(time), "replica": self._replica, **event}
                line, self._mac = write_line(self._key, self._mac, facts)
                lines.append(line)
            data = b"".join(lines)
            while written < len(data):
                written += os.write(self._file, data[written:])
            _sync(self._file)
        except BaseException:
            self._sequence, self._mac, self._digest, self._size = before
            # Nobody was told that these are on record; what is there of them goes, now or when the file is opened again.
            self._half_written = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            self._let_go()
            raise
        self._half_written = False
        self._digest.update(data)
        self._size += len(data)

    def head(self) -> Head | None:
        """Signs and keeps what stands there now; None where nothing is new. Raises OSError."""
        if self._sequence == self._said or not self._sequence:
            return None
        head = self._head(self._sequence, self._mac.hex(), self._day + SUFFIX, self._size, self._digest.hexdigest())
        _append_private(self.heads / (self._day + HEADS_SUFFIX), head.line())
        self._said = self._sequence
        return head

    def remove_old(self, days: int) -> list[str]:
        """Removes files older than that many days, today's counted; their names. A signed cut says up to which line. Raises
        OSError."""
        oldest = (self._clock().astimezone(dt.UTC).date() - dt.timedelta(days=days - 1)).isoformat()
        there = day_files(self.folder)
        old = [path for path in there[:-1] if path.name < oldest and path.stem != self._day]
        staying = {path.stem for path in there} - {path.stem for path in old}
        # What was cut off a day's file is text of that day.
        torn = [path for path in sorted(self.folder.glob("*.torn-*")) if path.name < oldest and path.name[:10] not in staying]
        if not old and not torn:
            return []
        for path in reversed(old):
            last = _last_line(path)
            if last is None:
                continue
            cut = self._head(last.sequence, last.mac.hex(), path.name, path.stat().st_size, _digest_of(path), cut=True)
            _append_private(self.folder / CUTS, cut.line())
            break
        for path in old:
            path.unlink()
            with contextlib.suppress(OSError):  # where heads are kept elsewhere, they may be there for good
                (self.heads / (path.stem + HEADS_SUFFIX)).unlink()
        for path in torn:
            path.unlink()
        _sync_folder(self.folder)
        return [path.name for path in (*old, *torn)]

    def _head(self, sequence: int, mac: str, file: str, size: int, digest: str, *, cut: bool = False) -> Head:
        return signed(Head(self._replica, sequence, mac, stamp(self._clock()), file, size, digest, cut=cut), self.signing)

    def _take_over(self) -> list[dict[str, Any]]:
        """Where the log ends, after the repair of what a crash left."""
        repaired: list[dict[str, Any]] = []
        self._sequence, self._mac = 0, BEGINNING
        paths = day_files(self.folder)
        for path in reversed(paths):
            torn = self._repair(path)
            if torn:
                repaired.append(torn)
            last = _last_line(path)
            if last is not None:
                self._sequence, self._mac = last.sequence, last.mac
                break
        else:
            cuts = self.folder / CUTS
            if cuts.exists() and (found := read_heads(cuts)):
                self._sequence, self._mac = found[-1].sequence, bytes.fromhex(found[-1].mac)
        repaired += self._missed()
        self._day = paths[-1].stem if paths else ""
        if self._day:
            self._open_file(self._day)
        return repaired

    def _missed(self) -> list[dict[str, Any]]:
        """What the last head tells and the log does not: lines that went, or were changed, while nobody wrote here."""
        try:
            head = self._newest_head()
            path = self.folder / head.file if head else None
            if head is None or path is None or Path(head.file).name != head.file or not head.file.endswith(SUFFIX):
                return []
            if head.sequence > self._sequence:
                what = "lines missing"
            elif path.is_file() and _digest_of(path, head.size) != head.sha256:
                what = "lines changed"
            else:
                return []
        except OSError:
            return []  # heads that cannot be read keep nobody from serving; they are told when the next one is kept
        return [{"kind": "repaired", "what": what, "file": head.file, "head": head.sequence}]

    def _newest_head(self) -> Head | None:
        """By the time when it was said: an old one in a later file, or one that we did not sign, is not taken for it."""
        newest: Head | None = None
        for path in sorted(self.heads.glob(f"*{HEADS_SUFFIX}"), reverse=True):
            if newest is not None and path.name[:10] < newest.time[:10]:
                break  # days before: nothing newer is there
            for head in sorted(_heads_of(path), key=lambda one: one.time, reverse=True):
                if newest is not None and head.time <= newest.time:
                    break
                if head.replica == self._replica and not head.cut and head.is_signed_by(self._signers):
                    newest = head
                    break
        return newest

    def _repair(self, path: Path) -> dict[str, Any] | None:
        """Cuts off what is behind the last whole line and keeps it beside."""
        whole = _whole(path)
        with path.open("rb") as file:
            file.seek(whole)
            rest = file.read()
        if not rest:
            return None
        beside = next(one for n in range(1, 1_000_000) if not (one := path.with_name(f"{path.stem}.torn-{n}")).exists())
        _append_private(beside, rest)
        _sync_folder(self.folder)
        os.truncate(path, whole)
        facts = {"file": path.name, "bytes": len(rest), "sha256": hashlib.sha256(rest).hexdigest(), "kept": beside.name}
        return {"kind": "repaired", "what": "torn", **facts}

    def _ready(self, day: str) -> list[dict[str, Any]]:
        """The file of that day is open, ours, and as long as it was; what is to be recorded of it."""
        repaired: list[dict[str, Any]] = []
        if self._day:
            path = self.folder / (self._day + SUFFIX)
            try:
                there = path.stat()
            except FileNotFoundError:
                there = None
            mine = None
            with contextlib.suppress(OSError):  # it was closed under us: opened again
                mine = os.fstat(self._file) if self._file >= 0 and there else None
            if there is None:
                self._let_go()
                repaired.append({"kind": "repaired", "what": "file missing", "file": path.name})
            elif mine is None or (mine.st_ino, mine.st_dev) != (there.st_ino, there.st_dev) or there.st_size != self._size:
                self._let_go()
                was = self._size
                if self._half_written and there.st_size > was and _digest_of(path, was) == self._digest.hexdigest():
                    os.truncate(path, was)  # what a failed write left; nobody was told that it is on record
                elif there.st_size != was or _digest_of(path) != self._digest.hexdigest():
                    # Somebody else wrote there. The chain goes on from what we know, and whoever verifies it finds the place.
                    repaired.append({"kind": "repaired", "what": "file changed", "file": path.name})
                    torn = self._repair(path)
                    repaired += [torn] if torn else []
                self._open_file(self._day)
        if day != self._day:
            if self._day and self._file >= 0:
                with contextlib.suppress(OSError):  # where heads cannot be kept, the day's lines are still on record
                    self.head()  # the last of a day proves all of its file
            self._let_go()
            self._open_file(day)
            self._day, self._said = day, -1
        elif self._file < 0:
            self._open_file(day)
        return repaired

    def _open_file(self, day: str) -> None:
        path = self.folder / (day + SUFFIX)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(self._file, 0o600)
        _sync_folder(self.folder)
        self._digest = _hash(path)
        self._size = os.fstat(self._file).st_size

    def _let_go(self) -> None:
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
        self._file = -1


def _heads_of(path: Path) -> Iterator[Head]:
    """Those of a file; what is none is passed over."""
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError, RecursionError):
            yield head_of(json.loads(line))


def _whole(path: Path) -> int:
    """Bytes up to the end of the last line that is one."""
    end = path.stat().st_size
    with path.open("rb") as file:
        tail, begin = b"", end
        while begin > 0:
            step = min(_READ, begin)
            begin -= step
            file.seek(begin)
            tail = file.read(step) + tail
            stop = len(tail)
            while (newline := tail.rfind(b"\n", 0, stop)) >= 0:
                previous = tail.rfind(b"\n", 0, newline)
                if previous < 0 and begin > 0:
                    break  # its beginning is further up
                try:
                    read_line(tail[previous + 1 : newline + 1])
                except LineDamaged:
                    stop = newline
                    continue
                return begin + newline + 1
    return 0


def _last_line(path: Path) -> Any:
    """The last line of a file that has no torn end; None where it is empty. Raises OSError."""
    end = path.stat().st_size
    with path.open("rb") as file:
        tail, begin = b"", end
        while begin > 0:
            step = min(_READ, begin)
            begin -= step
            file.seek(begin)
            tail = file.read(step) + tail
            previous = tail.rfind(b"\n", 0, len(tail) - 1)
            if previous >= 0 or begin == 0:
                try:
                    return read_line(tail[previous + 1 :])
                except LineDamaged:
                    return None
    return None


def _hash(path: Path, size: int | None = None) -> Any:
    digest, left = hashlib.sha256(), size if size is not None else path.stat().st_size
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(1 << 20, left))):
            digest.update(block)
            left -= len(block)
    return digest


def _digest_of(path: Path, size: int | None = None) -> str:
    return str(_hash(path, size).hexdigest())


def _append_private(path: Path, data: bytes) -> None:
    """Appends, whole and synced, to a file that its owner alone reads. A torn last line of before is ended first."""
    new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n" and data.endswith(b"\n"):
            size = os.pread(descriptor, size, 0).rfind(b"\n") + 1
            os.ftruncate(descriptor, size)
        try:
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    if new:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
