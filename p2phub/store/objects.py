"""One object in memory: which of its chunks are written, which durable, and where its file is.

Does no I/O. All changing state of one object is guarded by its own `lock`; there is at most one
`StoredObject` per object in a process, so what one thread writes another may read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import count
from threading import Condition, Lock
from typing import TYPE_CHECKING

from p2phub.errors import MalformedDocument
from p2phub.proto.content import ObjectRecord
from p2phub.store import bits
from p2phub.store.base import ObjectState
from p2phub.store.rows import ObjectRow, SegmentRow

if TYPE_CHECKING:
    from p2phub.store.hashing import PrefixHash

_WHOLE = (ObjectState.COMPLETE, ObjectState.CONDEMNED)
file_keys = count(1)  # names of open files, never used twice


class StoredObject:
    """An object's row, its segments and its bits."""

    def __init__(
        self, row: ObjectRow, segments: list[SegmentRow], held: dict[int, bytes] | None = None
    ) -> None:
        self.row = row
        self.segments = segments
        self.lock = Condition(Lock())
        self.file_key = next(file_keys)  # changes whenever another file takes the place of this one
        self.writer: int | None = None  # descriptor of the part while it is written to
        self.writing = 0  # threads inside a write
        self.is_closing = False  # no more writes: it is being finished or dropped
        # Invariant: durable <= written, and written - durable == pending. Empty if whole or
        # changed.
        self.written = {number: bytearray(some) for number, some in (held or {}).items()}
        self.durable = {number: bytearray(some) for number, some in (held or {}).items()}
        self.pending: dict[int, list[int]] = {}
        self.namings = 0  # who gives the file more names now: its time of change is not its own
        self.prefix: PrefixHash | None = None  # of a part: what is hashed of it so far
        self._first_chunks = [segment.first_chunk for segment in segments]

    @property
    def is_whole(self) -> bool:
        """Whether every chunk is held."""
        return self.row.state in _WHOLE

    def segment_of(self, chunk: int) -> SegmentRow:
        """The segment that chunk number `chunk` of the object is in."""
        return self.segments[bisect_right(self._first_chunks, chunk) - 1]

    def holds(self, number: int, start: int, stop: int) -> bool:
        """Whether the chunks [start, stop) of segment `number` are written."""
        if self.row.state is not ObjectState.PARTIAL:
            return self.is_whole
        some = self.written.get(number)
        return some is not None and bits.all_set(some, start, stop)

    def written_bits(self, segment: SegmentRow) -> bytes | bytearray:
        return self._bits(self.written, segment)

    def durable_bits(self, segment: SegmentRow) -> bytes | bytearray:
        return self._bits(self.durable, segment)

    def has_all(self) -> bool:
        """Whether every chunk is durable."""
        return self.is_whole or all(
            segment.number in self.durable
            and bits.all_set(self.durable[segment.number], 0, segment.chunk_count)
            for segment in self.segments
        )

    def mark_written(self, segment: SegmentRow, indexes: Iterable[int]) -> None:
        """With the lock held: these chunks' bytes are with the operating system."""
        some = self.written.setdefault(segment.number, bytearray(bits.size(segment.chunk_count)))
        waiting = self.pending.setdefault(segment.number, [])
        for index in indexes:
            if not bits.get(some, index):
                bits.put(some, index)
                waiting.append(index)

    def mark_durable(self, pending: dict[int, list[int]]) -> None:
        """With the lock held: the index has these."""
        for number, indexes in pending.items():
            segment = self.segments[number]
            some = self.durable.setdefault(number, bytearray(bits.size(segment.chunk_count)))
            for index in indexes:
                bits.put(some, index)

    def forget_pending(self, pending: dict[int, list[int]]) -> None:
        """With the lock held: these, and all written since, may be gone."""
        for waiting in (pending, self.pending):
            for number, indexes in waiting.items():
                for index in indexes:
                    bits.clear(self.written[number], index)
        self.pending = {}

    def clear_chunk(self, segment: SegmentRow, index: int) -> None:
        """With the lock held: this chunk's bytes are not what they were.

        A whole object becomes a partial one.
        """
        if self.is_whole:
            self.written = {s.number: bits.full(s.chunk_count) for s in self.segments}
            self.durable = {s.number: bits.full(s.chunk_count) for s in self.segments}
        for held in (self.written, self.durable):
            if segment.number in held:
                bits.clear(held[segment.number], index)
        waiting = self.pending.get(segment.number, [])
        if index in waiting:
            waiting.remove(index)

    def held(self) -> tuple[int, int]:
        """Chunks written, and about how many bytes: exact where a segment is held whole."""
        if self.row.state is not ObjectState.PARTIAL:
            return (self.row.chunk_count, self.row.size) if self.is_whole else (0, 0)
        chunks = size = 0
        for segment in self.segments:
            some = bits.count(self.written.get(segment.number, b""))
            chunks += some
            size += segment.data_size * some // segment.chunk_count
        return chunks, size

    def _bits(self, held: dict[int, bytearray], segment: SegmentRow) -> bytes | bytearray:
        if self.row.state is not ObjectState.PARTIAL:
            count = segment.chunk_count
            return bits.full(count) if self.is_whole else bytes(bits.size(count))
        return held.get(segment.number) or bytes(bits.size(segment.chunk_count))


def segment_rows(record: ObjectRecord) -> list[SegmentRow]:
    """Where each segment of an object begins.

    Raises MalformedDocument if one is listed with nothing in it.
    """
    rows = []
    first_chunk = offset = 0
    for number, ref in enumerate(record.segments):
        if not ref.chunk_count:
            raise MalformedDocument("an object lists an empty segment")
        rows.append(
            SegmentRow(number, ref.digest, first_chunk, offset, ref.chunk_count, ref.data_size)
        )
        first_chunk += ref.chunk_count
        offset += ref.data_size
    return rows
