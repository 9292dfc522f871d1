"""The rows that were not taken, each as it stood in its file with the reason beside it: to be corrected and imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ragkeep_client.output import CommandError
from ragkeep_client.rows import REASON_COLUMN, RowFile
from ragkeep_client.source import SUFFIXES, Source, shown_path

_OWN = (REASON_COLUMN.encode(), b"\xef\xbb\xbf" + REASON_COLUMN.encode(), b'{"' + REASON_COLUMN.encode())


class RejectedFile:
    """Writes rejected rows to `path`. Rows of another format or with another header go to a file beside it: NAME-2.csv.

    The files are their owner's alone. There is none where no row was rejected. Raises CommandError at once where `path`
    cannot be written, or holds something else.
    """

    def __init__(self, path: Path, sources: Sequence[Source]) -> None:
        self.written: dict[Path, int] = {}  # rows by file
        self.formats: dict[Path, str] = {}  # of these files
        self.left_out = 0  # rows that are too large to be kept
        self._path = path
        self._sources = {source.identity for source in sources}
        self._files: dict[tuple[str, str, bytes], tuple[Path, BinaryIO]] = {}
        self._first: BinaryIO | None = self._open(path)

    def write(self, file: RowFile, raw: bytes | None, why: str) -> None:
        """Adds a row of a file. Raises CommandError where the disk is full."""
        if raw is None:
            self.left_out += 1
            return
        kind = file.format, file.encoding, file.rejected_head()
        try:
            if kind not in self._files:
                self._files[kind] = self._next(file)
                self._files[kind][1].write(file.rejected_head())
            path, out = self._files[kind]
            out.write(file.rejected_row(raw, why))
            # Rows are few, and what is written survives whatever ends this process.
            out.flush()
        except OSError as error:
            raise _unusable(self._path, error) from None
        self.written[path] = self.written.get(path, 0) + 1
        self.formats[path] = file.format

    def close(self) -> None:
        """Closes the files, and removes the first where nothing was rejected."""
        for _, out in self._files.values():
            try:
                out.close()
            except OSError:
                continue  # said when it was written
        if self._first is not None:
            self._first.close()
            self._path.unlink(missing_ok=True)
            self._first = None

    def _next(self, file: RowFile) -> tuple[Path, BinaryIO]:
        if self._first is not None:
            first, self._first = self._first, None
            return self._path, first
        number = len(self._files) + 1
        suffix = next(suffix for suffix, known in SUFFIXES.items() if known == file.format)
        path = self._path.with_name(f"{self._path.stem}-{number}{suffix}")
        return path, self._open(path)

    def _open(self, path: Path) -> BinaryIO:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            about = os.fstat(descriptor)
            if (about.st_dev, about.st_ino) in self._sources:
                os.close(descriptor)
                raise CommandError(
                    "REJECTED_FILE_UNUSABLE",
                    f"{shown_path(path)} is imported itself; name another file with --rejected.",
                )
            out = os.fdopen(descriptor, "r+b")
            start = out.read(16)
            if start and not start.startswith(_OWN) and not start.startswith(b'"' + REASON_COLUMN.encode()):
                out.close()
                raise CommandError(
                    "REJECTED_FILE_UNUSABLE",
                    f"{shown_path(path)} is there, and is no file of rejected rows; name another with --rejected.",
                )
        except OSError as error:
            raise _unusable(path, error) from None
        out.seek(0)
        out.truncate()
        return out


def _unusable(path: Path, error: OSError) -> CommandError:
    return CommandError(
        "REJECTED_FILE_UNUSABLE",
        f"Rejected rows cannot be written to {shown_path(path)}: {error.strerror or error}. Make room or name another file; "
        "then run the same command again.",
    )
