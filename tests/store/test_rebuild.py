"""An index that is lost or damaged is made again from what it was an index of."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from p2phub.digest import digest, sha256
from p2phub.errors import StoreFailed
from p2phub.paths import StoreFolder
from p2phub.proto.manifest import FilePage
from p2phub.store.base import Place, Release
from p2phub.store.disk import DiskStore
from p2phub.store.file_system import AnyPath, FileSystem
from tests.store.sample_files import (
    fetch,
    manifest_of,
    read_all,
    runs_of_bits,
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


def edit(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"x")


def test_small_files_of_kept_releases_are_whole_after_a_rebuild(
    store: DiskStore, tmp_path: Path
) -> None:
    kept, absent, alone, other = (sample(900, seed=seed) for seed in range(4))
    manifest, page = manifest_of({"kept": kept, "absent": absent})
    store.put([manifest.encode(), page.encode(), kept.data, alone.data, other.data])
    for file in (kept, alone, other):
        store.finish(file.object)
    store.add_release(Release(manifest.digest, "kept"))
    store.add_release(Release(alone.object))
    store.close()
    StoreFolder(tmp_path / "store").index.unlink()
    store = DiskStore(tmp_path / "store")
    assert store.held_among(page.files) == ({kept.object}, set())
    for file, name in ((kept, kept.object), (alone, alone.object), (absent, None), (other, None)):
        assert store.object_by_sha256(sha256(file.data)) == name
    store.close()


def test_a_small_file_that_is_not_what_its_release_says_is_not_whole_after_a_rebuild(
    store: DiskStore, tmp_path: Path
) -> None:
    small = sample(900)
    manifest, page = manifest_of({"small": small})
    false = FilePage((replace(page.files[0], sha256=bytes(32)),))
    manifest = replace(manifest, pages=(replace(manifest.pages[0], digest=digest(false.encode())),))
    store.put([manifest.encode(), false.encode(), small.data])
    store.add_release(Release(manifest.digest, "kept"))
    store.close()
    StoreFolder(tmp_path / "store").index.unlink()
    store = DiskStore(tmp_path / "store")
    assert store.held_among(false.files) == (set(), {small.object})
    assert store.object_by_sha256(bytes(32)) is None
    store.close()


@pytest.mark.parametrize("loss", ["removed", "garbage", "cut"])
def test_a_lost_index_is_made_again(store: DiskStore, tmp_path: Path, loss: str) -> None:
    whole, part, taken, placed = (sample(20_000, seed=seed) for seed in range(4))
    small = sample(900, seed=9)
    manifest, page = manifest_of({"whole": whole, "small": small})
    fetch(store, whole)
    store.finish(whole.object)
    store.put([*part.documents, manifest.encode(), page.encode(), small.data])
    store.open_part(part.object)
    store.span_writer(part.runs()[:1]).write(0, 8, memoryview(part.data[:8000]))
    store.take([taken.source(tmp_path / "taken")], taken.documents)
    fetch(store, placed, tmp_path / "out")
    store.finish(placed.object, place=Place(tmp_path / "out", "placed"))
    store.add_release(Release(manifest.digest, "kept", added_s=2.0))
    store.add_release(Release(manifest.digest, "gone"))
    store.remove_release(manifest.digest, "gone")
    store.pin(manifest.digest, True)
    store.close()
    index = StoreFolder(tmp_path / "store").index
    if loss == "garbage":
        index.write_bytes(b"no database " * 1000)
    elif loss == "cut":
        os.truncate(index, 5000)
    else:
        index.unlink()
    store = DiskStore(tmp_path / "store")
    for file in (whole, taken, placed):
        assert read_all(store, file) == file.data
        assert store.object_by_sha256(sha256(file.data)) == file.object
    assert list(store.missing(part.pages[0])) == []
    assert list(store.missing(part.pages[1])) == list(range(8))
    assert runs_of_bits(store.held(digest(page.encode())) or b"", 2) == [0, 1]
    assert [(r.name, r.is_pinned) for r in store.releases()] == [("kept", True)]
    fetch(store, part)
    store.finish(part.object)
    store.put([b"life goes on"])
    store = reopened(store, tmp_path)
    assert store.get(digest(b"life goes on")) == b"life goes on"
    assert read_all(store, part) == part.data
    store.close()


def test_one_bad_thing_does_not_stop_a_rebuild(store: DiskStore, tmp_path: Path) -> None:
    good, bad = sample(20_000), sample(20_000, seed=1)
    folder = StoreFolder(tmp_path / "store")
    for file in (good, bad):
        fetch(store, file)
        store.finish(file.object)
    store.add_release(Release(good.object, "kept"))
    store.close()
    folder.index.unlink()
    os.chmod(folder.whole(bad.object), 0o644)
    os.truncate(folder.whole(bad.object), 5)
    (folder.data / "zz").mkdir()
    (folder.data / "zz" / "no digest").write_bytes(b"x")
    (folder.parts / "junk").write_bytes(b"x")
    (folder.packs / "junk.pack").write_bytes(b"x")
    (folder.packs / "000009.pack").write_bytes(b"not a pack")
    with open(folder.journal, "ab") as journal:
        journal.write(b'torn line {"do":"ke')
    store = DiskStore(tmp_path / "store")
    assert read_all(store, good) == good.data
    assert store.status(bad.object) is None
    assert [r.name for r in store.releases()] == ["kept"]
    store.close()


def test_a_users_file_that_changed_is_not_taken_for_held_by_a_rebuild(
    store: DiskStore, tmp_path: Path
) -> None:
    file = sample(20_000)
    store.take([file.source(tmp_path / "mine")], file.documents)
    store.close()
    if not list(StoreFolder(tmp_path / "store").data.iterdir()):
        edit(tmp_path / "mine")
        StoreFolder(tmp_path / "store").index.unlink()
        store = DiskStore(tmp_path / "store")
        assert store.status(file.object) is None
        store.close()


def test_a_store_moved_to_another_folder_works(store: DiskStore, tmp_path: Path) -> None:
    file = sample(20_000)
    fetch(store, file)
    store.close()
    shutil.move(tmp_path / "store", tmp_path / "moved")
    store = DiskStore(tmp_path / "moved")
    store.finish(file.object)
    assert read_all(store, file) == file.data
    store.close()


@pytest.mark.parametrize("end_at", [1, 3, 6, 9])
def test_a_rebuild_that_was_cut_off_begins_anew(
    store: DiskStore, tmp_path: Path, end_at: int
) -> None:
    class Refusing(FileSystem):
        left = end_at

        def reach(self, call: str, path: AnyPath) -> None:
            self.left -= call == "commit"
            if call == "commit" and not self.left:
                raise OSError(errno.EIO, "refused")

    files = [sample(20_000, seed=seed) for seed in range(8)]
    for file in files:
        fetch(store, file)
        store.finish(file.object)
        store.add_release(Release(file.object, "kept"))
    store.close()
    os.unlink(tmp_path / "store" / "index.db")
    with pytest.raises(StoreFailed):
        DiskStore(tmp_path / "store", files=Refusing())
    again = reopened(store, tmp_path)
    assert len(again.releases()) == 8
    assert all(read_all(again, file) == file.data for file in files)
    assert not StoreFolder(tmp_path / "store").rebuilding.exists()
    again.close()
