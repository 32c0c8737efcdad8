"""Lanes: TLS sockets that carry the bytes of spans, one way, each driven by a blocking thread of
its own.

A lane has one strand, a socket and its thread, or two where both ends have cores to spare. They
share the spans: a span goes over one strand whole. A thread receives into a pooled buffer and
hands whole frames to the span's `write`, or fills one by the span's `read` and sends it; TLS,
hashing and the disk all work with the interpreter lock released. It reports through
ChannelEvents, closes its own descriptor, and ends by itself when a peer stalls, breaks the rules,
or has had no span for a while. When one strand ends, its lane does.

Every lane's last event is ChannelClosed. Spans of it that were not reported as done, stopped,
sent or unserved by then are lost.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod

from p2phub.errors import P2phubError, PeerTimeout, StoreError, StreamClosed
from p2phub.net.lane_buffers import BufferPool
from p2phub.net.lane_channel import LaneChannel
from p2phub.net.lane_credit import RateCredit
from p2phub.net.lane_events import (
    ChannelClosed,
    ChannelEvents,
    ChannelFailed,
    ReceivedChunks,
    SentChunks,
    SpanDone,
    SpanSent,
    SpanStopped,
    SpanUnserved,
)
from p2phub.net.lane_span import (
    IncomingSpan,
    IncomingSpans,
    OutgoingSpan,
    OutgoingSpans,
    SpanCutter,
)
from p2phub.proto.frames import HEADER_BYTES, NOT_HELD, PayloadHeader
from p2phub.proto.limits import (
    LANE_BYTES_MAX,
    LANE_PATIENCE_S,
    LANE_RATE_MIN_BYTES_PER_S,
    LANE_STRANDS_MAX,
    LANE_TICK_S,
    LANE_UNUSED_S,
)

_NOTHING = memoryview(b"")


class Lane(ABC):
    """One end of a lane. `start` it once; `close` it at any time, from any thread."""

    def __init__(
        self,
        channel: LaneChannel,
        peer: object,
        events: ChannelEvents,
        buffers: BufferPool,
        *,
        patience_s: float = LANE_PATIENCE_S,
        unused_s: float = LANE_UNUSED_S,
    ) -> None:
        """Take over `channel`; `peer` is whatever the caller knows it by.

        patience_s: without progress for this long, while bytes are due, the lane fails.
        unused_s: without a span for this long it closes.
        """
        self.events, self.buffers = events, buffers
        self.patience_s, self.unused_s = patience_s, unused_s
        self.credit = RateCredit()  # where the node grants bytes when a rate limit is set
        self.due_s = 0.0  # until when the next frame is to begin, on the monotonic clock
        self.idle_since_s = time.monotonic()
        self._peer = peer
        self._lock = threading.Lock()
        self._is_closing = False
        self._has_failed = False
        self._strands: list[_Strand] = [self._strand(channel)]
        self._running_count = 0

    @property
    def peer(self) -> object:
        return self._peer

    @property
    def is_closing(self) -> bool:
        return self._is_closing

    @property
    def last_due_s(self) -> float:
        """When patience ends with all strands."""
        return max(self.due_s, *(strand.due_s for strand in self._strands))

    @property
    def strands_count(self) -> int:
        return len(self._strands)

    def start(self) -> None:
        with self._lock:
            self._running_count = len(self._strands)
            for strand in self._strands:
                strand.thread.start()

    def widen(self, channel: LaneChannel) -> bool:
        """Use one more socket to the same peer. False: the lane ends or is wide enough."""
        with self._lock:
            assert self._running_count or self._is_closing, "a lane is started before it is widened"
            if self._is_closing or len(self._strands) >= LANE_STRANDS_MAX:
                channel.close()
                return False
            strand = self._strand(channel)
            self._strands.append(strand)
            self._running_count += 1
            strand.thread.start()
        return True

    def close(self) -> None:
        """End now, in the middle of a frame if need be; ChannelClosed tells when it is done.

        Never blocks.
        """
        with self._lock:
            self._is_closing = True
            for strand in self._strands:
                strand.channel.shut()

    def join(self, timeout_s: float) -> bool:
        """Wait until the threads are gone; whether they are."""
        end_s = time.monotonic() + timeout_s
        for strand in self._strands:
            strand.thread.join(max(0.0, end_s - time.monotonic()))
        return not any(strand.thread.is_alive() for strand in self._strands)

    def on_strand_ended(self, request_id: int | None, error: P2phubError | None) -> None:
        """A strand's thread has done its last work, and closed its socket."""
        with self._lock:
            is_news = error is not None and not self._is_closing and not self._has_failed
            self._has_failed = self._has_failed or is_news
        if is_news and error is not None:
            self.events.put(ChannelFailed(self, request_id, error))
        self.close()
        with self._lock:
            self._running_count -= 1
            is_last = not self._running_count
        if is_last:
            self.events.put(ChannelClosed(self))

    @abstractmethod
    def _strand(self, channel: LaneChannel) -> _Strand:
        """A strand of this lane over `channel`, not started."""


class ReceivingLane(Lane):
    """The end that downloads."""

    def __init__(
        self,
        channel: LaneChannel,
        peer: object,
        events: ChannelEvents,
        buffers: BufferPool,
        *,
        patience_s: float = LANE_PATIENCE_S,
        unused_s: float = LANE_UNUSED_S,
    ) -> None:
        self.spans = IncomingSpans()
        super().__init__(channel, peer, events, buffers, patience_s=patience_s, unused_s=unused_s)

    def expect(self, span: IncomingSpan) -> None:
        """Accept the chunks of `span`. To be called before its request is sent."""
        if not len(self.spans):
            self.due_s = time.monotonic() + self.patience_s
        self.spans.expect(span)

    def forget(self, request_id: int) -> None:
        """Drop what still comes of a span: it was cancelled.

        A write already begun completes and is reported.
        """
        self.spans.forget(request_id)

    def _strand(self, channel: LaneChannel) -> _Strand:
        return _ReceivingStrand(channel, self)


class SendingLane(Lane):
    """The end that uploads."""

    def __init__(
        self,
        channel: LaneChannel,
        peer: object,
        events: ChannelEvents,
        buffers: BufferPool,
        *,
        patience_s: float = LANE_PATIENCE_S,
        unused_s: float = 2 * LANE_UNUSED_S,
    ) -> None:
        # The receiving end gives an unused lane up first: only it knows what it will ask for.
        self.spans = OutgoingSpans()
        super().__init__(channel, peer, events, buffers, patience_s=patience_s, unused_s=unused_s)

    def enqueue(self, span: OutgoingSpan) -> bool:
        """Send `span` after those before it. False: LANE_SPANS_MAX wait already."""
        return self.spans.enqueue(span)

    def cancel(self, request_id: int) -> None:
        """Send no more of a span than the frame under way, and tell the peer so."""
        self.spans.cancel(request_id)

    def close(self) -> None:
        super().close()
        with self.spans.changed:
            self.spans.changed.notify_all()

    def _strand(self, channel: LaneChannel) -> _Strand:
        return _SendingStrand(channel, self)


# ---- the threads ---------------------------------------------------------------------------------


class _Unused(Exception):
    """Nobody has used this lane for a while."""


class _Strand(ABC):
    """A socket of a lane, and the thread that owns it."""

    def __init__(self, channel: LaneChannel, lane: Lane) -> None:
        channel.settle(lane.credit, self._on_waited)
        self.channel = channel
        self._lane = lane
        self._events, self._buffers = lane.events, lane.buffers
        self._request_id: int | None = None  # the span that the thread is at
        self.due_s = 0.0  # when patience with the frame under way ends; 0: between frames
        self.thread = threading.Thread(target=self._run, name=type(lane).__name__, daemon=True)

    @abstractmethod
    def _work(self) -> None:
        """Move spans until the lane is over.

        Raises P2phubError when it ends before its work does.
        """

    def _run(self) -> None:
        failure: P2phubError | None = None
        try:
            self._work()
        except P2phubError as error:
            failure = error
        except _Unused:
            pass
        finally:
            self.channel.close()
            self._lane.on_strand_ended(self._request_id, failure)

    def _be_patient(self, size_bytes: int) -> None:
        """From now on, allow the peer as long as `size_bytes` may take."""
        now = self._lane.idle_since_s = time.monotonic()
        self.due_s = now + self._lane.patience_s + size_bytes / LANE_RATE_MIN_BYTES_PER_S

    def _on_waited(self, seconds: float) -> None:
        """Waiting for our own rate limit is not the peer's fault."""
        self.due_s += seconds

    def _check(self) -> None:
        """Raise when the frame under way is to be given up."""
        self._check_closing()
        if time.monotonic() > self.due_s:
            raise PeerTimeout("a lane made no progress")

    def _check_closing(self) -> None:
        if self._lane.is_closing:
            raise StreamClosed("the lane was closed")

    @property
    def _is_unused(self) -> bool:
        return time.monotonic() > self._lane.idle_since_s + self._lane.unused_s


class _ReceivingStrand(_Strand):
    def __init__(self, channel: LaneChannel, lane: ReceivingLane) -> None:
        super().__init__(channel, lane)
        self._spans = lane.spans
        self._header = bytearray(HEADER_BYTES)

    def _work(self) -> None:
        while self._receive_header():
            self._receive_frame(PayloadHeader.decode(self._header))
            self.due_s, self._lane.due_s = 0.0, time.monotonic() + self._lane.patience_s

    def _receive_header(self) -> bool:
        """Wait for the next frame; False: the peer closed, and nothing was due."""
        self._request_id = None
        got = self.channel.receive_into(memoryview(self._header), self._check_between_frames)
        if got == HEADER_BYTES:
            return True
        if got or len(self._spans):
            raise StreamClosed("a lane closed while spans were under way")
        return False

    def _receive_frame(self, header: PayloadHeader) -> None:
        lane = self._lane
        self._request_id = id = header.request_id
        arrival = self._spans.arrive(header)
        if not arrival.size_bytes:
            if arrival.write is not None:
                self._events.put(SpanStopped(lane, id, arrival.first))
            return
        size = arrival.size_bytes
        self._be_patient(size)
        with self._buffers.lend(self._check) as buffer, buffer[:size] as payload:
            if self.channel.receive_into(payload, self._check) < size:
                raise StreamClosed("a lane closed inside a frame")
            if arrival.write is None:
                return
            arrival.write(arrival.first, arrival.stop, payload)
        is_done = self._spans.complete(arrival)
        self._events.put(ReceivedChunks(lane, id, arrival.first, arrival.stop, size))
        if is_done:
            is_dry = lane.credit.is_first and not len(self._spans)
            self._events.put(SpanDone(lane, id), is_waited_for=is_dry)

    def _check_between_frames(self) -> None:
        self._check_closing()
        if len(self._spans):
            # Another strand may be in the middle of a slow frame.
            if time.monotonic() > self._lane.last_due_s:
                raise PeerTimeout("a lane made no progress")
        elif self._is_unused:
            raise _Unused


class _SendingStrand(_Strand):
    def __init__(self, channel: LaneChannel, lane: SendingLane) -> None:
        super().__init__(channel, lane)
        self._spans = lane.spans
        self._left_bytes = LANE_BYTES_MAX

    def _work(self) -> None:
        while self._wait_for_span():
            match self._spans.next_nowait():
                case OutgoingSpan() as span:
                    self._request_id = span.request_id
                    self._send_span(span)
                    self._spans.finish(span.request_id)
                case int(id):
                    self._send(PayloadHeader(id, 0, NOT_HELD))
                    self._events.put(SpanUnserved(self._lane, id, 0, None))
            self._request_id = None

    def _send_span(self, span: OutgoingSpan) -> None:
        lane, id = self._lane, span.request_id
        cutter = SpanCutter(span)
        while cutter.left_bytes:
            error: StoreError | None = None
            if not self._spans.is_cancelled(id):
                with self._buffers.lend(self._check_closing) as buffer:
                    try:
                        header = cutter.fill(buffer)
                    except StoreError as fault:
                        error = fault
                    else:
                        self._send(header, buffer[: header.length])
                        self._events.put(SentChunks(lane, id, header.length))
                        continue
            self._send(cutter.stop())
            self._events.put(SpanUnserved(lane, id, cutter.next_chunk, error))
            return
        self._events.put(SpanSent(lane, id))

    def _send(self, header: PayloadHeader, payload: memoryview = _NOTHING) -> None:
        self._be_patient(len(payload))
        self.channel.send(header.encode(), payload, self._check)
        self._left_bytes -= len(payload)

    def _wait_for_span(self) -> bool:
        """Wait until there is something to send; False: the lane is over."""
        while not self._lane.is_closing and self._left_bytes > 0:
            with self._spans.changed:
                if len(self._spans) or self._spans.changed.wait(LANE_TICK_S):
                    return not self._lane.is_closing
            if self.channel.is_peer_gone or self._is_unused:
                return False
        return False
