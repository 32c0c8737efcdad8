"""A file's SHA-256 is hashed while it arrives; nobody is condemned for what was hashed early."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from p2phub.digest import sha256
from p2phub.errors import DigestMismatch
from p2phub.proto.messages import Run
from p2phub.store.base import ObjectState
from p2phub.store.disk import DiskStore
from p2phub.store.hashing import core_wait_s
from tests.store.sample_files import SampleFile, sample, some_bytes


def write(store: DiskStore, file: SampleFile, chunk: int) -> None:
    page, index = divmod(chunk, file.segment_chunks)
    data = memoryview(file.chunks[chunk])
    store.span_writer([Run(file.pages[page], index, index + 1)]).write(0, 1, data)


def test_only_what_is_there_without_a_gap_is_hashed(tmp_path: Path) -> None:
    store, file = DiskStore(tmp_path), sample(20_500)
    store.put(file.documents)
    store.open_part(file.object)
    assert store.hash_ahead(file.object, 1 << 20) == 0
    for chunk in (1, 2, 9):
        write(store, file, chunk)
    assert store.hash_ahead(file.object, 1 << 20) == 0
    write(store, file, 0)
    assert store.hash_ahead(file.object, 1 << 20) == sum(file.cuts[:3])
    assert store.hash_ahead(file.object, 1 << 20) == 0
    for chunk in range(3, 9):
        write(store, file, chunk)
    assert store.hash_ahead(file.object, 1 << 20) == sum(file.cuts[3:10])
    store.close()


def test_the_result_is_the_same_in_whatever_order_chunks_come(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    rng = random.Random(5)
    for seed in range(10):
        file = SampleFile(some_bytes(30_000, seed), (1000,) * 30)
        store.put(file.documents)
        store.open_part(file.object)
        order = list(range(30))
        rng.shuffle(order)
        for chunk in order:
            write(store, file, chunk)
            store.hash_ahead(file.object, rng.randrange(1, 5000))
        store.finish(file.object)
        status = store.status(file.object)
        assert status is not None
        assert status.state is ObjectState.COMPLETE
    store.close()


def test_bytes_that_were_bad_when_hashed_early_condemn_nobody_once_they_are_right(
    tmp_path: Path,
) -> None:
    store, file = DiskStore(tmp_path), sample(20_500)
    store.put(file.documents)
    store.open_part(file.object)
    for chunk in range(len(file.cuts)):
        write(store, file, chunk)
    status = store.status(file.object)
    assert status is not None
    assert status.path is not None
    status.path.write_bytes(b"\0" * 100 + file.data[100:])
    assert store.hash_ahead(file.object, 1 << 20) == len(file.data)
    status.path.write_bytes(file.data)
    store.finish(file.object)
    store.close()


def test_a_false_sha256_is_found_whatever_was_hashed_early(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    lie = SampleFile(some_bytes(9000), (1000,) * 9, claim=bytes(32))
    store.put(lie.documents)
    store.open_part(lie.object)
    for chunk in range(9):
        write(store, lie, chunk)
        store.hash_ahead(lie.object, 1 << 20)
    with pytest.raises(DigestMismatch):
        store.finish(lie.object)
    store.close()


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="not told here")
def test_who_shares_a_core_sees_that_it_waits_for_it() -> None:
    block, waited_s, ended = bytes(1 << 20), [0.0, 0.0], threading.Event()

    def hash_on_one_core(number: int) -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of this thread alone
        while not ended.is_set() and waited_s[number] < 0.01:
            sha256(block)
            waited_s[number] = core_wait_s()
        ended.set()

    threads = [threading.Thread(target=hash_on_one_core, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert max(waited_s) >= 0.01
