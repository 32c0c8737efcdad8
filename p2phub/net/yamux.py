"""yamux: many streams over one secure channel, with credit enforced at both ends.

Two tasks per connection: the reader never waits for anything but the next message, so two peers that
upload to each other always read each other's credit; the writer alone touches the channel, and what it
has begun it ends, so a cancelled send leaves nothing half written. Everything a peer can make grow is
bounded: streams, unread bytes, frames that we owe it.
libp2p's own multiplexer has none of these three properties, hence this one; on the wire they are the same.
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
from p2phub.proto.limits import (
    CONNECTION_WINDOW_BYTES_MAX,
    SEND_QUEUE_BYTES_MAX,
    SEND_QUEUE_FRAMES_MAX,
    STREAM_WINDOW_BYTES,
    STREAM_WINDOW_BYTES_MAX,
    STREAMS_INBOUND_MAX,
    STREAMS_OUTBOUND_MAX,
    STREAMS_REFUSED_MAX,
)

PROTOCOL = "/yamux/1.0.0"
PAYLOAD_BYTES_MAX = 65_535 - 16 - 12  # with its header and tag exactly one Noise message

_HEADER = struct.Struct("!BBHII")  # version, type, flags, stream, length
_DATA, _WINDOW, _PING, _GO_AWAY = 0, 1, 2, 3
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_NORMAL, _PROTOCOL_ERROR = 0, 1  # reasons in GO_AWAY
_MESSAGE_BYTES_MAX = PAYLOAD_BYTES_MAX + _HEADER.size
_MESSAGES_PER_WRITE = 4  # Noise messages sealed per system call
_WINDOW_GROWTH_S = 0.5  # half the window read within this time: the window, not the reader, is the limit
_WRITE_STALL_S = 60.0  # a live peer always reads, so its socket accepts bytes; this one is stuck or hostile
_GOODBYE_S = 0.5  # for the last frames before a close
_SEND_WINDOW_MAX = 1 << 32  # more credit than this in one hand is nonsense


class Channel(Protocol):
    """What yamux runs over."""

    async def send(self, messages: list[bytes], /) -> None: ...

    async def receive(self) -> bytes: ...

    def close_now(self) -> None: ...


class YamuxStream:
    """One stream of a connection: a `Stream` of p2phub.net.base but for who is at its other end."""

    def __init__(self, connection: Yamux, index: int, *, is_outbound: bool) -> None:
        self._connection = connection
        self.index = index
        self.is_outbound = is_outbound
        self._chunks: deque[memoryview | bytearray] = deque()
        self._unread_bytes = 0  # in _chunks
        self._credit = STREAM_WINDOW_BYTES  # bytes the peer may still send
        self._read_bytes = 0  # read since credit was last given
        self._window = STREAM_WINDOW_BYTES
        self._credited_at_s = trio.current_time()
        self._send_window = STREAM_WINDOW_BYTES
        self._is_ended = False  # the peer sends no more
        self._is_closed = False  # we send no more
        self._is_discarding = False  # we read no more
        self._failure: str | None = None  # why the stream is dead both ways; None: it lives
        self._readable = ParkingLot()
        self._writable = ParkingLot()

    # -- the owner's side -----------------------------------------------------------------------------------------------

    async def send(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        position = 0
        await trio.lowlevel.checkpoint_if_cancelled()
        while position < len(view):
            self._assert_sendable()
            if self._send_window <= 0:
                await self._writable.park()
            elif self._connection.is_full:
                await self._connection.wait_room()
            else:
                count = min(self._send_window, PAYLOAD_BYTES_MAX, len(view) - position)
                self._send_window -= count
                self._connection.push_data(self.index, view[position : position + count])
                position += count
        self._assert_sendable()

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        assert max_bytes > 0, "a receive of no bytes could not be told from the end"
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._chunks:
            if self._failure is not None:
                raise StreamClosed(self._failure)
            if self._is_ended:
                return b""
            await self._readable.park()
        return self._take(max_bytes)

    async def receive_exactly(self, count: int) -> bytes:
        parts = []
        missing = count
        while missing:
            part = await self.receive(missing)
            if not part:
                raise StreamClosed(f"the stream ended {missing} bytes early")
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def close(self) -> None:
        self._close_sending()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def reset(self) -> None:
        self.abort()

    def abort(self, reason: str = "we reset the stream") -> None:
        """Drop the stream now: nothing is awaited, so it works where cancellation is already under way."""
        if self._failure is None and not (self._is_ended and self._is_closed):
            self._connection.push_frame(_WINDOW, _RST, self.index, 0)
        self.fail(reason)

    async def drain(self) -> None:
        """Having closed our side, throw away what still comes until the peer closes its own."""
        self._is_discarding = True
        self._drop_unread()
        while not self._is_ended and self._failure is None:
            await self._readable.park()

    # -- the connection's side ------------------------------------------------------------------------------------------

    def on_data(self, size: int) -> None:
        """A frame of `size` bytes begins. Raises ProtocolViolation if the peer has no credit for it."""
        if self._is_ended:
            raise ProtocolViolation("a peer sent data after the end of its stream")
        if size > self._credit:
            raise ProtocolViolation(f"a peer sent {size} bytes with credit for {self._credit}")
        self._credit -= size

    def on_bytes(self, piece: memoryview) -> None:
        if self._is_discarding or self._failure is not None:
            return
        if 2 * len(piece) >= len(piece.obj):
            self._chunks.append(piece)
        elif self._chunks and isinstance(self._chunks[-1], bytearray):
            self._chunks[-1] += piece
        else:
            # A small piece is copied: as a view it would keep a whole message alive, and a million of them a gigabyte.
            self._chunks.append(bytearray(piece))
        self._unread_bytes += len(piece)
        self._connection.count_unread(len(piece))
        self._readable.unpark_all()

    def on_credit(self, size: int) -> None:
        self._send_window += size
        if self._send_window > _SEND_WINDOW_MAX:
            raise ProtocolViolation("a peer gave more credit than yamux has")
        self._writable.unpark_all()

    def on_end(self) -> None:
        self._is_ended = True
        self._readable.unpark_all()
        self._forget_if_done()

    def fail(self, reason: str) -> None:
        if self._failure is not None:
            return
        self._failure = reason
        self._is_discarding = True
        self._drop_unread()
        self._readable.unpark_all()
        self._writable.unpark_all()
        self._connection.wake_senders()
        self._connection.forget(self)

    @property
    def window_growth(self) -> int:
        """Bytes of credit beyond what every stream starts with."""
        return self._window - STREAM_WINDOW_BYTES

    def _assert_sendable(self) -> None:
        if self._failure is not None:
            raise StreamClosed(self._failure)
        if self._is_closed:
            raise StreamClosed("this side of the stream was closed")

    def _close_sending(self) -> None:
        if not self._is_closed and self._failure is None:
            self._is_closed = True
            self._connection.push_frame(_WINDOW, _FIN, self.index, 0)
            self._forget_if_done()

    def _forget_if_done(self) -> None:
        if self._is_ended and self._is_closed:
            self._connection.forget(self)

    def _take(self, max_bytes: int) -> bytes:
        """At most `max_bytes` out of the buffer, and credit for them back to the peer."""
        parts: list[memoryview | bytearray] = []
        room = max_bytes
        while room and self._chunks:
            chunk = self._chunks[0]
            parts.append(chunk[:room])
            if len(chunk) <= room:
                self._chunks.popleft()
            elif isinstance(chunk, bytearray):
                del chunk[:room]
            else:
                self._chunks[0] = chunk[room:]
            room -= len(parts[-1])
        size = max_bytes - room
        self._unread_bytes -= size
        self._connection.count_unread(-size)
        self._give_credit(size)
        return b"".join(parts)

    def _give_credit(self, size: int) -> None:
        """Credit goes back in halves of the window: one small frame for many reads."""
        self._read_bytes += size
        if self._is_ended or self._failure is not None or self._read_bytes < self._window // 2:
            return
        now = trio.current_time()
        growth = 0
        if now - self._credited_at_s < _WINDOW_GROWTH_S and self._window < STREAM_WINDOW_BYTES_MAX:
            growth = self._connection.grant_growth(self._window)
        self._credited_at_s = now
        self._window += growth
        self._credit += self._read_bytes + growth
        self._connection.push_frame(_WINDOW, 0, self.index, self._read_bytes + growth)
        self._read_bytes = 0

    def _drop_unread(self) -> None:
        self._chunks.clear()
        self._connection.count_unread(-self._unread_bytes)
        self._unread_bytes = 0


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
        """received: what was read off the channel already. on_unread: told of every change of unread bytes."""
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
        self.ended = trio.Event()

    # -- for the owner of the connection --------------------------------------------------------------------------------

    async def run(self, on_stream: Callable[[YamuxStream], None]) -> None:
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
            raise StreamClosed("all stream numbers of this connection are used up; a new one is needed")
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

    # -- for its streams ------------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether bulk data has to wait. Small frames never do: whoever sends them may not be made to wait."""
        return self._queued_bytes >= SEND_QUEUE_BYTES_MAX and self._failure is None

    async def wait_room(self) -> None:
        await self._room.park()

    def wake_senders(self) -> None:
        self._room.unpark_all()

    def push_data(self, index: int, payload: memoryview) -> None:
        self._push(_HEADER.pack(0, _DATA, 0, index, len(payload)) + payload)

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

    # -- writing --------------------------------------------------------------------------------------------------------

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
            messages = []
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

    # -- reading --------------------------------------------------------------------------------------------------------

    async def _read(self, on_stream: Callable[[YamuxStream], None]) -> None:
        rest = self._received
        while True:
            while len(rest) < _HEADER.size:
                rest += await self._channel.receive()
            version, kind, flags, index, length = _HEADER.unpack_from(rest)
            if version != 0 or kind > _GO_AWAY:
                raise ProtocolViolation(f"a peer sent a yamux frame of version {version}, type {kind}")
            if kind == _DATA:
                rest = await self._read_data(flags, index, length, memoryview(rest)[_HEADER.size :], on_stream)
                continue
            rest = rest[_HEADER.size :]
            if kind == _WINDOW:
                self._on_window(flags, index, length, on_stream)
            elif kind == _PING:
                if flags & _SYN:
                    self.push_frame(_PING, _ACK, 0, length)
            else:
                raise StreamClosed("the peer said goodbye")

    async def _read_data(
        self, flags: int, index: int, length: int, view: memoryview, on_stream: Callable[[YamuxStream], None]
    ) -> bytes:
        """Hand a frame's bytes over as they come, so that none needs to be held whole; returns what follows it."""
        stream = self._stream_of(flags, index, on_stream)
        if stream is not None:
            stream.on_data(length)
        elif length > STREAM_WINDOW_BYTES_MAX:
            raise ProtocolViolation(f"a peer sent {length} bytes to no stream")
        missing = length
        while missing:
            if not view:
                view = memoryview(await self._channel.receive())
            piece = view[:missing]
            view = view[len(piece) :]
            missing -= len(piece)
            if stream is not None and piece:
                stream.on_bytes(piece)
        if stream is not None:
            self._on_flags(flags, stream)
        return bytes(view)

    def _on_window(self, flags: int, index: int, credit: int, on_stream: Callable[[YamuxStream], None]) -> None:
        stream = self._stream_of(flags, index, on_stream)
        if stream is not None:
            stream.on_credit(credit)
            self._on_flags(flags, stream)

    def _on_flags(self, flags: int, stream: YamuxStream) -> None:
        if flags & _RST:
            stream.fail("the peer reset the stream")
        elif flags & _FIN:
            stream.on_end()

    def _stream_of(self, flags: int, index: int, on_stream: Callable[[YamuxStream], None]) -> YamuxStream | None:
        """The stream a frame is for; None for one that is gone, whose last frames may still be on the way."""
        if not flags & _SYN:
            return self._streams.get(index)
        if index % 2 != self._peer_parity or index == 0 or index in self._streams:
            raise ProtocolViolation(f"a peer opened stream {index}, which is not its to open")
        if self._inbound_count >= STREAMS_INBOUND_MAX:
            self._refused_count += 1
            if self._refused_count > STREAMS_REFUSED_MAX:
                raise ProtocolViolation("a peer floods us with streams")
            self.push_frame(_WINDOW, _RST, index, 0)
            return None
        stream = YamuxStream(self, index, is_outbound=False)
        self._streams[index] = stream
        self._inbound_count += 1
        self.push_frame(_WINDOW, _ACK, index, 0)
        on_stream(stream)
        return stream
