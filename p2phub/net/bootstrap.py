"""Join the network and stay in it: keep trying the peers we were told of until enough others are
known.

A list given by the user, addresses remembered from last time, links: all are hints, and none is
given
up for good, since the usual cause is that this machine was offline.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import trio

from p2phub.errors import P2phubError
from p2phub.net.base import Network, PeerAddress, PeerId

PEERS_ENOUGH = 4  # connected peers; with fewer, one that leaves may take the network with it
BACKOFF_FIRST_S = 1.0  # a bootstrap node that restarts is back in seconds
BACKOFF_MAX_S = 120.0  # offline for hours: one dial per address every two minutes costs nothing
CHECK_S = 15.0  # while there are peers enough
AT_ONCE = 4  # dials side by side


class Backoff:
    """When to try an address again: pauses that double, with jitter, up to a bound."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures: dict[PeerId, int] = {}
        self._not_before_s: dict[PeerId, float] = {}

    def is_due(self, peer: PeerId, now: float) -> bool:
        return self._not_before_s.get(peer, now) <= now

    def on_failure(self, peer: PeerId, now: float) -> None:
        failures = self._failures[peer] = self._failures.get(peer, 0) + 1
        pause_s = min(BACKOFF_FIRST_S * 2 ** min(failures - 1, 16), BACKOFF_MAX_S)
        self._not_before_s[peer] = now + pause_s * self._rng.uniform(0.75, 1.25)

    def on_success(self, peer: PeerId) -> None:
        self._failures.pop(peer, None)
        self._not_before_s.pop(peer, None)

    def keep(self, peers: Iterable[PeerId]) -> None:
        """Forget everyone else, so that a list that changes for years does not grow."""
        kept = set(peers)
        for known in (self._failures, self._not_before_s):
            for peer in [peer for peer in known if peer not in kept]:
                del known[peer]

    def next_due(self, now: float) -> float:
        """Seconds until somebody may be tried again; CHECK_S where nobody waits."""
        return max(min(self._not_before_s.values(), default=now + CHECK_S) - now, 0.0)


async def stay_joined(
    network: Network, candidates: Callable[[], Iterable[PeerAddress]], rng: random.Random
) -> None:
    """Never returns. `candidates` is read anew each time, so that it may change while we run.

    Whenever few peers are connected, the candidates are dialled, best first, and after a success
    this node looks itself up, so that others learn of it.
    """
    backoff = Backoff(rng)
    while True:
        now = trio.current_time()
        connected = {status.peer for status in network.peers()}
        if len(connected) >= PEERS_ENOUGH:
            await trio.sleep(CHECK_S)
            continue
        wanted = [address for address in candidates() if address.peer != network.peer_id]
        backoff.keep(address.peer for address in wanted)
        due = [
            address
            for address in wanted
            if address.peer not in connected and backoff.is_due(address.peer, now)
        ]
        if due and await _try(network, due, backoff):
            await network.refresh()
        # Whoever failed is due again after its pause; a candidate that was added, within CHECK_S.
        await trio.sleep(min(max(backoff.next_due(trio.current_time()), 0.2), CHECK_S))


async def _try(network: Network, addresses: list[PeerAddress], backoff: Backoff) -> bool:
    """Dial some of them side by side; whether one answered."""
    limiter = trio.CapacityLimiter(AT_ONCE)
    joined = False

    async def dial(address: PeerAddress) -> None:
        nonlocal joined
        async with limiter:
            if joined and len(network.peers()) >= PEERS_ENOUGH:
                return
            try:
                await network.connect(address)
            except P2phubError:
                backoff.on_failure(address.peer, trio.current_time())
            else:
                backoff.on_success(address.peer)
                joined = True

    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(dial, address)
    return joined
