"""What a store in memory holds: chunks by name, objects with their bits, what is not durable yet.

One lock for everything: speed is no aim.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import count
from threading import RLock

from p2phub.digest import EMPTY, Digest
from p2phub.errors import NotHeld
from p2phub.proto.content import ObjectRecord
from p2phub.store import bits
from p2phub.store.base import CHECKPOINT_BYTES, CHECKPOINT_S, ObjectState
from p2phub.store.objects import StoredObject, segment_rows
from p2phub.store.pages import Page, Pages
from p2phub.store.rows import ObjectRow, SegmentRow


class MemoryHoldings:
    """Everything one store holds."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.chunks: dict[Digest, bytes] = {}  # everything written, whatever lists it
        self.pages = Pages(self.get)
        self.singles: set[Digest] = set()  # documents and files of one chunk, durable
        self.objects: dict[Digest, StoredObject] = {}
        self.small: dict[bytes, Digest] = {}  # by SHA-256
        self._packed: dict[Digest, list[tuple[Digest, int]]] = {}  # singles not yet durable
        self._segments: dict[Digest, list[tuple[StoredObject, SegmentRow]]] = {}
        self._ids = count(1)
        self._waiting_bytes = 0
        self._waiting_since: float | None = None

    # ---- chunks and pages

    def has(self, digest: Digest) -> bool:
        return digest == EMPTY or digest in self.chunks

    def get(self, digest: Digest) -> bytes:
        if digest == EMPTY:
            return b""
        try:
            return self.chunks[digest]
        except KeyError:
            raise NotHeld(f"this node does not hold the chunk {digest.hex()}") from None

    def entries_held(self, name: Digest, *, is_durable: bool) -> bytes | None:
        """Bits of the entries of a page; None if the page itself is not held."""
        with self.lock:
            if name not in self.chunks:
                return None
            page = self.pages.get(name)
            if not page.is_segment:
                names = map(page.digest_of, range(len(page)))
                held = [i for i, name in enumerate(names) if self._is_held(name, is_durable)]
                return bytes(bits.of(held, len(page)))
            found = bytearray(bits.size(len(page)))
            for object, segment in self.places(page):
                some = object.durable_bits(segment) if is_durable else object.written_bits(segment)
                found = bits.union(found, some)
            return bytes(found)

    def holds(self, page: Page, index: int) -> bool:
        """Whether an entry of a page can be read."""
        name = page.digest_of(index)
        if not page.is_segment:
            return self.has(name)
        places = self.places(page)
        return name in self.singles or any(o.holds(s.number, index, index + 1) for o, s in places)

    def _is_held(self, name: Digest, is_durable: bool) -> bool:
        return name == EMPTY or (name in self.singles if is_durable else name in self.chunks)

    # ---- objects

    def places(self, page: Page) -> list[tuple[StoredObject, SegmentRow]]:
        """Every object in which a segment lies."""
        return self._segments.get(page.digest, [])

    def add(self, record: ObjectRecord, name: Digest, state: ObjectState) -> StoredObject:
        segments = segment_rows(record)
        row = ObjectRow(
            next(self._ids), name, record.size, record.sha256, record.chunk_count, state, "part",
            None, None, None,
        )  # fmt: skip
        object = self.objects[name] = StoredObject(row, segments)
        for segment in segments:
            self._segments.setdefault(segment.digest, []).append((object, segment))
        return object

    def forget(self, object: StoredObject) -> None:
        del self.objects[object.row.digest]
        for segment in object.segments:
            self._segments[segment.digest].remove((object, segment))

    def segments_of(self, name: Digest) -> list[Digest] | None:
        object = self.objects.get(name)
        return None if object is None else [segment.digest for segment in object.segments]

    def content(self, object: Digest) -> Iterator[bytes]:
        """The chunks of an object in order, all of which are held."""
        for segment in self.objects[object].segments:
            page = self.pages.get(segment.digest)
            for index in range(len(page)):
                yield self.chunks[page.digest_of(index)]

    # ---- write

    def write(self, page: Page, index: int, data: memoryview) -> None:
        """A verified chunk."""
        with self.lock:
            name = page.digest_of(index)
            self.chunks.setdefault(name, bytes(data))
            self._waiting_bytes += len(data)
            if not page.is_segment:
                self._packed.setdefault(name, []).append((page.digest, index))
            for object, segment in self.places(page):
                if not object.holds(segment.number, index, index + 1):
                    object.mark_written(segment, [index])

    def checkpoint_due(self, now: float) -> bool:
        with self.lock:
            if not self._waiting_bytes:
                self._waiting_since = None
                return False
            if self._waiting_since is None:
                self._waiting_since = now
            is_late = now - self._waiting_since >= CHECKPOINT_S
            return is_late or self._waiting_bytes >= CHECKPOINT_BYTES

    def checkpoint(self) -> list[tuple[Digest, array[int]]]:
        with self.lock:
            done: dict[Digest, set[int]] = {}
            for object in self.objects.values():
                pending, object.pending = object.pending, {}
                object.mark_durable(pending)
                for number, indexes in pending.items():
                    if indexes:
                        done.setdefault(object.segments[number].digest, set()).update(indexes)
            for name, entries in self._packed.items():
                self.singles.add(name)
                for page, index in entries:
                    done.setdefault(page, set()).add(index)
            self._packed = {}
            self._waiting_bytes, self._waiting_since = 0, None
            return [(page, array("I", sorted(indexes))) for page, indexes in done.items()]

    def drop(self, objects: Sequence[StoredObject], singles: set[Digest]) -> None:
        """Hold these no more, nor any chunk that only they needed."""
        for object in objects:
            self.forget(object)
        self.singles -= singles
        self.small = {sha: name for sha, name in self.small.items() if name not in singles}
        kept = self.singles | set(self._packed)
        for object in self.objects.values():
            for segment in object.segments:
                if segment.digest in self.chunks:
                    page = self.pages.get(segment.digest)
                    kept.update(page.digest_of(index) for index in range(len(page)))
        for name in set(self.chunks) - kept:
            del self.chunks[name]
            self.pages.drop(name)
