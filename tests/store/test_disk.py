"""What only a store on a disk can meet: users' files that change, bytes that rot, versions, a lost
index.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2phub.digest import digest, sha256
from p2phub.errors import (
    CorruptChunk,
    DestinationExists,
    NotHeld,
    StoreFailed,
    StoreNewer,
)
from p2phub.paths import StoreFolder
from p2phub.proto.messages import Run
from p2phub.store.base import Method, ObjectState, Place, Release
from p2phub.store.disk import DiskStore
from tests.store.sample_files import (
    SampleFile,
    fetch,
    manifest_of,
    read_all,
    runs_of_bits,
    sample,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    opened = DiskStore(tmp_path / "store")
    yield opened
    opened.close()


def reopened(store: DiskStore, tmp_path: Path) -> DiskStore:
    store.close()
    return DiskStore(tmp_path / "store")


def flip(path: Path, offset: int) -> None:
    """Change one byte behind the store's back, times kept, as a bad disk does."""
    status = path.stat()
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


# ---- the user's files


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


# ---- bytes at rest


def test_a_flipped_bit_is_never_served_and_is_fetched_again(
    store: DiskStore, tmp_path: Path
) -> None:
    file = sample(20_000)
    fetch(store, file)
    store.finish(file.object)
    flip(StoreFolder(tmp_path / "store").whole(file.object), 5500)
    reader = store.span_reader(file.runs())
    into = memoryview(bytearray(20_000))
    with pytest.raises(CorruptChunk) as caught:
        reader.read(0, 20, into)
    assert caught.value.facts["entry"] == 5
    assert list(store.missing(file.pages[0])) == [5]
    status = store.status(file.object)
    assert status is not None
    assert status.state is ObjectState.PARTIAL
    assert store.object_by_sha256(sha256(file.data)) is None
    (told,) = store.withdrawn()
    assert told.pages == ((file.pages[0], (5,)),)
    (bad,) = (tmp_path / "store" / "quarantine").iterdir()
    assert digest(bad.read_bytes()) != digest(file.chunks[5])
    with pytest.raises(NotHeld):
        reader.read(5, 6, into[:1000])
    # The rest is served, and the gap closes as any other.
    reader.read(6, 20, into[:14_000])
    store.open_part(file.object)
    store.span_writer([Run(file.pages[0], 5, 6)]).write(0, 1, memoryview(file.chunks[5]))
    store.finish(file.object)
    assert read_all(store, file) == file.data


def test_a_flipped_bit_in_a_users_file_is_not_mended_in_place(
    store: DiskStore, tmp_path: Path
) -> None:
    file = sample(20_000)
    out = tmp_path / "out"
    fetch(store, file, out)
    store.finish(file.object, place=Place(out, "file"))
    flip(out / "file", 100)  # the change of its time is seen
    with pytest.raises(NotHeld):
        read_all(store, file)
    rotten = (out / "file").read_bytes()
    fetch(store, file)
    store.finish(file.object)
    assert read_all(store, file) == file.data
    assert (out / "file").read_bytes() == rotten


def test_a_flipped_bit_in_one_of_two_files_is_served_from_the_other(
    store: DiskStore, tmp_path: Path
) -> None:
    one = sample(8000)
    two = SampleFile(one.data + b"more", (*one.cuts, 4))
    for file in (one, two):
        fetch(store, file)
        store.finish(file.object)
    assert one.pages[0] == two.pages[0]
    flip(StoreFolder(tmp_path / "store").whole(one.object), 3000)
    flip(StoreFolder(tmp_path / "store").whole(two.object), 5000)
    assert read_all(store, one) == one.data
    assert len(store.withdrawn()) >= 1


def test_a_cut_or_lost_file_of_the_store_is_never_served(store: DiskStore, tmp_path: Path) -> None:
    cut_file, lost = sample(20_000), sample(20_000, seed=1)
    folder = StoreFolder(tmp_path / "store")
    for file in (cut_file, lost):
        fetch(store, file)
        store.finish(file.object)
    os.chmod(folder.whole(cut_file.object), 0o644)
    os.truncate(folder.whole(cut_file.object), 9500)
    os.unlink(folder.whole(lost.object))
    with pytest.raises(CorruptChunk):
        read_all(store, cut_file)
    assert 1 in list(store.missing(cut_file.pages[1]))
    with pytest.raises(NotHeld):
        read_all(store, lost)
    fetch(store, lost)
    store.finish(lost.object)
    assert read_all(store, lost) == lost.data


def test_a_damaged_document_is_set_aside_and_can_be_put_again(
    store: DiskStore, tmp_path: Path
) -> None:
    _, name = store.put([b"first document", b"second document"])
    (pack,) = (tmp_path / "store" / "packs").iterdir()
    flip(pack, pack.read_bytes().index(b"second"))
    with pytest.raises(CorruptChunk):
        store.get(name)
    assert not store.has(name)
    with pytest.raises(NotHeld):
        store.get(name)
    assert [told.object for told in store.withdrawn()] == [name]
    store.put([b"second document"])
    assert store.get(name) == b"second document"


def test_bytes_lost_before_the_end_are_found_and_asked_for_again(
    store: DiskStore, tmp_path: Path
) -> None:
    file = sample(20_000)
    fetch(store, file)
    flip(StoreFolder(tmp_path / "store").part(file.object), 12_345)
    with pytest.raises(CorruptChunk):
        store.finish(file.object)
    assert list(store.missing(file.pages[1])) == [4]
    store.span_writer([Run(file.pages[1], 4, 5)]).write(0, 1, memoryview(file.chunks[12]))
    store.finish(file.object)
    assert read_all(store, file) == file.data


# ---- resuming


def test_a_part_is_resumed_after_a_restart(store: DiskStore, tmp_path: Path) -> None:
    file, placed = sample(20_000), sample(20_000, seed=1)
    for some, folder in ((file, None), (placed, tmp_path / "out")):
        store.put(some.documents)
        store.open_part(some.object, folder=folder)
        store.span_writer(some.runs()[:1]).write(0, 8, memoryview(some.data[:8000]))
    store.checkpoint()
    store = reopened(store, tmp_path)
    for some in (file, placed):
        assert list(store.missing(some.pages[0])) == []
        store.open_part(some.object)
        store.span_writer(some.runs()).write(0, 20, memoryview(some.data))
    store.finish(file.object)
    store.finish(placed.object, place=Place(tmp_path / "out", "placed"))
    assert (tmp_path / "out" / "placed").read_bytes() == placed.data
    store.close()


def test_a_part_whose_file_is_gone_at_start_is_forgotten(store: DiskStore, tmp_path: Path) -> None:
    file = sample(20_000)
    fetch(store, file)
    store.close()
    os.unlink(StoreFolder(tmp_path / "store").part(file.object))
    store = DiskStore(tmp_path / "store")
    assert store.status(file.object) is None
    assert store.held(file.pages[0]) == b"\x00"
    fetch(store, file)
    store.finish(file.object)
    store.close()


def test_scratch_is_emptied_at_start(store: DiskStore, tmp_path: Path) -> None:
    store.close()
    scratch = StoreFolder(tmp_path / "store").scratch
    (scratch / "left over").write_bytes(b"x")
    DiskStore(tmp_path / "store").close()
    assert list(scratch.iterdir()) == []


def test_more_parts_than_open_files_are_written_side_by_side(
    store: DiskStore, tmp_path: Path
) -> None:
    files = [sample(3000, seed=seed) for seed in range(100)]
    for file in files:
        store.put(file.documents)
        store.open_part(file.object)
    for index in range(3):
        for file in files:
            data = memoryview(file.chunks[index])
            store.span_writer([Run(file.pages[0], index, index + 1)]).write(0, 1, data)
    assert len(os.listdir("/proc/self/fd")) < 300
    reported = sum(len(indexes) for _, indexes in store.checkpoint())
    assert reported == 300
    for file in files:
        store.finish(file.object)
    assert all(read_all(store, file) == file.data for file in files)


# ---- the store itself


def test_a_newer_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("p2phub store 2\n")
    with pytest.raises(StoreNewer) as caught:
        DiskStore(tmp_path)
    assert caught.value.facts["version"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["VERSION"]


def test_a_newer_index_is_refused(tmp_path: Path) -> None:
    DiskStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "index.db") as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(StoreNewer):
        DiskStore(tmp_path)


def test_a_folder_with_another_version_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("something else 1\n")
    with pytest.raises(StoreFailed, match="not a version"):
        DiskStore(tmp_path)


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "store")
    (name,) = store.put([b"x"])
    store.close()
    for call in (lambda: store.get(name), lambda: store.put([b"y"]), store.releases):
        with pytest.raises(StoreFailed):
            call()


def test_everything_is_there_after_a_restart(store: DiskStore, tmp_path: Path) -> None:
    file, small = sample(20_000), sample(900, seed=1)
    fetch(store, file)
    store.finish(file.object)
    store.put([small.data])
    store.add_release(Release(file.object, "name"))
    store = reopened(store, tmp_path)
    assert read_all(store, file) == file.data
    assert store.get(small.object) == small.data
    assert [release.name for release in store.releases()] == ["name"]
    store.close()


def test_a_tree_of_store_files_is_linked_and_costs_nothing(
    store: DiskStore, tmp_path: Path
) -> None:
    file = sample(200_000)
    fetch(store, file)
    store.finish(file.object)
    placement = store.materialize([file.file_record("file")], tmp_path / "tree")
    assert placement.extra_bytes == 0
    assert set(placement.methods) <= {Method.REFLINK, Method.HARDLINK}
    assert store.materialize([file.file_record("file")], tmp_path / "tree").extra_bytes == 0


def test_what_a_crash_left_of_a_tree_is_taken_away(store: DiskStore, tmp_path: Path) -> None:
    (tmp_path / ".p2phub-part-0123").mkdir()
    store.put([b"x"])
    record = SampleFile(b"x", (1,)).file_record("x")
    store.materialize([record], tmp_path / "tree")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store", "tree"]


# ---- the index made again


@pytest.mark.parametrize("loss", ["removed", "garbage", "cut"])
def test_a_lost_index_is_made_again(store: DiskStore, tmp_path: Path, loss: str) -> None:
    whole, part, taken, placed = (sample(20_000, seed=seed) for seed in range(4))
    small = sample(900, seed=9)
    manifest, page = manifest_of({"whole": whole, "small": small})
    fetch(store, whole)
    store.finish(whole.object)
    store.put([*part.documents, manifest.encode(), page.encode(), small.data])
    store.open_part(part.object)
    store.span_writer(part.runs()[:1]).write(0, 8, memoryview(part.data[:8000]))
    store.take([taken.source(tmp_path / "taken")], taken.documents)
    fetch(store, placed, tmp_path / "out")
    store.finish(placed.object, place=Place(tmp_path / "out", "placed"))
    store.add_release(Release(manifest.digest, "kept", added_s=2.0))
    store.add_release(Release(manifest.digest, "gone"))
    store.remove_release(manifest.digest, "gone")
    store.pin(manifest.digest, True)
    store.close()
    index = StoreFolder(tmp_path / "store").index
    if loss == "garbage":
        index.write_bytes(b"no database " * 1000)
    elif loss == "cut":
        os.truncate(index, 5000)
    else:
        index.unlink()
    store = DiskStore(tmp_path / "store")
    for file in (whole, taken, placed):
        assert read_all(store, file) == file.data
        assert store.object_by_sha256(sha256(file.data)) == file.object
    assert list(store.missing(part.pages[0])) == []
    assert list(store.missing(part.pages[1])) == list(range(8))
    assert runs_of_bits(store.held(digest(page.encode())) or b"", 2) == [0, 1]
    assert [(r.name, r.is_pinned) for r in store.releases()] == [("kept", True)]
    fetch(store, part)
    store.finish(part.object)
    store.put([b"life goes on"])
    store = reopened(store, tmp_path)
    assert store.get(digest(b"life goes on")) == b"life goes on"
    assert read_all(store, part) == part.data
    store.close()


def test_one_bad_thing_does_not_stop_a_rebuild(store: DiskStore, tmp_path: Path) -> None:
    good, bad = sample(20_000), sample(20_000, seed=1)
    folder = StoreFolder(tmp_path / "store")
    for file in (good, bad):
        fetch(store, file)
        store.finish(file.object)
    store.add_release(Release(good.object, "kept"))
    store.close()
    folder.index.unlink()
    os.chmod(folder.whole(bad.object), 0o644)
    os.truncate(folder.whole(bad.object), 5)
    (folder.data / "zz").mkdir()
    (folder.data / "zz" / "no digest").write_bytes(b"x")
    (folder.parts / "junk").write_bytes(b"x")
    (folder.packs / "junk.pack").write_bytes(b"x")
    (folder.packs / "000009.pack").write_bytes(b"not a pack")
    with open(folder.journal, "ab") as journal:
        journal.write(b'torn line {"do":"ke')
    store = DiskStore(tmp_path / "store")
    assert read_all(store, good) == good.data
    assert store.status(bad.object) is None
    assert [r.name for r in store.releases()] == ["kept"]
    store.close()


def test_a_users_file_that_changed_is_not_taken_for_held_by_a_rebuild(
    store: DiskStore, tmp_path: Path
) -> None:
    file = sample(20_000)
    store.take([file.source(tmp_path / "mine")], file.documents)
    store.close()
    if not list(StoreFolder(tmp_path / "store").data.iterdir()):
        edit(tmp_path / "mine")
        StoreFolder(tmp_path / "store").index.unlink()
        store = DiskStore(tmp_path / "store")
        assert store.status(file.object) is None
        store.close()


def test_a_store_moved_to_another_folder_works(store: DiskStore, tmp_path: Path) -> None:
    file = sample(20_000)
    fetch(store, file)
    store.close()
    shutil.move(tmp_path / "store", tmp_path / "moved")
    store = DiskStore(tmp_path / "moved")
    store.finish(file.object)
    assert read_all(store, file) == file.data
    store.close()
