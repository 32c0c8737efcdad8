"""Token buckets over `now`: a rate for all, and one per peer, that may change while running.

Signatures first; the body follows.
"""

from __future__ import annotations

from collections.abc import Mapping

from p2phub.core.swarm.actions import Peer


class Limiter:
    """Shares a rate among the lanes of one direction. None: no limit."""

    def __init__(self, rate_bytes_per_s: int | None = None, peer_rate_bytes_per_s: int | None = None) -> None: ...
    def set_rate(self, rate_bytes_per_s: int | None, now: float) -> None: ...
    def set_peer_rate(self, peer: Peer | None, rate_bytes_per_s: int | None, now: float) -> None:
        """The limit of one peer; with peer None of every peer that has none of its own."""

    def grant(self, wants: Mapping[Peer, int], now: float) -> dict[Peer, int]:
        """How many more bytes each peer may move, at most what it wants; shared fairly. Call every TICK_S while any wants."""
        raise NotImplementedError

    def give_back(self, peer: Peer, size_bytes: int, now: float) -> None:
        """Credit that was granted and will not be used (its lane closed)."""

    def forget(self, peer: Peer) -> None: ...
