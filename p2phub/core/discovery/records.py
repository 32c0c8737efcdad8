"""Provider records that this node keeps for others: who says that it holds a key.

Bounded per key, per sender and in all. The first providers of a key stay, so that nobody is pushed
out by later ones, unless one network holds more places than its share; a full store takes from the
sender that has most. So nobody can fill a key or the store alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from p2phub.core.discovery.subnets import crowding
from p2phub.proto.limits import (
    DHT_PROVIDERS_PER_KEY_MAX,
    DHT_RECORDS_MAX,
    DHT_RECORDS_PER_SENDER_MAX,
)

RECORD_TTL_S = 48 * 3600.0  # as in other networks; providers repeat themselves well before


@dataclass(slots=True)
class _Sender:
    addresses: tuple[str, ...]  # the newest it gave: kept once for all its records
    network: str  # that it said so from
    keys: dict[bytes, float] = field(default_factory=dict)  # key to expiry, oldest first


class ProviderRecords:
    """Records by key and by sender. `now` is any clock that never goes back, in seconds."""

    def __init__(
        self,
        *,
        records_max: int = DHT_RECORDS_MAX,
        records_per_sender_max: int = DHT_RECORDS_PER_SENDER_MAX,
        providers_per_key_max: int = DHT_PROVIDERS_PER_KEY_MAX,
    ) -> None:
        self._records_max = records_max
        self._records_per_sender_max = records_per_sender_max
        self._providers_per_key_max = providers_per_key_max
        # Invariant: peer in _providers[key] iff key in _senders[peer].keys; neither holds an empty
        # entry.
        self._providers: dict[bytes, dict[str, None]] = {}
        self._senders: dict[str, _Sender] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def keys_count(self) -> int:
        return len(self._providers)

    def add(
        self, key: bytes, peer: str, addresses: tuple[str, ...], now: float, network: str = ""
    ) -> bool:
        """Keep, or keep longer, that `peer` provides `key`; whether it is kept.

        network: that it is in, as far as places are shared between networks.
        """
        self._expire_key(key, now)
        sender = self._senders.get(peer)
        if sender is None or key not in sender.keys:
            if not self._make_room(key, peer, network):
                return False
            sender = self._senders.setdefault(peer, _Sender(addresses, network))
            self._providers.setdefault(key, {})[peer] = None
            self._count += 1
        sender.addresses, sender.network = addresses, network
        sender.keys.pop(key, None)
        sender.keys[key] = now + RECORD_TTL_S
        return True

    def get(self, key: bytes, now: float) -> list[tuple[str, tuple[str, ...]]]:
        """Who provides a key, in the order in which they came."""
        self._expire_key(key, now)
        return [(peer, self._senders[peer].addresses) for peer in self._providers.get(key, ())]

    def expire(self, now: float) -> None:
        """Drop what is past its time."""
        for peer, sender in list(self._senders.items()):
            for key, expiry in list(sender.keys.items()):
                if expiry > now:
                    break  # The order of keys is the order of expiry.
                self._remove(key, peer)

    def _make_room(self, key: bytes, peer: str, network: str) -> bool:
        own = self._senders.get(peer)
        if own is not None and len(own.keys) >= self._records_per_sender_max:
            return False
        providers = self._providers.get(key, {})
        if len(providers) >= self._providers_per_key_max:
            networks = {other: self._senders[other].network for other in providers}
            crowded = crowding(networks.values(), network)
            if crowded is None:
                return False
            newest = next(other for other in reversed(networks) if networks[other] == crowded)
            self._remove(key, newest)
        if self._count < self._records_max:
            return True
        largest = max(self._senders, key=lambda other: len(self._senders[other].keys))
        if largest == peer:
            return False
        self._remove(next(iter(self._senders[largest].keys)), largest)
        return True

    def _expire_key(self, key: bytes, now: float) -> None:
        for peer in list(self._providers.get(key, ())):
            if self._senders[peer].keys[key] <= now:
                self._remove(key, peer)

    def _remove(self, key: bytes, peer: str) -> None:
        sender = self._senders[peer]
        del sender.keys[key]
        if not sender.keys:
            del self._senders[peer]
        del self._providers[key][peer]
        if not self._providers[key]:
            del self._providers[key]
        self._count -= 1
