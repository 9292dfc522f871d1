"""Which ids came before in an import, and with which content: kept on disk, so that a million rows need no more memory."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from dataclasses import dataclass

from ragkeep_client.output import CommandError

# Pages of the index that are kept in memory; the rest is in a file that has no name.
_CACHE_KIB = 512


@dataclass(frozen=True, slots=True)
class Earlier:
    """A document that came before with the same id."""

    same: bool  # with the same content
    source: int
    line: int


class Seen:
    """Digests of ids and contents; nobody without the key of this run could tell a content from them."""

    def __init__(self) -> None:
        self._key = os.urandom(16)
        # An empty name is a temporary database, written to disk only as it outgrows its cache, and gone with the process.
        # The reading thread is one at a time, but not always the same.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}", "temp_store = FILE"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute(
            "CREATE TABLE seen (id BLOB PRIMARY KEY, content BLOB, source INTEGER, line INTEGER) WITHOUT ROWID"
        )

    def earlier(self, document_id: str, content: bytes, source: int, line: int) -> Earlier | None:
        """What came before with this id; None: this is the first, and from now on it is what came before."""
        row = self._digest(document_id.encode()), self._digest(content), source, line
        try:
            if self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?, ?)", row).rowcount:
                return None
            found = self._database.execute("SELECT content, source, line FROM seen WHERE id = ?", row[:1]).fetchone()
        except sqlite3.Error as error:
            raise CommandError(
                "TEMPORARY_SPACE",
                f"There is no room for the list of ids in the folder for temporary files: {error}. TMPDIR names another.",
            ) from None
        return Earlier(found[0] == row[1], found[1], found[2])

    def close(self) -> None:
        """Forgets all."""
        self._database.close()

    def _digest(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=16, key=self._key).digest()
