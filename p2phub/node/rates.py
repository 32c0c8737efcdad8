"""Carries out rate limits: asks the channels of one direction what they wait for and gives them
what the `Limiter` grants.

Unlimited channels cost nothing: they draw no credit and this module does not wake for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from p2phub.core.swarm.limiter import GRANT_INTERVAL_S, Limiter
from p2phub.net.base import PeerId
from p2phub.net.lane_credit import RateCredit
from p2phub.proto.limits import LANE_RATE_MIN_BYTES_PER_S

# Four times what a lane counts as progress: a frame of 1 MiB takes a minute.
PEER_RATE_MIN_BYTES_PER_S = 4 * LANE_RATE_MIN_BYTES_PER_S
AHEAD_BYTES = 1 << 20  # that a waiting channel may take at once: 50 MB/s for each at least


class Rates:
    """The limits of one direction. `run` must run."""

    def __init__(self, rate_bytes_per_s: int | None = None) -> None:
        self.limiter = Limiter(rate_bytes_per_s)
        self._credits: dict[RateCredit, PeerId] = {}
        self._granted_s = 0.0  # when credit was granted last
        self._changed = trio.Event()

    @property
    def peers_max(self) -> int | None:
        """How many peers may share the limit and none be so slow that the other end gives up."""
        rate = self.limiter.rate_bytes_per_s
        return None if rate is None else max(1, rate // PEER_RATE_MIN_BYTES_PER_S)

    @contextmanager
    def limits_changed(self) -> Iterator[Limiter]:
        """Change limits inside the block; they hold for every open channel when it ends."""
        yield self.limiter
        for credit in self._credits:
            if self.limiter.is_limited:
                credit.limit()
            else:
                credit.unlimit()
        self._changed.set()

    def add(self, credit: RateCredit, peer: PeerId) -> None:
        """A channel opened."""
        self._credits[credit] = peer
        if self.limiter.is_limited:
            credit.limit()
        self._changed.set()

    def remove(self, credit: RateCredit) -> None:
        """A channel closed: what it did not use is given back."""
        peer = self._credits.pop(credit, None)
        if peer is not None and self.limiter.is_limited:
            self.limiter.give_back(peer, credit.drain(), trio.current_time())
        if peer is not None and peer not in self._credits.values():
            self.limiter.forget(peer)

    async def run(self) -> None:
        """Grant what is waited for, until cancelled."""
        while True:
            self._changed = trio.Event()
            if not self.limiter.is_limited or not self._credits:
                await self._changed.wait()
                self._granted_s = trio.current_time()
                continue
            self._grant(trio.current_time())
            await trio.sleep(GRANT_INTERVAL_S)

    def _grant(self, now: float) -> None:
        """Whoever waits gets its share of all that there is, readers' channels before others: a
        lane draws it in small steps.
        """
        waiting = [(credit, peer) for credit, peer in self._credits.items() if credit.wanted_bytes]
        for credit, _ in waiting:
            credit.held_s += now - self._granted_s
        self._granted_s = now
        for is_first in (True, False):
            self._share([row for row in waiting if row[0].is_first == is_first], now)

    def _share(self, waiting: Sequence[tuple[RateCredit, PeerId]], now: float) -> None:
        wants: dict[str, int] = {}
        for _, peer in waiting:
            wants[peer] = wants.get(peer, 0) + AHEAD_BYTES
        granted = self.limiter.grant(wants, now)
        for name, size_bytes in granted.items():
            channels = [credit for credit, peer in waiting if peer == name]
            for number, credit in enumerate(channels):
                share = size_bytes // (len(channels) - number)
                size_bytes -= share
                if share:
                    credit.refill(share)
