"""No byte lies twice on a disk: publish, fetch into a folder and export on real file systems, by
their own count of blocks in use.

xfs shares blocks (reflink); ext4 can't: there files are used where they lie, or get a second name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from p2phub.errors import NotHeld, StoreFailed
from p2phub.store.base import Links, Method, ObjectState, Place
from p2phub.store.disk import DiskStore
from tests.power.disks import LoopDisk, missing, mounted, scratch
from tests.store.sample_files import SampleFile, fetch, read_all, sample

pytestmark = pytest.mark.root

SIZE = 24 << 20
CHUNK = 1 << 20
# The index, packs, journal and folders of these tests; a copy of any file would be SIZE more.
REST_BYTES = 512 << 10
WHOLE = sample(SIZE, chunk=CHUNK)
SMALL = sample(30_000, chunk=1 << 20, seed=2)
RECORDS = [WHOLE.file_record("large"), SMALL.file_record("sub/small")]


@dataclass
class Machine:
    """A store on a disk of its own."""

    disk: LoopDisk
    store: DiskStore

    def extra(self, before: int) -> int:
        """Bytes that came into use on the disk since `before`."""
        return self.disk.used_bytes() - before

    def restart(self) -> None:
        self.store.close()
        self.store = DiskStore(self.disk.point / "store")


def machine(kind: str) -> Iterator[Machine]:
    if reason := missing(kind):
        pytest.skip(reason)
    with scratch() as folder, mounted(kind, folder) as disk:
        made = Machine(disk, DiskStore(disk.point / "store"))
        try:
            yield made
        finally:
            made.store.close()


@pytest.fixture
def xfs() -> Iterator[Machine]:
    yield from machine("xfs")


@pytest.fixture
def ext4() -> Iterator[Machine]:
    yield from machine("ext4")


def publish(on: Machine) -> int:
    """Take a file that the user has; bytes in use before."""
    source = WHOLE.source(on.disk.point / "mine")
    before = on.disk.used_bytes()
    placement = on.store.take([source], WHOLE.documents)
    expected = Method.REFLINK if on.disk.kind == "xfs" else Method.ADOPTED
    assert placement.methods == {expected: 1}
    assert placement.extra_bytes == 0
    return before


def fetch_whole(on: Machine, file: SampleFile = WHOLE) -> None:
    on.store.put([SMALL.data])
    fetch(on.store, file)
    on.store.finish(file.object)


def test_publishing_on_xfs_shares_the_users_blocks(xfs: Machine) -> None:
    before = publish(xfs)
    assert xfs.extra(before) < REST_BYTES
    own = xfs.disk.point / "store" / "data" / WHOLE.object.hex()[:2] / WHOLE.object.hex()
    assert own.stat().st_mode & 0o777 == 0o444
    # The store has the bytes of the moment, whatever the user does to their file.
    (xfs.disk.point / "mine").write_bytes(b"edited")
    xfs.restart()
    assert xfs.store.recheck() == 0
    assert read_all(xfs.store, WHOLE) == WHOLE.data


def test_publishing_on_ext4_uses_the_file_where_it_lies(ext4: Machine) -> None:
    before = publish(ext4)
    assert ext4.extra(before) < REST_BYTES
    assert read_all(ext4.store, WHOLE) == WHOLE.data
    with open(ext4.disk.point / "mine", "r+b") as file:
        file.write(b"edited")
    with pytest.raises(NotHeld):
        read_all(ext4.store, WHOLE)


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_fetch_into_a_folder_takes_the_room_of_the_file_once(
    kind: str, request: pytest.FixtureRequest
) -> None:
    on: Machine = request.getfixturevalue(kind)
    before = on.disk.used_bytes()
    out = on.disk.point / "out"
    on.store.put([SMALL.data])
    fetch(on.store, WHOLE, out)
    placement = on.store.finish(WHOLE.object, place=Place(out, "large"))
    assert (placement.methods, placement.extra_bytes) == ({Method.ADOPTED: 1}, 0)
    placed = on.store.place_files(RECORDS, out)
    assert placed.methods == {Method.ADOPTED: 1, Method.COPY: 1}
    assert placed.extra_bytes == len(SMALL.data)
    assert SIZE <= on.extra(before) < SIZE + REST_BYTES
    on.restart()
    assert read_all(on.store, WHOLE) == WHOLE.data
    assert (out / "large").stat().st_mode & 0o200


def test_a_tree_and_a_copy_on_xfs_share_the_stores_blocks(xfs: Machine) -> None:
    fetch_whole(xfs)
    before = xfs.disk.used_bytes()
    tree = xfs.store.materialize(RECORDS, xfs.disk.point / "releases" / "one")
    copy = xfs.store.place_files(RECORDS, xfs.disk.point / "copy")
    for placement in (tree, copy):
        assert placement.methods == {Method.REFLINK: 1, Method.COPY: 1}
        assert placement.extra_bytes == len(SMALL.data)
        assert (placement.path / "large").read_bytes() == WHOLE.data
        assert (placement.path / "sub" / "small").read_bytes() == SMALL.data
    assert xfs.extra(before) < REST_BYTES
    # A copy is the user's own: what they do to it reaches nobody else.
    (xfs.disk.point / "copy" / "large").write_bytes(b"mine now")
    assert read_all(xfs.store, WHOLE) == WHOLE.data
    assert (tree.path / "large").read_bytes() == WHOLE.data


def test_a_tree_on_ext4_is_a_second_name(ext4: Machine) -> None:
    fetch_whole(ext4)
    before = ext4.disk.used_bytes()
    tree = ext4.store.materialize(RECORDS, ext4.disk.point / "releases" / "one")
    assert tree.methods == {Method.HARDLINK: 1, Method.COPY: 1}
    assert tree.extra_bytes == len(SMALL.data)
    assert ext4.extra(before) < REST_BYTES
    assert (tree.path / "large").read_bytes() == WHOLE.data
    assert (tree.path / "large").stat().st_nlink == 2


def test_a_copy_on_ext4_says_what_it_cost(ext4: Machine) -> None:
    fetch_whole(ext4)
    before = ext4.disk.used_bytes()
    copy = ext4.store.place_files(RECORDS, ext4.disk.point / "copy")
    assert copy.methods == {Method.COPY: 2}
    assert copy.extra_bytes == SIZE + len(SMALL.data)
    assert abs(ext4.extra(before) - copy.extra_bytes) < REST_BYTES


def test_a_release_taken_from_xfs_to_another_disk_is_copied(xfs: Machine) -> None:
    with scratch() as folder, mounted("ext4", folder) as other:
        fetch_whole(xfs)
        copy = xfs.store.place_files(RECORDS, other.point / "copy")
        assert copy.methods == {Method.COPY: 2}
        assert (copy.path / "large").read_bytes() == WHOLE.data


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_file_is_still_held_when_its_disk_comes_back_under_another_number(
    kind: str, request: pytest.FixtureRequest
) -> None:
    on: Machine = request.getfixturevalue(kind)
    out = on.disk.point / "out"
    fetch(on.store, WHOLE, out)
    on.store.finish(WHOLE.object, place=Place(out, "large"))
    device = out.stat().st_dev
    on.store.close()
    on.disk.unmount()
    with scratch() as folder, mounted("ext4", folder):  # takes the number that was set free
        on.disk.mount()
        assert out.stat().st_dev != device
        on.store = DiskStore(on.disk.point / "store")
        assert on.store.recheck() == 0
        assert read_all(on.store, WHOLE) == WHOLE.data
        assert on.store.withdrawn() == []
        on.store.close()
        on.disk.unmount()
    on.disk.mount()
    on.restart()


def test_a_disk_that_became_read_only_is_said_and_serves_again_later(ext4: Machine) -> None:
    fetch_whole(ext4)
    ext4.store.close()
    ext4.disk.remount("ro")
    with pytest.raises(StoreFailed) as refused:
        DiskStore(ext4.disk.point / "store")
    assert str(ext4.disk.point) in str(refused.value)
    ext4.disk.remount("rw")
    ext4.store = DiskStore(ext4.disk.point / "store")
    status = ext4.store.status(WHOLE.object)
    assert status is not None
    assert status.state is ObjectState.COMPLETE
    assert read_all(ext4.store, WHOLE) == WHOLE.data


def test_an_export_of_the_users_own_file_on_ext4_costs_nothing_where_links_are_asked_for(
    ext4: Machine,
) -> None:
    publish(ext4)
    before = ext4.disk.used_bytes()
    placed = ext4.store.place_files(RECORDS[:1], ext4.disk.point / "out", links=Links.ALL)
    assert (placed.methods, placed.extra_bytes) == ({Method.HARDLINK: 1}, 0)
    assert ext4.extra(before) < REST_BYTES
    ext4.restart()
    assert ext4.store.recheck() == 0
    assert read_all(ext4.store, WHOLE) == WHOLE.data
    assert (ext4.disk.point / "out" / "large").read_bytes() == WHOLE.data
