"""What only a store on a disk can meet: restarts, versions, bytes that rot."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2phub.digest import digest, sha256
from p2phub.errors import (
    CorruptChunk,
    NotHeld,
    StoreFailed,
)
from p2phub.paths import StoreFolder
from p2phub.proto.messages import Run
from p2phub.store.base import Method, ObjectState, Place, Release
from p2phub.store.disk import DiskStore
from tests.store.sample_files import (
    SampleFile,
    fetch,
    read_all,
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


# ---- bytes at rest


def test_a_flipped_bit_is_never_served_and_is_fetched_again(
    store: DiskStore, tmp_path: Path
) -> None:
    file = sample(20_000)
    fetch(store, file)
    store.finish(file.object)
    flip(StoreFolder(tmp_path / "store").whole(file.object), 5500)
    before = store.losses_count
    reader = store.span_reader(file.runs())
    into = memoryview(bytearray(20_000))
    with pytest.raises(CorruptChunk) as caught:
        reader.read(0, 20, into)
    assert caught.value.facts["entry"] == 5
    assert store.losses_count > before
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


def test_a_tree_of_a_large_file_takes_no_memory_of_its_size(
    store: DiskStore, tmp_path: Path
) -> None:
    file = sample(8_000_000)
    fetch(store, file)
    store.finish(file.object)
    tracemalloc.start()
    store.materialize([file.file_record("file")], tmp_path / "tree")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4_000_000


def test_what_a_crash_left_of_a_tree_is_taken_away(store: DiskStore, tmp_path: Path) -> None:
    (tmp_path / ".p2phub-part-0123").mkdir()
    store.put([b"x"])
    record = SampleFile(b"x", (1,)).file_record("x")
    store.materialize([record], tmp_path / "tree")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store", "tree"]
