"""What p2phub needs from a network: authenticated streams to peers, and a place to announce and
find keys.

The node and the tests write against this page alone, so that libp2p (`p2phub.net.libp2p`) can be
replaced; `p2phub.net.memory` is a second network, inside one process. Both pass one contract suite.
This page moves no bytes and imports no network library.
"""

import ipaddress
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NewType, Protocol

import trio

from p2phub.errors import UsageError
from p2phub.proto.limits import ADDRESS_BYTES_MAX, STREAMS_PER_PEER_MAX

PeerId = NewType("PeerId", str)  # base58 text of the libp2p peer id

CONNECT_TIMEOUT_S = 8.0  # a few lost SYNs to a far host, and the handshake; beyond that it is away
OPEN_TIMEOUT_S = 10.0  # two round trips, behind a connection busy with bulk data
ANNOUNCE_TIMEOUT_S = 30.0  # a lookup over 20 nodes, a third of which may be dead
FIND_TIMEOUT_S = 8.0  # what a person waits before "no provider found"
FIND_COUNT_MAX = 20  # providers one lookup brings at most: more than a swarm starts with
RECEIVE_BYTES_DEFAULT = 65_536

_BASE58_DIGITS = frozenset("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")
# Base58 of 34 bytes (SHA-256 ids) to 38 bytes (Ed25519), with slack.
_PEER_ID_LENGTHS = range(40, 65)


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a peer may be reached: a hint from anyone, worth one dial."""

    peer: PeerId
    addresses: tuple[str, ...]  # multiaddrs without /p2p, at most ADDRESSES_PER_PEER_MAX

    def texts(self) -> list[str]:
        """Every address in the form that people copy: with /p2p/<peer id> at its end."""
        return [f"{address}/p2p/{self.peer}" for address in self.addresses]


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One live connection, as shown to the user."""

    peer: PeerId
    address: str | None  # multiaddr of the remote end without /p2p; None: not known
    is_outbound: bool  # we dialled
    since_s: float  # clock of the event loop (trio.current_time) at which it was made


@dataclass(frozen=True, slots=True)
class RoutingStatus:
    """What this node knows of the DHT, as shown to the user."""

    peers_count: int  # nodes in the routing table
    keys_count: int  # keys for which we keep records of others
    records_count: int  # provider records we keep for others
    refreshed_s: float | None  # event-loop clock of the last lookup of ourselves; None: never yet


class Stream(Protocol):
    """A two-way byte stream to one peer. One task may send while another receives."""

    @property
    def peer(self) -> PeerId:
        """The other end, proven by the handshake."""

    @property
    def remote_host(self) -> str | None:
        """IP text of the live connection ("127.0.0.1", "::1"); None: the network has no IPs."""

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of `data`; waits while the peer reads slowly. Raises StreamClosed.

        Cancelled: an unknown part was sent, so the only thing left to do is `reset`.
        """

    async def receive(self, max_bytes: int = RECEIVE_BYTES_DEFAULT) -> bytes:
        """The next 1 to `max_bytes` bytes, or b"" when the peer closed its side.

        Raises StreamClosed.
        """

    async def receive_exactly(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises StreamClosed when the stream ends before."""

    async def close(self) -> None:
        """Say that no more data comes from us; receiving goes on.

        Never raises for a dead stream.
        """

    async def reset(self) -> None:
        """Drop the stream in both directions now.

        Never raises for a dead stream; safe under cancellation.
        """


class Lookup(Protocol):
    """Providers of one key, in the order in which they are found; ends when nobody is left to
    ask.
    """

    def __aiter__(self) -> "Lookup": ...

    async def __anext__(self) -> PeerAddress: ...

    @property
    def asked_count(self) -> int:
        """Nodes that answered so far, this one included."""


OnStream = Callable[[Stream], Awaitable[None]]


class Network(Protocol):
    """The door to other peers. Streams, connects and lookups work while `run` runs."""

    @property
    def peer_id(self) -> PeerId: ...

    def addresses(self) -> list[str]:
        """Multiaddrs others may dial, with /p2p/<id>; wildcards are expanded to this machine's
        IPs.
        """

    def serve(
        self,
        protocol: str,
        on_stream: OnStream,
        *,
        streams_per_peer_max: int = STREAMS_PER_PEER_MAX,
    ) -> None:
        """Answer `protocol` with one task of `on_stream` per stream; call before `run`.

        A peer's streams above `streams_per_peer_max` are reset. When `on_stream` returns, our side
        is closed; when it raises, the stream is reset: a P2phubError is the peer's end and is
        logged, any other exception is logged with its traceback and counted in `faults_count`.
        """

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled; `started()` when others can dial. Raises PortInUse."""

    @property
    def faults_count(self) -> int:
        """Tasks serving a peer that died of an exception of ours since the start: must stay 0."""

    async def connect(self, address: PeerAddress, *, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Be connected to this peer: all its addresses are dialled with a stagger, the first wins.

        Raises PeerUnreachable. A live connection is kept and nothing is dialled.
        """

    async def open(
        self, peer: PeerId, protocol: str, *, timeout_s: float = OPEN_TIMEOUT_S
    ) -> Stream:
        """A new stream to a peer; dials the addresses known for it when no connection lives.

        Raises PeerUnreachable, ProtocolRefused when the peer does not speak `protocol`, or
        StreamClosed when it drops the stream at once, as it does with too many.
        """

    async def disconnect(self, peer: PeerId) -> None:
        """Close all connections with this peer; its streams end."""

    def peers(self) -> list[PeerStatus]:
        """Everyone we are connected to."""

    async def peers_changed(self) -> None:
        """Until somebody is connected, is gone, or said where it can be dialled."""

    def known_address(self, peer: PeerId) -> PeerAddress | None:
        """Where others may dial a peer, as it said itself or as we reached it; None: not known."""

    async def announce(self, key: bytes, *, timeout_s: float = ANNOUNCE_TIMEOUT_S) -> int:
        """Ask the nodes closest to `key` to remember us as its provider; how many really did.

        key: 32 bytes. 0 means that nobody can find us by it. Paced by the caller.
        """

    def find(
        self, key: bytes, *, count: int = FIND_COUNT_MAX, timeout_s: float = FIND_TIMEOUT_S
    ) -> AbstractAsyncContextManager[Lookup]:
        """Ask the network afresh who provides `key`: each other peer once, as answers come.

            async with network.find(key) as lookup:
                async for provider in lookup: ...

        Leaving the block early cancels the questions still under way.
        """

    async def find_closest(
        self, key: bytes, *, timeout_s: float = FIND_TIMEOUT_S
    ) -> list[PeerAddress]:
        """The (at most 20) nodes closest to `key` that answer now, nearest first."""

    async def refresh(self, *, timeout_s: float = ANNOUNCE_TIMEOUT_S) -> int:
        """Make ourselves known: look up our own id; how many nodes are in the routing table
        then.
        """

    def routing(self) -> RoutingStatus: ...


def parse_peer_address(text: str) -> PeerAddress:
    """Read one dialable address, as printed by `Network.addresses`:
    /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…

    Accepts ip4, ip6, dns, dns4 and dns6 hosts over tcp. Raises UsageError on anything else.
    """
    if len(text) > 2 * ADDRESS_BYTES_MAX:
        raise UsageError(f"an address of {len(text)} characters is too long to be one")
    address, separator, peer = text.rpartition("/p2p/")
    if not separator:
        raise UsageError(
            f"{text!r} names no peer: write it all, as in /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…"
        )
    return PeerAddress(parse_peer_id(peer), (parse_address(address),))


def parse_peer_id(text: str) -> PeerId:
    """Read a peer id in base58. Raises UsageError if it cannot be one."""
    if len(text) not in _PEER_ID_LENGTHS or not _BASE58_DIGITS.issuperset(text):
        raise UsageError(f"{text!r} is not a peer id: those look like 12D3Koo… and are base58")
    return PeerId(text)


def parse_address(text: str) -> str:
    """Read one TCP multiaddr without /p2p and return it in its one normal form.

    Raises UsageError.
    """
    parts = text.split("/")
    if len(parts) != 5 or parts[0] or parts[3] != "tcp" or len(text) > ADDRESS_BYTES_MAX:
        raise UsageError(f"{text!r} is not an address like /ip4/192.0.2.1/tcp/4001")
    _, kind, host, _, port = parts
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 65_536):
        raise UsageError(f"{port!r} in {text!r} is not a port: 0 to 65535")
    return f"/{kind}/{_parse_host(kind, host, text)}/tcp/{int(port)}"


def _parse_host(kind: str, host: str, text: str) -> str:
    try:
        if kind == "ip4":
            return str(ipaddress.IPv4Address(host))
        if kind == "ip6":
            return str(ipaddress.IPv6Address(host))
    except ValueError:
        raise UsageError(f"{host!r} in {text!r} is not an IP address of kind {kind}") from None
    if kind not in ("dns", "dns4", "dns6"):
        raise UsageError(
            f"{text!r}: only ip4, ip6, dns, dns4 and dns6 hosts can be dialled, over tcp"
        )
    labels = host.lower().removesuffix(".").split(".")
    if len(host) > 253 or not all(_is_dns_label(label) for label in labels):
        raise UsageError(f"{host!r} in {text!r} is not a host name")
    return ".".join(labels)


def _is_dns_label(label: str) -> bool:
    return (
        0 < len(label) < 64
        and label.isascii()
        and label.replace("-", "").replace("_", "").isalnum()
        and not label.startswith("-")
        and not label.endswith("-")
    )
