"""Snapshots of a download, for people, metrics and the simulator."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from p2phub.core.swarm.actions import Peer
from p2phub.core.swarm.picker import Picker
from p2phub.core.swarm.pipeline import PeerState
from p2phub.core.swarm.rates import RateMeter
from p2phub.core.swarm.spans import SpanPlanner

RATE_WINDOW_S = 5.0  # of what is shown: shorter jumps about, longer lags behind


class Tally:
    """What peers sent, and how fast."""

    def __init__(self) -> None:
        self.fetched_bytes = 0  # verified, and missing until then
        self.duplicate_bytes = 0  # verified, but held already
        self._meter: RateMeter | None = None

    def count(self, fresh_bytes: int, received_bytes: int, since: float, now: float) -> None:
        """Bytes were verified, `fresh_bytes` of them new. since: when they were asked for."""
        self.fetched_bytes += fresh_bytes
        self.duplicate_bytes += received_bytes - fresh_bytes
        if self._meter is None:
            self._meter = RateMeter(since, RATE_WINDOW_S)
        self._meter.add(fresh_bytes, now)

    def rate(self, now: float) -> float:
        """New bytes per second."""
        return self._meter.rate(now) if self._meter is not None else 0.0


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

    @classmethod
    def of(
        cls,
        planner: SpanPlanner,
        picker: Picker,
        tally: Tally,
        peers: Collection[PeerState],
        liars: Iterable[Peer],
        now: float,
    ) -> DownloadStatistics:
        total_bytes = planner.total_bytes
        if not planner.is_closed:
            total_bytes = max(total_bytes, planner.size_bytes)
        rate = tally.rate(now)
        left_bytes = total_bytes - planner.held_bytes
        return cls(
            verified_bytes=planner.held_bytes,
            fetched_bytes=tally.fetched_bytes,
            duplicate_bytes=tally.duplicate_bytes,
            total_bytes=total_bytes,
            rate_bytes_per_s=rate,
            eta_s=0.0 if planner.is_complete else left_bytes / rate if rate > 1.0 else None,
            is_complete=planner.is_complete,
            spans_count=len(planner),
            spans_open_count=picker.open.bit_count(),
            requests_count=sum(len(state.requests) for state in peers),
            peers=tuple(PeerFacts.of(state, now) for state in peers),
            liars=tuple(liars),
        )
