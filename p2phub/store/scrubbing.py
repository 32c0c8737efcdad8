"""Reading again what lies on the disk, the longest unread first, so that rot is found before the
last good copy elsewhere is gone.

A little at a time: one segment of an object, or one pack. Where it stopped is in the index, so a
restart goes on there. What is wrong is cleared and set aside as by any other read.
"""

from __future__ import annotations

from p2phub.digest import digest
from p2phub.errors import ContentError, CorruptChunk, NotHeld
from p2phub.proto.limits import CHUNK_BYTES_MAX
from p2phub.store.base import ObjectState, Scrubbed
from p2phub.store.holdings import Holdings
from p2phub.store.objects import StoredObject
from p2phub.store.rows import SegmentRow


class Scrubbing:
    """Scrubs one store. For one thread at a time."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    def scrub(self, since_s: float, now_s: float) -> Scrubbed:
        """See `Store.scrub`."""
        index = self._holdings.index
        object, pack = index.oldest_object(since_s), index.oldest_pack(since_s)
        if object is None and pack is None:
            return Scrubbed(0, 0, True)
        if pack is not None and (object is None or pack[1] < object[1]):
            return self._scrub_pack(pack[0], now_s)
        assert object is not None
        id, _, number = object
        found = self._holdings.objects.get(id)
        if found is None:
            return Scrubbed(0, 0, False)  # collected meanwhile
        return self._scrub_object(found, number, now_s)

    def _scrub_object(self, object: StoredObject, number: int, now_s: float) -> Scrubbed:
        read_bytes = damaged = 0
        try:
            if number < len(object.segments):
                read_bytes, damaged = self._scrub_segment(object, object.segments[number])
            elif not object.segments:
                read_bytes = len(self._holdings.get(object.row.digest))
        except CorruptChunk:
            damaged = 1
        except (NotHeld, ContentError):
            # It went, or its chunk list did: the documents are scrubbed with the packs.
            row = object.row
            damaged = int(row.state is ObjectState.CHANGED and row.kind == "data")
        is_last = number + 1 >= len(object.segments)
        with self._holdings.index.transaction() as change:
            change.put_verified(object.row.id, 0 if is_last else number + 1, now_s)
        return Scrubbed(read_bytes, damaged, False)

    def _scrub_segment(self, object: StoredObject, segment: SegmentRow) -> tuple[int, int]:
        """(bytes read, chunks that were wrong)."""
        holdings = self._holdings
        page = holdings.segment_page(segment)
        buffer = memoryview(bytearray(CHUNK_BYTES_MAX))
        read_bytes = damaged = 0
        for index, length in enumerate(page.lengths):
            if not object.holds(segment.number, index, index + 1):
                continue
            view = buffer[:length]
            got = holdings.read(object, segment.offset + page.offsets[index], view)
            if got == length and digest(view) == page.digest_of(index):
                read_bytes += length
            elif object.holds(segment.number, index, index + 1):
                holdings.damaged(object, segment, index, view if got else b"")
                damaged += 1
        return read_bytes, damaged

    def _scrub_pack(self, number: int, now_s: float) -> Scrubbed:
        read_bytes = damaged = 0
        for name, location in self._holdings.index.chunks_in(number):
            try:
                if self._holdings.packed(name, location) is None:
                    damaged += 1
                read_bytes += location.length
            except NotHeld:
                continue  # collected meanwhile
        with self._holdings.index.transaction() as change:
            change.put_verified_pack(number, now_s)
        return Scrubbed(read_bytes, damaged, False)
