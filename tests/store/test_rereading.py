"""Users' files that were touched are read whole before anything of them is held again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2phub.errors import NotHeld
from p2phub.store.base import Method, ObjectState, Reread
from p2phub.store.disk import DiskStore
from tests.store.sample_files import SampleFile, read_all, sample

ALL = 1 << 30
FILE = sample(40_000)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    opened = DiskStore(tmp_path / "store")
    if opened.take([FILE.source(tmp_path / "mine")], FILE.documents).methods != {Method.ADOPTED: 1}:
        pytest.skip("this file system shares blocks, so nothing is used in place")
    yield opened
    opened.close()


def later() -> float:
    """A time by which what happens now is settled."""
    return time.time() + 10


def reread(store: DiskStore, size_max: int = ALL) -> Reread:
    """One round, as one step."""
    read_bytes, believed, changed = 0, (), ()
    while not (step := store.reread(size_max, later())).is_over:
        read_bytes += step.read_bytes
        believed, changed = believed + step.believed, changed + step.changed
    return Reread(read_bytes, believed, changed, True)


def state(store: DiskStore, file: SampleFile = FILE) -> ObjectState:
    status = store.status(file.object)
    assert status is not None
    return status.state


def chmod(path: Path) -> None:
    path.chmod(0o600)


def link(path: Path) -> None:
    os.link(path, path.with_name("second name"))


def move_away_and_back(path: Path) -> None:
    path.rename(path.with_name("aside"))
    path.with_name("aside").rename(path)


def forge(path: Path, data: bytes = b"another beginning") -> None:
    """Change bytes and put the time back."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("touch", [chmod, link, move_away_and_back])
def test_a_touched_file_is_not_held_until_every_byte_was_read(
    store: DiskStore, tmp_path: Path, touch: Callable[[Path], None]
) -> None:
    touch(tmp_path / "mine")
    assert store.recheck() == 1
    (told,) = store.withdrawn()
    assert (told.is_touched, told.is_damage) == (True, False)
    assert store.held(FILE.pages[0]) == b"\x00"
    with pytest.raises(NotHeld):
        read_all(store, FILE)
    assert reread(store, 1) == Reread(40_000, (FILE.object,), (), True)
    assert state(store) is ObjectState.COMPLETE
    assert read_all(store, FILE) == FILE.data
    assert store.recheck() == 0
    assert reread(store) == Reread(0, (), (), True)


def test_a_large_touched_file_is_read_in_many_steps_and_held_after_the_last(
    tmp_path: Path, store: DiskStore
) -> None:
    large = sample(5 << 20, chunk=1 << 20, seed=3)
    store.take([large.source(tmp_path / "large")], large.documents)
    chmod(tmp_path / "large")
    store.recheck()
    steps = []
    while not (step := store.reread(1 << 20, later())).is_over:
        assert (state(store, large) is ObjectState.COMPLETE) == bool(step.believed)
        steps.append(step.read_bytes)
    assert steps == [1 << 20] * 5
    assert read_all(store, large) == large.data


def test_changed_bytes_are_found_out_whatever_the_time_says(
    store: DiskStore, tmp_path: Path
) -> None:
    forge(tmp_path / "mine")
    assert store.recheck() == 1
    assert store.withdrawn()[0].is_touched
    assert reread(store) == Reread(40_000, (), (tmp_path / "mine",), True)
    assert state(store) is ObjectState.CHANGED
    assert reread(store) == Reread(0, (), (), True)  # read once
    assert not any("as it was" in found.what for found in store.check(is_repair=True))
    assert state(store) is ObjectState.CHANGED
    # Put right by hand, a repair finds it so.
    forge(tmp_path / "mine", FILE.data)
    assert any("as it was" in found.what for found in store.check(is_repair=True))
    assert read_all(store, FILE) == FILE.data


def test_a_file_changed_while_it_is_read_again_is_not_believed(
    store: DiskStore, tmp_path: Path
) -> None:
    large = sample(5 << 20, chunk=1 << 20, seed=3)
    store.take([large.source(tmp_path / "large")], large.documents)
    chmod(tmp_path / "large")
    store.recheck()
    assert store.reread(1 << 20, later()).read_bytes == 1 << 20
    forge(tmp_path / "large")  # in what was read already
    assert store.reread(ALL, later()) == Reread(0, (), (), False)
    assert state(store, large) is ObjectState.CHANGED
    assert reread(store) == Reread(0, (), (), True)  # the next round begins with it again
    assert reread(store).changed == (tmp_path / "large",)
    assert state(store, large) is ObjectState.CHANGED


def test_what_was_touched_this_second_waits(store: DiskStore, tmp_path: Path) -> None:
    """A write in the same tick of the clock would leave the same time of change."""
    chmod(tmp_path / "mine")
    store.recheck()
    changed_s = (tmp_path / "mine").stat().st_ctime
    for now_s in (changed_s, changed_s + 0.5, changed_s - 0.5):
        assert store.reread(ALL, now_s) == Reread(0, (), (), True)
    assert store.reread(ALL, changed_s + 3).believed == (FILE.object,)


def test_edited_and_removed_files_are_not_read(store: DiskStore, tmp_path: Path) -> None:
    with (tmp_path / "mine").open("ab") as file:
        file.write(b"more")
    other = sample(20_000, seed=9)
    store.take([other.source(tmp_path / "other")], other.documents)
    (tmp_path / "other").unlink()
    assert store.recheck() == 2
    assert [told.is_touched for told in store.withdrawn()] == [False, False]
    assert reread(store) == Reread(0, (), (), True)


def test_a_touched_file_is_found_again_after_a_restart(store: DiskStore, tmp_path: Path) -> None:
    chmod(tmp_path / "mine")
    store.recheck()
    store.close()
    again = DiskStore(tmp_path / "store")
    assert state(again) is ObjectState.CHANGED
    assert reread(again).believed == (FILE.object,)
    again.close()
    # Also the journal knows it as it is now.
    (tmp_path / "store" / "index.db").unlink()
    again = DiskStore(tmp_path / "store")
    assert read_all(again, FILE) == FILE.data
    again.close()


def test_a_touched_file_of_one_chunk_is_held_again(store: DiskStore, tmp_path: Path) -> None:
    small = sample(900)
    store.take([small.source(tmp_path / "small")])
    chmod(tmp_path / "small")
    with pytest.raises(NotHeld):
        store.get(small.object)
    assert reread(store).believed == (small.object,)
    assert store.get(small.object) == small.data
