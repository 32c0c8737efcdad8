"""Buffers for whole frames, from one pool, so that however many channels live, memory has a bound.

A buffer is held only while a frame is read, filled or verified, never while a channel waits for
one. A few idle buffers are kept warm; the others go back to the operating system at once.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from p2phub.errors import NetworkError
from p2phub.proto.limits import (
    LANE_BUFFERS_BYTES_MAX,
    LANE_PATIENCE_S,
    LANE_TICK_S,
    PAYLOAD_BYTES_MAX,
)

IDLE_BUFFERS_MAX = 4  # what two fast lanes at each end use; 4 MiB


class BufferPool:
    """Lends buffers of PAYLOAD_BYTES_MAX bytes; at most `size_bytes_max` are lent at any time."""

    def __init__(self, size_bytes_max: int = LANE_BUFFERS_BYTES_MAX) -> None:
        assert size_bytes_max >= PAYLOAD_BYTES_MAX
        self._permits = threading.Semaphore(size_bytes_max // PAYLOAD_BYTES_MAX)
        self._lock = threading.Lock()
        self._idle: list[mmap.mmap] = []
        self._lent_count = 0

    @property
    def lent_bytes(self) -> int:
        """Memory in use now."""
        return self._lent_count * PAYLOAD_BYTES_MAX

    @contextmanager
    def lend(self, check: Callable[[], None] | None = None) -> Iterator[memoryview]:
        """A buffer for the length of the block; keep no view of it. Blocks while all are lent.

        check: called about once per LANE_TICK_S of waiting; what it raises ends the wait.
        Raises NetworkError when none comes back in LANE_PATIENCE_S: slow peers hold them all.
        """
        self._wait(check)
        try:
            buffer = self._take()
            with memoryview(buffer) as view:
                yield view
            self._put_back(buffer)
        finally:
            with self._lock:
                self._lent_count -= 1
            self._permits.release()

    def _wait(self, check: Callable[[], None] | None) -> None:
        waited_s = 0.0
        while not self._permits.acquire(timeout=LANE_TICK_S / 2):
            waited_s += LANE_TICK_S / 2
            if check is not None:
                check()
            if waited_s >= LANE_PATIENCE_S:
                raise NetworkError("all transfer buffers are held by slow peers")

    def _take(self) -> mmap.mmap:
        with self._lock:
            self._lent_count += 1
            if self._idle:
                return self._idle.pop()
        return mmap.mmap(-1, PAYLOAD_BYTES_MAX)

    def _put_back(self, buffer: mmap.mmap) -> None:
        with self._lock:
            if len(self._idle) < IDLE_BUFFERS_MAX:
                self._idle.append(buffer)
        # Otherwise it is unmapped when its last view goes.
