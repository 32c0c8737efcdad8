"""Providers of one thing: who says it holds it, in which order to ask, and what came of it.

Everything told is a hint from somebody until one chunk from the peer was verified. Nobody can crowd
out the others: per network prefix only a few are kept, and probing goes round the prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from p2phub.core.discovery.subnets import subnet_of
from p2phub.proto.limits import ADDRESSES_PER_PEER_MAX

PROVIDERS_MAX = 256  # of one thing: more than a download connects to
PROVIDERS_PER_SUBNET_MAX = 16  # of these in one /24 or /48; private networks are exempt
PROBES_MAX = 8  # at once, until somebody proved to hold it
RETRY_S = 10.0  # after the first failure; doubles
RETRY_S_MAX = 600.0
FAILURES_MAX = 5  # in a row; then it is forgotten and may be told again


class Source(IntEnum):
    """Who told of a provider; smaller is asked first."""

    USER = 0  # named on the command line or in a link
    LOCAL = 1  # heard on the local network
    REMEMBERED = 2  # it had this, or another release of the publisher, before
    PUBLISHER = 3  # named in signed metadata
    EXCHANGE = 4  # told by a peer of the swarm
    DHT = 5


@dataclass(frozen=True, slots=True)
class Provider:
    """A peer to try."""

    peer: str
    addresses: tuple[str, ...]  # multiaddrs without /p2p
    source: Source


class _Entry:
    __slots__ = (
        "addresses", "failure_count", "is_probing", "is_proven", "order", "peer", "retry_at",
        "source", "subnet",
    )  # fmt: skip

    def __init__(self, peer: str, source: Source, subnet: str | None, order: int) -> None:
        self.peer = peer
        self.source = source
        self.subnet = subnet
        self.order = order
        self.addresses: dict[str, None] = {}
        self.is_probing = False
        self.is_proven = False
        self.failure_count = 0
        self.retry_at = 0.0


class Providers:
    """The providers of one release, object or chunk."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._refused: set[str] = set()  # lied: never again for this thing
        self._told_count = 0

    def add(self, peer: str, addresses: Sequence[str], source: Source) -> bool:
        """Somebody says that `peer` holds it; False if there is no room, or it lied before."""
        if peer in self._refused:
            return False
        entry = self._entries.get(peer)
        if entry is None:
            subnet = next(iter([subnet_of(address) for address in addresses]), None)
            if not self._has_room(source, subnet):
                return False
            entry = _Entry(peer, source, subnet, self._told_count)
            self._told_count += 1
            self._entries[peer] = entry
        entry.source = min(entry.source, source)
        for address in addresses:
            if len(entry.addresses) < ADDRESSES_PER_PEER_MAX:
                entry.addresses[address] = None
        return True

    def _has_room(self, source: Source, subnet: str | None) -> bool:
        if source is Source.USER:
            return True
        if len(self._entries) >= PROVIDERS_MAX:
            return False
        alike = sum(entry.subnet == subnet for entry in self._entries.values())
        return subnet is None or alike < PROVIDERS_PER_SUBNET_MAX

    def next_probes(self, now: float, probes_max: int = PROBES_MAX) -> list[Provider]:
        """Whom to connect to and ask now; tell the outcome of each.

        At most `probes_max` are under way.
        """
        under_way = sum(entry.is_probing for entry in self._entries.values())
        waiting = [
            entry
            for entry in self._entries.values()
            if not entry.is_probing and not entry.is_proven and entry.retry_at <= now
        ]
        waiting.sort(key=lambda entry: (entry.failure_count, entry.source, entry.order))
        probes: list[Provider] = []
        for entry in _around_subnets(waiting)[: max(0, probes_max - under_way)]:
            entry.is_probing = True
            probes.append(Provider(entry.peer, tuple(entry.addresses), entry.source))
        return probes

    def next_deadline(self) -> float | None:
        """When somebody may be tried again; None: nobody."""
        return min(
            (
                entry.retry_at
                for entry in self._entries.values()
                if not entry.is_probing and not entry.is_proven
            ),
            default=None,
        )

    def on_proven(self, peer: str) -> None:
        """A chunk from this peer was verified, or its page says that it holds what is wanted and is
        believed.
        """
        entry = self._entries.get(peer)
        if entry is not None:
            entry.is_proven, entry.is_probing, entry.failure_count = True, False, 0

    def on_failed(self, peer: str, now: float) -> None:
        """It could not be reached, or holds nothing, or went away: it is tried again later, then
        forgotten.
        """
        entry = self._entries.get(peer)
        if entry is None:
            return
        entry.is_probing = entry.is_proven = False
        entry.retry_at = now + min(RETRY_S * (1 << entry.failure_count), RETRY_S_MAX)
        entry.failure_count += 1
        if entry.failure_count >= FAILURES_MAX:
            del self._entries[peer]

    def on_lied(self, peer: str) -> None:
        """It sent wrong bytes: not asked again, whoever names it."""
        self._entries.pop(peer, None)
        if len(self._refused) < PROVIDERS_MAX:
            self._refused.add(peer)

    @property
    def told_count(self) -> int:
        """Providers heard of so far."""
        return self._told_count

    @property
    def proven(self) -> tuple[str, ...]:
        """Peers that proved to hold it, in the order in which they were told of."""
        return tuple(entry.peer for entry in self._entries.values() if entry.is_proven)


def _around_subnets(entries: list[_Entry]) -> list[_Entry]:
    """The same entries, so that the n-th of a network prefix comes after the (n-1)-th of every
    other one.
    """
    turns: dict[str | None, int] = {}
    rows = []
    for position, entry in enumerate(entries):
        turn = 0
        if entry.subnet is not None:
            turn = turns.get(entry.subnet, 0)
            turns[entry.subnet] = turn + 1
        rows.append((entry.failure_count, turn, position, entry))
    rows.sort(key=lambda row: row[:3])
    return [row[3] for row in rows]
