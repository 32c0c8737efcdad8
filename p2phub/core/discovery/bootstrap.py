"""Joining the network, and joining again: bootstrap nodes are dialled until enough peers are known.

A machine over `now`.

A node started offline keeps trying, at most BACK_OFF_S_MAX apart, and joins when the network comes
back. A node that has peers asks its bootstrap nodes seldom.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

PEERS_WANTED = 4  # fewer are lost in one bad minute
BACK_OFF_S = 1.0  # after the first failure; doubles
BACK_OFF_S_MAX = 60.0  # alone: what a user waits at most when the network is back
REFRESH_S = 600.0  # with few peers: is a bootstrap node back?
JITTER = 0.5  # of each wait, so that a crowd cut off together doesn't return together
DIALS_MAX = 8  # at once
ADDRESSES_MAX = 256  # bootstrap nodes configured and remembered


class Bootstrap:
    """The bootstrap nodes, each with its own back-off; an address is any text the node can dial."""

    def __init__(self, addresses: Sequence[str], rng: random.Random) -> None:
        self._rng = rng
        self._due: dict[str, float] = {}  # when an address is to be dialled
        self._failure_counts: dict[str, int] = {}
        self._dialling: set[str] = set()
        self._peer_count = 0
        for address in addresses:
            self.add(address)

    def add(self, address: str, now: float = float("-inf")) -> None:
        """Dial one more address, at once."""
        if len(self._due) < ADDRESSES_MAX:
            self._due.setdefault(address, now)

    def remove(self, address: str) -> None:
        self._due.pop(address, None)
        self._failure_counts.pop(address, None)
        self._dialling.discard(address)

    def on_peers(self, peer_count: int, now: float) -> None:
        """How many peers are connected now. Losing the last one makes all addresses due."""
        is_alone = peer_count == 0 and self._peer_count > 0
        self._peer_count = peer_count
        if is_alone:
            self.on_network(now)

    def on_network(self, now: float) -> None:
        """The network is back, or another one: try everybody now."""
        self._failure_counts.clear()
        for address in self._due:
            self._due[address] = min(self._due[address], now)

    def on_connected(self, address: str, now: float) -> None:
        if address in self._due:
            self._dialling.discard(address)
            self._failure_counts.pop(address, None)
            self._due[address] = now + self._jittered(REFRESH_S)

    def on_failed(self, address: str, now: float) -> None:
        if address not in self._due:
            return
        self._dialling.discard(address)
        failure_count = self._failure_counts.get(address, 0)
        self._failure_counts[address] = failure_count + 1
        wait_s = min(BACK_OFF_S * (1 << min(failure_count, 16)), BACK_OFF_S_MAX)
        self._due[address] = now + self._jittered(wait_s)

    def next_dials(self, now: float) -> list[str]:
        """The addresses to dial now; tell the outcome of each."""
        if self._peer_count >= PEERS_WANTED:
            return []
        due = [
            address
            for address, at in self._due.items()
            if at <= now and address not in self._dialling
        ]
        self._rng.shuffle(due)
        chosen = due[: max(0, DIALS_MAX - len(self._dialling))]
        self._dialling.update(chosen)
        return chosen

    def next_deadline(self) -> float | None:
        """When an address is due; None: enough peers, or none to dial."""
        if self._peer_count >= PEERS_WANTED or len(self._dialling) >= DIALS_MAX:
            return None
        waits = [at for address, at in self._due.items() if address not in self._dialling]
        return min(waits, default=None)

    def _jittered(self, wait_s: float) -> float:
        return wait_s * (1.0 - JITTER * self._rng.random())
