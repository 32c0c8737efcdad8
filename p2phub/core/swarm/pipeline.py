"""One peer's requests: how many at once, how long they may take.

The pipeline holds what the peer can send in one delay and a little more, so that its uplink never
waits for us, and no more, so that little is lost with it. A peer that lets its deadline pass is
snubbed: its spans go to others and it is tried again later, with more patience and one request;
after SNUBS_MAX in a row it is dropped.
Source: the bandwidth-delay product; BitTorrent's snubbing (BEP 3), with deadlines from the measured
rate.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from itertools import accumulate

from p2phub.core.swarm.actions import Peer
from p2phub.core.swarm.availability import Holdings
from p2phub.core.swarm.rates import RateMeter
from p2phub.core.swarm.spans import Span
from p2phub.proto.limits import MIB
from p2phub.proto.messages import Run

REQUESTS_MIN = 2  # one is sent while the next waits: less would idle for a round trip per span
REQUESTS_MAX = 64  # at one peer: what its greeting may allow at most
CROWD_PEERS_MIN = 4  # fewer peers must each send without a pause to fill a link
PIPELINE_BYTES_MAX = 64 * MIB  # at one peer: 50 ms at 1 GB/s, and what is asked anew if it leaves
PIPELINE_GAIN = 2.0  # so that a pipeline which is too small grows until the link is full
PIPELINE_SLACK_S = 0.05  # events are batched at 5 ms on both ends, and schedulers are late
DELAY_ASSUMED_S = 0.1  # a round trip around half the world, until measured
RATE_WINDOW_S = 3.0  # long enough for a 1 MiB chunk at 3 Mbit/s
TIMEOUT_S_MIN = 10.0  # nobody is late before: a disk spins up, a route changes
TIMEOUT_S_UNKNOWN = 30.0  # for the first chunk: 1 MiB at 35 kB/s
TIMEOUT_S_MAX = 240.0
TIMEOUT_GAIN = 4.0  # a peer at a quarter of its measured rate isn't late yet
SNUBS_MAX = 3  # in a row, without one chunk between them
PAUSE_S = 2.0  # after the first snub or a busy peer's refusal; doubles
PAUSE_S_MAX = 60.0
PROMISES_BROKEN_MAX = 32  # announced, then refused: a store under repair has a few


class RequestState:
    """One request in flight."""

    __slots__ = ("id", "offsets", "peer", "runs", "sent_at", "span", "verified_count")

    def __init__(self, id: int, peer: PeerState, span: Span, now: float) -> None:
        self.id = id
        self.peer = peer
        self.span = span.index
        self.runs: tuple[Run, ...] = span.runs
        # Where each chunk begins, and the end.
        self.offsets = array("Q", accumulate(span.lengths, initial=0))
        self.verified_count = 0  # chunks
        self.sent_at = now

    @property
    def remaining_bytes(self) -> int:
        return self.offsets[-1] - self.offsets[self.verified_count]

    def advance(self, chunk_count: int) -> int:
        """The first `chunk_count` chunks are here; how many bytes of them were not before."""
        size_bytes = self.offsets[chunk_count] - self.offsets[self.verified_count]
        self.verified_count = chunk_count
        return size_bytes


class PeerState:
    """What a download knows of one peer."""

    __slots__ = (
        "_meter", "_probe_id", "_rate_then", "asked", "delay_s", "holdings", "in_flight_bytes",
        "is_choked", "is_local", "offered", "offering_until", "order", "pause_count",
        "paused_until", "peer", "promises_broken_count", "requests", "requests_max", "snub_count",
        "verified_bytes", "waiting_since",
    )  # fmt: skip

    def __init__(self, peer: Peer, order: int, holdings: Holdings, now: float) -> None:
        self.peer = peer
        self.order = order  # of joining: breaks ties the same way every time
        self.holdings = holdings
        self.is_local = False
        self.is_choked = True
        self.requests: dict[int, RequestState] = {}  # by id, oldest first
        self.requests_max = REQUESTS_MAX  # what it accepts at once
        self.in_flight_bytes = 0
        self.asked: set[int] = set()  # page numbers
        self.offered = 0  # set of spans that it asked us to take first
        # Until then it is expected to offer more; what it doesn't offer is for others.
        self.offering_until: float | None = None
        self.delay_s: float | None = None  # from request to first chunk on an empty pipeline
        self.snub_count = 0  # in a row
        self.pause_count = 0  # in a row
        self.promises_broken_count = 0
        self.paused_until: float | None = None
        self.waiting_since = now  # last chunk, or when the pipeline was last empty
        self.verified_bytes = 0
        self._meter: RateMeter | None = None  # over the time with requests in flight
        self._rate_then = 0.0  # when the last chunk came: silence must not make us more patient
        self._probe_id: int | None = None  # request that found the pipeline empty

    @property
    def is_snubbed(self) -> bool:
        return self.snub_count > 0

    @property
    def is_offering(self) -> bool:
        """Whether it is expected to offer what comes next: soon, or after what it sends us now."""
        return self.offering_until is not None or any(
            self.offered >> request.span & 1 for request in self.requests.values()
        )

    @property
    def is_ready(self) -> bool:
        """Whether it may be asked for spans at all now."""
        return not self.is_choked and self.paused_until is None

    def rate(self, now: float) -> float:
        """Verified bytes per second while it was asked for some; 0.0: not known."""
        return self._meter.rate(now) if self._meter is not None else 0.0

    # ---- how many ------------------------------------------------------------------------------

    def requests_allowed(self, now: float) -> int:
        """For the eye: how many requests of the present size fit the pipeline."""
        if self.is_snubbed:
            return 1
        if not self.requests:
            return min(REQUESTS_MIN, self.requests_max)
        mean = max(1, self.in_flight_bytes // len(self.requests))
        wanted = max(REQUESTS_MIN, int(self.bytes_wanted(now) // mean))
        return min(wanted, self.requests_max)

    def bytes_wanted(self, now: float) -> float:
        delay_s = DELAY_ASSUMED_S if self.delay_s is None else self.delay_s
        return min(
            PIPELINE_GAIN * self.rate(now) * (delay_s + PIPELINE_SLACK_S), PIPELINE_BYTES_MAX
        )

    def has_room(self, now: float, peers_count: int) -> bool:
        """Whether one more request fits. peers_count: of the download. In a crowd none needs to
        send two spans in a row, and what waits at one could be had from another sooner.
        """
        count = len(self.requests)
        if not self.is_ready or count >= self.requests_max:
            return False
        if count == 0 or self.is_snubbed:
            return count == 0
        if self.rate(now) <= 0.0:
            return count < REQUESTS_MIN and peers_count < CROWD_PEERS_MIN
        return self.in_flight_bytes < self.bytes_wanted(now)

    # ---- how long ------------------------------------------------------------------------------

    def eta_s(self, size_bytes: int, now: float) -> float:
        """When `size_bytes` more would be here, behind what is in flight; infinite if its rate
        isn't known.
        """
        rate = self.rate(now)
        if rate <= 0.0:
            return float("inf")
        delay_s = DELAY_ASSUMED_S if self.delay_s is None else self.delay_s
        return delay_s + (self.in_flight_bytes + size_bytes) / rate

    def request_eta_s(self, request: RequestState, now: float) -> float:
        """When a request in flight will be done; the longer the peer has been silent, the later."""
        ahead = 0
        for other in self.requests.values():
            ahead += other.remaining_bytes
            if other is request:
                break
        rate = self.rate(now)
        silence_s = now - self.waiting_since
        return max(ahead / rate, silence_s) if rate > 0.0 else silence_s

    def deadline(self) -> float | None:
        """When the peer is late; None: nothing is asked of it."""
        if not self.requests:
            return None
        oldest = next(iter(self.requests.values()))
        if self._rate_then > 0.0:
            expected_s = TIMEOUT_GAIN * oldest.remaining_bytes / self._rate_then + (
                self.delay_s or 0.0
            )
            timeout_s = max(TIMEOUT_S_MIN, expected_s)
        else:
            timeout_s = TIMEOUT_S_UNKNOWN
        return self.waiting_since + min(timeout_s * (1 << self.snub_count), TIMEOUT_S_MAX)

    # ---- what happened -------------------------------------------------------------------------

    def on_sent(self, request: RequestState, now: float) -> None:
        if not self.requests:
            self.waiting_since = now
            self._probe_id = request.id
            if self._meter is None:
                self._meter = RateMeter(now, RATE_WINDOW_S)
            self._meter.skip(now)
        self.requests[request.id] = request
        self.in_flight_bytes += request.remaining_bytes

    def on_verified(self, request: RequestState, chunk_count: int, now: float) -> int:
        """The first `chunk_count` chunks of a request are here; how many bytes of them are new."""
        size_bytes = request.advance(chunk_count)
        self.in_flight_bytes -= size_bytes
        self.verified_bytes += size_bytes
        self.waiting_since = now
        self.snub_count = self.pause_count = 0
        assert self._meter is not None
        rate = self._meter.rate(now)
        self._meter.add(size_bytes, now)
        self._rate_then = self._meter.rate(now)
        if request.id == self._probe_id:
            self._probe_id = None
            sample_s = now - request.sent_at - (size_bytes / rate if rate > 0.0 else 0.0)
            sample_s = max(sample_s, 0.0)
            self.delay_s = sample_s if self.delay_s is None else min(self.delay_s, sample_s)
        return size_bytes

    def on_held_back(self, seconds: float, now: float) -> None:
        """For so long we read nothing of what it sends: its deadline moves."""
        self.waiting_since = min(now, self.waiting_since + seconds)

    def on_closed(self, request: RequestState) -> None:
        """A request is done, cancelled or refused."""
        del self.requests[request.id]
        self.in_flight_bytes -= request.remaining_bytes

    def pause(self, now: float, jitter: float) -> None:
        """Ask nothing for a while: longer each time, by up to half at random (`jitter` from 0 to
        1). What fails during a pause was asked before it, and makes it no longer.
        """
        if self.paused_until is not None and self.paused_until > now:
            return
        pause_s = min(PAUSE_S * (1 << min(self.pause_count, 16)), PAUSE_S_MAX) * (1.0 + jitter / 2)
        self.pause_count += 1
        self.paused_until = now + pause_s


def in_order(peers: Iterable[PeerState], now: float) -> list[PeerState]:
    """Who is served first: local peers, then fast ones, then who joined first."""
    peers = list(peers)
    if len(peers) < 2:
        return peers
    return sorted(peers, key=lambda state: (not state.is_local, -state.rate(now), state.order))


def are_held_freely(spans: int, peers: Mapping[Peer, PeerState]) -> bool:
    """Whether each of these spans is held whole by somebody who offers nothing: seeds need send
    none of them any more.
    """
    for state in peers.values():
        if not spans:
            break
        if not state.offered and not state.is_choked:
            spans &= ~state.holdings.whole
    return not spans
