"""What a store says in several places agrees, or is made to agree again from what is there."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2phub.digest import digest
from p2phub.errors import NotHeld, StoreFailed
from p2phub.paths import StoreFolder
from p2phub.store.base import ObjectState, Place, Release, Store
from p2phub.store.disk import DiskStore
from tests.store.sample_files import SampleFile, fetch, manifest_of, read_all, sample
from tests.store.test_scrubbing import rot, scrub
from tests.store.test_store_contract_room import BIG, SMALL, hold


@pytest.fixture
def folder(tmp_path: Path) -> StoreFolder:
    return StoreFolder(tmp_path / "store")


@pytest.fixture
def disk(folder: StoreFolder) -> Iterator[DiskStore]:
    opened = DiskStore(folder.root)
    yield opened
    opened.close()


def told(store: Store, *, is_repair: bool = False) -> list[str]:
    return [found.what for found in store.check(is_repair=is_repair)]


def check_repaired(store: Store, *parts: str) -> None:
    """Each of `parts` is told once, repaired once, and nothing is left to tell."""
    assert [part in what for part, what in zip(parts, told(store), strict=True)] == [True] * len(
        parts
    )
    found = store.check(is_repair=True)
    assert [one.is_repaired for one in found] == [True] * len(parts)
    assert told(store) == []


def change(folder: StoreFolder, statement: str, *values: object) -> None:
    """Something behind the store's back."""
    connection = sqlite3.connect(folder.index)
    connection.execute("PRAGMA foreign_keys = ON")
    with connection:
        connection.execute(statement, values)
    connection.close()


def test_nothing_is_found_where_nothing_is_wrong(store: Store, tmp_path: Path) -> None:
    hold(store, {"big": BIG, "small": SMALL})
    file = sample(9000, seed=5)
    store.take([file.source(tmp_path / "mine")], file.documents)
    placed = sample(9000, seed=6)
    fetch(store, placed, tmp_path / "out")
    store.add_release(Release(BIG.object, "one", path=tmp_path / "out", added_s=1.5))
    store.add_release(Release(BIG.object, "two"))
    store.pin(BIG.object, True)
    store.remove_release(BIG.object, "two")
    assert told(store) == []
    assert told(store, is_repair=True) == []
    assert store.damaged() == []


def test_a_small_file_that_is_held_is_whole_once_it_is_finished(store: Store) -> None:
    store.put([*BIG.documents, SMALL.data])
    store.finish(SMALL.object)
    status = store.status(SMALL.object)
    assert status is not None
    assert status.state is ObjectState.COMPLETE
    assert store.object_by_sha256(status.sha256) == SMALL.object
    for name in (BIG.object, b"\1" * 32):
        with pytest.raises(NotHeld):
            store.finish(name)


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_file_without_a_row_gets_one(
    disk: DiskStore, folder: StoreFolder, is_whole: bool
) -> None:
    hold(disk, {"big": BIG}) if is_whole else fetch(disk, BIG)
    disk.close()
    change(folder, "DELETE FROM object")
    again = DiskStore(folder.root)
    check_repaired(again, "knows nothing of")
    if not is_whole:
        again.finish(BIG.object)
    assert read_all(again, BIG) == BIG.data
    again.close()


def test_a_file_that_is_nothing_is_set_aside(disk: DiskStore, folder: StoreFolder) -> None:
    (folder.data / "ab").mkdir()
    (folder.data / "ab" / ("ab" * 32)).write_bytes(b"what is this?")
    (folder.parts / "junk").write_bytes(b"junk")
    check_repaired(disk, "knows nothing of", "knows nothing of")
    assert {path.name for path in folder.quarantine.iterdir()} == {"ab" * 32, "junk"}


def test_a_lost_file_is_not_held_and_known_to_be_damaged(
    disk: DiskStore, folder: StoreFolder
) -> None:
    hold(disk, {"big": BIG})
    folder.whole(BIG.object).unlink()
    check = disk.check(is_repair=False)
    assert [found.is_repaired for found in check] == [True]
    assert told(disk) == []
    assert disk.damaged() == [BIG.object]
    fetch(disk, BIG)
    assert disk.damaged() == [BIG.object]
    disk.finish(BIG.object)
    assert disk.damaged() == []
    assert read_all(disk, BIG) == BIG.data


def test_a_lost_part_is_begun_anew(disk: DiskStore, folder: StoreFolder) -> None:
    fetch(disk, BIG)
    folder.part(BIG.object).unlink()
    assert "is not" in told(disk)[0]
    assert told(disk) == []
    assert disk.status(BIG.object) is None
    fetch(disk, BIG)
    disk.finish(BIG.object)


def test_a_users_file_that_comes_back_is_held_again(
    disk: DiskStore, folder: StoreFolder, tmp_path: Path
) -> None:
    file = sample(9000, seed=5)
    (tmp_path / "disk").mkdir()
    fetch(disk, file, tmp_path / "disk")
    disk.finish(file.object, place=Place(tmp_path / "disk", "mine"))
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    assert disk.recheck() == 1
    assert told(disk) == []
    (tmp_path / "unplugged").rename(tmp_path / "disk")
    check_repaired(disk, "is as it was")
    assert read_all(disk, file) == file.data
    # Other rights or names, which its stamp shows: every byte is compared.
    (tmp_path / "disk" / "mine").chmod(0o600)
    assert disk.recheck() == 1
    assert told(disk) == []
    (found,) = disk.check(is_repair=True)
    assert found.is_repaired
    assert read_all(disk, file) == file.data
    assert told(disk) == []
    for edit in (b"edited", bytes(9000)):
        (tmp_path / "disk" / "mine").write_bytes(edit)
        disk.recheck()
        assert told(disk, is_repair=True) == []


def test_documents_that_the_index_lost_are_found_in_the_packs(
    disk: DiskStore, folder: StoreFolder
) -> None:
    manifest, page = manifest_of({"big": BIG, "small": SMALL})
    hold(disk, {"big": BIG, "small": SMALL})
    disk.put([manifest.encode(), page.encode()])
    disk.add_release(Release(manifest.digest))
    disk.close()
    change(folder, "DELETE FROM chunk WHERE digest IN (?, ?)", manifest.digest, BIG.pages[1])
    change(folder, "DELETE FROM chunk WHERE digest = ?", digest(page.encode()))
    again = DiskStore(folder.root)
    found = again.check(is_repair=True)
    assert len(found) == 3
    assert all(one.is_repaired and "lacked the document" in one.what for one in found)
    assert told(again) == []
    assert read_all(again, BIG) == BIG.data
    again.put([b"and the packs go on"])
    again.close()


def test_the_journal_is_made_to_say_what_the_index_says(
    disk: DiskStore, folder: StoreFolder, tmp_path: Path
) -> None:
    file = sample(9000, seed=5)
    fetch(disk, file, tmp_path / "out")
    disk.add_release(Release(BIG.object, "kept", path=tmp_path, added_s=0.1, is_pinned=True))
    disk.close()
    change(folder, "INSERT INTO release VALUES(?, 'more', 'fetched', NULL, '', 2.5, 0)", b"m" * 32)
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    folder.journal.write_bytes(b"".join(lines[:-1]) + b"torn" + lines[-1])
    again = DiskStore(folder.root)
    check_repaired(again, "is kept", "is kept")
    releases = again.releases()
    again.close()
    folder.index.unlink()
    rebuilt = DiskStore(folder.root)
    assert rebuilt.releases() == releases
    assert len(releases) == 2
    rebuilt.close()


def test_a_damaged_index_is_told_and_made_again_at_the_next_start(
    disk: DiskStore, folder: StoreFolder
) -> None:
    hold(disk, {f"file {seed}": sample(40_000, seed=seed) for seed in range(4)})
    disk.add_release(Release(BIG.object, "kept"))
    disk.close()
    connection = sqlite3.connect(folder.index)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (root,) = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'segment_digest'"
    ).fetchone()
    connection.close()
    rot(folder.index, (root - 1) * 4096 + 20)
    again = DiskStore(folder.root)
    assert again.check(is_repair=False)[0].what.startswith("the index is damaged")
    assert not again.check(is_repair=True)[0].is_repaired
    again.close()
    rebuilt = DiskStore(folder.root)
    assert told(rebuilt) == []
    assert [release.name for release in rebuilt.releases()] == ["kept"]
    assert read_all(rebuilt, sample(40_000, seed=2)) == sample(40_000, seed=2).data
    rebuilt.close()


@pytest.mark.parametrize("file", [BIG, SMALL])
def test_what_was_damaged_is_known_until_it_is_whole_again(
    disk: DiskStore, folder: StoreFolder, file: SampleFile
) -> None:
    if file is BIG:
        hold(disk, {"file": file})
    else:
        disk.put([file.data])
    path = folder.whole(file.object) if file is BIG else folder.pack(1)
    rot(path, os.path.getsize(path) - 1)
    assert scrub(disk, 100.0, 200.0)[2] == 1
    assert disk.damaged() == [file.object]
    disk.close()
    again = DiskStore(folder.root)
    assert again.damaged() == [file.object]
    if file is BIG:
        fetch(again, file)
    else:
        again.put([file.data])
    again.finish(file.object)
    assert again.damaged() == []
    again.close()


def test_damage_that_no_release_needs_is_forgotten_with_a_collection(
    disk: DiskStore, folder: StoreFolder
) -> None:
    hold(disk, {"big": BIG})
    rot(folder.whole(BIG.object), 9500)
    scrub(disk, 100.0, 200.0)
    assert disk.damaged() == [BIG.object]
    disk.collect(1000.0, part_idle_s=0.0)
    assert disk.damaged() == []


def test_a_disk_that_is_away_loses_nothing(disk: DiskStore, folder: StoreFolder) -> None:
    hold(disk, {"big": BIG, "small": SMALL})
    away = folder.root.with_name("away")
    folder.root.rename(away)
    with pytest.raises(StoreFailed):
        disk.check(is_repair=True)
    away.rename(folder.root)
    assert told(disk) == []
    assert disk.damaged() == []
    assert read_all(disk, BIG) == BIG.data
    assert disk.get(SMALL.object) == SMALL.data
