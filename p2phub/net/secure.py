"""A TCP connection under Noise: the other end's peer id is proven, everything after is encrypted.

The handshake is libp2p's; messages are cut, encrypted and read here, in one piece per 64 KiB, since
its session copies each byte some ten times and leaves half a message behind when a write is
cancelled. Noise alone is offered: with plaintext anyone is anyone.
Source: https://github.com/libp2p/specs/blob/master/noise/README.md.
"""

from __future__ import annotations

import socket
from typing import Any

import trio
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport

from p2phub.errors import ProtocolViolation, StreamClosed
from p2phub.net.base import PeerId
from p2phub.net.identity import Identity
from p2phub.net.multistream import answer, propose

PLAINTEXT_BYTES_MAX = 65_535 - 16  # one Noise message less its tag
_RECEIVE_BYTES = 262_144  # four messages in one system call
# The kernel asks for more when this little is unsent: fewer wake-ups than at trio's 16 KiB.
_UNSENT_BYTES = 262_144
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT = 60, 20, 3  # silent: gone in 2 minutes
_UNACKNOWLEDGED_MS = 120_000  # the same for a peer that vanished while we were sending


class Socket:
    """A TCP connection with a read buffer: bytes in, bytes out, still in the clear."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        try:
            self._set_options(stream)
        except OSError:
            stream.socket.close()  # The other end was quicker to leave.
            raise

    @staticmethod
    def _set_options(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):  # Linux; elsewhere the system's own times hold
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)

    async def send(self, data: bytes | bytearray) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamClosed("the connection broke while sending") from error

    async def receive_exactly(self, count: int) -> bytes:
        await self.fill(count)
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def fill(self, count: int) -> None:
        """Have at least `count` bytes buffered.

        Raises StreamClosed at the end of the connection.
        """
        while len(self._buffer) < count:
            try:
                data = await self._stream.receive_some(_RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise StreamClosed("the connection broke") from error
            if not data:
                raise StreamClosed("the other end closed the connection")
            self._buffer += data

    async def receive_message(self) -> bytes:
        """One length-prefixed message: two bytes, then at most 65,535."""
        await self.fill(2)
        count = 2 + int.from_bytes(self._buffer[:2], "big")
        await self.fill(count)
        data = bytes(self._buffer[2:count])
        del self._buffer[:count]
        return data

    def close_now(self) -> None:
        """Close at once; whoever waits on it gets StreamClosed."""
        self._stream.socket.close()


class SecureChannel:
    """Authenticated and encrypted messages to one peer. One task sends, one receives."""

    def __init__(self, wire: Socket, peer: PeerId, cipher: Any) -> None:
        # cipher: libp2p's read-writer of the finished handshake, for its encrypt and decrypt alone.
        self.peer = peer
        self._wire = wire
        self._cipher = cipher

    async def send(self, messages: list[bytes]) -> None:
        """Send messages of at most PLAINTEXT_BYTES_MAX each.

        If cancelled the channel must be closed.
        """
        sealed = bytearray()
        for message in messages:
            ciphertext = self._cipher.encrypt(message)
            sealed += len(ciphertext).to_bytes(2, "big")
            sealed += ciphertext
        await self._wire.send(sealed)

    async def receive(self) -> bytes:
        """The next message. Raises StreamClosed, ProtocolViolation if it was tampered with."""
        message = await self._wire.receive_message()
        try:
            return bytes(self._cipher.decrypt(message))
        except (
            Exception
        ) as error:  # libp2p's cipher names its own faults and passes on those of two libraries
            raise ProtocolViolation("a message failed authentication") from error

    def close_now(self) -> None:
        self._wire.close_now()


class MessageStream:
    """A channel's messages as a byte stream, for the one negotiation that precedes the
    multiplexer.
    """

    def __init__(self, channel: SecureChannel) -> None:
        self._channel = channel
        self.rest = b""  # what came after the last byte asked for

    async def send(self, data: bytes) -> None:
        await self._channel.send([data])

    async def receive_exactly(self, count: int) -> bytes:
        while len(self.rest) < count:
            self.rest += await self._channel.receive()
        data, self.rest = self.rest[:count], self.rest[count:]
        return data


class Security:
    """Makes secure channels in the name of one identity."""

    def __init__(self, identity: Identity) -> None:
        self._transport = Transport(identity.key_pair, create_noise_key_pair().private_key)

    async def secure_outbound(self, wire: Socket, peer: PeerId) -> SecureChannel:
        """Shake hands with exactly `peer`.

        Raises ProtocolRefused, ProtocolViolation, StreamClosed.
        """
        await propose(wire, NOISE)
        return await self._shake(wire, peer)

    async def secure_inbound(self, wire: Socket) -> SecureChannel:
        """Shake hands with whoever dialled. Raises ProtocolViolation, StreamClosed."""
        await answer(wire, (str(NOISE),))
        return await self._shake(wire, None)

    async def _shake(self, wire: Socket, peer: PeerId | None) -> SecureChannel:
        connection = RawConnection(_LibrarySocket(wire), peer is not None)
        try:
            if peer is None:
                session: Any = await self._transport.secure_inbound(connection)
            else:
                session = await self._transport.secure_outbound(connection, ID.from_base58(peer))
        except StreamClosed:
            raise
        except PeerIDMismatchesPubkey as error:
            raise ProtocolViolation("another peer answers at this address") from error
        # The handshake parses a stranger's bytes with three libraries: any failure is the peer's.
        except Exception as error:
            raise ProtocolViolation(
                f"the handshake failed: {type(error).__name__}: {error}"
            ) from error
        proven = PeerId(session.get_remote_peer().to_base58())
        if peer is not None and proven != peer:
            raise ProtocolViolation(f"{peer} was dialled, {proven} answered")
        return SecureChannel(wire, proven, session.conn)


class _LibrarySocket(ReadWriteCloser):
    """A socket in the shape that libp2p's handshake reads and writes."""

    def __init__(self, wire: Socket) -> None:
        self._wire = wire

    async def read(self, n: int | None = None) -> bytes:
        return await self._wire.receive_exactly(n or 0)

    async def write(self, data: bytes) -> None:
        await self._wire.send(data)

    async def close(self) -> None:
        self._wire.close_now()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None
