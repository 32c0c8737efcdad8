"""Many threads at one store: lanes that write and read, checkpoints, puts and finishes, all at
once.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from p2phub.digest import digest
from p2phub.errors import NotHeld
from p2phub.proto.messages import Run
from p2phub.store.base import ObjectState, Place
from p2phub.store.disk import DiskStore
from tests.store.sample_files import fetch, manifest_of, read_all, sample, some_bytes


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    opened = DiskStore(tmp_path / "store")
    yield opened
    opened.close()


def together(*calls: Callable[[], object]) -> None:
    """Run all side by side; raises the first exception of any."""
    errors: list[BaseException] = []

    def guarded(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_lanes_write_and_read_one_file_while_it_is_checkpointed(store: DiskStore) -> None:
    file = sample(400_000, segment_chunks=64)
    store.put(file.documents)
    store.open_part(file.object)
    chunks = list(range(400))
    random.Random(1).shuffle(chunks)
    done = threading.Event()

    def write(some: list[int]) -> None:
        for chunk in some:
            page, index = file.pages[chunk // 64], chunk % 64
            writer = store.span_writer([Run(page, index, index + 1)])
            writer.write(0, 1, memoryview(file.chunks[chunk]))

    def write_all() -> None:
        # Each chunk is written by two lanes, as in an endgame.
        together(*(lambda s=s: write(chunks[s % 3 :: 3]) for s in range(6)))  # type: ignore[misc]
        done.set()

    def checkpoint() -> None:
        while not done.is_set():
            store.checkpoint()

    def read() -> None:
        rng = random.Random(2)
        into = memoryview(bytearray(1000))
        while not done.is_set():
            chunk = rng.randrange(400)
            run = Run(file.pages[chunk // 64], chunk % 64, chunk % 64 + 1)
            try:
                store.span_reader([run]).read(0, 1, into)
            except NotHeld:
                continue
            assert into == file.chunks[chunk]

    together(write_all, checkpoint, read, read)
    store.finish(file.object)
    assert read_all(store, file) == file.data
    assert store.withdrawn() == []


def test_readers_never_notice_that_a_file_moves_to_its_place(
    store: DiskStore, tmp_path: Path
) -> None:
    files = [sample(20_000, seed=seed) for seed in range(20)]
    for number, file in enumerate(files):
        fetch(store, file, tmp_path / "out" if number % 2 else None)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            for file in files:
                assert read_all(store, file) == file.data

    def finish() -> None:
        for number, file in enumerate(files):
            place = Place(tmp_path / "out", f"{number}") if number % 2 else None
            store.finish(file.object, place=place)
        done.set()

    together(read, read, finish)
    assert store.withdrawn() == []


def test_threads_that_finish_one_file_all_see_it_complete(store: DiskStore) -> None:
    for seed in range(40):  # one begins in the gap in which others look: not in every round
        file = sample(20_000, seed=seed)
        fetch(store, file)
        together(*[partial(store.finish, file.object)] * 4)
        status = store.status(file.object)
        assert status is not None
        assert status.state is ObjectState.COMPLETE


def test_puts_side_by_side_are_all_durable(store: DiskStore, tmp_path: Path) -> None:
    def put(seed: int) -> None:
        for number in range(20):
            data = some_bytes(300, seed * 100 + number % 10)
            assert store.put([data]) == [digest(data)]
            assert store.get(digest(data)) == data

    together(*(lambda s=s: put(s % 4) for s in range(8)))  # type: ignore[misc]
    store.close()
    store = DiskStore(tmp_path / "store")
    for seed in range(4):
        for number in range(10):
            data = some_bytes(300, seed * 100 + number)
            assert store.get(digest(data)) == data
    store.close()


def test_small_files_and_parts_are_checkpointed_together(store: DiskStore) -> None:
    smalls = {f"{seed:03}": sample(300, seed=seed) for seed in range(200)}
    _, page = manifest_of(smalls)
    (name,) = store.put([page.encode()])
    reported: set[int] = set()
    done = threading.Event()

    def write(start: int) -> None:
        for index in range(start, 200, 4):
            file = smalls[f"{index:03}"]
            store.span_writer([Run(name, index, index + 1)]).write(0, 1, memoryview(file.data))

    def write_all() -> None:
        together(*(lambda s=s: write(s) for s in range(4)))  # type: ignore[misc]
        done.set()

    def checkpoint() -> None:
        while not done.is_set():
            for _, indexes in store.checkpoint():
                reported.update(indexes)

    together(write_all, checkpoint)
    for _, indexes in store.checkpoint():
        reported.update(indexes)
    assert reported == set(range(200))
    assert list(store.missing(name)) == []
