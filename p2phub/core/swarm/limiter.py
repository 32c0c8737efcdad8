"""Token buckets over `now`: a rate for all, and one per peer, that may change while running.

Lanes draw credit from counters; the node calls `grant` every GRANT_INTERVAL_S and adds what it
gives to the counters. Credit that a lane has not used yet was taken from the bucket already, so
many lanes together can't exceed the rate. A bucket holds BURST_S of its rate at most: over any 2 s
no more than rate x (2 + BURST_S) is granted, 4 % above.
"""

from __future__ import annotations

from collections.abc import Mapping

from p2phub.core.swarm.actions import Peer

BURST_S = 0.08  # of a rate that may be saved up: four intervals, so that a late call loses nothing
GRANT_INTERVAL_S = 0.02  # between two calls of `grant`
PEER_LIMITS_MAX = 4096  # peers with a bucket of their own; an idle one goes with its session


class _Bucket:
    """One rate."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate_bytes_per_s: int, now: float) -> None:
        self._rate = float(rate_bytes_per_s)
        self._tokens = 0.0
        self._at = now

    @property
    def rate_bytes_per_s(self) -> int:
        return int(self._rate)

    def available(self, now: float) -> int:
        """Whole bytes that may be granted now."""
        if now > self._at:
            self._tokens = min(self._tokens + (now - self._at) * self._rate, self._rate * BURST_S)
            self._at = now
        return max(0, int(self._tokens))

    def take(self, size_bytes: int) -> None:
        """Negative: give back, up to what the bucket may hold."""
        self._tokens = min(self._tokens - size_bytes, self._rate * BURST_S)

    def set_rate(self, rate_bytes_per_s: int, now: float) -> None:
        self.available(now)
        self._rate = float(rate_bytes_per_s)
        self._tokens = min(self._tokens, self._rate * BURST_S)


class Limiter:
    """Shares a rate among the peers of one direction. None: no limit."""

    def __init__(
        self, rate_bytes_per_s: int | None = None, peer_rate_bytes_per_s: int | None = None
    ) -> None:
        self._total = None if rate_bytes_per_s is None else _Bucket(rate_bytes_per_s, 0.0)
        self._peer_rate = peer_rate_bytes_per_s  # of peers without a limit of their own
        self._own_rates: dict[Peer, int | None] = {}
        self._buckets: dict[Peer, _Bucket] = {}

    @property
    def is_limited(self) -> bool:
        """Whether any limit is set: if not, lanes need no credit."""
        return self._total is not None or self._peer_rate is not None or bool(self._own_rates)

    @property
    def rate_bytes_per_s(self) -> int | None:
        """The limit of all peers together."""
        return None if self._total is None else self._total.rate_bytes_per_s

    @property
    def limited_peers(self) -> tuple[Peer, ...]:
        """Peers with a limit of their own."""
        return tuple(self._own_rates)

    def set_rate(self, rate_bytes_per_s: int | None, now: float) -> None:
        """The limit of all peers together; holds from now on."""
        if rate_bytes_per_s is None:
            self._total = None
        elif self._total is None:
            self._total = _Bucket(rate_bytes_per_s, now)
        else:
            self._total.set_rate(rate_bytes_per_s, now)

    def set_peer_rate(self, peer: Peer | None, rate_bytes_per_s: int | None, now: float) -> None:
        """The limit of one peer, whatever the others have; with peer None of all that have none of
        their own.
        """
        if peer is None:
            self._peer_rate = rate_bytes_per_s
            for known in [known for known in self._buckets if known not in self._own_rates]:
                del self._buckets[known]
            return
        self._own_rates[peer] = rate_bytes_per_s
        self._buckets.pop(peer, None)

    def unset_peer_rate(self, peer: Peer) -> None:
        """The peer has no limit of its own any more."""
        self._own_rates.pop(peer, None)
        self._buckets.pop(peer, None)

    def grant(self, wants: Mapping[Peer, int], now: float) -> dict[Peer, int]:
        """How many more bytes each peer may move, at most what it wants; peers share alike.

        Who wants less than its share leaves the rest to the others (max-min fairness).
        """
        caps = {}
        for peer, want in wants.items():
            bucket = self._bucket(peer, now)
            caps[peer] = want if bucket is None else min(want, bucket.available(now))
        if self._total is not None:
            caps = _share(self._total.available(now), caps)
            self._total.take(sum(caps.values()))
        for peer, granted in caps.items():
            if peer in self._buckets:
                self._buckets[peer].take(granted)
        return caps

    def give_back(self, peer: Peer, size_bytes: int, now: float) -> None:
        """Credit that was granted and will not be used: its lane closed."""
        for bucket in (self._total, self._buckets.get(peer)):
            if bucket is not None:
                bucket.available(now)
                bucket.take(-size_bytes)

    def forget(self, peer: Peer) -> None:
        """The last session with a peer ended. A limit of its own stays."""
        self._buckets.pop(peer, None)

    def _bucket(self, peer: Peer, now: float) -> _Bucket | None:
        rate = self._own_rates.get(peer, self._peer_rate)
        if rate is None:
            return None
        bucket = self._buckets.get(peer)
        if bucket is None:
            if len(self._buckets) >= PEER_LIMITS_MAX:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[peer] = _Bucket(rate, now)
        return bucket


def _share(available: int, caps: Mapping[Peer, int]) -> dict[Peer, int]:
    """Split `available` so that the smallest share is as large as possible, none above its cap."""
    shares: dict[Peer, int] = {}
    waiting = sorted(caps, key=lambda peer: caps[peer])
    for position, peer in enumerate(waiting):
        shares[peer] = min(caps[peer], available // (len(waiting) - position))
        available -= shares[peer]
    return shares
