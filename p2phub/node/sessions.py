"""One session's messages over one stream: framing, one writer at a time, and the greeting.

Both roles use it: `p2phub.node.downloads` opens sessions, `p2phub.node.serving` accepts them.
"""

from __future__ import annotations

import trio

from p2phub import __version__
from p2phub.errors import PeerTimeout, ProtocolViolation, StreamClosed
from p2phub.net.base import PeerId, Stream
from p2phub.proto.frames import FrameReader, frame
from p2phub.proto.limits import FRAME_BYTES_MAX
from p2phub.proto.messages import Hello, Message, decode_message, encode_message

GREETING_TIMEOUT_S = 10.0  # a few round trips to the far side of the world behind a busy uplink
SEND_TIMEOUT_S = 60.0  # a peer that reads no control message for this long is gone
REQUESTS_MAX = 64  # spans at once over one session, as our greeting says
# What is said in one session, each word costing a decision or two: as many at once as a question
# about all pages of a release brings, then more than a gigabyte per second needs.
MESSAGES_MAX = 8192
MESSAGES_PER_S = 1000.0


class Session:
    """Messages to and from one peer. One task receives; any task may send."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._frames = FrameReader()
        self._ready: list[bytes] = []
        self._send_lock = trio.Lock()
        self._allowance, self._allowed_at_s = float(MESSAGES_MAX), trio.current_time()
        self.peer_requests_max = 1  # spans the other end accepts at once, as its greeting says

    @property
    def peer(self) -> PeerId:
        return self._stream.peer

    @property
    def remote_host(self) -> str | None:
        """IP text of the live connection; the only host that a lane may dial or admit."""
        return self._stream.remote_host

    async def greet(self) -> None:
        """Say hello and wait for the other's.

        Raises PeerTimeout, ProtocolViolation or StreamClosed.
        """
        with trio.move_on_after(GREETING_TIMEOUT_S):
            await self.send(Hello(f"p2phub/{__version__}", REQUESTS_MAX))
            answer = await self.receive()
            if not isinstance(answer, Hello):
                raise ProtocolViolation("a session did not begin with a greeting")
            self.peer_requests_max = min(answer.requests_max, REQUESTS_MAX)
            return
        raise PeerTimeout("a peer opened a session and did not greet")

    async def send(self, *messages: Message) -> None:
        """Send `messages` in order, as one write.

        Raises StreamClosed, or PeerTimeout if the peer does not read.
        """
        data = b"".join(frame(encode_message(message)) for message in messages)
        async with self._send_lock:
            with trio.move_on_after(SEND_TIMEOUT_S):
                await self._stream.send(data)
                return
        raise PeerTimeout("a peer stopped reading its session")

    async def receive(self) -> Message | None:
        """The next message, or None when the peer has closed its side.

        Raises ProtocolViolation, also where too much is said; StreamClosed.
        """
        self._count_message(trio.current_time())
        if self._ready:
            await trio.lowlevel.checkpoint()  # or who sends thousands at once holds up all others
        while not self._ready:
            data = await self._stream.receive(FRAME_BYTES_MAX)
            if not data:
                if not self._frames.is_empty:
                    raise StreamClosed("a session ended inside a message")
                return None
            self._ready.extend(self._frames.feed(data))
            self._ready.reverse()
        return decode_message(self._ready.pop())

    def _count_message(self, now: float) -> None:
        gained = MESSAGES_PER_S * (now - self._allowed_at_s)
        self._allowance = min(self._allowance + gained, MESSAGES_MAX) - 1.0
        self._allowed_at_s = now
        if self._allowance < 0.0:
            raise ProtocolViolation("a peer says more in a session than anybody needs to")

    async def close(self) -> None:
        await self._stream.close()

    async def reset(self) -> None:
        await self._stream.reset()
