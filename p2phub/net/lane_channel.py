"""One TLS 1.3 connection of a lane: set up by a trio task, then moved as fast as one blocking
thread can.

TLS runs over memory (`ssl.MemoryBIO`), not over the socket: so one system call moves 16 records
instead of half a one, and a blocking call ends after LANE_TICK_S by the kernel's own time-out,
without a `poll` before each. The thread that uses the channel closes it; others only `shut` it,
which wakes that thread at once.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

from p2phub.digest import sha256
from p2phub.errors import ProtocolViolation, StreamClosed
from p2phub.net.lane_credit import RateCredit
from p2phub.proto.limits import LANE_CREDIT_BYTES, LANE_RECORDS_BYTES, LANE_TICK_S

T = TypeVar("T")
OnWaited = Callable[[float], None]
Check = Callable[[], None]  # called at each step of a long move; what it raises ends the move

# The kernel takes no more while this much is unsent: a span that waits there beside those of other
# lanes counts as sent, and the next would be begun.
_UNSENT_BYTES = 131_072
_TICK = struct.pack("ll", int(LANE_TICK_S), int(LANE_TICK_S % 1 * 1_000_000))  # a struct timeval


class LaneChannel:
    """A connected socket and its TLS state.

    `start` in trio, `settle`, then hand it to one thread.
    """

    def __init__(
        self, connected: socket.socket, context: ssl.SSLContext, *, is_server: bool
    ) -> None:
        connected.setblocking(False)
        # Or the handshake's last flight waits 40 ms for an acknowledgement that is delayed.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)
        self._closing = threading.Lock()
        self._records: memoryview | None = None  # ciphertext of one receiving call
        self._credit = RateCredit()
        self._on_waited: OnWaited | None = None

    # ---- in trio, before the thread -------------------------------------------------------

    async def start(self) -> None:
        """Shake hands. Raises ProtocolViolation or StreamClosed; give it a deadline."""
        await self._set_up(self._tls.do_handshake)

    @property
    def peer_fingerprint(self) -> bytes:
        """SHA-256 of the other end's certificate, once hands are shaken; proven to be its own."""
        certificate = self._tls.getpeercert(binary_form=True)
        assert certificate is not None
        return sha256(certificate)

    @property
    def version(self) -> str | None:
        return self._tls.version()

    async def send_first(self, data: bytes) -> None:
        """Send a few bytes. Raises StreamClosed."""
        await self._set_up(lambda: self._tls.write(data))

    async def receive_first(self, count: int) -> bytes:
        """Receive exactly a few bytes. Raises ProtocolViolation or StreamClosed."""
        data = bytearray()
        while len(data) < count:
            part = await self._set_up(partial(self._tls.read, count - len(data)))
            if not part:
                raise StreamClosed("a lane closed before it began")
            data += part
        return bytes(data)

    def settle(self, credit: RateCredit | None = None, on_waited: OnWaited | None = None) -> None:
        """Leave trio: from now on calls block, a tick at most.

        credit: what the channel draws its rate from; without it the link alone is the limit.
        on_waited: told of the seconds that were spent waiting for credit.
        """
        self._credit = credit or self._credit
        self._on_waited = on_waited
        self._socket.setblocking(True)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TICK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TICK)

    async def _set_up(self, step: Callable[[], T]) -> T:
        """Repeat `step` until TLS has all the bytes that it wants."""
        while True:
            try:
                result = step()
                is_done = True
            except ssl.SSLWantReadError:
                is_done = False
            except ssl.SSLError as error:
                raise ProtocolViolation(f"a lane's TLS failed: {error.reason}") from error
            try:
                await self._flush_set_up()
                if is_done:
                    return result
                await trio.lowlevel.wait_readable(self._socket.fileno())
                data = self._socket.recv(LANE_CREDIT_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise StreamClosed(f"a lane closed before it began: {error.strerror}") from error
            if not data:
                raise StreamClosed("a lane closed before it began")
            self._incoming.write(data)

    async def _flush_set_up(self) -> None:
        data = memoryview(self._outgoing.read())
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket.fileno())

    # ---- in the thread --------------------------------------------------------------------

    def receive_into(self, into: memoryview, check: Check) -> int:
        """Fill `into`; how many bytes came, fewer only when the peer closed.

        Raises ProtocolViolation, StreamClosed.
        """
        got, size = 0, len(into)
        while got < size:
            try:
                count = self._tls.read(size - got, into[got:])
            except ssl.SSLWantReadError:
                if not self._fill(check):
                    break
                continue
            except ssl.SSLError as error:
                raise ProtocolViolation(f"a lane's TLS failed: {error.reason}") from error
            if not count:
                break
            got += count  # type: ignore[operator]
        return got

    def send(self, header: bytes, payload: memoryview, check: Check) -> None:
        """Send a frame whole. Raises StreamClosed."""
        self._tls.write(header)
        start = 0
        while start < len(payload):
            step = self._draw(min(LANE_RECORDS_BYTES, len(payload) - start), check)
            self._tls.write(payload[start : start + step])
            start += step
            self._flush(check)
        self._flush(check)

    @property
    def is_peer_gone(self) -> bool:
        """Whether the other end has closed; for an end that only sends, and has nothing to send
        now.
        """
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def shut(self) -> None:
        """Wake whoever is blocked in a call and make all further ones fail. From any thread."""
        with self._closing:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # It was shut, reset or closed before.

    def close(self) -> None:
        """Give the descriptor back. Only by the task or thread that uses the channel."""
        with self._closing:
            self._socket.close()

    def _fill(self, check: Check) -> bool:
        """Take what has come from the kernel into TLS's memory; False: the peer closed."""
        if self._records is None:
            self._records = memoryview(bytearray(LANE_RECORDS_BYTES))
        try:
            count = self._socket.recv_into(
                self._records, LANE_CREDIT_BYTES if self._credit.is_limited else 0
            )
        except BlockingIOError:
            check()
            return True
        except OSError as error:
            raise StreamClosed(f"a lane broke: {error.strerror}") from error
        if not count:
            return False
        self._incoming.write(self._records[:count])
        if self._outgoing.pending:
            # Only a request to change keys makes the receiving end speak: none of ours sends one.
            raise ProtocolViolation("a lane's sender asked for an answer")
        check()
        while count > 0 and self._credit.is_limited:
            count -= self._draw(count, check)
        return True

    def _flush(self, check: Check) -> None:
        data = memoryview(self._outgoing.read())
        while data:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                check()
                continue
            except OSError as error:
                raise StreamClosed(f"a lane broke: {error.strerror}") from error
            if sent < len(data):
                check()
            data = data[sent:]

    def _draw(self, wanted_bytes: int, check: Check) -> int:
        """Credit to move between 1 and `wanted_bytes` bytes; waits for it."""
        if not self._credit.is_limited:
            return wanted_bytes
        while True:
            began_s = time.monotonic()
            granted = self._credit.draw(wanted_bytes, LANE_TICK_S / 4)
            if self._on_waited is not None:
                self._on_waited(time.monotonic() - began_s)
            if granted:
                return granted
            check()
