"""The same spans over a libp2p stream, for peers to whom no lane can be opened.

Frames, spans, events and rules are those of a lane; here a trio task moves them, in slices that
fill one message of the encrypted stream, and hands each frame to a worker thread for hashing and
the disk.

Source: SPEC.md section 8.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import trio

from p2phub.errors import P2phubError, PeerTimeout, StoreError, StreamClosed
from p2phub.net.base import PeerId, Stream
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
    MoveChunks,
    OutgoingSpan,
    OutgoingSpans,
    SpanCutter,
)
from p2phub.proto.frames import HEADER_BYTES, NOT_HELD, PayloadHeader
from p2phub.proto.limits import (
    LANE_PATIENCE_S,
    LANE_RATE_MIN_BYTES_PER_S,
    LANE_UNUSED_S,
    PAYLOAD_BYTES_MAX,
    SPAN_SLICE_BYTES,
    SPAN_STREAM_BUFFERS_BYTES_MAX,
)

CREDIT_PERIOD_S = 0.02  # between looks for rate credit


class SpanStreams:
    """What all span streams of a node share: bounds on frames in memory and on threads."""

    def __init__(self, events: ChannelEvents) -> None:
        self.events = events
        self.frames = trio.CapacityLimiter(SPAN_STREAM_BUFFERS_BYTES_MAX // PAYLOAD_BYTES_MAX)
        self.workers = trio.CapacityLimiter(2)  # One hashes while the other waits for the disk.


class SpanStream(ABC):
    """One end of a span stream: `run` it in a task of its own, `close` it at any time from trio."""

    def __init__(self, stream: Stream, shared: SpanStreams) -> None:
        self._stream = stream
        self._shared = shared
        self._events = shared.events
        self._scope = trio.CancelScope()
        self._patience = trio.CancelScope()  # around each wait for the peer
        self._request_id: int | None = None
        self.credit = RateCredit()

    @property
    def peer(self) -> PeerId:
        return self._stream.peer

    @property
    def is_closing(self) -> bool:
        return self._scope.cancel_called

    def close(self) -> None:
        """End now, in the middle of a frame if need be; ChannelClosed tells when it is done."""
        self._scope.cancel()

    async def run(self) -> None:
        """Move spans until closed, unused or failed. Raises no P2phubError: failures are events."""
        try:
            with self._scope:
                try:
                    await self._work()
                except P2phubError as error:
                    await self._events.put_from_trio(ChannelFailed(self, self._request_id, error))
        finally:
            self._scope.cancel()
            with trio.CancelScope(shield=True):
                await self._stream.reset()
                await self._events.put_from_trio(ChannelClosed(self))

    @abstractmethod
    async def _work(self) -> None:
        """Move spans until there are none for long. Raises P2phubError."""

    async def _move(self, move: MoveChunks, first: int, stop: int, payload: memoryview) -> None:
        """Hash and touch the disk beside the event loop; what was begun is not abandoned."""
        await trio.to_thread.run_sync(move, first, stop, payload, limiter=self._shared.workers)

    async def _draw(self, wanted_bytes: int) -> int:
        """Credit to move between 1 and `wanted_bytes` bytes; waits for it at our own expense."""
        while True:
            granted = self.credit.draw(wanted_bytes)
            if granted:
                return granted
            await trio.sleep(CREDIT_PERIOD_S)
            self._patience.deadline += CREDIT_PERIOD_S


class ReceivingStream(SpanStream):
    """The end that downloads."""

    def __init__(self, stream: Stream, shared: SpanStreams) -> None:
        super().__init__(stream, shared)
        self._spans = IncomingSpans()
        self._expected = trio.Event()

    def expect(self, span: IncomingSpan) -> None:
        """Accept the chunks of `span`. To be called before its request is sent."""
        if not len(self._spans):
            self._patience.deadline = trio.current_time() + LANE_PATIENCE_S
        self._spans.expect(span)
        self._expected.set()

    def forget(self, request_id: int) -> None:
        """Drop what still comes of a span: it was cancelled. What is being written is reported."""
        self._spans.forget(request_id)

    async def _work(self) -> None:
        while await self._is_expecting():
            self._request_id = None
            with trio.move_on_after(LANE_PATIENCE_S) as self._patience:
                header = PayloadHeader.decode(await self._stream.receive_exactly(HEADER_BYTES))
            if not self._patience.cancelled_caught:
                await self._receive_frame(header)
            elif len(self._spans):
                raise PeerTimeout("a span stream made no progress")
            else:
                return

    async def _is_expecting(self) -> bool:
        """Wait until a span is expected; False: none was for long."""
        self._expected = trio.Event()
        if not len(self._spans):
            with trio.move_on_after(LANE_UNUSED_S):
                await self._expected.wait()
        return len(self._spans) > 0

    async def _receive_frame(self, header: PayloadHeader) -> None:
        self._request_id = id = header.request_id
        arrival = self._spans.arrive(header)
        size = arrival.size_bytes
        if not size:
            if arrival.write is not None:
                await self._events.put_from_trio(SpanStopped(self, id, arrival.first))
            return
        async with self._shared.frames:
            payload = memoryview(bytearray(size))
            with trio.move_on_after(_patience_s(size)) as self._patience:
                await self._receive_into(payload)
            if self._patience.cancelled_caught:
                raise PeerTimeout("a span stream is too slow")
            if arrival.write is None:
                return
            await self._move(arrival.write, arrival.first, arrival.stop, payload)
        is_done = self._spans.complete(arrival)
        await self._events.put_from_trio(
            ReceivedChunks(self, id, arrival.first, arrival.stop, size)
        )
        if is_done:
            is_dry = self.credit.is_first and not len(self._spans)
            await self._events.put_from_trio(SpanDone(self, id), is_waited_for=is_dry)

    async def _receive_into(self, into: memoryview) -> None:
        got = 0
        while got < len(into):
            data = await self._stream.receive(min(SPAN_SLICE_BYTES, len(into) - got))
            if not data:
                raise StreamClosed("a span stream closed inside a frame")
            into[got : got + len(data)] = data
            got += len(data)
            paid = 0
            while paid < len(data):
                paid += await self._draw(len(data) - paid)


class SendingStream(SpanStream):
    """The end that uploads."""

    def __init__(self, stream: Stream, shared: SpanStreams) -> None:
        super().__init__(stream, shared)
        self._spans = OutgoingSpans()
        self._enqueued = trio.Event()

    def enqueue(self, span: OutgoingSpan) -> bool:
        """Send `span` after those before it. False: LANE_SPANS_MAX wait already."""
        is_room = self._spans.enqueue(span)
        self._enqueued.set()
        return is_room

    def cancel(self, request_id: int) -> None:
        """Send no more of a span than the frame under way, and tell the peer so."""
        self._spans.cancel(request_id)
        self._enqueued.set()

    async def _work(self) -> None:
        failure: P2phubError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_peer)
            try:
                await self._send_all()
            except P2phubError as error:  # A nursery would wrap it in a group.
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _send_all(self) -> None:
        while await self._is_asked():
            match self._spans.next_nowait():
                case OutgoingSpan() as span:
                    await self._send_span(span)
                    self._spans.finish(span.request_id)
                case int(id):
                    await self._send(PayloadHeader(id, 0, NOT_HELD), memoryview(b""))
                    await self._events.put_from_trio(SpanUnserved(self, id, 0, None))
            self._request_id = None

    async def _watch_peer(self) -> None:
        """Notice that the other end has gone while there is nothing to send."""
        try:
            await self._stream.receive(1)
        except StreamClosed:
            pass  # The sending task meets the same and tells it, if it has something to send.
        if not len(self._spans) and self._request_id is None:
            self.close()

    async def _is_asked(self) -> bool:
        """Wait until there is a span to send; False: there was none for long."""
        self._enqueued = trio.Event()
        if not len(self._spans):
            # The receiving end gives an unused stream up first: it knows what it will ask for.
            with trio.move_on_after(2 * LANE_UNUSED_S):
                await self._enqueued.wait()
        return len(self._spans) > 0

    async def _send_span(self, span: OutgoingSpan) -> None:
        self._request_id = id = span.request_id
        cutter = SpanCutter(span)
        while cutter.left_bytes:
            error: StoreError | None = None
            if not self._spans.is_cancelled(id):
                async with self._shared.frames:
                    buffer = memoryview(bytearray(cutter.next_size_bytes))
                    try:
                        header = await trio.to_thread.run_sync(
                            cutter.fill, buffer, limiter=self._shared.workers
                        )
                    except StoreError as fault:
                        error = fault
                    else:
                        await self._send(header, buffer[: header.length])
                        await self._events.put_from_trio(SentChunks(self, id, header.length))
                        continue
            await self._send(cutter.stop(), memoryview(b""))
            await self._events.put_from_trio(SpanUnserved(self, id, cutter.next_chunk, error))
            return
        await self._events.put_from_trio(SpanSent(self, id))

    async def _send(self, header: PayloadHeader, payload: memoryview) -> None:
        with trio.move_on_after(_patience_s(len(payload))) as self._patience:
            front, start = header.encode(), 0
            while front or start < len(payload):
                stop = min(len(payload), start + SPAN_SLICE_BYTES - len(front))
                if stop > start:
                    stop = start + await self._draw(stop - start)
                await self._stream.send(front + payload[start:stop])
                front, start = b"", stop
        if self._patience.cancelled_caught:
            raise PeerTimeout("a peer reads its span stream too slowly")


def _patience_s(size_bytes: int) -> float:
    return LANE_PATIENCE_S + size_bytes / LANE_RATE_MIN_BYTES_PER_S
