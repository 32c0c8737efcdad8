"""Hedging: when a span that is asked of one peer is asked of another, faster one as well.

Only in the endgame, or when a reader's deadline is at stake; only if the other peer would be
HEDGE_GAIN times faster; and in the endgame no span more than HEDGES_PER_SPAN_MAX times. This module
judges; `p2phub.core.swarm.download` asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from p2phub.core.swarm.pipeline import PeerState, RequestState

HEDGE_GAIN = 2.0  # less would pay more duplicates than time saved
HEDGE_CHECK_S = 0.1  # how often idle peers in the endgame look for slower ones' spans
HEDGES_PER_SPAN_MAX = 4  # a span that changes hands more often is not the peers' fault


class Hedging:
    """Remembers how often each span was hedged."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def count(self, span: int) -> None:
        """A span was asked of a second peer."""
        self._counts[span] = self._counts.get(span, 0) + 1

    def forget(self, span: int) -> None:
        """A span is complete."""
        self._counts.pop(span, None)

    def takeovers(
        self,
        idle: Iterable[PeerState],
        by_span: Mapping[int, list[RequestState]],
        now: float,
    ) -> list[tuple[RequestState, PeerState]]:
        """For each idle peer, in order, the latest of the requests that it would speed up."""
        slow = [
            (requests[0].peer.request_eta_s(requests[0], now), requests[0])
            for span, requests in by_span.items()
            if len(requests) == 1 and self._counts.get(span, 0) < HEDGES_PER_SPAN_MAX
        ]
        slow.sort(key=lambda row: (-row[0], row[1].id))
        found = []
        for state in idle:
            row = next(_faster_at(state, slow, now), None)
            if row is not None:
                slow.remove(row)
                found.append((row[1], state))
        return found


def _faster_at(
    state: PeerState, slow: list[tuple[float, RequestState]], now: float
) -> Iterator[tuple[float, RequestState]]:
    for row in slow:
        eta_s, request = row
        if HEDGE_GAIN * state.eta_s(0, now) >= eta_s:
            return  # nor is it faster than those that follow
        is_faster = HEDGE_GAIN * state.eta_s(request.remaining_bytes, now) < eta_s
        if is_faster and state.holdings.whole >> request.span & 1:
            yield row


def soonest(
    span: int,
    size_bytes: int,
    peers: Iterable[PeerState],
    requests: list[RequestState],
    now: float,
) -> PeerState | None:
    """Who of the peers that may be asked, and aren't yet, would send a span first; None: nobody.

    Where no rate is known, whoever has the least in its pipeline.
    """
    askable = [
        state
        for state in peers
        if state.is_ready
        and state.holdings.whole >> span & 1
        and len(state.requests) < state.requests_max
        and not any(request.peer is state for request in requests)
    ]
    return min(
        askable,
        key=lambda state: (
            state.is_snubbed,
            state.eta_s(size_bytes, now),
            state.in_flight_bytes,
            state.order,
        ),
        default=None,
    )


def is_worth_it(
    holder: RequestState, other: PeerState, deadline: float, size_bytes: int, now: float
) -> bool:
    """Whether `other` shall be asked too for what a reader needs by `deadline`."""
    holder_s = holder.peer.request_eta_s(holder, now)
    is_late = now >= deadline or now + holder_s > deadline
    return is_late and HEDGE_GAIN * other.eta_s(size_bytes, now) < holder_s
