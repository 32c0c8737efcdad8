"""A network inside one process: the same promises as the real one, with time and links in a test's
hand.

Links have a latency and can be cut; announcements go to the nodes nearest to a key, over those that
are connected at all. Works under a virtual clock.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import base58
import trio

from p2phub.core.discovery.records import ProviderRecords
from p2phub.digest import sha256
from p2phub.errors import NetworkError, P2phubError, PeerUnreachable, ProtocolRefused
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
)
from p2phub.net.lookup import ProviderLookup
from p2phub.net.memory_stream import HOST, MemoryStream, stream_pair
from p2phub.proto.limits import STREAMS_PER_PEER_MAX

_ED25519_PREFIX = bytes.fromhex("002408011220")  # of an inlined key, as peer ids begin
_CLOSEST_MAX = 20  # nodes that keep a record

log = logging.getLogger(__name__)


class MemoryHub:
    """All networks of one process and the links between them."""

    def __init__(self, *, latency_s: float = 0.0) -> None:
        """latency_s: one way, for every byte and every question."""
        self.latency_s = latency_s
        self.networks: dict[PeerId, MemoryNetwork] = {}
        self._cuts: set[frozenset[PeerId]] = set()
        self._next_port = 1

    def network(self, name: str) -> MemoryNetwork:
        """A node of this hub; the name decides its peer id."""
        peer = PeerId(base58.b58encode(_ED25519_PREFIX + sha256(name.encode())).decode("ascii"))
        assert peer not in self.networks, f"there is a node {name} already"
        found = self.networks[peer] = MemoryNetwork(self, peer, self._next_port)
        self._next_port += 1
        return found

    def cut(self, one: PeerId, other: PeerId) -> None:
        """Break every connection between two nodes and let no new one come about."""
        self._cuts.add(frozenset((one, other)))
        self.networks[one].drop(other, "the link was cut")

    def heal(self, one: PeerId, other: PeerId) -> None:
        self._cuts.discard(frozenset((one, other)))

    def is_cut(self, one: PeerId, other: PeerId) -> bool:
        return frozenset((one, other)) in self._cuts


class MemoryNetwork:
    """A `Network` of p2phub.net.base; made by `MemoryHub.network`."""

    def __init__(self, hub: MemoryHub, peer: PeerId, port: int) -> None:
        self.peer_id = peer
        self.records = ProviderRecords()
        self.faults_count = 0
        self._hub = hub
        self._address = PeerAddress(peer, (f"/ip4/{HOST}/tcp/{port}",))
        self._served: dict[str, tuple[OnStream, int]] = {}
        self._serving: Counter[tuple[PeerId, str]] = Counter()
        self._connected: dict[PeerId, PeerStatus] = {}
        self._changed = trio.Event()
        self._streams: dict[PeerId, list[MemoryStream]] = {}
        self._nursery: trio.Nursery | None = None
        self._refreshed_s: float | None = None

    # -- life ---------------------------------------------------------------------------------

    def addresses(self) -> list[str]:
        return self._address.texts()

    def serve(
        self,
        protocol: str,
        on_stream: OnStream,
        *,
        streams_per_peer_max: int = STREAMS_PER_PEER_MAX,
    ) -> None:
        assert self._nursery is None, "protocols are served before run()"
        self._served[protocol] = (on_stream, streams_per_peer_max)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._nursery = None
        finally:
            for peer in list(self._connected):
                self.drop(peer, "the node stopped")

    @property
    def is_running(self) -> bool:
        return self._nursery is not None

    # -- peers --------------------------------------------------------------------------------

    async def connect(self, address: PeerAddress, *, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        if address.peer in self._connected:
            return
        other = self._hub.networks.get(address.peer)
        is_known = other is not None and not set(address.addresses).isdisjoint(
            other._address.addresses
        )
        await trio.sleep(min(2 * self._hub.latency_s, timeout_s))
        if other is None or not is_known or 2 * self._hub.latency_s > timeout_s:
            raise PeerUnreachable(f"{address.peer} could not be reached", peer=address.peer)
        self._join(other)

    def _join(self, other: MemoryNetwork) -> None:
        is_cut = self._hub.is_cut(self.peer_id, other.peer_id)
        if other is self or not other.is_running or not self.is_running or is_cut:
            raise PeerUnreachable(f"{other.peer_id} could not be reached", peer=other.peer_id)
        now = trio.current_time()
        self._connected.setdefault(
            other.peer_id, PeerStatus(other.peer_id, other._address.addresses[0], True, now)
        )
        other._connected.setdefault(
            self.peer_id, PeerStatus(self.peer_id, self._address.addresses[0], False, now)
        )
        self._on_changed()
        other._on_changed()

    async def open(
        self, peer: PeerId, protocol: str, *, timeout_s: float = OPEN_TIMEOUT_S
    ) -> MemoryStream:
        other = self._hub.networks.get(peer)
        await trio.sleep(min(2 * self._hub.latency_s, timeout_s))
        if other is None or 2 * self._hub.latency_s > timeout_s:
            raise PeerUnreachable(f"{peer} did not answer", peer=peer)
        self._join(other)
        if protocol not in other._served:
            raise ProtocolRefused(f"the peer does not speak {protocol}", protocol=protocol)
        ours, theirs = stream_pair(self.peer_id, peer, self._hub.latency_s)
        self._streams.setdefault(peer, []).append(ours)
        assert other._nursery is not None
        other._nursery.start_soon(other._serve, theirs, protocol)
        return ours

    async def _serve(self, stream: MemoryStream, protocol: str) -> None:
        on_stream, streams_max = self._served[protocol]
        who = (stream.peer, protocol)
        if self._serving[who] >= streams_max:
            stream.fail("too many streams of this protocol")
            return
        self._serving[who] += 1
        self._streams.setdefault(stream.peer, []).append(stream)
        try:
            await on_stream(stream)
            await stream.close()
        except P2phubError as error:
            stream.fail(str(error))
        except Exception as error:
            if isinstance(error, ExceptionGroup) and error.split(P2phubError)[1] is None:
                stream.fail(str(error))
                return
            self.faults_count += 1
            log.exception("a task that served %s failed", stream.peer)
            self.drop(stream.peer, "a task that served the connection failed")
        finally:
            self._serving[who] -= 1
            if stream in self._streams.get(stream.peer, ()):
                self._streams[stream.peer].remove(stream)

    async def disconnect(self, peer: PeerId) -> None:
        self.drop(peer, "the connection was closed")

    def drop(self, peer: PeerId, reason: str) -> None:
        """End the connection with a peer at both ends."""
        other = self._hub.networks[peer]
        self._connected.pop(peer, None)
        other._connected.pop(self.peer_id, None)
        self._on_changed()
        other._on_changed()
        for stream in [
            *self._streams.pop(peer, ()),
            *other._streams.pop(self.peer_id, ()),
        ]:
            stream.fail(reason)

    def peers(self) -> list[PeerStatus]:
        return list(self._connected.values())

    async def peers_changed(self) -> None:
        await self._changed.wait()

    def _on_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def known_address(self, peer: PeerId) -> PeerAddress | None:
        return self._hub.networks[peer]._address if peer in self._connected else None

    # -- the table ----------------------------------------------------------------------------

    async def announce(self, key: bytes, *, timeout_s: float = ANNOUNCE_TIMEOUT_S) -> int:
        await trio.sleep(2 * self._hub.latency_s)
        now = trio.current_time()
        nodes = self._closest(key)
        self.records.add(key, self.peer_id, self._address.addresses, now)
        return sum(
            node.records.add(key, self.peer_id, self._address.addresses, now) for node in nodes
        )

    def find(
        self, key: bytes, *, count: int = FIND_COUNT_MAX, timeout_s: float = FIND_TIMEOUT_S
    ) -> AbstractAsyncContextManager[Lookup]:
        return self._find(key, count, timeout_s)

    @asynccontextmanager
    async def _find(self, key: bytes, count: int, timeout_s: float) -> AsyncIterator[Lookup]:
        if self._nursery is None:
            raise NetworkError("the network is not running")
        send, receive = trio.open_memory_channel[PeerAddress](count)
        lookup = ProviderLookup(receive)
        scope = trio.CancelScope(deadline=trio.current_time() + timeout_s)

        async def ask() -> None:
            seen: set[str] = {self.peer_id}
            with send, scope:
                for node in [self, *self._closest(key)]:
                    if node is not self:
                        await trio.sleep(2 * self._hub.latency_s)
                    lookup.asked_count += 1
                    for peer, addresses in node.records.get(key, trio.current_time()):
                        if peer not in seen and len(seen) <= count:
                            seen.add(peer)
                            send.send_nowait(PeerAddress(PeerId(peer), addresses))

        self._nursery.start_soon(_run, ask)
        try:
            yield lookup
        finally:
            scope.cancel()
            receive.close()

    async def find_closest(
        self, key: bytes, *, timeout_s: float = FIND_TIMEOUT_S
    ) -> list[PeerAddress]:
        await trio.sleep(2 * self._hub.latency_s)
        return [node._address for node in self._closest(key)]

    async def refresh(self, *, timeout_s: float = ANNOUNCE_TIMEOUT_S) -> int:
        await trio.sleep(2 * self._hub.latency_s)
        self._refreshed_s = trio.current_time()
        return len(self._reachable())

    def routing(self) -> RoutingStatus:
        return RoutingStatus(
            len(self._reachable()), self.records.keys_count, len(self.records), self._refreshed_s
        )

    def _closest(self, key: bytes) -> list[MemoryNetwork]:
        position = int.from_bytes(sha256(key), "big")

        def distance(node: MemoryNetwork) -> int:
            return position ^ int.from_bytes(sha256(node.peer_id.encode()), "big")

        return sorted(self._reachable(), key=distance)[:_CLOSEST_MAX]

    def _reachable(self) -> list[MemoryNetwork]:
        """Every running node that some path of connections leads to, this one excepted."""
        found = {self.peer_id: self}
        waiting = [self]
        while waiting:
            for peer in waiting.pop()._connected:
                if peer not in found:
                    found[peer] = self._hub.networks[peer]
                    waiting.append(found[peer])
        del found[self.peer_id]
        return [node for node in found.values() if not self._hub.is_cut(self.peer_id, node.peer_id)]


async def _run(ask: Callable[[], Awaitable[None]]) -> None:
    try:
        await ask()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # Whoever asked has left.
