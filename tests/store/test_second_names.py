"""Second names of the user's own files, given where they asked for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2phub.errors import NotHeld, StoreFailed
from p2phub.proto.manifest import FileRecord
from p2phub.store.base import Links, Method
from p2phub.store.disk import DiskStore
from p2phub.store.file_system import AnyPath, FileSystem
from tests.store.sample_files import read_all, sample

FILE = sample(400_000, chunk=100_000)
SMALL = sample(9_000, chunk=100_000, seed=3)  # of one chunk
RECORDS = [FILE.file_record("large"), SMALL.file_record("sub/small")]


class PlainFileSystem(FileSystem):
    """Shares no blocks, and calls back at each second name."""

    def clone(self, source: int, target: int, where: AnyPath) -> bool:
        return False

    def link(self, source: AnyPath, target: AnyPath, *, target_folder: int | None = None) -> bool:
        made = super().link(source, target, target_folder=target_folder)
        self.on_link()
        return made

    def on_link(self) -> None:
        pass


@pytest.fixture
def files() -> PlainFileSystem:
    return PlainFileSystem()


@pytest.fixture
def store(tmp_path: Path, files: PlainFileSystem) -> Iterator[DiskStore]:
    opened = DiskStore(tmp_path / "store", files=files)
    for file, name in ((FILE, "large"), (SMALL, "small")):
        placement = opened.take([file.source(tmp_path / name)], file.documents)
        assert placement.methods == {Method.ADOPTED: 1}
    yield opened
    opened.close()


def inodes(folder: Path) -> list[int]:
    return [(folder / record.path).stat().st_ino for record in RECORDS]


def own_inodes(tmp_path: Path) -> list[int]:
    return [(tmp_path / name).stat().st_ino for name in ("large", "small")]


def test_files_of_the_users_get_second_names_where_asked_and_stay_held(
    store: DiskStore, tmp_path: Path
) -> None:
    placed = store.place_files(RECORDS, tmp_path / "out", links=Links.ALL)
    assert (placed.methods, placed.extra_bytes) == ({Method.HARDLINK: 2}, 0)
    assert inodes(tmp_path / "out") == own_inodes(tmp_path)
    assert store.recheck() == 0
    assert read_all(store, FILE) == FILE.data
    assert store.get(SMALL.object) == SMALL.data
    assert store.withdrawn() == []


@pytest.mark.parametrize("is_rebuilt", [False, True], ids=["index", "journal"])
def test_they_are_held_after_a_restart(store: DiskStore, tmp_path: Path, is_rebuilt: bool) -> None:
    (tmp_path / "out").mkdir()  # so that each file is moved by itself, which touches it again
    store.place_files(RECORDS, tmp_path / "out", links=Links.ALL)
    store.close()
    if is_rebuilt:
        for index in (tmp_path / "store").glob("index*"):
            index.unlink()
    again = DiskStore(tmp_path / "store", files=PlainFileSystem())
    assert again.recheck() == 0
    assert read_all(again, FILE) == FILE.data
    assert again.get(SMALL.object) == SMALL.data
    again.close()


@pytest.mark.parametrize("links", [Links.NONE, Links.OWN])
def test_nobody_who_did_not_ask_gets_a_second_name_of_a_users_file(
    store: DiskStore, tmp_path: Path, links: Links
) -> None:
    placed = store.place_files(RECORDS, tmp_path / "out", links=links)
    assert placed.methods == {Method.COPY: 2}
    tree = store.materialize(RECORDS, tmp_path / "tree")
    assert tree.methods == {Method.COPY: 2}
    assert not {*inodes(tmp_path / "out"), *inodes(tmp_path / "tree")} & {*own_inodes(tmp_path)}


def test_an_edit_by_the_second_name_is_found_out(store: DiskStore, tmp_path: Path) -> None:
    store.place_files(RECORDS, tmp_path / "out", links=Links.ALL)
    with open(tmp_path / "out" / "large", "r+b") as file:
        file.write(b"x")
    with pytest.raises(NotHeld):
        read_all(store, FILE)
    assert [str(row.path) for row in store.withdrawn()] == [str(tmp_path / "large")]


def test_a_file_that_was_edited_before_is_given_to_nobody(store: DiskStore, tmp_path: Path) -> None:
    with open(tmp_path / "large", "r+b") as file:
        file.write(b"x")
    with pytest.raises(NotHeld):
        store.place_files(RECORDS, tmp_path / "out", links=Links.ALL)
    assert not (tmp_path / "out").exists()
    assert store.get(SMALL.object) == SMALL.data
    assert store.recheck() == 0


def test_a_file_edited_while_it_gets_a_name_is_given_to_nobody(
    store: DiskStore, files: PlainFileSystem, tmp_path: Path
) -> None:
    def edit() -> None:
        with open(tmp_path / "large", "r+b") as file:
            file.write(b"x")

    files.on_link = edit  # type: ignore[method-assign]
    with pytest.raises(NotHeld):
        store.place_files(RECORDS[:1], tmp_path / "out", links=Links.ALL)
    assert not (tmp_path / "out").exists()


def test_readers_do_not_mind_the_names_that_come_and_move(
    store: DiskStore, files: PlainFileSystem, tmp_path: Path
) -> None:
    got = []

    def read() -> None:
        got.append(read_all(store, FILE))
        assert store.recheck() == 0

    files.on_link = read  # type: ignore[method-assign]
    store.place_files(RECORDS, tmp_path / "out", links=Links.ALL)
    assert got == [FILE.data] * 2


def test_names_taken_back_after_a_failure_leave_the_files_held(
    store: DiskStore, files: PlainFileSystem, tmp_path: Path
) -> None:
    wrong = FileRecord("sub/other", 5, bytes(32), bytes(32), 1)
    with pytest.raises(NotHeld):
        store.place_files([*RECORDS, wrong], tmp_path / "out", links=Links.ALL)

    def full() -> None:
        raise StoreFailed("no", path=str(tmp_path))

    files.on_link = full  # type: ignore[method-assign]
    with pytest.raises(StoreFailed):
        store.place_files(RECORDS, tmp_path / "out", links=Links.ALL)
    assert os.stat(tmp_path / "large").st_nlink == 1
    assert store.recheck() == 0
    assert read_all(store, FILE) == FILE.data


def test_two_who_export_the_same_files_at_once_both_get_names(
    store: DiskStore, files: PlainFileSystem, tmp_path: Path
) -> None:
    def other() -> None:
        files.on_link = PlainFileSystem.on_link.__get__(files)  # type: ignore[method-assign]
        placed = store.place_files(RECORDS, tmp_path / "other", links=Links.ALL)
        assert placed.methods == {Method.HARDLINK: 2}

    files.on_link = other  # type: ignore[method-assign]
    placed = store.place_files(RECORDS, tmp_path / "out", links=Links.ALL)
    assert placed.methods == {Method.HARDLINK: 2}
    assert store.recheck() == 0
    assert read_all(store, FILE) == FILE.data
