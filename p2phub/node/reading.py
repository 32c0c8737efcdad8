"""Reading a range of a file that may not be here yet: the chunks it needs are fetched first, the
first one first.

Bytes go out as soon as their chunks are verified; nothing waits for the rest of the file. What was
fetched stays, so that a reader who comes back pays nothing.
"""

from __future__ import annotations

import random
from array import array
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from p2phub.core.swarm.download import Download
from p2phub.digest import Digest
from p2phub.errors import CorruptChunk, NoSuchFile, NotHeld, UsageError
from p2phub.net.base import Network
from p2phub.node.channels import Channels
from p2phub.node.documents import Documents
from p2phub.node.downloads import Transfer, download_of
from p2phub.node.resolving import Resolver
from p2phub.node.search import Search
from p2phub.node.tasks import open_tasks
from p2phub.node.trees import Tree, keeping, load_tree, record_of
from p2phub.node.watching import Watches
from p2phub.proto.content import ObjectRecord, Segment, SegmentRef
from p2phub.proto.limits import CHUNK_BYTES_MAX
from p2phub.proto.manifest import FileRecord
from p2phub.proto.messages import Run
from p2phub.proto.names import Reference
from p2phub.store.base import ObjectState, Store

RECENT_S = 60.0  # metadata this young is good enough for a reader
WINDOW_BYTES = 32 << 20  # ahead of the reader, asked for before all else
READ_BYTES = CHUNK_BYTES_MAX  # handed out at once


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The entries of one segment that a range needs."""

    page: Digest
    segment: Segment
    first: int
    stop: int  # half-open
    offset: int  # in the file, of entry `first`


class Reading:
    """Readers of one node."""

    def __init__(
        self,
        *,
        network: Network,
        store: Store,
        documents: Documents,
        resolver: Resolver,
        channels: Channels,
        rng: random.Random,
        watches: Watches,
    ) -> None:
        self._network = network
        self._store = store
        self._documents = documents
        self._resolver = resolver
        self._channels = channels
        self._rng = rng
        self._watches = watches

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
        async with (
            self._resolver.open(reference, peers, recent_s=RECENT_S) as (resolved, search),
            keeping(self._store, resolved.digest),
        ):
            tree = await load_tree(
                resolved.digest, self._documents, self._store, search, resolved.text
            )
            file = _file_of(tree, path)
            end = file.size if stop is None else min(stop, file.size)
            begin = min(start, end)
            if not file.has_record:
                yield self._whole_chunk(file, begin, end, search)
                return
            stretches = await self._stretches(file, begin, end, search) if begin < end else []
            transfer = await self._transfer(tree, file, stretches, search)
            async with open_tasks() as nursery:
                if transfer is not None:
                    nursery.start_soon(transfer.run)
                yield self._bytes(begin, end, stretches, transfer)
                nursery.cancel_scope.cancel()
            if transfer is not None:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._settle, file)

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
            async for data, offset in self._chunks(stretch, stretches, transfer):
                low, high = max(start - offset, 0), min(stop - offset, len(data))
                if low < high:
                    yield data[low:high]

    async def _stretches(
        self, file: FileRecord, start: int, stop: int, search: Search
    ) -> list[_Stretch]:
        """The segments that cover [start, stop), held, and which of their entries are needed."""
        what = f"the chunk list of {file.path!r}"
        await self._documents.hold([file.object], search, what)
        record = await trio.to_thread.run_sync(record_of, self._store, file)
        covering = [
            (ref, base)
            for ref, base in _bases(record)
            if base < stop and base + ref.data_size > start
        ]
        await self._documents.hold([ref.digest for ref, _ in covering], search, what)
        found = []
        for ref, base in covering:
            segment = Segment.decode(await trio.to_thread.run_sync(self._store.get, ref.digest))
            offsets = segment.offsets()
            first = max(bisect_right(offsets, start - base) - 1, 0)
            last = bisect_right(offsets, min(stop - base, offsets[-1]) - 1) - 1
            found.append(_Stretch(ref.digest, segment, first, last + 1, base + offsets[first]))
        return found

    async def _transfer(
        self, tree: Tree, file: FileRecord, stretches: Sequence[_Stretch], search: Search
    ) -> Transfer | None:
        """What fetches the missing chunks; None if nothing is missing."""
        pages = await trio.to_thread.run_sync(self._missing, file, stretches)
        if not pages:
            return None
        return Transfer(
            swarm=tree.digest,
            machine=download_of(pages, random.Random(self._rng.getrandbits(64))),
            search=search,
            network=self._network,
            store=self._store,
            channels=self._channels,
            watches=self._watches,
        )

    def _missing(
        self, file: FileRecord, stretches: Sequence[_Stretch]
    ) -> list[tuple[Digest, array[int], bytes]]:
        status = self._store.status(file.object)
        if status is not None and status.state is ObjectState.COMPLETE:
            return []
        self._store.open_part(file.object)
        found = []
        for stretch in stretches:
            missing = self._store.missing(stretch.page)
            wanted = {index for index in missing if stretch.first <= index < stretch.stop}
            if not wanted:
                continue
            lengths = array("I", bytes(4 * len(stretch.segment)))
            bits = bytearray((len(lengths) + 7) // 8)
            for index in range(stretch.first, stretch.stop):
                lengths[index] = stretch.segment.lengths[index]
                if index not in wanted:
                    bits[index >> 3] |= 0x80 >> (index & 7)
            found.append((stretch.page, lengths, bytes(bits)))
        return found

    async def _chunks(
        self, stretch: _Stretch, stretches: Sequence[_Stretch], transfer: Transfer | None
    ) -> AsyncGenerator[tuple[bytes, int], None]:
        """Verified bytes of a stretch in order, with their offset in the file, at most READ_BYTES
        at once.
        """
        entry, offset = stretch.first, stretch.offset
        lengths = stretch.segment.lengths
        while entry < stretch.stop:
            stop, size = entry, 0
            while stop < stretch.stop and (size == 0 or size + lengths[stop] <= READ_BYTES):
                size += lengths[stop]
                stop += 1
            if transfer is not None:
                _want(transfer.machine, stretches, stretch, entry)
                transfer.wake()
            data = await self._wait_and_read(Run(stretch.page, entry, stop), size, transfer)
            yield data, offset
            entry, offset = stop, offset + size

    async def _wait_and_read(self, run: Run, size: int, transfer: Transfer | None) -> bytes:
        while True:
            is_all_here = transfer is None or transfer.machine.is_complete
            arrived = transfer.next_arrival() if transfer is not None else None
            try:
                return await trio.to_thread.run_sync(self._read, run, size)
            except (NotHeld, CorruptChunk):
                if arrived is None or is_all_here:
                    raise  # the disk lost what came: nothing more will
            await arrived.wait()

    def _read(self, run: Run, size: int) -> bytes:
        buffer = bytearray(size)
        self._store.span_reader((run,)).read(0, len(run), memoryview(buffer))
        return bytes(buffer)

    def _settle(self, file: FileRecord) -> None:
        """Make what was fetched durable; an object that is whole now becomes complete."""
        self._store.checkpoint()
        status = self._store.status(file.object)
        if (
            status is not None
            and status.state is ObjectState.PARTIAL
            and status.held_chunks == status.chunk_count
        ):
            self._store.finish(file.object)


def _want(machine: Download, stretches: Sequence[_Stretch], current: _Stretch, entry: int) -> None:
    """Tell the machine what the reader needs next, WINDOW_BYTES ahead."""
    now = trio.current_time()
    left_bytes = WINDOW_BYTES
    for stretch in stretches[stretches.index(current) :]:
        first = entry if stretch is current else stretch.first
        stop = first
        while stop < stretch.stop and left_bytes > 0:
            left_bytes -= stretch.segment.lengths[stop]
            stop += 1
        if first < stop:
            machine.want_first(stretch.page, first, stop, now)
        if left_bytes <= 0:
            return


def _bases(record: ObjectRecord) -> list[tuple[SegmentRef, int]]:
    found, base = [], 0
    for reference in record.segments:
        found.append((reference, base))
        base += reference.data_size
    return found


def _file_of(tree: Tree, path: str | None) -> FileRecord:
    if path is None:
        if tree.manifest is None or len(tree.files) == 1:
            return tree.files[0]
        raise NoSuchFile(f"the release holds {len(tree.files)} files: name one of them")
    for file in tree.files:
        if file.path == path:
            return file
    raise NoSuchFile(f"the release holds no file {ascii(path)[:200]}", path=path)
