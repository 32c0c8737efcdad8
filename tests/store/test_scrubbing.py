"""Rot is found by reading again, the longest unread first, and never served."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2phub.errors import NotHeld
from p2phub.paths import StoreFolder
from p2phub.store.base import ObjectState, Scrubbed, Store
from p2phub.store.disk import DiskStore
from tests.store.sample_files import fetch, read_all, sample
from tests.store.test_store_contract_room import BIG, SMALL, hold


def scrub(store: Store, since_s: float, now_s: float) -> tuple[int, int, int]:
    """A whole pass: steps, bytes that were right, chunks that were wrong."""
    steps: list[Scrubbed] = []
    while not steps or not steps[-1].is_over:
        steps.append(store.scrub(since_s, now_s))
    read, damaged = (sum(s.read_bytes for s in steps), sum(s.damaged_count for s in steps))
    return len(steps) - 1, read, damaged


def rot(path: Path, at: int) -> None:
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def test_all_is_read_once_and_not_again_before_its_time(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "store")
    hold(store, {"big": BIG, "small": SMALL})
    store.take([sample(9000, seed=5).source(tmp_path / "mine")], sample(9000, seed=5).documents)
    steps, read, damaged = scrub(store, 100.0, 200.0)
    assert (steps, damaged) == (3 + 2 + 1, 0)  # segments of two files, and one pack
    assert read > 29_500
    assert scrub(store, 150.0, 300.0) == (0, 0, 0)
    assert scrub(store, 250.0, 300.0)[0] == 6
    store.close()


def test_a_scrub_goes_on_after_a_restart(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "store")
    hold(store, {"big": BIG})
    scrub(store, 100.0, 200.0)
    for _ in range(2):
        store.scrub(300.0, 400.0)
    store.close()
    store = DiskStore(tmp_path / "store")
    assert scrub(store, 300.0, 400.0)[0] == 2
    store.close()


def test_what_went_bad_behind_an_interrupted_scrub_is_found_by_the_next(tmp_path: Path) -> None:
    folder = StoreFolder(tmp_path / "store")
    store = DiskStore(folder.root)
    hold(store, {"big": BIG})
    store.scrub(100.0, 200.0)  # the first segment of three
    rot(folder.whole(BIG.object), 500)
    assert scrub(store, 300.0, 400.0)[2] == 1
    assert scrub(store, 300.0, 400.0) == (0, 0, 0)
    store.close()


def test_a_damaged_chunk_is_cleared_and_can_be_fetched_again(tmp_path: Path) -> None:
    folder = StoreFolder(tmp_path / "store")
    store = DiskStore(folder.root)
    hold(store, {"big": BIG})
    rot(folder.whole(BIG.object), 9500)
    assert scrub(store, 100.0, 200.0)[2] == 1
    (told,) = store.withdrawn()
    assert (told.object, told.pages) == (BIG.object, ((BIG.pages[1], (1,)),))
    assert list(store.missing(BIG.pages[1])) == [1]
    status = store.status(BIG.object)
    assert status is not None
    assert status.state is ObjectState.PARTIAL
    assert len(list(folder.quarantine.iterdir())) == 1
    fetch(store, BIG)
    store.finish(BIG.object)
    assert read_all(store, BIG) == BIG.data
    assert scrub(store, 300.0, 400.0)[2] == 0
    store.close()


def test_a_damaged_document_is_cleared(tmp_path: Path) -> None:
    folder = StoreFolder(tmp_path / "store")
    store = DiskStore(folder.root)
    (name,) = store.put([b"a document of some length"])
    rot(folder.pack(1), folder.pack(1).stat().st_size - 1)
    assert scrub(store, 100.0, 200.0)[2] == 1
    with pytest.raises(NotHeld):
        store.get(name)
    store.close()


def test_the_contract_holds_in_memory_too(store: Store) -> None:
    hold(store, {"big": BIG})
    assert scrub(store, 100.0, 200.0)[2] == 0
