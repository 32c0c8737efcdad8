"""Which connections a node has: by peer, and of those that came in, how many from each network.

Says who gives way where there is no room; what ends a connection is not here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import trio

from p2phub.net.addresses import gives_way, is_own_machine, network_of
from p2phub.net.base import PeerId
from p2phub.net.connection import Connection
from p2phub.proto.limits import CONNECTIONS_PER_HOST_MAX


class ConnectionTable:
    """The connections of one node, each until it is removed."""

    def __init__(self) -> None:
        self._by_peer: dict[PeerId, list[Connection]] = {}
        self._by_network: Counter[str] = Counter()  # inbound, this machine's own excepted
        self._changed = trio.Event()

    def __bool__(self) -> bool:
        return bool(self._by_peer)

    def live(self) -> list[Connection]:
        return [found for group in self._by_peer.values() for found in group if found.is_live]

    def inbound(self) -> list[Connection]:
        """Those live ones that others opened."""
        return [found for found in self.live() if not found.is_outbound]

    def of(self, peer: PeerId) -> Sequence[Connection]:
        """All with one peer, the newest last."""
        return tuple(self._by_peer.get(peer, ()))

    def newest(self, peer: PeerId) -> Connection | None:
        """The newest live connection with a peer: older ones may be ghosts of its former life."""
        return next((found for found in reversed(self.of(peer)) if found.is_live), None)

    def add(self, connection: Connection) -> None:
        self._by_peer.setdefault(connection.peer, []).append(connection)
        network = _network_that_counts(connection)
        if network is not None:
            self._by_network[network] += 1
        self.on_changed()

    def remove(self, connection: Connection) -> None:
        """Nothing if it was removed before."""
        group = self._by_peer.get(connection.peer, [])
        if connection not in group:
            return
        group.remove(connection)
        if not group:
            del self._by_peer[connection.peer]
        network = _network_that_counts(connection)
        if network is not None:
            self._by_network[network] -= 1
            if not self._by_network[network]:
                del self._by_network[network]
        self.on_changed()

    async def changed(self) -> None:
        """Until `on_changed` is called, as when a connection is made or ends."""
        await self._changed.wait()

    def on_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- who gives way -------------------------------------------------------------------------

    def has_room_for(self, host: str) -> bool:
        """Whether this host's network may have one more inbound connection."""
        return self._by_network[network_of(host)] < CONNECTIONS_PER_HOST_MAX

    def idle_longest(self, until_s: float, *, is_inbound_only: bool) -> Connection | None:
        """The one without a stream that had its last one longest ago, before `until_s`."""
        idle = [
            found
            for found in (self.inbound() if is_inbound_only else self.live())
            if not found.yamux.streams_count and found.used_s <= until_s
        ]
        return min(idle, key=lambda found: found.used_s, default=None)

    def newest_of_most(self, host: str) -> Connection | None:
        """The newest inbound one of the network that has most; None if that has not two more than
        `host`'s: streams that say nothing shall keep nobody out.
        """
        inbound = self.inbound()
        network = gives_way((found.remote.host for found in inbound), host)
        theirs = [found for found in inbound if network_of(found.remote.host) == network]
        return max(theirs, key=lambda found: found.since_s, default=None)

    def fullest(self) -> Connection:
        """Of the network from which most bytes are unread, the one with most of them; there is
        one at least.
        """
        live, shares = self.live(), Counter[str]()
        for found in live:
            shares[network_of(found.remote.host)] += found.yamux.unread_bytes
        crowded = max(shares, key=lambda network: shares[network])
        theirs = [found for found in live if network_of(found.remote.host) == crowded]
        return max(theirs, key=lambda found: found.yamux.unread_bytes)


def _network_that_counts(connection: Connection) -> str | None:
    host = connection.remote.host
    return None if connection.is_outbound or is_own_machine(host) else network_of(host)
