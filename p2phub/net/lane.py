"""Lanes: TLS sockets that carry the bytes of spans, one way, each driven by a blocking thread of
its own.

The thread receives into a pooled buffer and hands whole frames to the span's `write`, or fills
one by the span's `read` and sends it; TLS, hashing and the disk all work with the interpreter
lock released. It reports through ChannelEvents, closes its own descriptor, and ends by itself
when a peer stalls, breaks the rules, or has had no span for a while.

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
    LANE_TICK_S,
    LANE_UNUSED_S,
)

_NOTHING = memoryview(b"")


class _Unused(Exception):
    """Nobody has used this lane for a while."""


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
        channel.settle()
        self._patience_s, self._unused_s = patience_s, unused_s
        self._channel = channel
        self._peer = peer
        self._events = events
        self._buffers = buffers
        self._is_closing = False
        self._request_id: int | None = None  # the span that the thread is at
        self._due_s = 0.0  # when patience ends, on `_clock`
        self._idle_since_s = self._clock()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    @property
    def peer(self) -> object:
        return self._peer

    @property
    def credit(self) -> RateCredit:
        """Where the node grants bytes when a rate limit is set."""
        return self._channel.credit

    @property
    def is_closing(self) -> bool:
        return self._is_closing

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End now, in the middle of a frame if need be; ChannelClosed tells when it is done.

        Never blocks.
        """
        self._is_closing = True
        self._channel.shut()

    def join(self, timeout_s: float) -> bool:
        """Wait until the thread is gone; whether it is."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @abstractmethod
    def _work(self) -> None:
        """Move spans until the lane is over.

        Raises P2phubError when it ends before its work does.
        """

    def _run(self) -> None:
        try:
            self._work()
        except P2phubError as error:
            if not self._is_closing:
                self._events.put(ChannelFailed(self, self._request_id, error))
        finally:
            self._is_closing = True
            self._channel.close()
            self._events.put(ChannelClosed(self))

    def _clock(self) -> float:
        """Seconds in which the peer had a chance: waiting for our own rate limit does not count."""
        return time.monotonic() - self._channel.waited_s

    def _be_patient(self, size_bytes: int) -> None:
        """From now on, allow the peer as long as `size_bytes` may take."""
        self._due_s = self._clock() + self._patience_s + size_bytes / LANE_RATE_MIN_BYTES_PER_S

    @property
    def _is_unused(self) -> bool:
        return self._clock() > self._idle_since_s + self._unused_s

    def _check(self) -> None:
        """Raise when the lane is to end: it is being closed, or the peer's time is up."""
        if self._is_closing:
            raise StreamClosed("the lane was closed")
        if self._clock() > self._due_s:
            raise PeerTimeout("a lane made no progress")


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
        super().__init__(channel, peer, events, buffers, patience_s=patience_s, unused_s=unused_s)
        self._spans = IncomingSpans()
        self._header = bytearray(HEADER_BYTES)

    def expect(self, span: IncomingSpan) -> None:
        """Accept the chunks of `span`. To be called before its request is sent."""
        if not len(self._spans):
            self._be_patient(0)
        self._spans.expect(span)

    def forget(self, request_id: int) -> None:
        """Drop what still comes of a span: it was cancelled.

        A write already begun completes and is reported.
        """
        self._spans.forget(request_id)

    def _work(self) -> None:
        try:
            while self._receive_header():
                self._receive_frame(PayloadHeader.decode(self._header))
                self._idle_since_s = self._clock()
                self._be_patient(0)
        except _Unused:
            pass

    def _receive_header(self) -> bool:
        """Wait for the next frame; False: the peer closed, and nothing was due."""
        self._request_id = None
        got = self._channel.receive_into(memoryview(self._header), self._check_between_frames)
        if got == HEADER_BYTES:
            return True
        if got or len(self._spans):
            raise StreamClosed("a lane closed while spans were under way")
        return False

    def _receive_frame(self, header: PayloadHeader) -> None:
        self._request_id = id = header.request_id
        arrival = self._spans.arrive(header)
        if not arrival.size_bytes:
            if arrival.write is not None:
                self._events.put(SpanStopped(self, id, arrival.first))
            return
        size = arrival.size_bytes
        self._be_patient(size)
        with self._buffers.lend(self._check) as buffer, buffer[:size] as payload:
            if self._channel.receive_into(payload, self._check) < size:
                raise StreamClosed("a lane closed inside a frame")
            if arrival.write is None:
                return
            arrival.write(arrival.first, arrival.stop, payload)
        is_done = self._spans.complete(arrival)
        self._events.put(ReceivedChunks(self, id, arrival.first, arrival.stop, size))
        if is_done:
            self._events.put(SpanDone(self, id))

    def _check_between_frames(self) -> None:
        if self._is_closing or len(self._spans):
            self._check()
        elif self._is_unused:
            raise _Unused


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
        super().__init__(channel, peer, events, buffers, patience_s=patience_s, unused_s=unused_s)
        self._spans = OutgoingSpans()
        self._left_bytes = LANE_BYTES_MAX

    def enqueue(self, span: OutgoingSpan) -> bool:
        """Send `span` after those before it. False: LANE_SPANS_MAX wait already."""
        return self._spans.enqueue(span)

    def cancel(self, request_id: int) -> None:
        """Send no more of a span than the frame under way, and tell the peer so."""
        self._spans.cancel(request_id)

    def close(self) -> None:
        super().close()
        with self._spans.changed:
            self._spans.changed.notify_all()

    def _work(self) -> None:
        while self._wait_for_span():
            match self._spans.next_nowait():
                case OutgoingSpan() as span:
                    self._send_span(span)
                case int(id):
                    self._send(PayloadHeader(id, 0, NOT_HELD))
                    self._events.put(SpanUnserved(self, id, 0, None))
            self._request_id = None
            self._idle_since_s = self._clock()

    def _send_span(self, span: OutgoingSpan) -> None:
        self._request_id = id = span.request_id
        cutter = SpanCutter(span)
        while cutter.left_bytes:
            error: StoreError | None = None
            if not self._spans.is_cancelled:
                with self._buffers.lend(self._check_closing) as buffer:
                    try:
                        header = cutter.fill(buffer)
                    except StoreError as fault:
                        error = fault
                    else:
                        self._send(header, buffer[: header.length])
                        self._events.put(SentChunks(self, id, header.length))
                        continue
            self._send(cutter.stop())
            self._events.put(SpanUnserved(self, id, cutter.next_chunk, error))
            return
        self._events.put(SpanSent(self, id))

    def _send(self, header: PayloadHeader, payload: memoryview = _NOTHING) -> None:
        self._be_patient(len(payload))
        self._channel.send(header.encode(), payload, self._check)
        self._left_bytes -= len(payload)

    def _wait_for_span(self) -> bool:
        """Wait until there is something to send; False: the lane is over."""
        while not self._is_closing and self._left_bytes > 0:
            with self._spans.changed:
                if len(self._spans):
                    return True
                self._spans.changed.wait(LANE_TICK_S)
                if len(self._spans):
                    return True
            if self._channel.is_peer_gone or self._is_unused:
                return False
        return False

    def _check_closing(self) -> None:
        if self._is_closing:
            raise StreamClosed("the lane was closed")
