"""Collecting on a disk: the room comes back, and no crash leaves a lie or a lost file."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2phub.errors import NotHeld, StoreError
from p2phub.paths import StoreFolder
from p2phub.proto.messages import Run
from p2phub.store.base import Release
from p2phub.store.disk import DiskStore
from tests.store.power_cut import FragileFileSystem, PowerCut
from tests.store.sample_files import fetch, manifest_of, read_all, sample, some_bytes
from tests.store.test_faults import RefusingFileSystem
from tests.store.test_store_contract_room import BIG, OTHER, SMALL, hold, is_whole

KEPT = {"a/big": BIG, "small": SMALL}
DROPPED = {"other": OTHER, "tiny": sample(300, seed=7)}
DEAD = [some_bytes(3000, seed) for seed in range(20, 24)]  # documents that nothing names


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: syncs are not what is tested here."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_room_of_files_and_packs_comes_back(root: Path) -> None:
    folder = StoreFolder(root / "store")
    store = DiskStore(folder.root)
    store.add_release(Release(hold(store, KEPT), "one"))
    hold(store, DROPPED)
    store.put([some_bytes(200_000, seed) for seed in range(10, 20)])
    before = bytes_in(folder.packs)
    collected = store.collect(time.time())
    packs = bytes_in(folder.packs)
    assert before > 2_000_000
    assert packs < 20_000
    assert collected.freed_bytes >= before - packs
    assert bytes_in(folder.data) == len(BIG.data)
    assert store.usage().pack_bytes == packs
    assert is_whole(store, manifest_of(KEPT)[0].digest, KEPT)
    # What comes later, and the next start, know of nothing.
    (late,) = store.put([b"late"])
    store.close()
    store = DiskStore(folder.root)
    assert store.get(late) == b"late"
    assert is_whole(store, manifest_of(KEPT)[0].digest, KEPT)
    store.close()


def test_a_store_that_lost_its_index_after_a_collection_has_all_that_was_kept(root: Path) -> None:
    folder = StoreFolder(root / "store")
    store = DiskStore(folder.root)
    store.add_release(Release(hold(store, KEPT), "one"))
    taken = OTHER.source(root / "mine")
    store.take([taken], OTHER.documents)
    store.put(DEAD)
    store.collect(time.time())
    store.close()
    folder.index.unlink()
    store = DiskStore(folder.root)
    assert is_whole(store, manifest_of(KEPT)[0].digest, KEPT)
    # A file that was forgotten is not held again on the word of an old line.
    assert store.status(OTHER.object) is None
    assert taken.path.read_bytes() == OTHER.data
    store.close()


def test_a_part_that_nobody_touched_for_an_hour_goes(root: Path) -> None:
    folder = StoreFolder(root / "store")
    store = DiskStore(folder.root)
    fetch(store, BIG)
    assert store.collect(time.time() + 3000.0).objects == ()
    assert len(store.collect(time.time() + 4000.0).objects) == 1
    assert list(folder.parts.iterdir()) == []
    with pytest.raises(NotHeld):
        store.span_writer([Run(BIG.pages[0], 0, 1)])
    fetch(store, BIG)
    store.finish(BIG.object)
    assert read_all(store, BIG) == BIG.data
    store.close()


def test_a_reader_of_what_is_collected_is_told_it_is_not_held(root: Path) -> None:
    store = DiskStore(root / "store")
    hold(store, {"big": BIG})
    reader = store.span_reader(BIG.runs())
    into = memoryview(bytearray(1000))
    reader.read(0, 1, into)
    store.collect(time.time())
    with pytest.raises(NotHeld):
        reader.read(1, 2, into)
    assert store.withdrawn() == []  # nobody's file was changed: there is nothing to tell
    store.close()


def live(store: DiskStore) -> None:
    store.add_release(Release(hold(store, KEPT), "one"))
    hold(store, DROPPED)
    store.put(DEAD)


def check(root: Path) -> None:
    """After any end: what is kept is there, and a collection leaves nothing else on the disk."""
    folder = StoreFolder(root / "store")
    store = DiskStore(folder.root)
    assert is_whole(store, manifest_of(KEPT)[0].digest, KEPT)
    assert store.withdrawn() == []
    store.collect(time.time())
    assert is_whole(store, manifest_of(KEPT)[0].digest, KEPT)
    assert store.withdrawn() == []
    assert bytes_in(folder.data) == len(BIG.data)
    assert bytes_in(folder.packs) == store.usage().pack_bytes < 10_000
    # What went can come again.
    hold(store, DROPPED)
    assert is_whole(store, manifest_of(DROPPED)[0].digest, DROPPED)
    store.close()


def test_a_power_cut_at_every_call_of_a_collection_loses_nothing_kept(root: Path) -> None:
    cut_at = 0
    while True:
        cut_at += 1
        folder = root / f"cut-{cut_at}"
        folder.mkdir()
        store = DiskStore(folder / "store")
        live(store)
        store.close()
        files = FragileFileSystem(folder / "trash")
        store = DiskStore(folder / "store", files=files)
        files.cut_at = files.calls + cut_at
        try:
            store.collect(time.time())
        except PowerCut:
            pass
        files.is_dead = True
        with pytest.raises(PowerCut):
            store.close()
            raise PowerCut  # nothing was left to write
        files.lose_unsynced(random.Random(cut_at))
        check(folder)
        if files.calls < files.cut_at:
            break
    assert cut_at > 10


def test_a_refusal_of_any_call_of_a_collection_is_survived(root: Path) -> None:
    refuse_at = 0
    while True:
        refuse_at += 1
        folder = root / f"refused-{refuse_at}"
        files = RefusingFileSystem()
        store = DiskStore(folder / "store", files=files)
        live(store)
        files._refuse_at = len(files.calls) + refuse_at
        try:
            store.collect(time.time())
        except StoreError:
            pass
        is_over = len(files.calls) < files._refuse_at
        files._refuse_at = 0
        assert is_whole(store, manifest_of(KEPT)[0].digest, KEPT)
        store.collect(time.time())
        assert is_whole(store, manifest_of(KEPT)[0].digest, KEPT)
        store.close()
        check(folder)
        if is_over:
            break
    assert refuse_at > 8
