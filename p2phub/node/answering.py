"""Answers to small questions: one stream, one question after the other, one answer at a time, and
never more of them in memory than a bound, however slowly strangers read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from p2phub.errors import PeerTimeout
from p2phub.net.base import Stream
from p2phub.proto.frames import FrameReader

IDLE_TIMEOUT_S = 60.0  # a stream on which nothing is asked for this long is closed
SEND_TIMEOUT_S = 20.0  # for a small answer, and
SEND_RATE_MIN_BYTES_PER_S = 50_000  # below it a peer does not really read
SENDING_BYTES_MAX = 64 << 20  # of answers that are being sent, to all peers
LOOK_UPS_MAX = 4  # at once: strangers' questions must not take all worker threads


class Answers:
    """The answers of one protocol that are under way."""

    def __init__(self) -> None:
        self.disk = trio.CapacityLimiter(LOOK_UPS_MAX)
        self._sending_bytes = 0

    def has_room(self, size_bytes: int) -> bool:
        """Whether an answer of this size fits; if not, it is not begun."""
        return self._sending_bytes + size_bytes <= SENDING_BYTES_MAX

    async def send(self, stream: Stream, data: bytes) -> None:
        """Send an answer whole. Raises StreamClosed, or PeerTimeout if the peer does not read."""
        timeout_s = SEND_TIMEOUT_S + len(data) / SEND_RATE_MIN_BYTES_PER_S
        self._sending_bytes += len(data)
        try:
            with trio.move_on_after(timeout_s) as slow:
                await stream.send(data)
        finally:
            self._sending_bytes -= len(data)
        if slow.cancelled_caught:
            raise PeerTimeout("a peer does not read what it asked for")


async def answer_each(stream: Stream, answer: Callable[[bytes], Awaitable[None]]) -> None:
    """Hand each frame of `stream` to `answer`, which sends the reply.

    The next frame waits meanwhile, so that one stream has one answer under way. Raises
    ProtocolViolation for what is no frame, and what `answer` raises.
    """
    frames = FrameReader()
    while True:
        with trio.move_on_after(IDLE_TIMEOUT_S) as idle:
            data = await stream.receive()
        if idle.cancelled_caught or not data:
            return
        for frame in frames.feed(data):
            await answer(frame)
