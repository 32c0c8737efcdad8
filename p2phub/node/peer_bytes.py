"""How many bytes went to each peer, or came from it."""

from __future__ import annotations

from p2phub.net.base import PeerId

PEERS_COUNTED_MAX = 4096  # who moved nothing for longest is forgotten


class PeerBytes:
    """A count per peer, for the PEERS_COUNTED_MAX that moved something last; `total` counts all."""

    def __init__(self) -> None:
        self.total = 0
        self._by_peer: dict[PeerId, int] = {}  # who moved nothing for longest first

    def add(self, peer: PeerId, size_bytes: int) -> None:
        self.total += size_bytes
        self._by_peer[peer] = self._by_peer.pop(peer, 0) + size_bytes
        if len(self._by_peer) > PEERS_COUNTED_MAX:
            del self._by_peer[next(iter(self._by_peer))]

    def of(self, peer: PeerId) -> int:
        """0 also for who was forgotten."""
        return self._by_peer.get(peer, 0)
