"""Answers to small questions: one stream, one question after the other, one answer at a time, and
never more of them in memory than a bound, however slowly strangers read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from p2phub.errors import PeerTimeout
from p2phub.net.addresses import network_of
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
        self._sending: dict[trio.CancelScope, tuple[str, int]] = {}  # network, bytes; oldest first
        self._sending_bytes = 0

    def has_room(self, size_bytes: int, host: str | None) -> bool:
        """Whether an answer of this size to `host` fits; if not, it is not begun.

        Where it does not, the network that is sent most loses its oldest answers, unless that of
        `host` would be sent as much then: who reads nothing shall keep nobody from answers.
        """
        network = _network(host)
        while self._sending_bytes + size_bytes > SENDING_BYTES_MAX:
            shares = Counter[str]()
            for other, other_bytes in self._sending.values():
                shares[other] += other_bytes
            crowded = max(shares, key=lambda name: shares[name], default=network)
            if shares[crowded] <= shares[network] + size_bytes:
                return False
            oldest = next(s for s, (other, _) in self._sending.items() if other == crowded)
            self._end(oldest)
            oldest.cancel()
        return True

    async def send(self, stream: Stream, data: bytes) -> None:
        """Send an answer whole. Raises StreamClosed, or PeerTimeout if the peer does not read."""
        timeout_s = SEND_TIMEOUT_S + len(data) / SEND_RATE_MIN_BYTES_PER_S
        slow = trio.CancelScope(deadline=trio.current_time() + timeout_s)
        self._sending[slow] = _network(stream.remote_host), len(data)
        self._sending_bytes += len(data)
        try:
            with slow:
                await stream.send(data)
        finally:
            self._end(slow)
        if slow.cancelled_caught:
            raise PeerTimeout("a peer does not read what it asked for")

    def _end(self, scope: trio.CancelScope) -> None:
        self._sending_bytes -= self._sending.pop(scope, ("", 0))[1]


def _network(host: str | None) -> str:
    return "" if host is None else network_of(host)


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
