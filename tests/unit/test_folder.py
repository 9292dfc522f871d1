"""A data folder says what it is, and its files are written whole or not at all."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragkeep_client.folder import DataFolder, write_private, write_together
from ragkeep_client.output import CommandError


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """The system refuses to make a file larger than this, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_new_folder_says_its_format(tmp_path: Path) -> None:
    """Written under its lock, and taken again."""
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    os.close(folder.lock())
    assert json.loads((folder.path / "folder.json").read_text())["format"] == 1
    folder.prepare()


def test_a_folder_from_before_formats_were_written_is_of_the_first(tmp_path: Path) -> None:
    """It keeps its choice of engines."""
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    folder.write_engines({"embedder": {"engine": "e5"}})
    folder.prepare()
    os.close(folder.lock())
    assert folder.engines() == {"embedder": {"engine": "e5"}}
    assert json.loads((folder.path / "folder.json").read_text())["format"] == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"format": 2, "ragkeep": "9.1"}', "DATA_FOLDER_VERSION"),
        ('{"format": 0}', "DATA_FOLDER_UNUSABLE"),
        ('{"format": "1"}', "DATA_FOLDER_UNUSABLE"),
        ('{"format": true}', "DATA_FOLDER_UNUSABLE"),
        ("[]", "DATA_FOLDER_UNUSABLE"),
        ('{"format"', "DATA_FOLDER_UNUSABLE"),
    ],
)
def test_a_folder_of_another_version_is_refused_and_never_guessed_at(tmp_path: Path, content: str, reason: str) -> None:
    """Who wrote it is told, and it stays as it is."""
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    (folder.path / "folder.json").write_text(content)
    with pytest.raises(CommandError) as refused:
        folder.prepare()
    assert refused.value.reason == reason
    assert str(folder.path) in refused.value.message
    assert (folder.path / "folder.json").read_text() == content
    if reason == "DATA_FOLDER_VERSION":
        assert "9.1" in refused.value.message


def test_files_that_belong_together_change_together_or_not_at_all(tmp_path: Path) -> None:
    """A new key without its certificate could not be used."""
    key, certificate = tmp_path / "x.key", tmp_path / "x.crt"
    write_together({key: b"old", certificate: b"old"})
    with room_for(10), pytest.raises(OSError, match="too large"):
        write_together({key: b"new", certificate: b"too much of it"})
    assert (key.read_bytes(), certificate.read_bytes()) == (b"old", b"old")
    assert sorted(tmp_path.iterdir()) == [certificate, key]
    write_together({key: b"new", certificate: b"new"})
    assert (key.read_bytes(), certificate.read_bytes()) == (b"new", b"new")


def test_a_private_file_is_its_owners_alone(tmp_path: Path) -> None:
    """Whatever lay there before."""
    path = tmp_path / "x"
    path.write_text("open to all")
    write_private(path, b"x")
    assert path.stat().st_mode & 0o777 == 0o600
