"""What was set aside stays within bounds, over any number of starts, and the newest is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2phub.digest import digest
from p2phub.paths import StoreFolder
from p2phub.store.disk import DiskStore
from p2phub.store.file_system import FileSystem
from p2phub.store.quarantine import QUARANTINE_BYTES_MAX, QUARANTINE_FILES_MAX, Quarantine

NAME = digest(b"a name")
MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> StoreFolder:
    made = StoreFolder(tmp_path / "store")
    made.quarantine.mkdir(parents=True)
    return made


def sizes(folder: StoreFolder) -> list[int]:
    return [path.stat().st_size for path in folder.quarantine.iterdir()]


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def test_one_chunk_is_set_aside_under_its_name(folder: StoreFolder) -> None:
    Quarantine(folder, FileSystem()).keep(NAME, 7, b"wrong")
    (kept,) = folder.quarantine.iterdir()
    assert kept.read_bytes() == b"wrong"
    assert kept.name == f"{NAME.hex()}-7-001"


def test_every_start_counts_what_is_there(folder: StoreFolder) -> None:
    data = bytes(MIB)
    for _ in range(5):
        quarantine = Quarantine(folder, FileSystem())
        for chunk in range(20):
            quarantine.keep(NAME, chunk, data)
    assert sum(sizes(folder)) == QUARANTINE_BYTES_MAX
    numbers = sorted(int(path.name.rpartition("-")[2]) for path in folder.quarantine.iterdir())
    assert numbers == list(range(37, 101))  # the newest, none written over


def test_the_count_of_files_is_bounded_too(folder: StoreFolder) -> None:
    for number in range(QUARANTINE_FILES_MAX + 50):
        (folder.quarantine / f"old {number}").write_bytes(b"")
    quarantine = Quarantine(folder, FileSystem())
    assert len(sizes(folder)) == QUARANTINE_FILES_MAX
    quarantine.keep(NAME, 0, b"new")
    assert len(sizes(folder)) == QUARANTINE_FILES_MAX
    assert folder.quarantined(NAME, 0, 1).read_bytes() == b"new"


def test_a_file_larger_than_the_bound_stays_until_something_newer_comes(
    folder: StoreFolder,
) -> None:
    junk = folder.root / "junk"
    sparse(junk, 5 * QUARANTINE_BYTES_MAX)
    aside = Quarantine(folder, FileSystem()).take(junk)
    assert aside.exists() and not junk.exists()
    quarantine = Quarantine(folder, FileSystem())
    assert aside.exists()
    quarantine.keep(NAME, 0, b"newer")
    assert not aside.exists()
    assert sizes(folder) == [5]


def test_folders_links_and_strange_names_are_no_trouble(folder: StoreFolder) -> None:
    outside = folder.root / "outside"
    outside.write_bytes(b"mine")
    (folder.quarantine / "a folder-٣").mkdir()
    (folder.quarantine / "a folder-٣" / "in it").write_bytes(b"x")
    os.symlink(outside, folder.quarantine / "link-99999999999999999999")
    sparse(folder.quarantine / "large", QUARANTINE_BYTES_MAX + 1)
    quarantine = Quarantine(folder, FileSystem())
    quarantine.keep(NAME, 0, b"new")
    assert sizes(folder) == [3]
    assert outside.read_bytes() == b"mine"


def test_a_disk_that_refuses_is_no_news(folder: StoreFolder) -> None:
    quarantine = Quarantine(folder, FileSystem())
    folder.quarantine.rmdir()
    quarantine.keep(NAME, 0, b"wrong")
    Quarantine(folder, FileSystem()).keep(NAME, 0, b"wrong")
    assert not folder.quarantine.exists()


def test_a_store_that_opens_brings_it_within_bounds(folder: StoreFolder) -> None:
    for number in range(70):
        sparse(folder.quarantine / f"{number:03}", MIB)
    DiskStore(folder.root).close()
    assert sum(sizes(folder)) == QUARANTINE_BYTES_MAX
