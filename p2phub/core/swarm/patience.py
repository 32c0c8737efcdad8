"""When the next peer is late, or its pause is over: a lower bound, kept as things happen.

Deadlines of peers move with every chunk; only when the bound is reached are all peers looked at. So
a step costs nothing for the peers it does not concern, and a wake-up now and then comes too early.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2phub.core.swarm.pipeline import PeerState


class Patience:
    """The earliest time at which somebody may be late."""

    def __init__(self) -> None:
        self.next_wait = float("inf")

    def wait_for(self, state: PeerState) -> None:
        """Take notice of what is awaited of a peer now."""
        for time in (state.paused_until, state.offering_until, state.deadline()):
            if time is not None and time < self.next_wait:
                self.next_wait = time

    def end_waits(
        self, peers: Iterable[PeerState], now: float
    ) -> tuple[list[PeerState], list[PeerState]]:
        """Who is awake again, and who is late."""
        self.next_wait = float("inf")
        awake, late = [], []
        for state in peers:
            if state.paused_until is not None and state.paused_until <= now:
                state.paused_until = None
                awake.append(state)
            if state.offering_until is not None and state.offering_until <= now:
                state.offering_until = None
                awake.append(state)
            deadline = state.deadline()
            if deadline is not None and deadline <= now:
                late.append(state)
            else:
                self.wait_for(state)
        return awake, late
