"""The spans of one byte channel: what a receiver may accept next, and how a sender cuts what it
sends.

Shared by lanes, which are threads, and span streams, which are tasks. Knows frames and counts,
moves no bytes: those go straight between the channel's buffer and the `read` and `write` of a
span, which verify each chunk.

Source: SPEC.md section 8.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from p2phub.errors import ProtocolViolation, StoreError
from p2phub.proto.frames import NOT_HELD, PayloadHeader
from p2phub.proto.limits import LANE_FORGOTTEN_MAX, LANE_SPANS_MAX, PAYLOAD_BYTES_MAX

MoveChunks = Callable[[int, int, memoryview], None]  # chunks [first, stop) and their bytes


@dataclass(frozen=True, slots=True)
class IncomingSpan:
    """A span that was requested and is to be received."""

    request_id: int
    lengths: array[int]  # bytes of each chunk, in span order
    write: MoveChunks  # verifies, then writes; raises WrongChunk or StoreError


@dataclass(frozen=True, slots=True)
class OutgoingSpan:
    """A span that a peer requested."""

    request_id: int
    lengths: array[int]  # bytes of each chunk, in span order
    read: MoveChunks  # fills the view with verified chunks; raises StoreError


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a frame's header announces. Without a span, its payload is to be read and dropped."""

    request_id: int
    first: int
    stop: int  # half-open; equal to `first` where the peer stops the span
    size_bytes: int
    write: MoveChunks | None  # None: a span that was cancelled


class IncomingSpans:
    """Spans that a channel expects. Thread-safe: one thread asks, others receive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._expected: dict[int, _Incoming] = {}
        self._forgotten: dict[int, int] = {}  # request id: bytes that may still come

    def __len__(self) -> int:
        return len(self._expected)

    def expect(self, span: IncomingSpan) -> None:
        """Accept the frames of `span`. To be called before the request is sent."""
        assert len(span.lengths) > 0
        with self._lock:
            assert span.request_id not in self._expected
            assert len(self._expected) < LANE_SPANS_MAX
            self._expected[span.request_id] = _Incoming(span)

    def forget(self, request_id: int) -> None:
        """Drop what still comes of this span. A write already begun completes and is reported."""
        with self._lock:
            incoming = self._expected.pop(request_id, None)
            if incoming is None:
                return
            self._forgotten[request_id] = incoming.left_bytes
            while len(self._forgotten) > LANE_FORGOTTEN_MAX:
                self._forgotten.pop(next(iter(self._forgotten)))

    def arrive(self, header: PayloadHeader) -> Arrival:
        """What the frame with this header holds.

        Raises ProtocolViolation if it may not come now.
        """
        id, first, size = header.request_id, header.first_chunk, header.length
        with self._lock:
            incoming = self._expected.get(id)
            if incoming is None:
                return self._arrive_late(header)
            # Two strands of a lane might bring the same chunks at once; one span has one writer.
            if first != incoming.next_chunk or incoming.is_arriving:
                raise ProtocolViolation(
                    f"a span's chunk {first} came where {incoming.next_chunk} was due", request=id
                )
            if size == NOT_HELD:
                del self._expected[id]
                return Arrival(id, first, first, 0, incoming.write)
            incoming.is_arriving = True
            return Arrival(id, first, incoming.stop_of(first, size), size, incoming.write)

    def complete(self, arrival: Arrival) -> bool:
        """The chunks of `arrival` are written; whether they were the last of their span."""
        with self._lock:
            incoming = self._expected.get(arrival.request_id)
            if incoming is None:  # Forgotten during the write.
                if arrival.request_id in self._forgotten:
                    self._owe_less(arrival.request_id, arrival.size_bytes)
                return False
            incoming.next_chunk, incoming.is_arriving = arrival.stop, False
            if incoming.left_bytes:
                return False
            del self._expected[arrival.request_id]
            return True

    def _arrive_late(self, header: PayloadHeader) -> Arrival:
        id = header.request_id
        size = 0 if header.length == NOT_HELD else header.length
        if size > self._forgotten.get(id, -1):
            raise ProtocolViolation("bytes came that nobody asked for", request=id)
        if header.length == NOT_HELD:
            del self._forgotten[id]
        else:
            self._owe_less(id, size)
        return Arrival(id, header.first_chunk, header.first_chunk, size, None)

    def _owe_less(self, id: int, size: int) -> None:
        self._forgotten[id] -= size
        if self._forgotten[id] <= 0:
            del self._forgotten[id]


class _Incoming:
    """How far one expected span has come."""

    __slots__ = ("_starts", "is_arriving", "next_chunk", "write")

    def __init__(self, span: IncomingSpan) -> None:
        self._starts = array("Q", accumulate(span.lengths, initial=0))
        self.write = span.write
        self.next_chunk = 0
        self.is_arriving = False  # a frame of it is being received and written

    @property
    def left_bytes(self) -> int:
        return self._starts[-1] - self._starts[self.next_chunk]

    def stop_of(self, first: int, size: int) -> int:
        """The chunk after the last one of a frame of `size` bytes. Raises ProtocolViolation."""
        end = self._starts[first] + size
        stop = bisect_left(self._starts, end, first + 1)
        if stop == len(self._starts):
            raise ProtocolViolation("a frame holds more than was asked for")
        if self._starts[stop] != end:
            raise ProtocolViolation("a frame ends inside a chunk")
        return stop


class OutgoingSpans:
    """Spans that a channel is to send, first come first served; filled by one thread, sent by
    another.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._queue: deque[OutgoingSpan] = deque()
        self._under_way: dict[int, bool] = {}  # request id of a span being sent: is it cancelled?
        self._cancelled: deque[int] = deque()  # taken from the queue; their peer is to be told

    def __len__(self) -> int:
        """Spans to send or to say a last word about."""
        return len(self._queue) + len(self._cancelled)

    def enqueue(self, span: OutgoingSpan) -> bool:
        """Send `span` after those before it; False when LANE_SPANS_MAX wait already.

        One that was cancelled waits too, until the peer could be told so.
        """
        assert len(span.lengths) > 0
        with self.changed:
            if len(self) >= LANE_SPANS_MAX:
                return False
            self._queue.append(span)
            self.changed.notify_all()
            return True

    def cancel(self, request_id: int) -> None:
        """Send no more of this span than the frame under way, and tell the peer so."""
        with self.changed:
            if request_id in self._under_way:
                self._under_way[request_id] = True
                return
            for span in self._queue:
                if span.request_id == request_id:
                    self._queue.remove(span)
                    self._cancelled.append(request_id)
                    self.changed.notify_all()
                    return

    def next_nowait(self) -> OutgoingSpan | int | None:
        """A span to send now, the id of a span that was cancelled unsent, or None."""
        with self.changed:
            if self._cancelled:
                return self._cancelled.popleft()
            if not self._queue:
                return None
            span = self._queue.popleft()
            self._under_way[span.request_id] = False
            return span

    def finish(self, request_id: int) -> None:
        """This span was sent, or broken off."""
        with self.changed:
            self._under_way.pop(request_id, None)

    def is_cancelled(self, request_id: int) -> bool:
        """Whether a span being sent is to be broken off."""
        return self._under_way.get(request_id, False)


class SpanCutter:
    """Cuts one outgoing span into frames: as many whole chunks as fit into one payload."""

    def __init__(self, span: OutgoingSpan) -> None:
        self._starts = array("Q", accumulate(span.lengths, initial=0))
        assert max(span.lengths) <= PAYLOAD_BYTES_MAX and min(span.lengths) > 0
        self._span = span
        self.next_chunk = 0
        self.left_bytes = self._starts[-1]

    @property
    def next_size_bytes(self) -> int:
        """Payload of the next frame, if all of its chunks can be read."""
        return self._starts[self._stop_of_frame(PAYLOAD_BYTES_MAX)] - self._starts[self.next_chunk]

    def fill(self, buffer: memoryview) -> PayloadHeader:
        """Read the next chunks into `buffer`; the header that goes before them.

        Where a chunk of several cannot be read, those before it are. Raises StoreError if the
        very next one cannot.
        """
        first = self.next_chunk
        stop = self._stop_of_frame(len(buffer))
        while True:
            size = self._starts[stop] - self._starts[first]
            try:
                self._span.read(first, stop, buffer[:size])
                break
            except StoreError:
                if stop == first + 1:
                    raise
                stop = first + (stop - first) // 2
        self.next_chunk = stop
        self.left_bytes -= size
        return PayloadHeader(self._span.request_id, first, size)

    def stop(self) -> PayloadHeader:
        """The header that says that no more of this span comes."""
        return PayloadHeader(self._span.request_id, self.next_chunk, NOT_HELD)

    def _stop_of_frame(self, size_max: int) -> int:
        return bisect_right(self._starts, self._starts[self.next_chunk] + size_max) - 1
