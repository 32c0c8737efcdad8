"""Files of the user's that are used where they lie, and what happens when they change."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2phub.digest import sha256
from p2phub.errors import (
    DestinationExists,
    NotHeld,
)
from p2phub.store.base import Method, ObjectState, Place
from p2phub.store.disk import DiskStore
from tests.store.sample_files import (
    fetch,
    read_all,
    sample,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    opened = DiskStore(tmp_path / "store")
    yield opened
    opened.close()


def edit(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"x")


def cut(path: Path) -> None:
    os.truncate(path, 7000)


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


def replace_by_another(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def put_a_pipe_there(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def put_a_link_there(path: Path) -> None:
    moved = path.with_name("moved")
    path.rename(moved)
    path.symlink_to(moved)


CHANGES: list[Callable[[Path], None]] = [
    edit, cut, grow, os.unlink, replace_by_another, put_a_pipe_there, put_a_link_there,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("was_open", [True, False], ids=["open", "closed"])
def test_a_changed_file_of_the_user_is_not_held_any_more(
    store: DiskStore, tmp_path: Path, change: Callable[[Path], None], was_open: bool
) -> None:
    file = sample(20_000)
    path = tmp_path / "mine"
    placement = store.take([file.source(path)], file.documents)
    if placement.methods != {Method.ADOPTED: 1}:
        pytest.skip("this file system shares blocks, so nothing is used in place")
    if was_open:
        assert read_all(store, file) == file.data
    change(path)
    with pytest.raises(NotHeld):
        read_all(store, file)
    assert store.held(file.pages[0]) == b"\x00"
    status = store.status(file.object)
    assert status is not None
    assert (status.state, status.held_bytes) == (ObjectState.CHANGED, 0)
    assert store.object_by_sha256(sha256(file.data)) is None
    (told,) = store.withdrawn()
    assert told.object == file.object
    assert told.path == path
    assert str(path) in told.reason
    assert {page for page, _ in told.pages} == set(file.pages)
    assert store.withdrawn() == []


def test_a_changed_file_of_one_chunk_is_not_held_any_more(store: DiskStore, tmp_path: Path) -> None:
    file = sample(900)
    path = tmp_path / "mine"
    store.take([file.source(path)])
    assert store.get(file.object) == file.data
    edit(path)
    with pytest.raises(NotHeld):
        store.get(file.object)
    assert not store.has(file.object)
    assert [told.pages for told in store.withdrawn()] == [((file.object, ()),)]


def test_a_recheck_finds_every_changed_file_without_reading(
    store: DiskStore, tmp_path: Path
) -> None:
    files = [sample(20_000, seed=seed) for seed in range(3)]
    for number, file in enumerate(files):
        store.take([file.source(tmp_path / f"{number}")], file.documents)
    assert store.recheck() == 0
    edit(tmp_path / "0")
    os.unlink(tmp_path / "2")
    assert store.recheck() == 2
    assert store.recheck() == 0
    assert len(store.withdrawn()) == 2
    assert read_all(store, files[1]) == files[1].data


def test_rechecks_of_a_few_files_each_come_round_to_all(store: DiskStore, tmp_path: Path) -> None:
    files = [sample(20_000, seed=seed) for seed in range(5)]
    for number, file in enumerate(files):
        store.take([file.source(tmp_path / f"{number}")], file.documents)
    edit(tmp_path / "0")
    os.unlink(tmp_path / "4")
    assert [store.recheck(2) for _ in range(3)] == [1, 0, 1]
    edit(tmp_path / "1")
    assert sum(store.recheck(2) for _ in range(3)) == 1
    assert len(store.withdrawn()) == 3


def test_a_changed_file_is_held_again_when_it_is_taken_again(
    store: DiskStore, tmp_path: Path
) -> None:
    file = sample(20_000)
    path = tmp_path / "mine"
    store.take([file.source(path)], file.documents)
    path.unlink()
    store.recheck()
    assert Method.HELD not in store.take([file.source(path)], file.documents).methods
    assert read_all(store, file) == file.data


def test_a_changed_file_can_be_fetched_again(store: DiskStore, tmp_path: Path) -> None:
    file = sample(20_000)
    store.take([file.source(tmp_path / "mine")], file.documents)
    edit(tmp_path / "mine")
    store.recheck()
    fetch(store, file)
    store.finish(file.object)
    assert read_all(store, file) == file.data
    assert (tmp_path / "mine").read_bytes() != file.data


def test_a_placed_file_is_adopted_and_costs_nothing(store: DiskStore, tmp_path: Path) -> None:
    file = sample(20_000)
    out = tmp_path / "out"
    fetch(store, file, out)
    assert [p.name for p in out.iterdir()] == [".p2phub-part"]
    placement = store.finish(file.object, place=Place(out, "file"))
    assert placement.methods == {Method.ADOPTED: 1}
    assert placement.extra_bytes == 0
    assert [p.name for p in out.iterdir()] == ["file"]
    assert list((tmp_path / "store" / "data").iterdir()) == []
    assert (out / "file").stat().st_mode & 0o200
    edit(out / "file")
    with pytest.raises(NotHeld):
        read_all(store, file)


def test_a_part_for_one_folder_can_end_elsewhere(store: DiskStore, tmp_path: Path) -> None:
    file, other = sample(20_000), sample(20_000, seed=1)
    fetch(store, file, tmp_path / "one")
    placement = store.finish(file.object, place=Place(tmp_path / "two", "file"))
    assert (tmp_path / "two" / "file").read_bytes() == file.data
    assert sum(placement.methods.values()) == 1
    fetch(store, other, tmp_path / "one")
    store.finish(other.object)
    assert read_all(store, other) == other.data
    assert list((tmp_path / "one").iterdir()) == []


def test_a_link_in_the_way_of_a_placed_file_is_not_followed(
    store: DiskStore, tmp_path: Path
) -> None:
    file = sample(20_000)
    out, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()
    fetch(store, file, out)
    (out / "sub").symlink_to(outside)
    with pytest.raises(DestinationExists):
        store.finish(file.object, place=Place(out, "sub/file"))
    assert list(outside.iterdir()) == []
    store.finish(file.object, place=Place(out, "file"))
