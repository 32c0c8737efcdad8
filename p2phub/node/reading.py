"""Reading a range of a file that may not be here yet: the chunks it needs are fetched first, the
first one first.

Bytes go out as soon as their chunks are verified; nothing waits for the rest of the file. What was
fetched stays, so that a reader who comes back pays nothing.
"""

from __future__ import annotations

import random
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import trio

from p2phub.core.swarm.download import Download
from p2phub.digest import Digest
from p2phub.errors import CorruptChunk, NoSuchFile, NotHeld, UsageError
from p2phub.node.documents import Documents
from p2phub.node.downloads import MissingPage, Transfer
from p2phub.node.search import Search
from p2phub.node.sources import Sources
from p2phub.node.trees import Tree, record_of
from p2phub.proto.content import ObjectRecord, Segment, SegmentRef
from p2phub.proto.limits import CHUNK_BYTES_MAX
from p2phub.proto.manifest import FileRecord
from p2phub.proto.messages import Run
from p2phub.proto.names import Reference
from p2phub.store.base import ObjectState, Store
from p2phub.store.cache import Cache

WINDOW_BYTES = 32 << 20  # ahead of the reader, asked for before all else
READ_BYTES = 2 * CHUNK_BYTES_MAX  # handed out at once, as far as they are here
LIST_CHUNKS_MAX = 1 << 18  # in chunk lists that are remembered decoded: 12 bytes each


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The entries of one segment that a range needs."""

    page: Digest
    lengths: array[int]  # bytes of each entry of the segment, type code "I"
    offsets: array[int]  # where each begins within the segment, and the end, type code "Q"
    first: int
    stop: int  # half-open
    base: int  # of the segment, in the file

    def size_bytes(self, first: int, stop: int) -> int:
        return self.offsets[stop] - self.offsets[first]

    def stop_within(self, first: int, size_bytes: int) -> int:
        """The entry after the last one that ends within `size_bytes` from `first`; one at least."""
        end = bisect_right(self.offsets, self.offsets[first] + size_bytes) - 1
        return min(max(end, first + 1), self.stop)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one range needs."""

    stretches: list[_Stretch]
    pages: list[MissingPage]
    is_last: bool  # the file is whole once these are here


class Reading:
    """Readers of one node."""

    def __init__(
        self, sources: Sources, store: Store, documents: Documents, rng: random.Random
    ) -> None:
        self._sources = sources
        self._store = store
        self._documents = documents
        self._rng = rng
        self._lists: Cache[Digest, tuple[array[int], array[int]]] = Cache(LIST_CHUNKS_MAX)

    @asynccontextmanager
    async def read(
        self,
        reference: Reference,
        path: str | None,
        start: int,
        stop: int | None,
        peers: Sequence[str],
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """As NodeApi.read."""
        if start < 0 or (stop is not None and stop < start):
            raise UsageError("a range begins at 0 or later and does not end before it begins")
        async with self._sources.open(reference, peers) as source:
            file = _file_of(source.tree, path)
            end = file.size if stop is None else min(stop, file.size)
            begin = min(start, end)
            if not file.has_record:
                yield self._whole_chunk(file, begin, end, source.search)
                return
            plan = await self._plan(file, begin, end, source.search)
            if plan.pages:
                source.begin(file, plan.pages, random.Random(self._rng.getrandbits(64)))
            transfer = source.transfer if plan.pages else None
            async with aclosing(self._bytes(begin, end, plan.stretches, transfer)) as data:
                yield data
            if plan.pages and not await trio.to_thread.run_sync(self._missing, plan.stretches):
                await source.come_to_rest()
            if plan.is_last and source.is_at_rest:
                await self._sources.settle(file)

    async def _whole_chunk(
        self, file: FileRecord, start: int, stop: int, search: Search
    ) -> AsyncGenerator[bytes, None]:
        if start < stop:
            chunk = await self._documents.get(file.object, search, repr(file.path))
            yield chunk[start:stop]

    async def _bytes(
        self, start: int, stop: int, stretches: Sequence[_Stretch], transfer: Transfer | None
    ) -> AsyncGenerator[bytes, None]:
        for stretch in stretches:
            async with aclosing(self._chunks(stretch, stretches, transfer)) as chunks:
                async for data, offset in chunks:
                    low, high = max(start - offset, 0), min(stop - offset, len(data))
                    if low < high:
                        yield bytes(memoryview(data)[low:high])

    async def _plan(self, file: FileRecord, start: int, stop: int, search: Search) -> _Plan:
        """What a range needs, its chunk lists fetched where they are lacking. Raises NoProvider."""
        try:
            return await trio.to_thread.run_sync(self._held_plan, file, start, stop)
        except NotHeld:
            what = f"the chunk list of {file.path!r}"
            await self._documents.hold([file.object], search, what)
            record = await trio.to_thread.run_sync(record_of, self._store, file)
            names = [ref.digest for ref, _ in _covering(record, start, stop)]
            await self._documents.hold(names, search, what)
        return await trio.to_thread.run_sync(self._held_plan, file, start, stop)

    def _held_plan(self, file: FileRecord, start: int, stop: int) -> _Plan:
        """As `_plan`, from the store alone; blocks on the disk. Raises NotHeld."""
        stretches = []
        record = record_of(self._store, file)
        for ref, base in _covering(record, start, stop):
            lengths, offsets = self._list(ref.digest)
            first = max(bisect_right(offsets, start - base) - 1, 0)
            last = bisect_right(offsets, min(stop - base, offsets[-1]) - 1) - 1
            stretches.append(_Stretch(ref.digest, lengths, offsets, first, last + 1, base))
        status = self._store.status(file.object)
        if not stretches or (status is not None and status.state is ObjectState.COMPLETE):
            return _Plan(stretches, [], is_last=False)
        self._store.open_part(file.object)
        status = self._store.status(file.object)
        pages = self._missing(stretches)
        wanted_count = sum(sum(map(bool, lengths)) for _, lengths, _ in pages)
        held_count = 0 if status is None else status.held_chunks
        return _Plan(stretches, pages, is_last=held_count + wanted_count >= record.chunk_count)

    def _list(self, page: Digest) -> tuple[array[int], array[int]]:
        """Lengths and offsets of a segment: as in `_Stretch`. Raises NotHeld."""
        found = self._lists.get(page)
        if found is None:
            segment = Segment.decode(self._store.get(page))
            found = segment.lengths, segment.offsets()
            self._lists.put(page, found, len(segment))
        return found

    def _missing(self, stretches: Sequence[_Stretch]) -> list[MissingPage]:
        found: list[MissingPage] = []
        for stretch in stretches:
            missing = self._store.missing(stretch.page)
            low, high = bisect_left(missing, stretch.first), bisect_left(missing, stretch.stop)
            if low == high:
                continue
            lengths = array("I", bytes(4 * len(stretch.lengths)))
            for index in missing[low:high]:
                lengths[index] = stretch.lengths[index]
            found.append((stretch.page, lengths, bytes((len(lengths) + 7) // 8)))
        return found

    async def _chunks(
        self, stretch: _Stretch, stretches: Sequence[_Stretch], transfer: Transfer | None
    ) -> AsyncGenerator[tuple[bytearray, int], None]:
        """Verified bytes of a stretch in order, with their offset in the file, at most READ_BYTES
        at once.
        """
        entry = stretch.first
        while entry < stretch.stop:
            if transfer is not None:
                _want(transfer.machine, stretches, stretch, entry)
                transfer.wake()
            data, stop = await self._wait_and_read(stretch, entry, transfer)
            yield data, stretch.base + stretch.offsets[entry]
            entry = stop

    async def _wait_and_read(
        self, stretch: _Stretch, entry: int, transfer: Transfer | None
    ) -> tuple[bytearray, int]:
        while True:
            is_all_here = transfer is None or transfer.machine.is_complete
            arrived = transfer.next_arrival() if transfer is not None else None
            try:
                return await trio.to_thread.run_sync(self._read, stretch, entry)
            except (NotHeld, CorruptChunk):
                if arrived is None or is_all_here:
                    raise  # the disk lost what came: nothing more will
            await arrived.wait()

    def _read(self, stretch: _Stretch, entry: int) -> tuple[bytearray, int]:
        """What is here from an entry on, and the entry after it. Raises NotHeld, CorruptChunk."""
        stop = stretch.stop_within(entry, READ_BYTES)
        try:
            reader = self._store.span_reader((Run(stretch.page, entry, stop),))
        except NotHeld:
            missing = self._store.missing(stretch.page)
            stop = min([stop, *missing[bisect_left(missing, entry) :][:1]])
            if stop == entry:
                raise
            reader = self._store.span_reader((Run(stretch.page, entry, stop),))
        data = bytearray(stretch.size_bytes(entry, stop))
        reader.read(0, stop - entry, memoryview(data))
        return data, stop


def _want(machine: Download, stretches: Sequence[_Stretch], current: _Stretch, entry: int) -> None:
    """Tell the machine what the reader needs next, WINDOW_BYTES ahead."""
    now = trio.current_time()
    left_bytes = WINDOW_BYTES
    for stretch in stretches[stretches.index(current) :]:
        first = entry if stretch is current else stretch.first
        stop = stretch.stop_within(first, left_bytes)
        machine.want_first(stretch.page, first, stop, now)
        left_bytes -= stretch.size_bytes(first, stop)
        if left_bytes <= 0:
            return


def _covering(record: ObjectRecord, start: int, stop: int) -> list[tuple[SegmentRef, int]]:
    """The segments with bytes of [start, stop), and where in the file each begins."""
    found, base = [], 0
    for reference in record.segments:
        if base < stop and base + reference.data_size > start:
            found.append((reference, base))
        base += reference.data_size
    return found if start < stop else []


def _file_of(tree: Tree, path: str | None) -> FileRecord:
    if path is None:
        if tree.manifest is None or len(tree.files) == 1:
            return tree.files[0]
        raise NoSuchFile(f"the release holds {len(tree.files)} files: name one of them")
    for file in tree.files:
        if file.path == path:
            return file
    raise NoSuchFile(f"the release holds no file {ascii(path)[:200]}", path=path)
