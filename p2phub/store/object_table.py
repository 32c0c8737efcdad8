"""The objects of an index in memory: one `StoredObject` for each, whoever asks (an identity map).

What is in use stays; of what is not, the most recently used. Safe from any thread.
Source: Fowler, Patterns of Enterprise Application Architecture, Identity Map.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple
from weakref import WeakValueDictionary

from p2phub.digest import Digest
from p2phub.store.base import ObjectState
from p2phub.store.cache import Cache
from p2phub.store.index import Index
from p2phub.store.objects import StoredObject
from p2phub.store.rows import SegmentRow

OBJECTS_MAX = 4096  # objects remembered beyond those in use: a few kilobytes each
PLACES_MAX = 16384  # segments whose places are remembered


class Place(NamedTuple):
    """A segment in an object's file."""

    object: StoredObject
    segment: SegmentRow


class ObjectTable:
    """The objects of one store."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._objects: WeakValueDictionary[int, StoredObject] = WeakValueDictionary()
        self._recent: Cache[int, StoredObject] = Cache(OBJECTS_MAX)
        self._ids: Cache[Digest, int] = Cache(OBJECTS_MAX)
        self._places: Cache[Digest, tuple[tuple[int, int], ...]] = Cache(PLACES_MAX)
        self._places_version = 0
        self._lock = Lock()

    def get(self, id: int) -> StoredObject | None:
        """None if there is no such row any more."""
        with self._lock:
            object = self._objects.get(id)
            if object is None:
                row = self._index.object(id)
                if row is None:
                    return None
                segments = self._index.segments_of(id)
                held = self._index.bits_of(id) if row.state is ObjectState.PARTIAL else None
                object = self._objects[id] = StoredObject(row, segments, held)
        self._recent.put(id, object)
        return object

    def named(self, name: Digest) -> StoredObject | None:
        id = self._ids.get(name)
        if id is None:
            row = self._index.object_named(name)
            if row is None:
                return None
            id = row.id
            self._ids.put(name, id)
        return self.get(id)

    def added(self, name: Digest, segments: Sequence[SegmentRow]) -> None:
        """The index has a new object, or one less: forget what was remembered of it."""
        with self._lock:
            self._places_version += 1
        self._ids.drop(name)
        for segment in segments:
            self._places.drop(segment.digest)

    def dropped(self, object: StoredObject) -> None:
        """The index has this object no more."""
        with self._lock:
            self._objects.pop(object.row.id, None)
        self._recent.drop(object.row.id)
        self.added(object.row.digest, object.segments)

    def places(self, segment: Digest) -> list[Place]:
        """Every object in which a segment lies, those that are whole first."""
        rows = self._places.get(segment)
        if rows is None:
            version = self._places_version
            rows = tuple(self._index.with_segment(segment))
            with self._lock:
                if version == self._places_version:
                    self._places.put(segment, rows)
        found = []
        for id, number in rows:
            object = self.get(id)
            if object is not None:
                found.append(Place(object, object.segments[number]))
        if len(found) > 1:
            found.sort(key=lambda place: not place.object.is_whole)
        return found
