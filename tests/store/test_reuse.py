"""What a new object takes from the disk instead of from peers."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2phub.digest import digest
from p2phub.paths import StoreFolder
from p2phub.store.disk import DiskStore
from p2phub.store.sampling import SAMPLE_BYTES, sampled
from tests.store.sample_files import SampleFile, fetch, read_all, sample, some_bytes


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    opened = DiskStore(tmp_path / "store")
    yield opened
    opened.close()


def joined(pieces: list[bytes], segment_chunks: int = 8) -> SampleFile:
    return SampleFile(b"".join(pieces), tuple(map(len, pieces)), segment_chunks)


def reused(store: DiskStore, file: SampleFile) -> int:
    store.put(file.documents)
    store.open_part(file.object)
    return store.reuse(file.object)


def held_whole(store: DiskStore, file: SampleFile) -> None:
    fetch(store, file)
    store.finish(file.object)


def is_listed(piece: bytes) -> bool:
    """Whether a chunk stands in the chunk index."""
    return bool(sampled(digest(piece), [len(piece)], [0]))


def test_large_chunks_are_found_in_any_order_and_in_any_file(store: DiskStore) -> None:
    tensors = [some_bytes(SAMPLE_BYTES, seed) for seed in range(12)]
    held_whole(store, joined([b"header one", *tensors[:6]]))
    held_whole(store, joined([b"header two", *tensors[6:]]))
    order = random.Random(1).sample(range(12), 12)
    new = joined([b"another header", *(tensors[at] for at in order)])
    assert reused(store, new) == 12 * SAMPLE_BYTES
    assert list(store.missing(new.pages[0])) == [0]


def test_small_chunks_are_found_through_a_sampled_neighbour(store: DiskStore) -> None:
    pieces = [some_bytes(500, seed) for seed in range(400)]
    assert 5 < sum(map(is_listed, pieces)) < 60
    held_whole(store, joined(pieces, 50))
    new = joined([*pieces[:100], b"inserted", *pieces[100:250], *pieces[260:]], 64)
    assert reused(store, new) >= 0.9 * 390 * 500


def test_an_unchanged_segment_is_taken_whole_without_any_sampled_chunk(store: DiskStore) -> None:
    pieces = [some_bytes(100, seed) for seed in range(200)]
    pieces = [piece for piece in pieces if not is_listed(piece)][:160]
    held_whole(store, joined(pieces))
    new = joined([*pieces[:80], b"changed", *pieces[81:]])
    assert reused(store, new) == (160 - 8) * 100


def test_chunks_of_a_part_under_way_are_found(store: DiskStore) -> None:
    tensors = [some_bytes(SAMPLE_BYTES, seed) for seed in range(4)]
    old = joined(tensors)
    store.put(old.documents)
    store.open_part(old.object)
    store.span_writer(old.runs()).write(0, 2, memoryview(old.data[: 2 * SAMPLE_BYTES]))
    store.checkpoint()
    new = joined([b"x", *reversed(tensors)])
    assert reused(store, new) == 2 * SAMPLE_BYTES


def test_chunks_that_are_files_of_their_own_are_found(store: DiskStore) -> None:
    pieces = [some_bytes(500, seed) for seed in range(20)]
    store.put(pieces[3:5])
    assert reused(store, joined(pieces)) == 1000


def test_damaged_chunks_are_not_taken(store: DiskStore, tmp_path: Path) -> None:
    tensors = [some_bytes(SAMPLE_BYTES, seed) for seed in range(4)]
    old = joined(tensors)
    held_whole(store, old)
    path = StoreFolder(tmp_path / "store").whole(old.object)
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(SAMPLE_BYTES + 7)
        file.write(b"rot")
    new = joined([*tensors, b"tail"])
    assert reused(store, new) == 3 * SAMPLE_BYTES
    assert list(store.missing(old.pages[0])) == [1]
    assert list(store.missing(new.pages[0])) == [1, 4]


def test_a_changed_file_of_the_user_gives_nothing(store: DiskStore, tmp_path: Path) -> None:
    tensors = [some_bytes(SAMPLE_BYTES, seed) for seed in range(3)]
    old = joined(tensors)
    store.take([old.source(tmp_path / "mine")], old.documents)
    (tmp_path / "mine").write_bytes(b"other")
    assert reused(store, joined([*tensors, b"tail"])) == 0


def test_a_file_of_zeros_does_not_make_the_index_slow(store: DiskStore) -> None:
    zeros = SampleFile(bytes(SAMPLE_BYTES * 40), (SAMPLE_BYTES,) * 40, 64)
    held_whole(store, zeros)
    new = SampleFile(bytes(SAMPLE_BYTES * 41) + b"x", (*(SAMPLE_BYTES,) * 41, 1), 64)
    assert reused(store, new) == SAMPLE_BYTES * 41
    fetch(store, new)
    store.finish(new.object)
    assert read_all(store, new) == new.data


def test_what_was_reused_is_durable_and_reported(store: DiskStore, tmp_path: Path) -> None:
    tensors = [some_bytes(SAMPLE_BYTES, seed) for seed in range(3)]
    held_whole(store, joined(tensors))
    new = joined([*tensors, b"tail"])
    reused(store, new)
    assert [(page, list(some)) for page, some in store.checkpoint()] == [(new.pages[0], [0, 1, 2])]
    store.close()
    store = DiskStore(tmp_path / "store")
    assert list(store.missing(new.pages[0])) == [3]
    store.close()


def test_any_large_chunk_is_found_by_its_own_name(store: DiskStore) -> None:
    file = sample(SAMPLE_BYTES * 3, chunk=SAMPLE_BYTES)
    held_whole(store, file)
    assert store.has(digest(file.chunks[1]))
    assert store.get(digest(file.chunks[1])) == file.chunks[1]


def test_what_a_killed_process_wrote_is_found_in_the_part(tmp_path: Path) -> None:
    file = sample(400_000, chunk=10_000)
    living = DiskStore(tmp_path / "living")
    living.put(file.documents)
    living.open_part(file.object)
    writer = living.span_writer(file.runs())
    writer.write(0, 25, memoryview(file.data)[:250_000])  # no checkpoint: the index knows nothing
    shutil.copytree(tmp_path / "living", tmp_path / "killed")
    living.close()
    with StoreFolder(tmp_path / "killed").part(file.object).open("r+b") as part:
        part.seek(70_500)
        part.write(b"other bytes")
    killed = DiskStore(tmp_path / "killed")
    assert reused(killed, file) == 240_000
    missing = [list(killed.missing(page)) for page in file.pages]
    assert missing == [[7], [], [], list(range(1, 8)), list(range(8))]
    killed.close()
    again = DiskStore(tmp_path / "killed")  # what was found is durable
    assert [list(again.missing(page)) for page in file.pages] == missing
    again.close()
