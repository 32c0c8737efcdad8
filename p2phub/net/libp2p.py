"""The network over libp2p: TCP, Noise and yamux, identify, Kademlia.

Of py-libp2p the identities, the Noise handshake and the messages of identify and Kademlia are used;
what it builds of them is replaced here by parts that are bounded and survive each other's ends.
"""

from __future__ import annotations

import logging
import random
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version

import trio

from p2phub import __version__
from p2phub.errors import NetworkError, P2phubError, PeerUnreachable, UsageError
from p2phub.net.addresses import listen_endpoint
from p2phub.net.base import (
    ANNOUNCE_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    FIND_COUNT_MAX,
    FIND_TIMEOUT_S,
    OPEN_TIMEOUT_S,
    Lookup,
    OnStream,
    PeerAddress,
    PeerId,
    PeerStatus,
    RoutingStatus,
    Stream,
    parse_address,
)
from p2phub.net.connection import Connection, Served
from p2phub.net.identify import PROTOCOL as IDENTIFY
from p2phub.net.identify import introduce, receive_introduction
from p2phub.net.identity import Identity
from p2phub.net.kademlia import Kademlia
from p2phub.net.swarm import Swarm
from p2phub.proto.limits import ADDRESSES_PER_PEER_MAX, PEERS_KNOWN_MAX, STREAMS_PER_PEER_MAX
from p2phub.proto.protocols import KADEMLIA

LIBP2P_VERSION = "0.8.1"  # what this package was tested against, line by line
AGENT = f"p2phub/{__version__}"
PING = "/ipfs/ping/1.0.0"
PING_BYTES = 32
_IDENTIFY_TIMEOUT_S = 10.0
_IDENTIFY_WAIT_S = 3.0  # a connect waits this long for the peer's introduction, and goes on without
_PING_IDLE_S = 60.0
_MULTIHASH_SHA256 = b"\x12\x20"

log = logging.getLogger(__name__)


class Libp2pNetwork:
    """A `Network` of p2phub.net.base."""

    def __init__(
        self,
        identity: Identity,
        listen: Iterable[str] = ("/ip4/0.0.0.0/tcp/0",),
        *,
        announce: Iterable[str] = (),
        kademlia_protocol: str = KADEMLIA,
        rng: random.Random | None = None,
    ) -> None:
        """listen: TCP multiaddrs; port 0 picks one. announce: more addresses of ours, as behind a
        port mapping.

        kademlia_protocol: the table to be part of; another name is another network. rng: for jitter
        only.
        Raises NetworkError for another version of libp2p, BadSetting for addresses that cannot be
        used.
        """
        assert_version(version("libp2p"))
        _silence()
        self.peer_id = identity.peer_id
        self._public_key = identity.key_pair.public_key.serialize()
        self._announced = tuple(parse_address(address) for address in announce)
        # Least recently used first.
        self._known: OrderedDict[PeerId, tuple[str, ...]] = OrderedDict()
        self._introduced: dict[Connection, trio.Event] = {}
        self._kademlia_protocol = kademlia_protocol
        self._swarm = Swarm(
            identity,
            [listen_endpoint(address) for address in listen],
            on_connected=self._on_connected,
        )
        self._kademlia = Kademlia(
            self._swarm,
            kademlia_protocol,
            addresses_of=lambda peer: self._known.get(peer, ()),
            own_addresses=self._own_addresses,
            rng=rng or random.SystemRandom(),
        )
        self._swarm.serve(IDENTIFY, Served(self._serve_identify, 4))
        self._swarm.serve(PING, Served(_serve_ping, 2))

    # -- life ----------------------------------------------------------------------------------

    def serve(
        self,
        protocol: str,
        on_stream: OnStream,
        *,
        streams_per_peer_max: int = STREAMS_PER_PEER_MAX,
    ) -> None:
        self._swarm.serve(protocol, Served(on_stream, streams_per_peer_max))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._swarm.run(self._kademlia.run, task_status=task_status)

    @property
    def faults_count(self) -> int:
        return self._swarm.faults_count

    def addresses(self) -> list[str]:
        return [f"{address}/p2p/{self.peer_id}" for address in self._own_addresses()]

    def _own_addresses(self) -> tuple[str, ...]:
        found = [*self._announced, *map(str, self._swarm.endpoints())]
        return tuple(dict.fromkeys(found))[:ADDRESSES_PER_PEER_MAX]

    # -- peers ---------------------------------------------------------------------------------

    async def connect(self, address: PeerAddress, *, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        try:
            with trio.fail_after(timeout_s):
                connection = await self._swarm.dial(address.peer, _dialable(address.addresses))
                with trio.move_on_after(_IDENTIFY_WAIT_S):
                    introduced = self._introduced.get(connection)
                    if introduced is not None:
                        await introduced.wait()
        except trio.TooSlowError:
            if self._swarm.connections.newest(address.peer) is None:
                raise PeerUnreachable(
                    f"{address.peer} could not be reached within {timeout_s:.0f} s"
                    f" at {', '.join(address.addresses)}",
                    peer=address.peer,
                ) from None

    async def open(
        self, peer: PeerId, protocol: str, *, timeout_s: float = OPEN_TIMEOUT_S
    ) -> Stream:
        try:
            with trio.fail_after(timeout_s):
                connection = await self._swarm.dial(peer, self._known.get(peer, ()))
                return await self._swarm.open(connection, protocol)
        except trio.TooSlowError:
            raise PeerUnreachable(
                f"{peer} did not answer within {timeout_s:.0f} s", peer=peer
            ) from None

    async def disconnect(self, peer: PeerId) -> None:
        await self._swarm.disconnect(peer)

    def peers(self) -> list[PeerStatus]:
        return [connection.status() for connection in self._swarm.connections.live()]

    async def peers_changed(self) -> None:
        await self._swarm.connections.changed()

    def known_address(self, peer: PeerId) -> PeerAddress | None:
        addresses = self._known.get(peer)
        return PeerAddress(peer, addresses) if addresses else None

    # -- the table -----------------------------------------------------------------------------

    async def announce(self, key: bytes, *, timeout_s: float = ANNOUNCE_TIMEOUT_S) -> int:
        return await self._kademlia.announce(_multihash(key), timeout_s)

    def find(
        self, key: bytes, *, count: int = FIND_COUNT_MAX, timeout_s: float = FIND_TIMEOUT_S
    ) -> AbstractAsyncContextManager[Lookup]:
        return self._kademlia.find(_multihash(key), count, timeout_s)

    async def find_closest(
        self, key: bytes, *, timeout_s: float = FIND_TIMEOUT_S
    ) -> list[PeerAddress]:
        return await self._kademlia.find_closest(_multihash(key), timeout_s)

    async def refresh(self, *, timeout_s: float = ANNOUNCE_TIMEOUT_S) -> int:
        return await self._kademlia.refresh(timeout_s)

    def routing(self) -> RoutingStatus:
        return self._kademlia.status()

    # -- introductions -------------------------------------------------------------------------

    def _on_connected(self, connection: Connection) -> None:
        self._introduced[connection] = trio.Event()
        if connection.is_outbound:
            self._remember(
                connection.peer, (str(connection.remote), *self._known.get(connection.peer, ()))
            )
        self._swarm.start_soon(self._identify, connection)

    async def _identify(self, connection: Connection) -> None:
        """Ask a new peer who it is; a peer that does not say is served all the same."""
        try:
            with trio.move_on_after(_IDENTIFY_TIMEOUT_S):
                stream = await self._swarm.open(connection, IDENTIFY)
                try:
                    said = await receive_introduction(
                        stream, connection.remote, is_outbound=connection.is_outbound
                    )
                    await stream.close()
                except BaseException:
                    stream.abort()
                    raise
                if said.addresses:
                    self._remember(connection.peer, said.addresses)
                    self._swarm.connections.on_changed()
                    if self._kademlia_protocol in said.protocols:
                        self._kademlia.on_peer(connection.peer, said.addresses)
        except P2phubError as error:
            log.debug("%s did not introduce itself: %s", connection.peer, error)
        except Exception:
            self._swarm.count_fault(connection.peer)
        finally:
            self._introduced.pop(connection).set()

    async def _serve_identify(self, stream: Stream) -> None:
        connection = self._swarm.connections.newest(stream.peer)
        if connection is None:
            return
        await introduce(
            stream,
            AGENT,
            self._public_key,
            self._own_addresses(),
            self._swarm.protocols,
            connection.remote,
        )

    def _remember(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        self._known[peer] = tuple(dict.fromkeys(addresses))[:ADDRESSES_PER_PEER_MAX]
        self._known.move_to_end(peer)
        if len(self._known) > PEERS_KNOWN_MAX:
            # Who is here stays, however many identities come and go.
            is_here = self._swarm.connections.newest
            gone = next(other for other in self._known if is_here(other) is None)
            del self._known[gone]


def _multihash(key: bytes) -> bytes:
    """A key as tables everywhere accept it: with the code of SHA-256 and its length in front."""
    return _MULTIHASH_SHA256 + key if len(key) == 32 else key


async def _serve_ping(stream: Stream) -> None:
    with trio.move_on_after(_PING_IDLE_S):
        while data := await stream.receive(PING_BYTES):
            await stream.send(data)
            await trio.lowlevel.checkpoint()  # others first, however much there is to say back


def _dialable(addresses: Iterable[str]) -> tuple[str, ...]:
    """The addresses of a hint that we can use: one bad one does not spoil the others."""
    found = []
    for address in list(addresses)[:ADDRESSES_PER_PEER_MAX]:
        try:
            found.append(parse_address(address))
        except UsageError as error:
            log.debug("an address is passed over: %s", error)
    return tuple(dict.fromkeys(found))


def assert_version(installed: str) -> None:
    """Raises NetworkError unless this is the libp2p that this package was tested against."""
    if installed != LIBP2P_VERSION:
        raise NetworkError(
            f"libp2p {installed} is installed, p2phub works with exactly {LIBP2P_VERSION}:"
            " install what the lock file names",
            installed=installed,
        )


def _silence() -> None:
    """libp2p logs ordinary events as warnings, straight to stderr: keep it to what breaks."""
    library = logging.getLogger("libp2p")
    library.setLevel(logging.CRITICAL)
    if not library.handlers:
        library.addHandler(logging.NullHandler())
