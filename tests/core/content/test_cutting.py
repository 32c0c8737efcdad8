"""The same tensor is the same chunks wherever it lies; an insertion changes few pages."""

from __future__ import annotations

import random
from array import array
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from p2phub.core.content.cutting import cut_segments, cut_tensors, is_one_chunk
from p2phub.core.content.tensors import tensor_borders
from p2phub.digest import digest
from p2phub.proto.content import ObjectRecord, SegmentRef
from p2phub.proto.limits import (
    CHUNK_BYTES_MAX,
    KIB,
    MIB,
    OBJECT_SEGMENTS_MAX,
    SEGMENT_CHUNKS_MAX,
    SEGMENT_CHUNKS_MIN,
)
from tests.proto.material import random_bytes, safetensors_header

sizes = st.lists(
    st.one_of(st.integers(1, 5000), st.integers(60 * KIB, 70 * KIB), st.integers(1, 3 * MIB)),
    max_size=40,
)


def borders(header: int, tensors: list[int]) -> array[int]:
    return array("Q", accumulate([header, *tensors]))


@given(st.integers(10, 3 * MIB), sizes)
def test_a_plan_covers_the_file_and_cuts_at_every_large_tensor(
    header: int, tensors: list[int]
) -> None:
    lengths = cut_tensors(borders(header, tensors))
    assert sum(lengths) == header + sum(tensors)
    assert all(0 < length <= CHUNK_BYTES_MAX for length in lengths)
    cuts = set(accumulate(lengths))
    start = header
    assert start in cuts
    for size in tensors:
        if size >= 64 * KIB:
            assert start in cuts and start + size in cuts
        start += size


def test_small_tensors_are_joined_with_each_other_alone() -> None:
    plan = cut_tensors(borders(500, [10, 20, 70 * KIB, 30, MIB + 5, 40]))
    assert list(plan) == [500, 30, 70 * KIB, 30, MIB, 5, 40]


def test_joined_tensors_stay_within_a_chunk() -> None:
    plan = cut_tensors(borders(500, [60_000] * 18))
    assert list(plan) == [500, 17 * 60_000, 60_000]


def test_a_tensor_of_exactly_64_kib_stands_alone() -> None:
    assert list(cut_tensors(borders(500, [65_535, 65_536, 65_535]))) == [
        500,
        65_535,
        65_536,
        65_535,
    ]


def chunks_of(names: list[str], weights: dict[str, bytes]) -> set[bytes]:
    header = safetensors_header({name: len(weights[name]) for name in names})
    data = header + b"".join(weights[name] for name in names)
    found = tensor_borders(data, len(data))
    assert isinstance(found, array)
    start, chunks = 0, set()
    for length in cut_tensors(found):
        chunks.add(digest(data[start : start + length]))
        start += length
    return chunks


def test_tensors_keep_their_chunks_in_another_shard_and_order() -> None:
    weights = {f"w{i}": random_bytes(f"w{i}", 70_000 + 300_000 * i) for i in range(5)}
    names = list(weights)
    whole = chunks_of(names, weights)
    mixed = chunks_of(names[::-1], weights)
    shards = chunks_of(names[:2], weights) | chunks_of(names[2:], weights)
    assert len(whole - mixed) == 1  # the header
    assert len(whole - shards) == 1


def test_one_changed_tensor_changes_its_own_chunks_alone() -> None:
    weights = {f"w{i}": random_bytes(f"w{i}", 200_000) for i in range(10)}
    changed = weights | {"w5": random_bytes("new", 200_000)}
    assert len(chunks_of(list(weights), weights) - chunks_of(list(weights), changed)) == 1


def pages(names: list[bytes]) -> set[bytes]:
    lengths = array("I", [16 * KIB]) * len(names)
    return {page.encode() for page in cut_segments(b"".join(names), lengths)}


def test_an_insertion_changes_few_pages() -> None:
    names = [digest(i.to_bytes(8, "big")) for i in range(60_000)]
    before = pages(names)
    after = pages([*names[:30_000], digest(b"new"), *names[30_000:]])
    assert len(before) > 8
    assert len(after - before) <= 3


@given(st.integers(0, 1 << 32), st.integers(1, 20_000))
def test_pages_cover_the_list_within_their_bounds(seed: int, count: int) -> None:
    rng = random.Random(seed)
    digests = rng.randbytes(32 * count)
    lengths = array("I", (rng.randrange(1, 65_536) for _ in range(count)))
    found = list(cut_segments(digests, lengths))
    assert b"".join(page.digests for page in found) == digests
    assert [n for page in found for n in page.lengths] == list(lengths)
    assert all(len(page) <= SEGMENT_CHUNKS_MAX for page in found)
    assert all(len(page) >= SEGMENT_CHUNKS_MIN for page in found[:-1])


def test_a_terabyte_cut_by_content_fits_one_record() -> None:
    rng = random.Random(5)
    count = 1_000_000  # of the 61 million chunks of 16 KiB in 1 TB
    found = list(cut_segments(rng.randbytes(32 * count), array("I", [16 * KIB]) * count))
    segments = len(found) * 61
    assert segments <= OBJECT_SEGMENTS_MAX
    ref = SegmentRef(bytes(32), 295_000, 5000, 5000 * 16 * KIB)
    record = ObjectRecord("cdc-16k/1", segments * ref.data_size, bytes(32), (ref,) * segments)
    assert len(record.encode()) <= CHUNK_BYTES_MAX


def test_small_files_are_one_chunk() -> None:
    assert [is_one_chunk(size) for size in (0, 1, 65_536, 65_537)] == [False, True, True, False]
