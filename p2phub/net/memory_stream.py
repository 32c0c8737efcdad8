"""Streams inside one process: each direction a pipe with a latency and a bounded buffer."""

from __future__ import annotations

from collections import deque

import trio
from trio.lowlevel import ParkingLot

from p2phub.errors import StreamClosed
from p2phub.net.base import RECEIVE_BYTES_DEFAULT, PeerId
from p2phub.proto.limits import STREAM_WINDOW_BYTES

HOST = "127.0.0.1"


def stream_pair(one: PeerId, other: PeerId, latency_s: float) -> tuple[MemoryStream, MemoryStream]:
    """Both ends of a stream from `one` to `other`: first that of `one`."""
    there, back = _Pipe(latency_s), _Pipe(latency_s)
    return MemoryStream(other, back, there), MemoryStream(one, there, back)


class MemoryStream:
    """One end of a stream."""

    def __init__(self, peer: PeerId, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._peer = peer
        self._incoming = incoming
        self._outgoing = outgoing

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def remote_host(self) -> str | None:
        return HOST

    async def send(self, data: bytes | memoryview) -> None:
        await self._outgoing.send(memoryview(data).cast("B"))

    async def receive(self, max_bytes: int = RECEIVE_BYTES_DEFAULT) -> bytes:
        return await self._incoming.receive(max_bytes)

    async def receive_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = await self.receive(count - len(data))
            if not part:
                raise StreamClosed(f"the stream ended {count - len(data)} bytes early")
            data += part
        return data

    async def close(self) -> None:
        self._outgoing.close()

    async def reset(self) -> None:
        self.fail("the stream was reset")

    def fail(self, reason: str) -> None:
        self._incoming.fail(reason)
        self._outgoing.fail(reason)


class _Pipe:
    """One direction of a stream: at most STREAM_WINDOW_BYTES under way and unread."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._pieces: deque[tuple[float, bytes]] = deque()  # when it arrives, what
        self._size = 0
        self._is_closed = False
        self._failure: str | None = None
        self._changed = ParkingLot()

    async def send(self, data: memoryview) -> None:
        await trio.lowlevel.checkpoint()
        position = 0
        while True:
            self._assert_alive()
            if self._is_closed:
                raise StreamClosed("this side of the stream was closed")
            if position >= len(data):
                return
            count = min(STREAM_WINDOW_BYTES - self._size, len(data) - position)
            if count <= 0:
                await self._changed.park()
                continue
            piece = bytes(data[position : position + count])
            self._pieces.append((trio.current_time() + self._latency_s, piece))
            self._size += count
            position += count
            self._changed.unpark_all()

    async def receive(self, max_bytes: int) -> bytes:
        assert max_bytes > 0, "a receive of no bytes could not be told from the end"
        await trio.lowlevel.checkpoint()
        while True:
            self._assert_alive()
            if not self._pieces:
                if self._is_closed:
                    return b""
                await self._changed.park()
                continue
            due, piece = self._pieces[0]
            if due > trio.current_time():
                await trio.sleep_until(due)
                continue
            taken = piece[:max_bytes]
            if len(taken) < len(piece):
                self._pieces[0] = (due, piece[max_bytes:])
            else:
                self._pieces.popleft()
            self._size -= len(taken)
            self._changed.unpark_all()
            return taken

    def close(self) -> None:
        self._is_closed = True
        self._changed.unpark_all()

    def fail(self, reason: str) -> None:
        self._failure = self._failure or reason
        self._pieces.clear()
        self._changed.unpark_all()

    def _assert_alive(self) -> None:
        if self._failure is not None:
            raise StreamClosed(self._failure)
