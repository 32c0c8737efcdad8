"""yamux: many streams over one secure channel, with credit enforced at both ends.

Two tasks per connection: the reader never waits for anything but the next message, so two peers
that upload to each other always read each other's credit; the writer alone touches the channel, and
what it has begun it ends, so a cancelled send leaves nothing half written. Everything a peer can
make grow is bounded: streams, unread bytes, frames that we owe it.
libp2p's own multiplexer has none of these three properties, hence this one; on the wire they are
the same.
Source: https://github.com/hashicorp/yamux/blob/master/spec.md; go-yamux for the growing window.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio
from trio.lowlevel import ParkingLot

from p2phub.errors import ProtocolViolation, StreamClosed
from p2phub.net.yamux_stream import FIN, PAYLOAD_BYTES_MAX, RST, YamuxStream
from p2phub.proto.limits import (
    CONNECTION_WINDOW_BYTES_MAX,
    SEND_QUEUE_BYTES_MAX,
    SEND_QUEUE_FRAMES_MAX,
    STREAM_WINDOW_BYTES_MAX,
    STREAMS_INBOUND_MAX,
    STREAMS_OUTBOUND_MAX,
    STREAMS_REFUSED_MAX,
)

PROTOCOL = "/yamux/1.0.0"

_HEADER = struct.Struct("!BBHII")  # version, type, flags, stream, length
_DATA, _WINDOW, _PING, _GO_AWAY = 0, 1, 2, 3
_SYN, _ACK = 1, 2  # the other flags end streams
_NORMAL, _PROTOCOL_ERROR = 0, 1  # reasons in GO_AWAY
_MESSAGE_BYTES_MAX = PAYLOAD_BYTES_MAX + _HEADER.size
_MESSAGES_PER_WRITE = 4  # Noise messages sealed per system call
_WRITE_STALL_S = 60.0  # a live peer always reads, so its socket accepts bytes: this one is stuck
_GOODBYE_S = 0.5  # for the last frames before a close


class Channel(Protocol):
    """What yamux runs over."""

    async def send(self, messages: list[bytes], /) -> None: ...

    async def receive(self) -> bytes: ...

    def close_now(self) -> None: ...


OnYamuxStream = Callable[[YamuxStream], None]


class Yamux:
    """One connection's streams. `run` ends when the connection does."""

    def __init__(
        self,
        channel: Channel,
        *,
        is_client: bool,
        received: bytes = b"",
        on_unread: Callable[[int], None] | None = None,
    ) -> None:
        """received: what was read off the channel already. on_unread: told of every change of
        unread bytes.
        """
        self._channel = channel
        self._received = received
        self._on_unread = on_unread
        self._next_index = 1 if is_client else 2
        self._peer_parity = 0 if is_client else 1
        self._streams: dict[int, YamuxStream] = {}
        self._inbound_count = 0
        self._outbound_count = 0
        self._refused_count = 0
        self._growth_bytes = 0  # granted to streams beyond their initial window
        self.unread_bytes = 0
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._room = ParkingLot()
        self._pending = ParkingLot()  # the writer, while there is nothing to write
        self._drained = ParkingLot()
        self._slots = ParkingLot()
        self._is_writing = False
        self._failure: str | None = None
        self._scope = trio.CancelScope()
        self.heard_s = trio.current_time()  # when the peer last sent anything
        self.ended = trio.Event()

    # -- for the owner of the connection -------------------------------------------------------

    async def run(self, on_stream: OnYamuxStream) -> None:
        """Carry frames until either end closes; `on_stream` is told of each stream the peer opens.

        Raises ProtocolViolation when the peer broke the rules. All streams are dead afterwards.
        """
        violation: ProtocolViolation | None = None
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    try:
                        await self._read(on_stream)
                    except StreamClosed as error:
                        self.end(str(error))
                    except ProtocolViolation as error:
                        violation = error
                        self.push_frame(_GO_AWAY, 0, 0, _PROTOCOL_ERROR)
                        await self._say_goodbye()
                        self.end(str(error))
                    nursery.cancel_scope.cancel()
        finally:
            self.end("the connection was closed")
        if violation is not None:
            raise violation

    async def open(self) -> YamuxStream:
        """A new stream; the peer hears of it with the first bytes. Raises StreamClosed."""
        while self._outbound_count >= STREAMS_OUTBOUND_MAX and self._failure is None:
            await self._slots.park()
        if self._failure is not None:
            raise StreamClosed(self._failure)
        index = self._next_index
        self._next_index += 2
        if index >= 1 << 32:
            raise StreamClosed(
                "all stream numbers of this connection are used up; a new one is needed"
            )
        stream = YamuxStream(self, index, is_outbound=True)
        self._streams[index] = stream
        self._outbound_count += 1
        self.push_frame(_WINDOW, _SYN, index, 0)
        return stream

    async def close(self) -> None:
        """Say goodbye and end the connection within half a second."""
        if self._failure is None:
            self.push_frame(_GO_AWAY, 0, 0, _NORMAL)
            await self._say_goodbye()
        self.end("we closed the connection")

    def end(self, reason: str) -> None:
        """End the connection now: every stream fails with `reason`."""
        if self._failure is not None:
            return
        self._failure = reason
        for stream in list(self._streams.values()):
            stream.fail(reason)
        self.wake_senders()
        self._slots.unpark_all()
        self._channel.close_now()
        self._scope.cancel()
        self.ended.set()

    @property
    def streams_count(self) -> int:
        return len(self._streams)

    # -- for its streams -----------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether bulk data has to wait.

        Small frames never do: whoever sends them may not be made to wait.
        """
        return self._queued_bytes >= SEND_QUEUE_BYTES_MAX and self._failure is None

    async def wait_room(self) -> None:
        await self._room.park()

    def wake_senders(self) -> None:
        self._room.unpark_all()

    def push_data(self, index: int, payload: memoryview) -> None:
        self._push(b"".join((_HEADER.pack(0, _DATA, 0, index, len(payload)), payload)))

    def push_window(self, flags: int, index: int, credit: int) -> None:
        self.push_frame(_WINDOW, flags, index, credit)

    def push_frame(self, kind: int, flags: int, index: int, length: int) -> None:
        self._push(_HEADER.pack(0, kind, flags, index, length))

    def count_unread(self, change: int) -> None:
        self.unread_bytes += change
        if self._on_unread is not None:
            self._on_unread(change)

    def grant_growth(self, wanted: int) -> int:
        """How far a stream's window may grow: as far as it wants, or not at all."""
        if self._growth_bytes + wanted > CONNECTION_WINDOW_BYTES_MAX:
            return 0
        self._growth_bytes += wanted
        return wanted

    def forget(self, stream: YamuxStream) -> None:
        if self._streams.pop(stream.index, None) is None:
            return
        self._growth_bytes -= stream.window_growth
        if stream.is_outbound:
            self._outbound_count -= 1
            self._slots.unpark()
        else:
            self._inbound_count -= 1

    # -- writing -------------------------------------------------------------------------------

    def _push(self, frame: bytes) -> None:
        if self._failure is not None:
            return
        if len(self._queue) >= SEND_QUEUE_FRAMES_MAX:
            self.end("a peer made us answer more than it reads")
            return
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        self._pending.unpark()

    async def _write(self) -> None:
        while True:
            while not self._queue:
                self._is_writing = False
                self._drained.unpark_all()
                await self._pending.park()
            self._is_writing = True
            messages: list[bytes] = []
            size = 0
            while self._queue and len(messages) < _MESSAGES_PER_WRITE:
                message = self._next_message()
                size += len(message)
                messages.append(message)
            try:
                with trio.move_on_after(_WRITE_STALL_S) as stall:
                    await self._channel.send(messages)
            except StreamClosed as error:
                self.end(str(error))
                return
            if stall.cancelled_caught:
                self.end(f"the peer accepted no bytes for {_WRITE_STALL_S:.0f} s")
                return
            self._queued_bytes -= size
            if self._queued_bytes < SEND_QUEUE_BYTES_MAX:
                self._room.unpark_all()

    def _next_message(self) -> bytes:
        """As many whole frames as one Noise message holds: small ones travel together."""
        frame = self._queue.popleft()
        if not self._queue or len(frame) + len(self._queue[0]) > _MESSAGE_BYTES_MAX:
            return frame
        parts = [frame]
        size = len(frame)
        while self._queue and size + len(self._queue[0]) <= _MESSAGE_BYTES_MAX:
            parts.append(self._queue.popleft())
            size += len(parts[-1])
        return b"".join(parts)

    async def _say_goodbye(self) -> None:
        with trio.move_on_after(_GOODBYE_S):
            while (self._queue or self._is_writing) and self._failure is None:
                await self._drained.park()

    # -- reading ------------------------------------------------------------------------------

    async def _read(self, on_stream: OnYamuxStream) -> None:
        rest = memoryview(self._received)
        while True:
            while len(rest) < _HEADER.size:
                rest = memoryview(bytes(rest) + await self._receive())
            version, kind, flags, index, length = _HEADER.unpack_from(rest)
            rest = rest[_HEADER.size :]
            if version != 0 or kind > _GO_AWAY:
                raise ProtocolViolation(f"a peer sent yamux version {version}, type {kind}")
            if kind == _DATA:
                rest = await self._read_data(flags, index, length, rest, on_stream)
            elif kind == _WINDOW:
                self._on_window(flags, index, length, on_stream)
            elif kind == _GO_AWAY:
                raise StreamClosed("the peer said goodbye")
            elif flags & _SYN:
                self.push_frame(_PING, _ACK, 0, length)

    async def _receive(self) -> bytes:
        message = await self._channel.receive()
        self.heard_s = trio.current_time()
        return message

    async def _read_data(
        self, flags: int, index: int, length: int, rest: memoryview, on_stream: OnYamuxStream
    ) -> memoryview:
        """Hand a frame's bytes over as they come, so that none is held whole; what follows it."""
        stream = self._stream_of(flags, index, on_stream)
        if stream is not None:
            stream.on_data(length)
        elif length > STREAM_WINDOW_BYTES_MAX:
            raise ProtocolViolation(f"a peer sent {length} bytes to no stream")
        message_bytes = len(rest)
        missing = length
        while missing:
            if not rest:
                rest = memoryview(await self._receive())
                message_bytes = len(rest)
            piece = rest[:missing]
            rest = rest[len(piece) :]
            missing -= len(piece)
            if stream is not None and piece:
                stream.on_bytes(piece, message_bytes)
        if stream is not None:
            self._on_flags(flags, stream)
        return rest

    def _on_window(self, flags: int, index: int, credit: int, on_stream: OnYamuxStream) -> None:
        stream = self._stream_of(flags, index, on_stream)
        if stream is not None:
            stream.on_credit(credit)
            self._on_flags(flags, stream)

    def _on_flags(self, flags: int, stream: YamuxStream) -> None:
        if flags & RST:
            stream.fail("the peer reset the stream")
        elif flags & FIN:
            stream.on_end()

    def _stream_of(self, flags: int, index: int, on_stream: OnYamuxStream) -> YamuxStream | None:
        """The stream a frame is for; None for one that is gone, whose last frames may still be on
        the way.
        """
        if not flags & _SYN:
            return self._streams.get(index)
        if index % 2 != self._peer_parity or index == 0 or index in self._streams:
            raise ProtocolViolation(f"a peer opened stream {index}, which is not its to open")
        if self._inbound_count >= STREAMS_INBOUND_MAX:
            self._refused_count += 1
            if self._refused_count > STREAMS_REFUSED_MAX:
                raise ProtocolViolation("a peer floods us with streams")
            self.push_frame(_WINDOW, RST, index, 0)
            return None
        stream = YamuxStream(self, index, is_outbound=False)
        self._streams[index] = stream
        self._inbound_count += 1
        self.push_frame(_WINDOW, _ACK, index, 0)
        on_stream(stream)
        return stream
