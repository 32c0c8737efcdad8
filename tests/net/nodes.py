"""Real nodes on loopback for the tests of the network, and attackers that speak in raw frames."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import trio

from p2phub.errors import StreamClosed
from p2phub.net.addresses import endpoint_from_text
from p2phub.net.base import PeerAddress, Stream, parse_peer_address
from p2phub.net.dial import connect_tcp
from p2phub.net.identity import Identity, identity_from_seed
from p2phub.net.libp2p import Libp2pNetwork
from p2phub.net.multistream import propose
from p2phub.net.secure import MessageStream, SecureChannel, Security, Socket
from p2phub.net.yamux import PROTOCOL as YAMUX

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
ECHO, DEAF = "/echo/1", "/deaf/1"

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def identity(number: int) -> Identity:
    return identity_from_seed(number.to_bytes(32, "big"))


def node(number: int, *, listen: str = LOOPBACK, **settings: Any) -> Libp2pNetwork:
    """A node whose identity and jitter follow from its number; it echoes, and does not run yet."""
    rng = random.Random(number)
    network = Libp2pNetwork(identity(number), [listen], rng=rng, **settings)
    network.serve(ECHO, echo)
    return network


async def echo(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


def address_of(network: Libp2pNetwork) -> PeerAddress:
    """Where a running node can be dialled."""
    return parse_peer_address(network.addresses()[0])


async def nodes(nursery: trio.Nursery, count: int, *, first: int = 1) -> list[Libp2pNetwork]:
    """Running nodes that do not know each other."""
    made = [node(number) for number in range(first, first + count)]
    for network in made:
        await nursery.start(network.run)
    return made


async def deaf_victim(nursery: trio.Nursery) -> tuple[Libp2pNetwork, Libp2pNetwork]:
    """A node that reads nothing over DEAF and keeps 1 MiB unread; and one connected to it."""

    async def deaf(stream: Stream) -> None:
        await trio.sleep_forever()

    victim = node(1)
    victim.serve(DEAF, deaf)
    victim._swarm.unread_bytes_max = 1 << 20
    await nursery.start(victim.run)
    (honest,) = await nodes(nursery, 1, first=2)
    await honest.connect(address_of(victim))
    return victim, honest


async def until(holds: Callable[[], object]) -> None:
    """Until a real node has noticed; fails after five seconds."""
    with trio.fail_after(5):
        while not holds():
            await trio.sleep(0.01)


async def ask_echo(
    asker: Libp2pNetwork, asked: Libp2pNetwork, data: bytes = b"are you there"
) -> bytes:
    """One exchange on a stream of its own, within five seconds."""
    with trio.fail_after(5):
        stream = await asker.open(asked.peer_id, ECHO)
        await stream.send(data)
        await stream.close()
        answer = await stream.receive_exactly(len(data))
        assert await stream.receive() == b""
    return answer


class Turns:
    """Somebody else in the event loop: how often it came to its turn."""

    count = 0

    async def take(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self.count += 1


class Attacker:
    """A peer that sends frames as it likes over one authenticated connection."""

    def __init__(self, channel: SecureChannel, rest: bytes) -> None:
        self.channel = channel
        self._received = rest

    async def send(self, *frames: bytes) -> None:
        """Frames, packed into as few messages as they fit."""
        message = b""
        for frame in frames:
            if len(message) + len(frame) > 65_519:
                await self.channel.send([message])
                message = b""
            message += frame
        await self.channel.send([message])

    async def receive_frame(self) -> tuple[int, int, int, int, bytes]:
        """Type, flags, stream, length and payload of the next frame."""
        await self._fill(12)
        _, kind, flags, index, length = struct.unpack("!BBHII", self._received[:12])
        body = length if kind == DATA else 0
        await self._fill(12 + body)
        payload = self._received[12 : 12 + body]
        self._received = self._received[12 + body :]
        return kind, flags, index, length, payload

    async def _fill(self, count: int) -> None:
        while len(self._received) < count:
            self._received += await self.channel.receive()


async def is_closed(attacker: Attacker) -> bool:
    """Whether the victim ends the connection within five seconds; what it still says is read."""
    with trio.move_on_after(5):
        try:
            while True:
                await attacker.receive_frame()
        except StreamClosed:
            return True
    return False


def frame(kind: int, flags: int, index: int, length: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack("!BBHII", 0, kind, flags, index, length) + payload


def data_frame(index: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, index, len(payload), payload)


def opening(protocol: str) -> bytes:
    """What an opener says first on a stream."""
    lines = [b"/multistream/1.0.0\n", protocol.encode() + b"\n"]
    return b"".join(bytes([len(line)]) + line for line in lines)


async def attack(
    nursery: trio.Nursery, victim: Libp2pNetwork, number: int = 9000, *, source: str | None = None
) -> Attacker:
    """A connection to `victim` in the name of another identity, from an IP of this machine; closed
    at the nursery's end.
    """
    wire = await dial(nursery, victim, source=source)
    channel = await Security(identity(number)).secure_outbound(wire, victim.peer_id)
    messages = MessageStream(channel)
    await propose(messages, YAMUX)
    return Attacker(channel, messages.rest)


async def dial(
    nursery: trio.Nursery, victim: Libp2pNetwork, *, source: str | None = None
) -> Socket:
    """A TCP connection to `victim` that has not said anything; closed at the nursery's end."""
    endpoint = endpoint_from_text(address_of(victim).addresses[0])
    if source is None:
        wire = Socket(await connect_tcp(endpoint))
    else:
        connecting = trio.socket.socket()
        await connecting.bind((source, 0))
        await connecting.connect((endpoint.host, endpoint.port))
        wire = Socket(trio.SocketStream(connecting))

    async def close_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            wire.close_now()

    nursery.start_soon(close_at_the_end)
    return wire
