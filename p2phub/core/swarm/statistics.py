"""Snapshots of a download, for people, metrics and the simulator."""

from __future__ import annotations

from dataclasses import dataclass

from p2phub.core.swarm.actions import Peer
from p2phub.core.swarm.pipeline import PeerState


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What is known of one peer of a download."""

    peer: Peer
    is_local: bool
    is_choked: bool  # it gives us no slot now
    is_snubbed: bool  # it was silent and is tried again later
    rate_bytes_per_s: float  # verified, over the time with requests in flight
    delay_s: float | None  # from request to first chunk on an empty pipeline; None: not measured
    verified_bytes: int
    spans_held_count: int
    requests_count: int  # in flight
    requests_max: int  # that the pipeline allows now

    @classmethod
    def of(cls, state: PeerState, now: float) -> PeerFacts:
        return cls(
            peer=state.peer,
            is_local=state.is_local,
            is_choked=state.is_choked,
            is_snubbed=state.is_snubbed,
            rate_bytes_per_s=state.rate(now),
            delay_s=state.delay_s,
            verified_bytes=state.verified_bytes,
            spans_held_count=state.holdings.whole.bit_count(),
            requests_count=len(state.requests),
            requests_max=state.requests_allowed(now),
        )


@dataclass(frozen=True, slots=True)
class DownloadStatistics:
    """A snapshot of one download."""

    verified_bytes: int  # held at the start included; never falls
    fetched_bytes: int  # of these, from peers
    duplicate_bytes: int  # verified but held already: the price of hedging
    total_bytes: int  # an estimate until all pages are known
    rate_bytes_per_s: float
    eta_s: float | None  # None: not known
    is_complete: bool
    spans_count: int
    spans_open_count: int  # missing and asked of nobody
    requests_count: int  # in flight
    peers: tuple[PeerFacts, ...]
    liars: tuple[Peer, ...]  # sent wrong bytes, oldest first
