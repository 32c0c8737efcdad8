"""What every store promises of users' files and of trees, on disk and in memory."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from p2phub.digest import sha256
from p2phub.errors import (
    DestinationExists,
    DigestMismatch,
    FileChanged,
    MalformedDocument,
    NotHeld,
)
from p2phub.store.base import (
    Method,
    Place,
    Store,
)
from tests.store.sample_files import (
    SampleFile,
    fetch,
    read_all,
    sample,
)

# ---- the user's files


def test_taken_files_are_held_whole(store: Store, tmp_path: Path) -> None:
    big, small, empty = sample(20_000), sample(500, seed=1), SampleFile(b"", ())
    sources = [
        big.source(tmp_path / "big"),
        small.source(tmp_path / "small"),
        empty.source(tmp_path / "empty"),
    ]
    placement = store.take(sources, big.documents)
    assert sum(placement.methods.values()) == 3
    assert placement.methods[Method.HELD] == 1
    assert read_all(store, big) == big.data
    assert store.get(small.object) == small.data
    assert store.object_by_sha256(sha256(big.data)) == big.object
    assert store.object_by_sha256(sha256(small.data)) == small.object
    assert store.withdrawn() == []
    assert store.recheck() == 0
    again = store.take(sources, big.documents)
    assert again.methods == {Method.HELD: 3}
    assert again.extra_bytes == 0


def test_what_is_held_of_many_files_is_told_at_once(store: Store, tmp_path: Path) -> None:
    big, small, lone, part = (sample(size, seed=size) for size in (20_000, 500, 600, 30_000))
    absent = [sample(20_001), sample(501)]
    store.take([big.source(tmp_path / "big"), small.source(tmp_path / "small")], big.documents)
    store.put([lone.data])  # held, and nobody has compared its SHA-256 yet
    store.put(part.documents)
    store.open_part(part.object)
    files = [file.file_record("any") for file in [big, small, lone, part, *absent]]
    assert store.held_among(files) == ({big.object, small.object}, {lone.object})
    assert store.held_among([]) == (set(), set())


def test_a_file_that_changed_since_it_was_read_is_refused(store: Store, tmp_path: Path) -> None:
    file = sample(20_000)
    source = file.source(tmp_path / "file")
    (tmp_path / "file").write_bytes(bytes(20_000))
    with pytest.raises(FileChanged):
        store.take([source], file.documents)
    os.unlink(tmp_path / "file")
    with pytest.raises(FileChanged):
        store.take([source], file.documents)
    assert store.status(file.object) is None


def test_a_record_of_another_file_is_refused(store: Store, tmp_path: Path) -> None:
    file, other = sample(20_000), sample(20_000, seed=1)
    source = file.source(tmp_path / "file")
    lie = replace(source, record=replace(source.record, object=other.object))
    with pytest.raises(MalformedDocument):
        store.take([lie], other.documents)
    assert store.status(other.object) is None


# ---- trees


def test_a_tree_of_complete_files_appears_whole(store: Store, tmp_path: Path) -> None:
    big, small, empty = sample(20_000), sample(500, seed=1), SampleFile(b"", ())
    fetch(store, big)
    store.put([small.data])
    paths = {"a/b/big": big, "a/empty": empty, "small": small, "twin": big}
    records = [file.file_record(path) for path, file in paths.items()]
    with pytest.raises(NotHeld):
        store.materialize(records, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    store.finish(big.object)
    placement = store.materialize(records, tmp_path / "tree")
    assert sum(placement.methods.values()) == 4
    for path, file in paths.items():
        found = tmp_path / "tree" / path
        assert found.read_bytes() == file.data
        assert found.stat().st_mode & 0o222 == 0
    again = store.materialize(records, tmp_path / "tree")
    assert set(again.methods) <= {Method.HELD, Method.HARDLINK}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_tree_never_replaces_another(store: Store, tmp_path: Path) -> None:
    small = sample(500)
    store.put([small.data])
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "small").write_bytes(b"mine")
    with pytest.raises(DestinationExists):
        store.materialize([small.file_record("small")], tmp_path / "tree")
    with pytest.raises(DestinationExists):
        store.materialize([small.file_record("other")], tmp_path / "tree")
    assert (tmp_path / "tree" / "small").read_bytes() == b"mine"


def test_a_manifest_that_lies_about_a_small_file_is_found_out(store: Store, tmp_path: Path) -> None:
    small = sample(500)
    store.put([small.data])
    lie = replace(small.file_record("small"), sha256=sha256(b"other"))
    with pytest.raises(DigestMismatch):
        store.materialize([lie], tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    assert store.object_by_sha256(sha256(b"other")) is None


def test_a_manifest_that_lies_about_a_large_file_is_found_out(store: Store, tmp_path: Path) -> None:
    big = sample(20_000)
    fetch(store, big)
    store.finish(big.object)
    lie = replace(big.file_record("big"), sha256=sha256(b"other"))
    with pytest.raises(DigestMismatch):
        store.place_files([lie], tmp_path / "out")
    assert not (tmp_path / "out" / "big").exists()


def test_a_fetch_into_a_folder_ends_with_the_users_own_files(store: Store, tmp_path: Path) -> None:
    big, small = sample(20_000), sample(500, seed=1)
    out = tmp_path / "out"
    records = [big.file_record("sub/big"), small.file_record("small"), big.file_record("twin")]
    assert store.conflicts(records, out) == []
    fetch(store, big, out)
    store.put([small.data])
    placement = store.finish(big.object, place=Place(out, "sub/big"))
    assert placement.path == out / "sub" / "big"
    store.place_files(records, out)
    assert (out / "sub" / "big").read_bytes() == (out / "twin").read_bytes() == big.data
    assert (out / "small").read_bytes() == small.data
    assert sorted(p.name for p in out.iterdir()) == ["small", "sub", "twin"]
    assert read_all(store, big) == big.data
    assert store.conflicts(records, out) == []
    again = store.place_files(records, out)
    assert again.extra_bytes == 0


def test_files_of_the_user_are_never_overwritten(store: Store, tmp_path: Path) -> None:
    big, small = sample(20_000), sample(500, seed=1)
    out = tmp_path / "out"
    out.mkdir()
    (out / "big").write_bytes(b"mine")
    (out / "sub").write_bytes(b"mine too")
    records = [big.file_record("big"), small.file_record("sub/small"), small.file_record("fine")]
    assert store.conflicts(records, out) == ["big", "sub/small"]
    fetch(store, big, out)
    store.put([small.data])
    with pytest.raises(DestinationExists):
        store.finish(big.object, place=Place(out, "big"))
    with pytest.raises(DestinationExists):
        store.place_files(records[1:], out)
    assert (out / "big").read_bytes() == b"mine"
    assert not (out / "fine").exists()
    store.finish(big.object, place=Place(out, "elsewhere"))
    assert (out / "elsewhere").read_bytes() == big.data


def test_links_in_a_folder_are_never_followed(store: Store, tmp_path: Path) -> None:
    small = sample(500)
    store.put([small.data])
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    out.mkdir()
    (out / "sub").symlink_to(outside)
    (out / "link").symlink_to(outside / "target")
    for path in ("sub/small", "link"):
        with pytest.raises(DestinationExists):
            store.place_files([small.file_record(path)], out)
        assert store.conflicts([small.file_record(path)], out) == [path]
    assert list(outside.iterdir()) == []


def test_an_equal_file_that_is_there_already_is_accepted(store: Store, tmp_path: Path) -> None:
    big = sample(20_000)
    out = tmp_path / "out"
    out.mkdir()
    (out / "big").write_bytes(big.data)
    assert store.conflicts([big.file_record("big")], out) == []
    fetch(store, big, out)
    store.finish(big.object, place=Place(out, "big"))
    assert (out / "big").read_bytes() == big.data
    assert read_all(store, big) == big.data
    assert [p.name for p in out.iterdir()] == ["big"]
