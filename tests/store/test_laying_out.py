"""Small files that are laid out while others still arrive: nothing shows before all is whole, and
whatever ends it leaves nothing that is believed.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from p2phub.errors import (
    CorruptChunk,
    DestinationExists,
    DigestMismatch,
    NotHeld,
    P2phubError,
    StoreFailed,
)
from p2phub.paths import PART_FOLDER
from p2phub.proto.manifest import FilePage
from p2phub.proto.messages import Run
from p2phub.store.base import Method, Store
from p2phub.store.disk import DiskStore
from p2phub.store.file_system import AnyPath, FileSystem
from tests.store.power_cut import FragileFileSystem, PowerCut
from tests.store.sample_files import sample

COUNT = 40
HALF = 20
FILES = [sample(90 + seed, seed=seed) for seed in range(COUNT)]
RECORDS = [
    file.file_record(f"{'first' if number < HALF else 'second'}/{number:02}")
    for number, file in enumerate(FILES)
]
PAGE = FilePage(tuple(RECORDS)).encode()
CUTS = 60
ALL = 1 << 20  # bytes: more than there are
MEETING_TIMEOUT_S = 5.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskStore]:
    opened = DiskStore(tmp_path / "store")
    yield opened
    opened.close()


def arrive(store: Store, start: int, stop: int, *, is_durable: bool = True) -> None:
    """Some of the files come from a peer."""
    [page] = store.put([PAGE])
    data = b"".join(file.data for file in FILES[start:stop])
    store.span_writer([Run(page, start, stop)]).write(0, stop - start, memoryview(data))
    if is_durable:
        store.checkpoint()


def shown(folder: Path) -> dict[str, bytes]:
    """All that a person sees in a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(PART_FOLDER)
    }


EXPECTED = {record.path: file.data for record, file in zip(RECORDS, FILES, strict=True)}


@pytest.mark.parametrize("is_tree", [False, True])
def test_files_laid_out_ahead_show_when_all_are_whole(
    store: Store, tmp_path: Path, is_tree: bool
) -> None:
    out = tmp_path / "out"
    layout = store.lay_out(RECORDS, out, is_tree=is_tree)
    assert layout.advance(ALL) == 0
    arrive(store, 0, HALF)
    while layout.advance(100):
        assert shown(out) == {}
    arrive(store, HALF, COUNT)
    layout.advance(1)
    placement = layout.place()
    layout.discard()
    assert shown(out) == EXPECTED
    assert placement.path == out
    assert placement.methods == {Method.COPY: COUNT}
    assert placement.extra_bytes == sum(file.size for file in RECORDS)
    assert [path.name for path in tmp_path.iterdir() if PART_FOLDER in path.name] == []
    assert not (out / PART_FOLDER).exists()
    assert is_tree == (os.stat(out / RECORDS[0].path).st_mode & 0o777 == 0o444)
    assert store.object_by_sha256(RECORDS[0].sha256) == RECORDS[0].object


def test_what_is_not_durable_is_not_laid_out(disk: DiskStore, tmp_path: Path) -> None:
    layout = disk.lay_out(RECORDS, tmp_path / "out")
    arrive(disk, 0, COUNT, is_durable=False)
    assert layout.advance(ALL) == 0
    disk.checkpoint()
    assert layout.advance(ALL) == sum(file.size for file in RECORDS)
    layout.discard()


def test_a_layout_that_is_discarded_leaves_nothing(disk: DiskStore, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "note").write_bytes(b"mine")
    arrive(disk, 0, HALF)
    for folder in (tmp_path / "out", mine):
        layout = disk.lay_out(RECORDS, folder)
        assert layout.advance(ALL) > 0
        layout.discard()
    assert not (tmp_path / "out").exists()
    assert [path.name for path in mine.iterdir()] == ["note"]


def test_files_that_lack_are_found_out_at_the_end(disk: DiskStore, tmp_path: Path) -> None:
    arrive(disk, 0, HALF)
    layout = disk.lay_out(RECORDS, tmp_path / "out")
    layout.advance(ALL)
    with pytest.raises(NotHeld):
        layout.place()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("is_equal", [True, False])
def test_a_file_that_the_user_brings_meanwhile_stays(
    disk: DiskStore, tmp_path: Path, is_equal: bool
) -> None:
    out = tmp_path / "out"
    layout = disk.lay_out(RECORDS, out)
    arrive(disk, 0, COUNT)
    layout.advance(ALL)
    mine = out / RECORDS[3].path
    mine.parent.mkdir()
    mine.write_bytes(FILES[3].data if is_equal else b"mine")
    if is_equal:
        assert layout.place().methods == {Method.HELD: 1, Method.COPY: COUNT - 1}
        assert shown(out) == EXPECTED
    else:
        with pytest.raises(DestinationExists):
            layout.place()
        assert shown(out) == {RECORDS[3].path: b"mine"}
    assert not (out / PART_FOLDER).exists()


def test_files_that_were_there_before_are_not_laid_out(disk: DiskStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arrive(disk, 0, COUNT)
    (out / "first").mkdir(parents=True)
    (out / RECORDS[0].path).write_bytes(FILES[0].data)
    layout = disk.lay_out(RECORDS, out)
    assert layout.advance(ALL) == sum(file.size for file in RECORDS[1:])
    assert layout.place().methods == {Method.HELD: 1, Method.COPY: COUNT - 1}
    assert shown(out) == EXPECTED


def test_a_tree_that_appears_meanwhile_is_accepted_if_it_is_the_same(
    disk: DiskStore, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arrive(disk, 0, COUNT)
    layout = disk.lay_out(RECORDS, out, is_tree=True)
    layout.advance(ALL)
    disk.materialize(RECORDS, out)
    assert layout.place().methods == {Method.HELD: COUNT}
    assert [path.name for path in tmp_path.iterdir() if PART_FOLDER in path.name] == []


def test_two_layouts_in_one_folder_do_not_meet(disk: DiskStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arrive(disk, 0, COUNT)
    first, second = disk.lay_out(RECORDS, out), disk.lay_out(RECORDS, out)
    assert first.advance(ALL) == second.advance(ALL) > 0
    first.place()
    assert second.place().methods == {Method.HELD: COUNT}
    assert shown(out) == EXPECTED


def test_a_manifest_that_lies_about_one_is_found_out(disk: DiskStore, tmp_path: Path) -> None:
    arrive(disk, 0, COUNT)
    lies = [*RECORDS[:-1], replace(RECORDS[-1], sha256=bytes(32))]
    layout = disk.lay_out(lies, tmp_path / "out")
    assert 0 < layout.advance(ALL) < sum(file.size for file in RECORDS)
    with pytest.raises(DigestMismatch):
        layout.place()
    assert shown(tmp_path / "out") == {}


def test_what_a_pack_lost_is_not_laid_out(disk: DiskStore, tmp_path: Path) -> None:
    arrive(disk, 0, COUNT)
    layout = disk.lay_out(RECORDS, tmp_path / "out")
    [pack] = (tmp_path / "store" / "packs").iterdir()
    data = bytearray(pack.read_bytes())
    at = data.index(FILES[5].data)
    data[at] ^= 1
    pack.write_bytes(data)
    assert layout.advance(ALL) == sum(file.size for file in RECORDS[HALF:])
    with pytest.raises(CorruptChunk):
        layout.place()
    assert shown(tmp_path / "out") == {}
    assert [told.object for told in disk.withdrawn()] == [FILES[5].object]


class RefusingFileSystem(FileSystem):
    """Refuses one call of a kind on a path with some text in it."""

    def __init__(self) -> None:
        self.site: tuple[str, str] | None = None

    def reach(self, call: str, path: AnyPath) -> None:
        if self.site is not None and call == self.site[0] and self.site[1] in str(path):
            self.site = None
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


@pytest.mark.parametrize("site", [("mkdir", "/out"), ("open", "00"), ("write", "/out")])
def test_what_was_refused_ahead_is_made_at_the_end(tmp_path: Path, site: tuple[str, str]) -> None:
    files = RefusingFileSystem()
    store = DiskStore(tmp_path / "store", files=files)
    out = tmp_path / "out"
    arrive(store, 0, COUNT)
    layout = store.lay_out(RECORDS, out)
    files.site = site
    with pytest.raises(StoreFailed):
        layout.advance(ALL)
    assert inodes(out) == set()
    assert layout.place().methods == {Method.COPY: COUNT}
    assert shown(out) == EXPECTED
    store.close()


@pytest.mark.parametrize("site", [("sync", "/out"), ("rename", "first")])
def test_what_was_refused_at_the_end_leaves_no_file_to_believe(
    tmp_path: Path, site: tuple[str, str]
) -> None:
    files = RefusingFileSystem()
    store = DiskStore(tmp_path / "store", files=files)
    out = tmp_path / "out"
    arrive(store, 0, COUNT)
    layout = store.lay_out(RECORDS, out)
    layout.advance(ALL)
    files.site = site
    with pytest.raises(StoreFailed):
        layout.place()
    assert inodes(out) == set()  # a sync that failed is not tried again on the same files
    assert store.lay_out(RECORDS, out).place().methods == {Method.COPY: COUNT}
    assert shown(out) == EXPECTED
    store.close()


class MeetingFileSystem(FileSystem):
    """The first file of each folder is made when the first of another one is, too."""

    def __init__(self) -> None:
        self.meeting: threading.Barrier | None = None

    def reach(self, call: str, path: AnyPath) -> None:
        if self.meeting is not None and call == "open" and str(path) in ("00", f"{HALF}"):
            self.meeting.wait(MEETING_TIMEOUT_S)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core writes one group at a time")
def test_what_is_left_for_the_end_is_written_by_all_cores(tmp_path: Path) -> None:
    files = MeetingFileSystem()
    store = DiskStore(tmp_path / "store", files=files)
    arrive(store, 0, COUNT)
    files.meeting = threading.Barrier(2)
    placement = store.lay_out(RECORDS, tmp_path / "out").place()
    assert placement.methods == {Method.COPY: COUNT}
    assert placement.extra_bytes == sum(file.size for file in RECORDS)
    assert shown(tmp_path / "out") == EXPECTED
    store.close()


@pytest.mark.parametrize("place", ["first", "second"])
def test_a_refusal_to_one_core_ends_the_others_and_leaves_nothing(
    tmp_path: Path, place: str
) -> None:
    files = RefusingFileSystem()
    store = DiskStore(tmp_path / "store", files=files)
    arrive(store, 0, COUNT)
    files.site = "write", f"{place}/"
    with pytest.raises(StoreFailed):
        store.lay_out(RECORDS, tmp_path / "out").place()
    assert not (tmp_path / "out").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("making")]
    store.close()


def inodes(folder: Path) -> set[int]:
    return {path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


# ---- power cuts


def live(store: DiskStore, out: Path, promised: list[str]) -> None:
    """Files come in halves, and are laid out as they come into a folder, at the end as a tree."""
    layouts = [store.lay_out(RECORDS, out), store.lay_out(RECORDS, out / "../tree", is_tree=True)]
    for start in (0, HALF):
        arrive(store, start, start + HALF)
        promised.append(f"{start}")
        layouts[0].advance(ALL)
    layouts[0].place()
    promised.append("out")
    layouts[1].place()
    promised.append("tree")


def check(store: DiskStore, root: Path, promised: list[str]) -> None:
    for name in ("out", "tree"):
        found = shown(root / name) if (root / name).exists() else {}
        if name in promised or name == "tree":
            assert found in (EXPECTED, {}), f"{name} shows what is not whole"
            assert found or name not in promised, f"forgotten: {name}"
        assert found.items() <= EXPECTED.items()
    for start in (0, HALF):
        if f"{start}" in promised:
            for file in FILES[start : start + HALF]:
                assert store.get(file.object) == file.data
    for file in FILES:
        if store.has(file.object):
            assert store.get(file.object) == file.data
    assert store.withdrawn() == []


def cut_once(root: Path, cut_at: int, rng: random.Random, *, syncs: bool = True) -> None:
    root.mkdir()
    files = FragileFileSystem(root / "trash", cut_at=cut_at, syncs=syncs)
    promised: list[str] = []
    store = None
    try:
        store = DiskStore(root / "store", files=files)
        live(store, root / "out", promised)
    except PowerCut:
        pass
    files.is_dead = True
    if store is not None:
        with pytest.raises(PowerCut):
            store.close()
            raise PowerCut  # nothing was left to write
    files.lose_unsynced(rng)
    store = DiskStore(root / "store")
    try:
        check(store, root, promised)
        # And life goes on: what the cut left in hidden places goes with the next fetch.
        live(store, root / "out", promised)
        check(store, root, ["0", f"{HALF}", "out", "tree"])
        assert sorted(path.name for path in root.iterdir()) == ["out", "store", "trash", "tree"]
        assert not (root / "out" / PART_FOLDER).exists()
    finally:
        store.close()


def calls_of_a_life(root: Path) -> int:
    root.mkdir()
    files = FragileFileSystem(root / "trash")
    store = DiskStore(root / "store", files=files)
    live(store, root / "out", [])
    store.close()
    files.close_all()
    return files.calls


def test_a_power_cut_at_any_call_shows_nothing_that_is_not_whole(root: Path) -> None:
    total = calls_of_a_life(root / "whole")
    assert total > 4 * COUNT
    rng = random.Random(1)
    for cut_at in sorted(rng.sample(range(1, total + 1), CUTS)):
        cut_once(root / f"cut-{cut_at}", cut_at, rng)


def test_a_disk_whose_syncs_do_nothing_is_found_out(root: Path) -> None:
    total = calls_of_a_life(root / "whole")
    failed = 0
    for cut_at in range(total - 12, total + 1):
        try:
            cut_once(
                root / f"cut-{cut_at}", cut_at, random.Random(cut_at), syncs=False
            )
        except (AssertionError, P2phubError):
            failed += 1
    assert failed > 3
