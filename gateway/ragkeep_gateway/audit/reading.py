"""Lines of this replica's log that an auditor wants, in order; in a thread, as a log may be long."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragkeep_gateway.audit.record import OF_DOCUMENTS
from ragkeep_runtime.audit.chain import LineDamaged, read_line
from ragkeep_runtime.audit.verify import SUFFIX, Until, day_files


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines; what is empty does not limit. Times as they stand in lines."""

    since: str = ""
    before: str = ""
    subject: str = ""
    tenant: str | None = None  # None: every line, those without a tenant too
    request_id: str = ""
    kinds: frozenset[str] = frozenset()
    document_id: str = ""
    rpc: str = ""
    outcome: str = ""

    def fits(self, facts: dict[str, Any]) -> bool:
        """Whether a line is one of them."""
        time = facts["time"]
        return (
            (self.tenant is None or facts.get("tenant") == self.tenant)
            and (not self.since or time >= self.since)
            and (not self.before or time < self.before)
            and (not self.subject or self.subject in (facts.get("subject"), facts.get("subject") or facts.get("peer")))
            and (not self.request_id or facts.get("request_id") == self.request_id)
            and (not self.kinds or facts["kind"] in self.kinds)
            and (not self.document_id or any(self.document_id in _ids(facts, name) for name in OF_DOCUMENTS))
            and (not self.outcome or facts.get("outcome") == self.outcome)
            and (not self.rpc or str(facts.get("method", "")).rpartition("/")[2] == self.rpc)
        )

    def needles(self) -> list[bytes]:
        """What a line that fits must hold, so that others need not be parsed."""
        texts = [text for text in (self.subject, self.tenant or "", self.request_id, self.document_id) if text]
        needles = [json.dumps(text, ensure_ascii=False).encode("utf-8", "replace") for text in texts]
        return [*needles, f'/{self.rpc}"'.encode()] if self.rpc.isalpha() else needles


def _ids(facts: dict[str, Any], name: str) -> list[Any]:
    found = facts.get(name)
    return found if isinstance(found, list) else []  # an earlier version wrote a number of documents under that name


@dataclass(frozen=True, slots=True)
class Entry:
    """A line that fits."""

    facts: dict[str, Any]
    line: str

    @property
    def order(self) -> tuple[str, str, int]:
        """All replicas together: by time."""
        return self.facts["time"], self.facts["replica"], self.facts["seq"]


@dataclass(slots=True)
class Place:
    """Up to where a follower has read."""

    file: str
    offset: int


def past(folder: Path, wanted: Wanted, until: Until, last: int = 0) -> Iterator[Entry]:
    """Those up to `until`, oldest first; with `last` the last so many."""
    files = [path for path in day_files(folder) if path.name <= until.file]
    # A file holds the lines of its day; one that is left out has none of a later day, unless a clock was set back.
    if wanted.since:
        day = wanted.since[:10]
        files = [path for place, path in enumerate(files) if path.stem >= day or place == len(files) - 1]
    if not last:
        for path in files:
            yield from _of_file(path, wanted, until.size if path.name == until.file else None)
        return
    found: deque[Entry] = deque()
    for path in reversed(files):
        of_file = deque(_of_file(path, wanted, until.size if path.name == until.file else None), maxlen=last - len(found))
        found.extendleft(reversed(of_file))
        if len(found) >= last:
            break
    yield from found


def newer(folder: Path, wanted: Wanted, place: Place, until: Until) -> Iterator[Entry]:
    """Those between `place` and `until`; moves `place` there."""
    for path in day_files(folder):
        if not place.file <= path.name <= until.file:
            continue
        begin = place.offset if path.name == place.file else 0
        yield from _of_file(path, wanted, until.size if path.name == until.file else None, begin)
    place.file, place.offset = until.file, until.size


def _of_file(path: Path, wanted: Wanted, size: int | None, begin: int = 0) -> Iterator[Entry]:
    needles = wanted.needles()
    try:
        file = path.open("rb")
    except FileNotFoundError:  # its time was over just now
        return
    with file:
        file.seek(begin)
        at = begin
        for raw in file:
            at += len(raw)
            if size is not None and at > size:
                return
            if all(needle in raw for needle in needles):
                try:
                    facts = dict(read_line(raw).facts)
                except LineDamaged:
                    continue  # verify names it
                if wanted.fits(facts):
                    yield Entry(facts, raw.decode("utf-8", "replace").rstrip("\n"))


def beginning(until: Until) -> Place:
    """A follower who starts now."""
    return Place(until.file or "0000" + SUFFIX, until.size)
