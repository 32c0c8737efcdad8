"""Super-seeding by offers: each span leaves the seeds once before any leaves twice.

Signatures first; the body follows.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2phub.core.swarm.actions import Peer, SendOffer
from p2phub.digest import Digest


class Offers:
    """The offers of this seed in the swarm of one release. me: this node's own peer id."""

    def __init__(self, me: Peer, size_bytes: int) -> None: ...
    def on_page(self, page: Digest, lengths: Sequence[int]) -> None: ...
    def on_pages_complete(self) -> None: ...
    def on_peer(self, peer: Peer, now: float) -> None:
        """A peer joined the swarm of this release: it downloads, or seeds as we do (its haves will tell)."""

    def on_peer_gone(self, peer: Peer, now: float) -> None: ...
    def on_have(self, peer: Peer, page: Digest, bits: bytes, now: float) -> None: ...
    def on_have_delta(self, peer: Peer, page: Digest, entries: Sequence[int], now: float) -> None: ...
    def next_actions(self, now: float) -> list[SendOffer]:
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Every span has a holder who is no seed: nothing more to offer."""
        raise NotImplementedError
