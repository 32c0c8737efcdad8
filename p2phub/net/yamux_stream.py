"""One stream of a yamux connection: its buffers, its credit, and how it ends.

The connection is in p2phub.net.yamux; a stream tells it what to send and is told what came.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import trio
from trio.lowlevel import ParkingLot

from p2phub.errors import ProtocolViolation, StreamClosed
from p2phub.proto.limits import STREAM_WINDOW_BYTES, STREAM_WINDOW_BYTES_MAX

PAYLOAD_BYTES_MAX = 65_535 - 16 - 12  # with Noise's tag and yamux's header one Noise message
FIN, RST = 4, 8  # flags of yamux

_WINDOW_GROWTH_S = 0.5  # half the window read within this time: it is the limit, not the reader
_SEND_WINDOW_MAX = 1 << 32  # more credit than this in one hand is nonsense


class Frames(Protocol):
    """What a stream needs of its connection."""

    @property
    def is_full(self) -> bool: ...

    async def wait_room(self) -> None: ...

    def push_data(self, index: int, payload: memoryview) -> None: ...

    def push_window(self, flags: int, index: int, credit: int) -> None: ...

    def grant_growth(self, wanted: int) -> int: ...

    def count_unread(self, change: int) -> None: ...

    def wake_senders(self) -> None: ...

    def forget(self, stream: YamuxStream) -> None: ...


class YamuxStream:
    """One stream of a connection: a `Stream` of p2phub.net.base but for who is at its other end."""

    def __init__(self, connection: Frames, index: int, *, is_outbound: bool) -> None:
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

    # -- the owner's side ----------------------------------------------------------------------

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
        """Drop the stream now: nothing is awaited, so it works where cancellation is already under
        way.
        """
        if self._failure is None and not (self._is_ended and self._is_closed):
            self._connection.push_window(RST, self.index, 0)
        self.fail(reason)

    async def drain(self) -> None:
        """Having closed our side, throw away what still comes until the peer closes its own."""
        self._is_discarding = True
        self._drop_unread()
        while not self._is_ended and self._failure is None:
            await self._readable.park()

    # -- the connection's side -----------------------------------------------------------------

    def on_data(self, size: int) -> None:
        """A frame of `size` bytes begins.

        Raises ProtocolViolation if the peer has no credit for it.
        """
        if self._is_ended:
            raise ProtocolViolation("a peer sent data after the end of its stream")
        if size > self._credit:
            raise ProtocolViolation(f"a peer sent {size} bytes with credit for {self._credit}")
        self._credit -= size

    def on_bytes(self, piece: memoryview, message_bytes: int) -> None:
        """Some of a frame's bytes, a view of a message of `message_bytes`."""
        if self._is_discarding or self._failure is not None:
            return
        if 2 * len(piece) >= message_bytes:
            self._chunks.append(piece)
        elif self._chunks and isinstance(self._chunks[-1], bytearray):
            self._chunks[-1] += piece
        else:
            # A small piece is copied: as a view it would keep a whole message alive, and a million
            # of them a gigabyte.
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
            self._connection.push_window(FIN, self.index, 0)
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
        self._connection.push_window(0, self.index, self._read_bytes + growth)
        self._read_bytes = 0

    def _drop_unread(self) -> None:
        self._chunks.clear()
        self._connection.count_unread(-self._unread_bytes)
        self._unread_bytes = 0
