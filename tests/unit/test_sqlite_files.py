"""The embedded store's files: how many stay open, and whose they are."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from ragkeep_retriever.sqlite_files import MOST_KEPT, Files, rows

pytestmark = pytest.mark.engine("sqlite")
THREADS = 4
TENANTS = 120


def descriptors(folder: Path) -> int:
    """This process's into the folder."""
    found = 0
    for one in Path("/proc/self/fd").iterdir():
        try:
            found += os.readlink(one).startswith(f"{folder}/")
        except FileNotFoundError:
            continue  # the one that lists them
    return found


async def test_more_tenants_than_are_kept_open_take_no_more_descriptors(tmp_path: Path) -> None:
    """Each of the threads closes what it used longest ago, and all of them go on writing and reading every tenant."""
    files = Files(tmp_path)

    def write(tenant: str) -> None:
        file = files.tenant(tenant, make=True)
        assert file is not None
        with files.writing(tenant):
            file.execute(
                "INSERT INTO documents (collection, id, version, fields, groups) VALUES ('c', ?, x'', '', '')", (tenant,)
            )

    def read(tenant: str) -> list[tuple[object, ...]]:
        files.catalogue()
        file = files.tenant(tenant)
        assert file is not None
        return rows(file, "SELECT id FROM documents")

    tenants = [f"t-{number}" for number in range(TENANTS)]
    await asyncio.gather(*(files.run(write, tenant) for tenant in tenants))
    for _ in range(THREADS):
        assert await asyncio.gather(*(files.run(read, tenant) for tenant in tenants)) == [[(tenant,)] for tenant in tenants]
    # Of each thread those that are kept, and two of the last work.
    assert THREADS < descriptors(tmp_path) <= THREADS * (MOST_KEPT + 2) * (THREADS + 2)
    await files.close()
    assert descriptors(tmp_path) == 0


async def test_a_file_that_is_read_stays_open(tmp_path: Path) -> None:
    """Whatever else the same work opens: what is too much is closed when it is over."""
    files = Files(tmp_path)

    def work() -> list[str]:
        first = files.tenant("first", make=True)
        assert first is not None
        cursor = first.execute("VALUES ('a'), ('b')")
        found = [str(next(cursor)[0])]
        for number in range(MOST_KEPT + 4):
            files.tenant(f"t-{number}", make=True)
        return [*found, *(str(one) for (one,) in cursor)]

    assert await files.run(work) == ["a", "b"]
    await files.close()


async def test_a_folder_that_was_there_is_made_private(tmp_path: Path) -> None:
    """What lies in it from before is out of others' reach too."""
    folder = tmp_path / "store"
    folder.mkdir()
    folder.chmod(0o2755)
    files = Files(folder)
    await files.run(lambda: rows(files.catalogue(), "SELECT 1"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2700
    await files.close()


async def test_several_that_open_a_new_file_at_once_wait_for_each_other(tmp_path: Path) -> None:
    """Two processes' stores with four threads each: whoever makes the file keeps nobody out."""
    for number in range(40):
        both = [Files(tmp_path / str(number)) for _ in range(2)]
        await asyncio.gather(*(files.run(files.catalogue) for files in both for _ in range(THREADS)))
        for files in both:
            await files.close()
