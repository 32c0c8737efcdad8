"""Packs: documents and small chunks, one after another in append-only files.

A pack begins with PACK_MAGIC. A record is RECORD_MAGIC, the length as u32 big endian, the digest,
the bytes: it describes itself, so that the index can be rebuilt by reading packs from the start.
What lies behind the durable end of a pack was never promised to anyone: it is cut off at the next
start.

Order: append (any number) -> sync -> the index in one transaction -> `committed`. A pack whose sync
failed is not appended to again.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from threading import RLock
from typing import NamedTuple

from p2phub.digest import DIGEST_BYTES, Digest, digest
from p2phub.errors import StoreError
from p2phub.paths import StoreFolder
from p2phub.proto.limits import CHUNK_BYTES_MAX
from p2phub.store.file_system import FileSystem, failures
from p2phub.store.open_files import OpenFiles

PACK_MAGIC = b"p2phub pack 1\n\0\0"
RECORD_MAGIC = b"\xb7P2C"
PACK_BYTES_MAX = 256 << 20  # a new pack is begun beyond it: a unit that can be thrown away
_HEADER = struct.Struct(f">4sI{DIGEST_BYTES}s")
RECORD_HEADER_BYTES = _HEADER.size


class Location(NamedTuple):
    """Where a chunk's bytes lie in the packs."""

    pack: int
    offset: int  # of the first byte of the chunk itself
    length: int


class Packs:
    """All packs of a store. Appends are serialised; reads go side by side."""

    def __init__(self, folder: StoreFolder, files: FileSystem, ends: dict[int, int]) -> None:
        """ends: durable size of each pack, by number, as the index knows it."""
        self._folder = folder
        self._files = files
        self._ends = dict(ends)
        self._lock = RLock()
        self._number = max(ends, default=0)
        self._end = 0  # where the next record goes
        self._writer: int | None = None
        self._pending: dict[Digest, Location] = {}
        self._readers: OpenFiles[int] = OpenFiles(files.close, 32)

    def append(self, chunks: Iterable[tuple[Digest, memoryview | bytes]]) -> dict[Digest, Location]:
        """Write chunks whose digests were verified; readable at once, durable after the next
        checkpoint.
        """
        with self._lock:
            views: list[memoryview | bytes] = []
            placed: dict[Digest, Location] = {}
            if self._writer is None or self._end >= PACK_BYTES_MAX:
                self._begin()
            assert self._writer is not None
            start = end = self._end
            for name, data in chunks:
                if name in placed or name in self._pending:
                    continue
                views += (_HEADER.pack(RECORD_MAGIC, len(data), name), data)
                placed[name] = Location(self._number, end + _HEADER.size, len(data))
                end += _HEADER.size + len(data)
            # If this raises, the next append writes over the torn rest.
            self._files.write(self._writer, views, start, self._folder.pack(self._number))
            self._end = end
            self._pending.update(placed)
            return placed

    def pending(self, name: Digest) -> Location | None:
        """Where a chunk lies that is written and not yet in the index."""
        return self._pending.get(name)

    def in_use(self) -> set[int]:
        """Packs that the index need not know of yet."""
        with self._lock:
            return {self._number, *(location.pack for location in self._pending.values())}

    def has_pending(self) -> bool:
        return bool(self._pending)

    def sync(self) -> tuple[dict[Digest, Location], dict[int, int]]:
        """What is durable in the packs and not yet in the index: chunks, and the end of each pack.

        If the disk refuses, what was pending is forgotten and the pack is left behind.
        """
        with self._lock:
            pending, number = dict(self._pending), self._number
            # A second descriptor, since an append may close the first one meanwhile.
            writer = None if self._writer is None else os.dup(self._writer)
            ends = {location.pack: 0 for location in pending.values()}
            for location in pending.values():
                ends[location.pack] = max(ends[location.pack], location.offset + location.length)
        if writer is not None:
            try:
                if pending:
                    self._files.sync_data(writer, self._folder.pack(number))
            except StoreError:
                self._abandon()
                raise
            finally:
                os.close(writer)
        return pending, ends

    def committed(self, chunks: dict[Digest, Location], ends: dict[int, int]) -> None:
        """The index has them now."""
        with self._lock:
            for name in chunks:
                self._pending.pop(name, None)
            for number, end in ends.items():
                self._ends[number] = max(end, self._ends.get(number, 0))

    def read(self, location: Location, into: memoryview) -> int:
        """Bytes read; fewer than asked for if the pack was cut.

        Unverified. FileNotFoundError if it is gone.
        """
        path = self._folder.pack(location.pack)
        opening = lambda: self._files.open(path, os.O_RDONLY)  # noqa: E731
        with self._readers.use(location.pack, opening) as file:
            return self._files.read(file, into, location.offset, path)

    def read_together(self, locations: Sequence[Location]) -> list[memoryview]:
        """Many chunks, those that lie beside each other with one read. Unverified, and shorter than
        asked for if a pack was cut. FileNotFoundError if one is gone.
        """
        found: dict[Location, memoryview] = {}
        run: list[Location] = []
        for location in sorted(locations):
            if run and (
                location.pack != run[-1].pack
                or location.offset - run[-1].offset - run[-1].length > _HEADER.size
            ):
                self._read_run(run, found)
                run = []
            run.append(location)
        if run:
            self._read_run(run, found)
        return [found[location] for location in locations]

    def _read_run(self, run: Sequence[Location], found: dict[Location, memoryview]) -> None:
        start = run[0].offset
        view = memoryview(bytearray(run[-1].offset + run[-1].length - start))
        view = view[: self.read(Location(run[0].pack, start, len(view)), view)]
        for location in run:
            at = location.offset - start
            found[location] = view[at : at + location.length]

    def leave(self, number: int) -> None:
        """Append to this pack no more: it is about to be emptied."""
        with self._lock:
            if number != self._number:
                return
            if self._writer is not None:
                try:
                    self._files.sync_data(self._writer, self._folder.pack(number))
                except StoreError:
                    self._abandon()
                    raise
                self._files.close(self._writer)
                self._writer = None
            self._number += 1
            self._ends[self._number] = 0

    def dropped(self, number: int) -> None:
        """The file of a pack is gone."""
        with self._lock:
            self._ends.pop(number, None)
        self._readers.drop(number)

    def close(self) -> None:
        self._readers.close()
        if self._writer is not None:
            self._files.close(self._writer)
            self._writer = None

    def _begin(self) -> None:
        """Go on at the durable end of the last pack, or begin the next one."""
        if self._writer is not None:
            # Only the current pack is ever synced, so nothing may be left unsynced in a full one.
            try:
                self._files.sync_data(self._writer, self._folder.pack(self._number))
            except StoreError:
                self._abandon()
                raise
            self._files.close(self._writer)
            self._writer = None
            self._number += 1
        elif self._number == 0 or self._ends.get(self._number, 0) >= PACK_BYTES_MAX:
            self._number += 1
        path = self._folder.pack(self._number)
        end = self._ends.get(self._number, 0)
        writer = self._files.open(path, os.O_RDWR | os.O_CREAT)
        try:
            self._files.truncate(writer, end, path)
            if not end:
                end = self._files.write(writer, [PACK_MAGIC], 0, path)
                self._files.sync(writer, path)
                self._files.sync_folder(self._folder.packs)
        except StoreError:
            self._files.close(writer)
            raise
        self._ends[self._number] = self._end = end
        self._writer = writer

    def _abandon(self) -> None:
        with self._lock:
            self._pending.clear()
            if self._writer is not None:
                self._files.close(self._writer)
                self._writer = None
            self._ends[self._number + 1] = 0
            self._number += 1


def scan(files: FileSystem, folder: StoreFolder, number: int) -> Iterator[tuple[Digest, Location]]:
    """The records of one pack that are whole and right, in order; ends at the first byte that is no
    record.
    """
    path = folder.pack(number)
    with failures(path):
        file = files.open(path, os.O_RDONLY)
    try:
        header = bytearray(_HEADER.size)
        offset = len(PACK_MAGIC)
        magic = bytearray(offset)
        if files.read(file, memoryview(magic), 0, path) < offset or magic != PACK_MAGIC:
            return
        buffer = memoryview(bytearray(CHUNK_BYTES_MAX))
        while files.read(file, memoryview(header), offset, path) == _HEADER.size:
            mark, length, name = _HEADER.unpack(header)
            if mark != RECORD_MAGIC or length > CHUNK_BYTES_MAX:
                return
            body = buffer[:length]
            if files.read(file, body, offset + _HEADER.size, path) < length:
                return
            if digest(body) == name:
                yield name, Location(number, offset + _HEADER.size, length)
            offset += _HEADER.size + length
    finally:
        files.close(file)


def numbers(names: Sequence[str]) -> list[int]:
    """The pack numbers among file names, rising."""
    return sorted(
        int(name[:-5]) for name in names if name.endswith(".pack") and name[:-5].isdecimal()
    )
