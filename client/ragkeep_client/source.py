"""What `ragkeep import SOURCE…` names: files, the files of folders, and standard input; each opened as the bytes it is."""

from __future__ import annotations

import os
import select
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ragkeep_client.rows import UnreadableFile

SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
STANDARD_INPUT = "-"


@dataclass(frozen=True, slots=True)
class Source:
    """One file to import."""

    path: Path | None  # None: standard input
    format: str  # "csv", "tsv" or "jsonl"

    @property
    def name(self) -> str:
        """As it is shown."""
        return "standard input" if self.path is None else shown_path(self.path)

    @property
    def identity(self) -> object:
        """Tells whether two are the same file."""
        try:
            about = os.fstat(_standard_input()) if self.path is None else self.path.stat()
        except (OSError, UnreadableFile):
            return str(self.path)
        return about.st_dev, about.st_ino

    @property
    def size(self) -> int:
        """Bytes; 0 where it is not known."""
        try:
            return 0 if self.path is None else self.path.stat().st_size
        except OSError:
            return 0

    def open(self, stop: threading.Event | None = None) -> OpenFile:
        """Raises UnreadableFile. Once `stop` is set it reads as if it had ended."""
        stop = stop or threading.Event()
        try:
            if self.path is None:
                return OpenFile(_standard_input(), stop, own=False)
            # Not waiting: a named pipe that nobody writes to is refused, not waited for.
            file = OpenFile(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), stop, own=True)
        except OSError as error:
            raise unreadable(self.name, error) from None
        if not file.seekable:
            file.close()
            raise UnreadableFile("FILE_UNREADABLE", f"{self.name} is not a regular file; pipe it in: `ragkeep import -`.")
        return file


class OpenFile:
    """Bytes of a file or a pipe."""

    def __init__(self, descriptor: int, stop: threading.Event, *, own: bool) -> None:
        self._descriptor = descriptor
        self._stop = stop
        self._own = own
        self._before = os.fstat(descriptor)
        # Standard input may be a file of which something was read before.
        self.seekable = stat.S_ISREG(self._before.st_mode) and os.lseek(descriptor, 0, os.SEEK_CUR) == 0
        self.size = self._before.st_size if self.seekable else 0

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        while not self._stop.is_set():
            if self.seekable or select.select([self._descriptor], [], [], 0.2)[0]:
                return os.read(self._descriptor, size)
        return b""

    def is_late(self) -> bool:
        """Whether nothing comes for half a second; a file has all there is."""
        return not self.seekable and not select.select([self._descriptor], [], [], 0.5)[0]

    def seek(self, position: int, /) -> None:
        """Continues at a byte from the start."""
        os.lseek(self._descriptor, position, os.SEEK_SET)

    def changed(self) -> bool:
        """Whether it was written to since it was opened."""
        now = os.fstat(self._descriptor)
        return self.seekable and (now.st_size, now.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns)

    def close(self) -> None:
        """Closes the file; standard input is not ours to close."""
        if self._own:
            os.close(self._descriptor)


def find_sources(named: Sequence[Path], format_: str | None) -> list[Source]:
    """The files that are named or lie in named folders, each once. Raises UnreadableFile.

    `format_` is that of files and standard input where their names do not tell; in folders names decide.
    """
    found: list[Source] = []
    seen: set[object] = set()
    for path in named:
        for source in _sources(path, format_):
            if source.identity not in seen:
                seen.add(source.identity)
                found.append(source)
    return found


def unreadable(name: str, error: OSError) -> UnreadableFile:
    """The system's refusal as a sentence."""
    return UnreadableFile("FILE_UNREADABLE", f"{name} cannot be read: {error.strerror or error}.")


def shown_path(path: Path) -> str:
    """A path fit for a message: file names need not be text."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(path))


def _sources(path: Path, format_: str | None) -> Iterator[Source]:
    if str(path) == STANDARD_INPUT:
        if format_ is None:
            raise UnreadableFile("FORMAT_UNKNOWN", "Standard input has no suffix: say --format csv, tsv or jsonl.")
        yield Source(None, format_)
    elif _is_folder(path):
        inside = list(_walk(path))
        if not inside:
            known = ", ".join(SUFFIXES)
            raise UnreadableFile("NOTHING_TO_IMPORT", f"There is no file in {shown_path(path)} that ends in {known}.")
        yield from inside
    else:
        known_format = format_ or SUFFIXES.get(path.suffix.lower())
        if known_format is None:
            # What is not there is said before what it is called.
            Source(path, "csv").open().close()
            raise UnreadableFile(
                "FORMAT_UNKNOWN",
                f"{shown_path(path)} does not end in {', '.join(SUFFIXES)}: say --format csv, tsv or jsonl.",
            )
        yield Source(path, known_format)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a folder above it is closed, or the name is too long
        raise unreadable(shown_path(path), error) from None


def _walk(folder: Path) -> Iterator[Source]:
    """Hidden files and folders, and links to folders, are passed over."""

    def refuse(error: OSError) -> None:
        raise unreadable(shown_path(Path(error.filename or folder)), error) from None

    for base, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            known = SUFFIXES.get(Path(name).suffix.lower())
            if known and not name.startswith("."):
                yield Source(Path(base) / name, known)


def _standard_input() -> int:
    try:
        return sys.stdin.fileno()
    except (AttributeError, ValueError, OSError):
        raise UnreadableFile("FILE_UNREADABLE", "Standard input is closed.") from None
