"""Packs describe themselves: what was durable is found again, whatever lies behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2phub.digest import digest
from p2phub.paths import StoreFolder
from p2phub.store.file_system import FileSystem
from p2phub.store.packs import PACK_BYTES_MAX, PACK_MAGIC, Location, Packs, numbers, scan


@pytest.fixture
def folder(tmp_path: Path) -> StoreFolder:
    (tmp_path / "packs").mkdir()
    return StoreFolder(tmp_path)


def append(packs: Packs, *chunks: bytes) -> list[Location]:
    placed = packs.append([(digest(chunk), chunk) for chunk in chunks])
    return [placed[digest(chunk)] for chunk in chunks]


def commit(packs: Packs) -> dict[int, int]:
    chunks, ends = packs.sync()
    packs.committed(chunks, ends)
    return ends


def read(packs: Packs, location: Location) -> bytes:
    data = bytearray(location.length)
    assert packs.read(location, memoryview(data)) == location.length
    return bytes(data)


def test_chunks_are_read_where_they_were_appended(folder: StoreFolder) -> None:
    packs = Packs(folder, FileSystem(), {})
    one, two = append(packs, b"one", b"two two")
    assert packs.pending(digest(b"one")) == one
    assert (read(packs, one), read(packs, two)) == (b"one", b"two two")
    assert commit(packs) == {1: two.offset + two.length}
    assert packs.pending(digest(b"one")) is None
    packs.close()


def test_what_was_not_committed_is_cut_off_by_the_next_start(folder: StoreFolder) -> None:
    packs = Packs(folder, FileSystem(), {})
    append(packs, b"durable")
    ends = commit(packs)
    append(packs, b"never promised")
    packs.close()
    packs = Packs(folder, FileSystem(), ends)
    append(packs, b"next")
    commit(packs)
    packs.close()
    assert [name for name, _ in scan(FileSystem(), folder, 1)] == [
        digest(b"durable"),
        digest(b"next"),
    ]


def test_a_full_pack_is_left_and_the_next_one_begun(folder: StoreFolder) -> None:
    packs = Packs(folder, FileSystem(), {3: PACK_BYTES_MAX})
    (location,) = append(packs, b"new")
    assert location.pack == 4
    packs.close()


def test_a_scan_passes_over_damaged_records_and_ends_at_what_is_none(folder: StoreFolder) -> None:
    packs = Packs(folder, FileSystem(), {})
    locations = append(packs, b"first", b"second", b"third")
    commit(packs)
    packs.close()
    path = folder.pack(1)
    data = bytearray(path.read_bytes())
    data[locations[1].offset] ^= 1
    path.write_bytes(bytes(data) + b"no record at all, but long enough for a header to be read")
    found = list(scan(FileSystem(), folder, 1))
    assert found == [(digest(b"first"), locations[0]), (digest(b"third"), locations[2])]
    path.write_bytes(data[: locations[2].offset + 2])
    assert [name for name, _ in scan(FileSystem(), folder, 1)] == [digest(b"first")]


@pytest.mark.parametrize("content", [b"", b"x", PACK_MAGIC, PACK_MAGIC[:-1] + b"x" * 99])
def test_a_file_that_is_no_pack_has_no_records(folder: StoreFolder, content: bytes) -> None:
    folder.pack(1).write_bytes(content)
    assert list(scan(FileSystem(), folder, 1)) == []


def test_a_record_that_claims_a_huge_length_ends_the_scan(folder: StoreFolder) -> None:
    record = b"\xb7P2C" + b"\xff" * 4 + bytes(32) + b"x"
    folder.pack(1).write_bytes(PACK_MAGIC + record)
    assert list(scan(FileSystem(), folder, 1)) == []


def test_pack_numbers_are_read_from_names() -> None:
    names = ["000002.pack", "000001.pack", "x.pack", "3.bak", ".pack"]
    assert numbers(names) == [1, 2]
