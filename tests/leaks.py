"""A pytest plugin: when the session ends, all that its processes wrote is searched for planted secrets and texts.

Searched are the files in the session's temporary folder: logs of our processes and of the engines, exported spans
(`*.spans`), audit logs, and what commands wrote (`*.output`, see `tests/command.py`). Keys are found by themselves: whatever
lies there in a key's file. A hit fails the session and names file and marker, never the line.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.planted import PLANTED, Kind, Planted

# By what they are: a process's log, a trace, an audit log, what a command showed to who ran it.
_LOG, _SHOWN, _AUDIT = (".log", ".spans"), ".output", ".jsonl"
# Ollama's debug log holds prompts. It is on in tests only, where they count its runners.
_ENGINES_OWN = {"ollama.log"}
_KEY_FILES = ("*.key", "keyring*.json")
_TOKEN = re.compile(rb"[A-Za-z0-9+/_-]{32,}")
_ANY_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_ANY_JWT = re.compile(rb"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}")


@dataclass(slots=True)
class Found:
    """What was searched, and what should not have been there: (file, marker)."""

    files: int = 0
    size: int = 0
    markers: int = 0
    hits: list[tuple[Path, str]] = field(default_factory=list)


def search(folder: Path, planted: Sequence[Planted] = tuple(PLANTED)) -> Found:
    """Every output below the folder."""
    keys = _keys(folder)
    written = [(one, [form for text in (one.text,) for form in _forms(text)]) for one in planted]
    found = Found(markers=len(planted) + len(keys))
    for path in sorted(_outputs(folder)):
        try:
            content = path.read_bytes()
        except OSError:
            # Made unreadable by its test; who cannot be read cannot leak to a reader either.
            continue
        found.files += 1
        found.size += len(content)
        names = [one.name for one, forms in written if _wanted(one.kind, path) and any(form in content for form in forms)]
        if keys and not keys.isdisjoint(_TOKEN.findall(content)):
            names.append("content of a key file")
        if _ANY_KEY.search(content):
            names.append("private key")
        if _ANY_JWT.search(content):
            names.append("token (JWT)")
        found.hits += [(path, name) for name in names]
    return found


def _wanted(kind: Kind, path: Path) -> bool:
    """Whether something of this kind may not be in this file."""
    if kind is Kind.SECRET:
        return True
    if path.suffix == _SHOWN or path.name in _ENGINES_OWN:
        return False
    return kind is Kind.TEXT or path.suffix != _AUDIT


def _outputs(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        # Audit logs by their folder: other JSON lines are documents.
        is_audit = path.suffix == _AUDIT and "audit" in path.parts[-3:-1]
        if (is_audit or path.suffix in (*_LOG, _SHOWN)) and path.is_file() and not path.is_symlink():
            yield path


def _forms(text: str) -> list[bytes]:
    """As it is, and as JSON, Python, protobuf's text form and addresses write it."""
    octal = "".join(f"\\{byte:03o}" if byte > 0x7F else chr(byte) for byte in text.encode())
    forms = {text, json.dumps(text)[1:-1], ascii(text)[1:-1], repr(text.encode())[2:-1], octal, urllib.parse.quote(text)}
    return [form.encode() for form in forms]


def _keys(folder: Path) -> set[bytes]:
    """Long tokens of every key file."""
    found: set[bytes] = set()
    for pattern in _KEY_FILES:
        for path in folder.rglob(pattern):
            if path.is_file():
                try:
                    found.update(_TOKEN.findall(path.read_bytes()))
                except OSError:
                    continue
    return found


_RESULT: list[Found] = []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """After the last fixture has ended its processes."""
    factory = getattr(session.config, "_tmp_path_factory", None)
    if session.config.option.collectonly:
        return
    if factory is not None and factory._basetemp is not None:  # else nothing ran that could have written
        _RESULT.append(search(factory.getbasetemp()))
    leaked = any(found.hits for found in _RESULT)
    if leaked:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    cache = getattr(session.config, "cache", None)
    if cache is not None:  # scripts/second_look.py reads it
        cache.set("ragkeep/session", {"exit": int(session.exitstatus), "leaked": leaked})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was searched, and each hit."""
    for found in _RESULT:
        terminalreporter.section("planted secrets and texts")
        size = f"{found.files} outputs, {found.size / 1e6:.1f} MB"
        terminalreporter.write_line(f"{found.markers} markers searched in {size}: {len(found.hits)} found")
        for path, name in found.hits:
            terminalreporter.write_line(f"LEAKED: {name}: {path}", red=True)
