"""What every store promises, on disk and in memory: one suite, run by both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from p2phub.digest import EMPTY, digest, sha256
from p2phub.errors import (
    DigestMismatch,
    MalformedDocument,
    NotHeld,
    TooLarge,
    WrongChunk,
)
from p2phub.proto.limits import CHUNK_BYTES_MAX
from p2phub.proto.messages import Run
from p2phub.store.base import (
    CHECKPOINT_BYTES,
    CHECKPOINT_S,
    ObjectState,
    Release,
    Store,
)
from tests.store.sample_files import (
    SampleFile,
    fetch,
    manifest_of,
    read_all,
    runs_of_bits,
    sample,
    some_bytes,
)

# ---- single chunks


def test_what_was_put_is_held_and_read_back_by_its_name(store: Store) -> None:
    names = store.put([b"one", b"two", b"one"])
    assert names == [digest(b"one"), digest(b"two"), digest(b"one")]
    assert [store.get(name) for name in names] == [b"one", b"two", b"one"]
    assert store.has(names[1])


def test_what_was_never_put_is_not_held(store: Store) -> None:
    assert not store.has(digest(b"never"))
    with pytest.raises(NotHeld):
        store.get(digest(b"never"))


def test_the_empty_chunk_is_always_held(store: Store) -> None:
    assert store.has(EMPTY)
    assert store.get(EMPTY) == b""


def test_a_chunk_of_the_largest_size_is_kept_and_a_larger_one_refused(store: Store) -> None:
    largest = some_bytes(CHUNK_BYTES_MAX)
    assert store.get(store.put([largest])[0]) == largest
    with pytest.raises(TooLarge):
        store.put([b"fine", largest + b"x"])
    assert not store.has(digest(b"fine"))


def test_putting_nothing_is_nothing(store: Store) -> None:
    assert store.put([]) == []


# ---- pages


def test_a_page_that_is_not_held_has_no_bits(store: Store) -> None:
    assert store.held(digest(b"no page")) is None
    with pytest.raises(NotHeld):
        store.missing(digest(b"no page"))


def test_bytes_that_are_no_page_are_refused_as_one(store: Store) -> None:
    (name,) = store.put([b"plain bytes"])
    with pytest.raises(MalformedDocument):
        store.held(name)
    with pytest.raises(MalformedDocument):
        store.missing(name)


def test_a_file_page_comes_decoded_and_answers_for_itself_from_then_on(store: Store) -> None:
    manifest, page = manifest_of({"big": sample(20_000), "small": sample(500, seed=1)})
    (name,) = store.put([page.encode()])
    assert store.file_page(name) == page
    assert list(store.missing(name)) == [0, 1]
    with pytest.raises(NotHeld):
        store.file_page(digest(b"no page"))
    (other,) = store.put([manifest.encode()])
    with pytest.raises(MalformedDocument):
        store.file_page(other)


def test_bits_of_every_kind_of_page_say_what_is_held(store: Store) -> None:
    big, small, empty = sample(20_000), sample(500, seed=1), SampleFile(b"", ())
    manifest, page = manifest_of({"big": big, "empty": empty, "small": small})
    (root,) = store.put([manifest.encode()])
    assert store.held(root) == b"\x00"
    (name,) = store.put([page.encode()])
    assert store.held(root) == b"\x80"
    assert runs_of_bits(store.held(name) or b"", 3) == [1]  # the empty file
    assert list(store.missing(name)) == [0, 2]
    store.put([*big.documents, small.data])
    assert list(store.missing(name)) == []
    assert store.held(big.object) == bytes([0b11100000])
    assert store.held(big.pages[0]) == b"\x00"
    assert list(store.missing(big.pages[2])) == [0, 1, 2, 3]


def test_bits_of_a_segment_follow_what_is_written_and_then_durable(store: Store) -> None:
    file = sample(20_000)
    store.put(file.documents)
    store.open_part(file.object)
    page = file.pages[0]
    writer = store.span_writer([Run(page, 2, 5)])
    writer.write(0, 3, memoryview(file.data[2000:5000]))
    assert store.held(page) == b"\x00"
    assert list(store.missing(page)) == [0, 1, 5, 6, 7]
    assert [(name, list(indexes)) for name, indexes in store.checkpoint()] == [(page, [2, 3, 4])]
    assert runs_of_bits(store.held(page) or b"", 8) == [2, 3, 4]
    assert store.checkpoint() == []


def test_a_checkpoint_is_due_after_its_time_or_its_bytes(store: Store) -> None:
    file = sample(20_000)
    store.put(file.documents)
    store.open_part(file.object)
    assert not store.checkpoint_due(100.0)
    writer = store.span_writer([Run(file.pages[0], 0, 1)])
    writer.write(0, 1, memoryview(file.data[:1000]))
    assert not store.checkpoint_due(100.0)
    assert not store.checkpoint_due(100.0 + CHECKPOINT_S - 0.01)
    assert store.checkpoint_due(100.0 + CHECKPOINT_S)
    store.checkpoint()
    assert not store.checkpoint_due(200.0)


def test_a_checkpoint_is_due_after_many_bytes(store: Store) -> None:
    count = CHECKPOINT_BYTES // CHUNK_BYTES_MAX
    file = sample(count * CHUNK_BYTES_MAX, chunk=CHUNK_BYTES_MAX, segment_chunks=count)
    store.put(file.documents)
    store.open_part(file.object)
    writer = store.span_writer(file.runs())
    data = memoryview(file.data)
    writer.write(0, count - 1, data[: (count - 1) * CHUNK_BYTES_MAX])
    assert not store.checkpoint_due(0.0)
    writer.write(count - 1, count, data[(count - 1) * CHUNK_BYTES_MAX :])
    assert store.checkpoint_due(0.0)


# ---- spans


def test_a_span_crosses_segments_files_and_kinds_of_pages(store: Store) -> None:
    big, small = sample(20_000), sample(700, seed=1)
    manifest, page = manifest_of({"big": big, "small": small})
    _, name = store.put([manifest.encode(), page.encode()])
    fetch(store, big)
    runs = [Run(name, 1, 2), Run(big.pages[1], 6, 8), Run(big.pages[2], 0, 2)]
    with pytest.raises(NotHeld):
        store.span_reader(runs)
    writer = store.span_writer(runs)
    assert list(writer.lengths) == [700, 1000, 1000, 1000, 1000]
    data = small.data + big.data[14_000:18_000]
    writer.write(0, 2, memoryview(data[:1700]))
    assert [(p, list(i)) for p, i in store.checkpoint()] == [(name, [1])]
    reader = store.span_reader(runs)
    assert list(reader.lengths) == list(writer.lengths)
    into = memoryview(bytearray(3700))
    reader.read(0, 4, into)
    assert into == data[:3700]
    reader.read(4, 5, into[:1000])
    assert into[:1000] == data[3700:]
    reader.read(2, 2, into[:0])


def test_written_chunks_are_read_before_they_are_durable(store: Store) -> None:
    file, small = sample(3000), sample(10, seed=1)
    _, page = manifest_of({"small": small})
    (name,) = store.put([page.encode()])
    store.put(file.documents)
    store.open_part(file.object)
    runs = [*file.runs(), Run(name, 0, 1)]
    store.span_writer(runs).write(0, 4, memoryview(file.data + small.data))
    into = memoryview(bytearray(3010))
    store.span_reader(runs).read(0, 4, into)
    assert into == file.data + small.data
    assert store.held(name) == b"\x00"
    assert store.get(small.object) == small.data


def test_a_wrong_chunk_is_named_and_not_written(store: Store) -> None:
    file = sample(8000)
    store.put(file.documents)
    store.open_part(file.object)
    lie = bytearray(file.data)
    lie[3500] ^= 1
    with pytest.raises(WrongChunk) as caught:
        store.span_writer([Run(file.pages[0], 1, 8)]).write(0, 7, memoryview(lie)[1000:])
    assert caught.value.facts["index"] == 2
    assert caught.value.facts["entry"] == 3
    assert list(store.missing(file.pages[0])) == [0, 3, 4, 5, 6, 7]


def test_bytes_of_the_wrong_count_are_a_bug_of_the_caller(store: Store) -> None:
    file = sample(8000)
    fetch(store, file)
    with pytest.raises(ValueError, match="as many"):
        store.span_writer(file.runs()).write(0, 1, memoryview(file.data[:999]))
    with pytest.raises(ValueError, match="as many"):
        store.span_reader(file.runs()).read(0, 2, memoryview(bytearray(1999)))
    with pytest.raises(ValueError, match="no chunks"):
        store.span_reader(file.runs()).read(7, 9, memoryview(bytearray(2000)))


def test_a_span_beyond_a_page_or_without_its_page_is_not_held(store: Store) -> None:
    file = sample(8000)
    fetch(store, file)
    for open_span in (store.span_reader, store.span_writer):
        with pytest.raises(NotHeld):
            open_span([Run(file.pages[0], 0, 9)])
        with pytest.raises(NotHeld):
            open_span([Run(digest(b"elsewhere"), 0, 1)])


def test_a_segment_without_an_open_part_takes_no_bytes(store: Store) -> None:
    file = sample(8000)
    store.put(file.documents)
    with pytest.raises(NotHeld):
        store.span_writer(file.runs())


def test_object_records_are_no_part_of_a_span_of_a_file_page(store: Store) -> None:
    file = sample(8000)
    _, page = manifest_of({"file": file})
    (name, *_) = store.put([page.encode(), *file.documents])
    with pytest.raises(NotHeld, match="how long"):
        store.span_reader([Run(name, 0, 1)])
    with pytest.raises(NotHeld, match="how long"):
        store.span_writer([Run(name, 0, 1)])


def test_a_segment_shared_by_two_files_fills_both(store: Store) -> None:
    shared = some_bytes(8000)
    one = SampleFile(shared + some_bytes(3000, 1), (1000,) * 11)
    two = SampleFile(shared + some_bytes(2000, 2), (1000,) * 10)
    assert one.pages[0] == two.pages[0]
    for file in (one, two):
        store.put(file.documents)
        store.open_part(file.object)
    store.span_writer(one.runs()).write(0, 11, memoryview(one.data))
    store.span_writer(two.runs()[1:]).write(0, 2, memoryview(two.data[8000:]))
    store.checkpoint()
    for file in (one, two):
        store.finish(file.object)
        assert read_all(store, file) == file.data


def test_chunks_that_are_held_already_are_verified_and_not_counted_again(store: Store) -> None:
    file = sample(8000)
    fetch(store, file)
    writer = store.span_writer(file.runs())
    writer.write(0, 8, memoryview(file.data))
    assert store.checkpoint() == []
    with pytest.raises(WrongChunk):
        writer.write(0, 8, memoryview(bytes(8000)))
    store.finish(file.object)
    store.span_writer(file.runs()).write(0, 8, memoryview(file.data))
    assert store.checkpoint() == []


# ---- objects


def test_an_object_is_partial_then_complete(store: Store) -> None:
    file = sample(20_500)
    assert store.status(file.object) is None
    store.put(file.documents)
    store.open_part(file.object)
    store.span_writer([Run(file.pages[2], 4, 5)]).write(0, 1, memoryview(file.data[20_000:]))
    status = store.status(file.object)
    assert status is not None
    assert (status.state, status.held_chunks, status.chunk_count) == (ObjectState.PARTIAL, 1, 21)
    assert (status.size, status.sha256) == (20_500, sha256(file.data))
    assert store.object_by_sha256(sha256(file.data)) is None
    with pytest.raises(NotHeld):
        store.finish(file.object)
    fetch(store, file)
    store.finish(file.object)
    status = store.status(file.object)
    assert status is not None
    assert (status.state, status.held_chunks, status.held_bytes) == (
        ObjectState.COMPLETE,
        21,
        20_500,
    )
    assert store.object_by_sha256(sha256(file.data)) == file.object
    assert [s.object for s in store.objects()] == [file.object]
    assert list(store.objects(size_min=20_501)) == []
    assert runs_of_bits(store.held(file.pages[2]) or b"", 5) == [0, 1, 2, 3, 4]
    store.open_part(file.object)  # nothing to do
    store.finish(file.object)  # nor here
    assert read_all(store, file) == file.data


def test_a_part_needs_its_record_but_not_yet_its_segments(store: Store) -> None:
    file = sample(20_000)
    with pytest.raises(NotHeld):
        store.open_part(file.object)
    store.put([file.record.encode()])
    store.open_part(file.object)
    with pytest.raises(NotHeld):
        store.span_writer(file.runs()[1:2])
    store.put([file.segments[1].encode()])
    writer = store.span_writer(file.runs()[1:2])
    writer.write(0, 8, memoryview(file.data[8000:16_000]))
    store.checkpoint()
    assert list(store.missing(file.pages[1])) == []
    with pytest.raises(NotHeld):
        store.finish(file.object)


def test_a_false_sha256_is_refused_and_its_chunks_stay_readable(store: Store) -> None:
    lie = SampleFile(some_bytes(9000), (1000,) * 9, claim=sha256(b"something else"))
    truth = SampleFile(some_bytes(9000), (1000,) * 9)
    fetch(store, lie)
    for _ in range(2):
        with pytest.raises(DigestMismatch) as caught:
            store.finish(lie.object)
        assert caught.value.facts["sha256"] == sha256(b"something else").hex()
    status = store.status(lie.object)
    assert status is not None
    assert status.state is ObjectState.CONDEMNED
    assert store.object_by_sha256(sha256(b"something else")) is None
    assert store.object_by_sha256(sha256(lie.data)) is None
    assert read_all(store, lie) == lie.data
    store.put(truth.documents)
    store.open_part(truth.object)
    assert store.reuse(truth.object) == 9000
    store.finish(truth.object)
    assert store.object_by_sha256(sha256(lie.data)) == truth.object


def test_a_discarded_part_is_forgotten(store: Store) -> None:
    file = sample(8000)
    fetch(store, file)
    store.discard_part(file.object)
    assert store.status(file.object) is None
    assert store.held(file.pages[0]) == b"\x00"
    store.discard_part(file.object)
    fetch(store, file)
    store.finish(file.object)
    store.discard_part(file.object)  # complete: it is not a part any more
    assert read_all(store, file) == file.data


def test_a_new_object_takes_what_others_hold(store: Store) -> None:
    old = sample(40_000)
    inserted = old.data[:13_000] + some_bytes(700, 5) + old.data[13_000:]
    new = SampleFile(inserted, (1000,) * 13 + (700,) + (1000,) * 27)
    fetch(store, old)
    store.finish(old.object)
    store.put(new.documents)
    with pytest.raises(NotHeld):
        store.reuse(new.object)
    store.open_part(new.object)
    found = store.reuse(new.object)
    assert found >= 27_000
    reported = sum(len(indexes) for _, indexes in store.checkpoint())
    assert reported == found // 1000
    missing = [list(store.missing(page)) for page in new.pages]
    assert 5 in missing[1]
    writer = store.span_writer(new.runs())
    writer.write(0, 41, memoryview(new.data))
    store.finish(new.object)
    assert read_all(store, new) == new.data
    assert store.reuse(new.object) == 0


# ---- what is kept


def test_releases_are_kept_pinned_and_let_go(store: Store, tmp_path: Path) -> None:
    one = Release(digest(b"1"), "ab/name@1.0", "published", tmp_path / "x\nü", "1 copy", 5.0)
    two = Release(digest(b"2"), added_s=9.0)
    store.add_release(one)
    store.add_release(two)
    store.add_release(replace(two, name="ab/name@2.0", added_s=7.0))
    assert [r.added_s for r in store.releases()] == [9.0, 7.0, 5.0]
    assert store.releases()[2] == one
    assert store.pin(two.manifest, True)
    assert [r.is_pinned for r in store.releases()] == [True, True, False]
    assert not store.pin(digest(b"3"), True)
    assert store.remove_release(two.manifest, "")
    assert not store.remove_release(two.manifest, "")
    assert store.remove_release(two.manifest)
    assert store.releases() == [one]


def test_leases_run_out(store: Store) -> None:
    name = digest(b"1")
    store.lease(name, "fetch", 10.0)
    store.lease(name, "export", 20.0)
    assert sorted(store.leases(5.0)) == [(name, "export", 20.0), (name, "fetch", 10.0)]
    assert store.leases(15.0) == [(name, "export", 20.0)]
    store.lease(name, "export", 0)
    assert store.leases(5.0) == [(name, "fetch", 10.0)]


def test_usage_counts_what_is_kept(store: Store) -> None:
    file = sample(20_000)
    fetch(store, file)
    before = store.usage()
    assert before.part_bytes == 20_000
    assert before.pack_bytes > 0
    store.finish(file.object)
    assert (store.usage().data_bytes, store.usage().part_bytes) == (20_000, 0)
    assert store.usage().free_bytes > 0
