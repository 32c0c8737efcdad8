"""Upload slots: who may request, whose request is sent next. A machine over `now`.

Signatures first; the body follows.
"""

from __future__ import annotations

import random

from p2phub.core.swarm.actions import Peer, UploadAction
from p2phub.proto.messages import Run


class Uploads:
    """All sessions that others opened to this node, over all releases."""

    def __init__(self, rng: random.Random, slots_count: int = 32) -> None: ...
    def on_peer(self, peer: Peer, now: float, *, is_local: bool = False) -> None:
        """A peer opened a session. It is choked until an action unchokes it."""

    def on_peer_gone(self, peer: Peer, now: float) -> None: ...
    def on_request(
        self, peer: Peer, request_id: int, runs: tuple[Run, ...], size_bytes: int, now: float
    ) -> None:
        """A peer requests a span of `size_bytes` that this node holds (else reject it before)."""

    def on_cancel(self, peer: Peer, request_id: int, now: float) -> None: ...
    def on_sent(self, peer: Peer, size_bytes: int, now: float) -> None:
        """Payload went out to a peer."""

    def on_upload_done(self, peer: Peer, request_id: int, now: float) -> None:
        """All chunks of a started request were handed to the channel, or it stopped at one that is not held."""

    def on_received(self, peer: Peer, size_bytes: int, now: float) -> None:
        """Verified payload came in from a peer: what reciprocity counts."""

    def set_slots_count(self, slots_count: int) -> None: ...
    def next_actions(self, now: float) -> list[UploadAction]:
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        raise NotImplementedError
