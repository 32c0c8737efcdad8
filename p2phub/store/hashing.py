"""The SHA-256 of a file while it is still arriving: of the stretch that is written without a gap
from its start.

Hashing beside the download uses a core that would wait, and reads bytes that are still in memory;
at the end only the rest is left. Where no core would wait it is better left for the end: readers
need chunks, not sums. `core_wait_s` tells. Nothing is believed of it: if the sum is not what the
record says, `finish` reads the whole file again before it condemns anybody.
"""

from __future__ import annotations

from threading import Lock

from p2phub.digest import Sha256
from p2phub.errors import NotHeld
from p2phub.store import bits
from p2phub.store.holdings import Holdings
from p2phub.store.objects import StoredObject

READ_BYTES = 1 << 20  # at a time: large enough for the disk, small enough to stay in the cache


def core_wait_s() -> float:
    """How long the calling thread was ready to run so far and had no core; 0.0 where the system
    does not say.

    A low priority would do as much, were there no interpreter lock: who holds it must not wait
    behind others. Source: Linux, Documentation/scheduler/sched-stats.rst.
    """
    try:
        with open("/proc/thread-self/schedstat", "rb", buffering=0) as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class PrefixHash:
    """How far one object's file is hashed. Thread-safe; one thread hashes at a time."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.sha256 = Sha256()
        self.offset = 0  # bytes hashed so far
        self._segment = 0  # where the next chunk is listed
        self._index = 0

    def advance(self, holdings: Holdings, object: StoredObject, size_max: int) -> int:
        """Hash up to about `size_max` bytes more of what is written; how many. 0: nothing to do, or
        another thread is at it.
        """
        if not self.lock.acquire(blocking=False):
            return 0
        try:
            begin, buffer = self.offset, memoryview(b"")
            while self.offset - begin < size_max:
                size = self._stretch(holdings, object)
                if not size:
                    break
                buffer = buffer or memoryview(bytearray(READ_BYTES))
                view = buffer[:size]
                if holdings.read(object, self.offset - size, view) < size:
                    self.offset -= size  # the file was moved under us: `finish` hashes from here
                    raise NotHeld("a part was cut short")
                self.sha256.update(view)
            return self.offset - begin
        finally:
            self.lock.release()

    def _stretch(self, holdings: Holdings, object: StoredObject) -> int:
        """Step over the next written chunks, READ_BYTES or one chunk; how many bytes they have."""
        size = 0
        while self._segment < len(object.segments):
            segment = object.segments[self._segment]
            lengths = holdings.segment_page(segment).lengths
            written = object.written_bits(segment)
            while self._index < len(lengths) and bits.get(written, self._index):
                if size and size + lengths[self._index] > READ_BYTES:
                    break
                size += lengths[self._index]
                self._index += 1
            if size or self._index < len(lengths):
                break
            self._segment, self._index = self._segment + 1, 0
        self.offset += size
        return size
