"""What every store promises of what is kept and what may go, on disk and in memory."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from p2phub.digest import Digest, digest
from p2phub.errors import CorruptChunk, NotHeld
from p2phub.store.base import Release, Store
from tests.store.sample_files import SampleFile, fetch, manifest_of, read_all, sample

BIG, OTHER, SMALL = sample(20_000), sample(9000, seed=1), sample(500, seed=2)


def hold(store: Store, files: dict[str, SampleFile]) -> Digest:
    """A release as a fetch leaves it, not yet kept; its manifest."""
    manifest, page = manifest_of(files)
    for file in files.values():
        if len(file.chunks) > 1:
            fetch(store, file)
            store.finish(file.object)
        else:
            store.put([file.data])
    return store.put([manifest.encode(), page.encode()])[0]


def is_whole(store: Store, manifest: Digest, files: dict[str, SampleFile]) -> bool:
    """Whether a release can still be read to the last byte."""
    try:
        store.get(manifest)
        missing = [*store.missing(manifest), *store.missing(digest(manifest_of(files)[1].encode()))]
        return not missing and all(
            read_all(store, file) == file.data for file in files.values() if len(file.chunks) > 1
        )
    except NotHeld:
        return False


def test_what_no_release_names_goes_and_what_one_names_stays(store: Store) -> None:
    kept, dropped = {"a/big": BIG, "small": SMALL}, {"other": OTHER, "small": SMALL}
    one, two = hold(store, kept), hold(store, dropped)
    store.add_release(Release(one, "one"))
    collected = store.collect(time.time())
    assert [found.object for found in collected.objects] == [OTHER.object]
    assert collected.freed_bytes >= 9000
    assert collected.forgotten_count == 0
    assert is_whole(store, one, kept)
    assert not store.has(two)
    assert store.status(OTHER.object) is None
    assert store.held(OTHER.pages[0]) is None
    assert store.get(SMALL.object) == SMALL.data
    assert store.withdrawn() == []


def test_losses_are_counted_and_what_is_only_added_is_none(store: Store) -> None:
    store.add_release(Release(hold(store, {"big": BIG, "small": SMALL}), "kept"))
    hold(store, {"other": OTHER})
    before = store.losses_count
    store.put([b"one more"])
    store.checkpoint()
    store.pin(store.releases()[0].manifest, True)
    assert store.losses_count == before
    store.collect(time.time())
    assert store.losses_count > before


def test_a_dry_run_says_the_same_and_takes_nothing(store: Store) -> None:
    files = {"big": BIG, "small": SMALL}
    manifest = hold(store, files)
    said = store.collect(time.time(), is_dry_run=True)
    assert is_whole(store, manifest, files)
    done = store.collect(time.time())
    assert said == done
    assert done.chunk_count == len(BIG.documents) + 3
    assert not store.has(manifest)
    again = store.collect(time.time())
    assert (again.objects, again.chunk_count) == ((), 0)


def test_a_release_that_is_let_go_of_goes_with_all_that_no_other_shares(store: Store) -> None:
    one, two = hold(store, {"big": BIG, "x": SMALL}), hold(store, {"big": BIG, "other": OTHER})
    for manifest in (one, two):
        store.add_release(Release(manifest, "lab/x@1"))
    store.remove_release(two)
    assert [found.object for found in store.collect(time.time()).objects] == [OTHER.object]
    assert read_all(store, BIG) == BIG.data
    store.remove_release(one)
    assert [found.object for found in store.collect(time.time()).objects] == [BIG.object]


def test_a_lease_protects_until_it_runs_out(store: Store) -> None:
    files = {"big": BIG, "small": SMALL}
    manifest = hold(store, files)
    store.lease(manifest, "fetch", 2000.0)
    assert store.collect(1999.0).objects == ()
    assert is_whole(store, manifest, files)
    assert len(store.collect(2001.0).objects) == 1
    assert store.leases(0.0) == [] or store.leases(2001.0) == []


def test_what_a_lease_names_may_be_an_object_or_a_chunk(store: Store) -> None:
    hold(store, {"big": BIG, "other": OTHER, "small": SMALL})
    store.lease(BIG.object, "fetch", 2000.0)
    store.lease(SMALL.object, "fetch", 2000.0)
    assert [found.object for found in store.collect(1000.0).objects] == [OTHER.object]
    assert read_all(store, BIG) == BIG.data
    assert store.get(SMALL.object) == SMALL.data


def test_what_is_read_now_stays(store: Store) -> None:
    files = {"big": BIG, "small": SMALL}
    manifest = hold(store, files)
    with store.keeping(manifest), store.keeping(manifest):
        store.collect(time.time())
        assert is_whole(store, manifest, files)
    assert len(store.collect(time.time()).objects) == 1


def test_what_is_put_and_taken_while_somebody_gathers_stays(store: Store, tmp_path: Path) -> None:
    (held,) = store.put([b"held before"])
    with store.keeping():
        again, new = store.put([b"held before", b"new"])
        source = OTHER.source(tmp_path / "other")
        store.take([source], OTHER.documents)
        store.collect(time.time())
        assert (again, store.get(held), store.get(new)) == (held, b"held before", b"new")
        assert read_all(store, OTHER) == OTHER.data
    store.collect(time.time())
    assert not store.has(held)
    assert not store.has(new)
    assert store.status(OTHER.object) is None
    assert source.path.read_bytes() == OTHER.data


def test_an_open_part_stays_with_its_documents(store: Store) -> None:
    fetch(store, BIG)
    assert store.collect(time.time()).objects == ()
    store.finish(BIG.object)
    assert read_all(store, BIG) == BIG.data


def test_users_files_are_forgotten_and_never_deleted(store: Store, tmp_path: Path) -> None:
    source = BIG.source(tmp_path / "mine")
    store.take([source], BIG.documents)
    assert [found.object for found in store.collect(time.time()).objects] == [BIG.object]
    assert source.path.read_bytes() == BIG.data
    assert store.status(BIG.object) is None
    assert store.withdrawn() == []


def test_nothing_goes_while_a_kept_file_list_cannot_be_read(store: Store) -> None:
    files = {"big": BIG}
    manifest, page = manifest_of(files)
    fetch(store, BIG)
    store.finish(BIG.object)
    store.put([manifest.encode()])
    store.add_release(Release(manifest.digest, "one"))
    with pytest.raises(CorruptChunk):
        store.collect(time.time())
    assert read_all(store, BIG) == BIG.data
    store.put([page.encode()])
    assert store.collect(time.time()).objects == ()


def test_what_was_collected_can_be_fetched_again(store: Store) -> None:
    for _ in range(2):
        files = {"big": BIG, "small": SMALL}
        manifest = hold(store, files)
        assert is_whole(store, manifest, files)
        store.collect(time.time())
        assert not store.has(SMALL.object)
