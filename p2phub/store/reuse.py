"""Taking what a new object needs from what is here already, before any peer is asked.

What a killed process wrote to the object's own part, and did not come to note, is taken first. Then
a segment that another object has too is taken whole. Else the chunk index, which knows every large
chunk and a sample of the small ones, gives a first hit; from there the chunks before and after it
are compared with those around it in the other object, and taken for as long as they are the same.
Every chunk is verified on its way.
"""

from __future__ import annotations

import os

from p2phub.digest import digest
from p2phub.errors import ContentError, NotHeld, StoreError
from p2phub.store import bits
from p2phub.store.holdings import Holdings
from p2phub.store.objects import StoredObject
from p2phub.store.pages import Page
from p2phub.store.parts import Parts
from p2phub.store.rows import SegmentRow, sample_key
from p2phub.store.sampling import sampled

COPY_BYTES = 4 << 20  # read, verified and written at once
CHECKPOINT_BYTES = 64 << 20  # of copies between two syncs: what a crash loses is copied again


class Reuse:
    """One object being filled from the others."""

    def __init__(self, holdings: Holdings, parts: Parts, object: StoredObject) -> None:
        self._holdings = holdings
        self._parts = parts
        self._object = object
        self._found = 0  # bytes
        self._unsynced = 0  # bytes
        self._buffer = memoryview(bytearray(COPY_BYTES))

    def run(self) -> int:
        """Bytes of the object's content that were found; all of it durable."""
        for segment in self._object.segments:
            if self._object.holds(segment.number, 0, segment.chunk_count):
                continue
            try:
                page = self._holdings.segment_page(segment)
            except (StoreError, ContentError):
                continue  # not fetched yet
            self._left_over(segment, page)
            self._same_segment(segment, page)
            self._similar(segment, page)
            self._singles(segment, page)
        self._parts.sync()
        return self._found

    def _left_over(self, segment: SegmentRow, page: Page) -> None:
        """Right chunks that lie in the part already.

        They are written once more: after a failed sync the system may show bytes that the disk
        never had, and only what is written after that can be synced and believed.
        """
        wanted = self._written(segment, page)
        for start, stop in _runs(wanted):
            while start < stop:
                end = _batch_end(page, start, stop)
                view = self._buffer[: page.offsets[end] - page.offsets[start]]
                try:
                    size = self._holdings.read(
                        self._object, segment.offset + page.offsets[start], view
                    )
                except NotHeld:
                    return
                right = [i for i in range(start, end) if _is_right(page, i, start, view[:size])]
                for first, last in _runs(right):
                    base = page.offsets[start]
                    found = view[page.offsets[first] - base : page.offsets[last] - base]
                    self._put(segment, page, first, last, found)
                start = end

    def _written(self, segment: SegmentRow, page: Page) -> list[int]:
        """Missing entries of a segment for which the part has bytes that somebody wrote."""
        files, path = self._holdings.files, self._holdings.path(self._object)
        try:
            file = files.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return []
        try:
            end = segment.offset + page.offsets[len(page)]
            ranges = files.written_ranges(file, segment.offset, end, path)
        finally:
            files.close(file)
        wanted: list[int] = []
        at = 0
        for index in self._missing(segment):
            low, high = (segment.offset + page.offsets[index + number] for number in (0, 1))
            while at < len(ranges) and ranges[at][1] <= low:
                at += 1
            if at < len(ranges) and ranges[at][0] < high:
                wanted.append(index)
        return wanted

    def _same_segment(self, segment: SegmentRow, page: Page) -> None:
        for other, row in self._holdings.objects.places(segment.digest):
            if other is self._object or row.chunk_count != segment.chunk_count:
                continue
            missing = self._missing(segment)
            wanted = [index for index in missing if other.holds(row.number, index, index + 1)]
            for start, stop in _runs(wanted):
                self._copy(segment, page, start, stop, other, row, start)

    def _similar(self, segment: SegmentRow, page: Page) -> None:
        missing = self._missing(segment)
        listed = sampled(page.digests, page.lengths, missing)
        candidates = self._holdings.index.samples([page.digest_of(index) for index in listed])
        for index in listed:
            for id, chunk in candidates.get(sample_key(page.digest_of(index)), ()):
                if self._object.holds(segment.number, index, index + 1):
                    break
                other = self._holdings.objects.get(id)
                if other is not None and other.segments:
                    self._around(segment, page, index, other, chunk)

    def _around(
        self, segment: SegmentRow, page: Page, index: int, other: StoredObject, chunk: int
    ) -> None:
        """Take the chunk at `index`, if chunk number `chunk` of `other` is the same, and its like
        neighbours.
        """
        if not self._is_same(segment, page, index, other, chunk):
            return
        start, stop = index, index + 1
        while start > 0 and self._is_same(
            segment, page, start - 1, other, chunk - (index - start) - 1
        ):
            start -= 1
        while stop < len(page) and self._is_same(segment, page, stop, other, chunk + stop - index):
            stop += 1
        shift = chunk - index
        while start < stop:
            row = other.segment_of(start + shift)
            at = start + shift - row.first_chunk
            count = min(stop - start, row.chunk_count - at)
            self._copy(segment, page, start, start + count, other, row, at)
            start += count

    def _is_same(
        self, segment: SegmentRow, page: Page, index: int, other: StoredObject, chunk: int
    ) -> bool:
        if not 0 <= chunk < other.row.chunk_count:
            return False
        row = other.segment_of(chunk)
        at = chunk - row.first_chunk
        if not other.holds(row.number, at, at + 1):
            return False
        if self._object.holds(segment.number, index, index + 1):
            return False
        try:
            theirs = self._holdings.segment_page(row)
        except (StoreError, ContentError):
            return False
        return theirs.digest_of(at) == page.digest_of(index)

    def _singles(self, segment: SegmentRow, page: Page) -> None:
        """Chunks that are files of their own."""
        names = {page.digest_of(index): index for index in self._missing(segment)}
        for name in self._holdings.has(list(names), is_durable=False):
            index = names[name]
            try:
                data = self._holdings.get(name)
            except StoreError:
                continue
            self._put(segment, page, index, index + 1, memoryview(data))

    def _copy(
        self,
        segment: SegmentRow,
        page: Page,
        start: int,
        stop: int,
        other: StoredObject,
        row: SegmentRow,
        at: int,
    ) -> None:
        """Chunks [start, stop) of our page, which lie from entry `at` on in a segment of another
        object.
        """
        try:
            theirs = self._holdings.segment_page(row)
            while start < stop:
                end = _batch_end(page, start, stop)
                view = self._buffer[: page.offsets[end] - page.offsets[start]]
                self._holdings.read(other, row.offset + theirs.offsets[at], view)
                right = self._count_right(page, start, end, view)
                self._put(
                    segment, page, start, right, view[: page.offsets[right] - page.offsets[start]]
                )
                if right < end:
                    offset = page.offsets[right] - page.offsets[start]
                    bad = view[offset : offset + page.lengths[right]]
                    self._holdings.damaged(other, row, at + right - start, bad)
                    right += 1
                at += right - start
                start = right
        except NotHeld:
            return  # the file of the other object changed: peers have the rest

    def _count_right(self, page: Page, start: int, stop: int, data: memoryview) -> int:
        """The first entry from `start` on whose bytes are not what the page says, or `stop`."""
        for index in range(start, stop):
            if not _is_right(page, index, start, data):
                return index
        return stop

    def _put(
        self, segment: SegmentRow, page: Page, start: int, stop: int, data: memoryview
    ) -> None:
        if start == stop:
            return
        offset = segment.offset + page.offsets[start]
        self._parts.write(self._object, segment, start, stop, offset, data)
        self._found += len(data)
        self._unsynced += len(data)
        if self._unsynced >= CHECKPOINT_BYTES:
            self._parts.sync()
            self._unsynced = 0

    def _missing(self, segment: SegmentRow) -> list[int]:
        return list(bits.unset(self._object.written_bits(segment), segment.chunk_count))


def _is_right(page: Page, index: int, first: int, data: memoryview) -> bool:
    """Whether a chunk is what the page says; data: of the entries from `first` on."""
    base = page.offsets[first]
    chunk = data[page.offsets[index] - base : page.offsets[index + 1] - base]
    return digest(chunk) == page.digest_of(index)


def _batch_end(page: Page, start: int, stop: int) -> int:
    """How far towards `stop` the entries from `start` on fit the buffer."""
    end = start
    while end < stop and page.offsets[end + 1] - page.offsets[start] <= COPY_BYTES:
        end += 1
    return end


def _runs(indexes: list[int]) -> list[tuple[int, int]]:
    """Rising indexes as half-open ranges."""
    runs: list[tuple[int, int]] = []
    for index in indexes:
        if runs and runs[-1][1] == index:
            runs[-1] = runs[-1][0], index + 1
        else:
            runs.append((index, index + 1))
    return runs
