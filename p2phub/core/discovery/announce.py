"""The announce queue: what this node tells the DHT, how fast, and when again. A machine over `now`.

Receivers reset a sender after RECORDS_PER_SENDER_MAX records in RECORDS_WINDOW_S, and the sender
isn't told, so the queue keeps a pace: from what every receiver allows up to PACE_PER_S_MAX while
keys are really stored. Each key has its own result and is tried again with back-off until somebody
holds it; a key held is announced anew before its records lapse. What goes first: what was never
announced; releases before objects before chunks; a name's first key before its others; the rarest;
the newest.
Source: libp2p kad-dht specification: records live 48 h and are republished at 22 h.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from p2phub.core.discovery.keys import KEYS_PER_NAME, KeyKind, provider_key
from p2phub.proto.limits import MIB

POLICIES = ("releases", "objects", "chunks")
OBJECT_BYTES_MIN = 8 * MIB  # smaller files are found with their release
NAMES_MAX = 100_000  # 400,000 keys: 200 MB; at 5 keys a second just republished in 22 h
CHUNK_NAMES_MAX = 10_000  # of these, chunks: the budget of the policy "chunks"

# What an unmodified receiver takes in its window; then it resets the sender.
RECORDS_PER_SENDER_MAX = 10
RECORDS_WINDOW_S = 10.0
PACE_PER_S_MIN = 0.8 * RECORDS_PER_SENDER_MAX / RECORDS_WINDOW_S  # a fifth below that limit
PACE_PER_S_MAX = 10.0  # receivers of ours allow it
PACE_GROWTH = 1.1  # per key stored; a key that nobody stored halves it
BURST_MAX = 8  # keys at once after a pause: the four of a release and of its publisher
CREDIT_NEEDED = 1.0 - 1e-6  # for one key; sums of floats fall short of a whole by that
ANNOUNCES_MAX = 4  # at once: each is a lookup with up to ten questions in the air

REPUBLISH_S = 22 * 3600.0
REPUBLISH_JITTER = 0.05  # of that: a node's keys spread over an hour
FEW_STORED_COUNT = 5  # fewer holders than this are gone in a night
FEW_STORED_RETRY_S = 600.0  # the network may have grown by then
RETRY_S = 5.0  # after the first failure; doubles
RETRY_S_MAX = 1800.0

_KIND_RANKS = {
    KeyKind.MANIFEST: 0,
    KeyKind.PUBLISHER: 0,
    KeyKind.OBJECT: 1,
    KeyKind.SHA256: 1,
    KeyKind.CHUNK: 2,
}


@dataclass(frozen=True, slots=True)
class Announce:
    """Announce one key, and tell the queue by `on_result`."""

    key: bytes  # 32 bytes
    kind: KeyKind
    name: bytes  # 32 bytes
    number: int  # which of the name's keys


@dataclass(frozen=True, slots=True)
class AnnounceStatistics:
    """A snapshot of the queue."""

    names_count: int
    keys_count: int
    stored_keys_count: int  # held by somebody at their last announcement
    due_keys_count: int  # waiting for their turn
    pace_per_s: float


class _Key:
    """One key of one name."""

    __slots__ = ("due", "failure_count", "is_in_flight", "name", "number", "stored_count")

    def __init__(self, name: _Name, number: int, due: float) -> None:
        self.name = name
        self.number = number
        self.due = due
        self.stored_count: int | None = None  # nodes that took it last time; None: never announced
        self.failure_count = 0  # in a row
        self.is_in_flight = False


class _Name:
    """One name and its keys."""

    __slots__ = ("is_removed", "keys", "kind", "name", "order", "provider_count")

    def __init__(self, kind: KeyKind, name: bytes, order: int, now: float) -> None:
        self.kind = kind
        self.name = name
        self.order = order  # of being added
        self.provider_count = 0  # others, as far as known
        self.is_removed = False
        self.keys = tuple(_Key(self, number, now) for number in range(KEYS_PER_NAME))


class AnnounceQueue:
    """What this node provides, key by key. policy: one of POLICIES."""

    def __init__(self, rng: random.Random, policy: str = "objects") -> None:
        assert policy in POLICIES
        self._rng = rng
        self._policy = policy
        self._names: dict[tuple[KeyKind, bytes], _Name] = {}
        self._chunk_count = 0
        self._order = count()
        self._sequence = count()  # makes heap rows unequal
        # By due time; rows of changed keys are stale.
        self._waiting: list[tuple[float, int, _Key]] = []
        self._ready: list[tuple[tuple[int, ...], int, _Key]] = []  # due keys, by rank
        self._in_flight_count = 0
        self._pace_per_s = PACE_PER_S_MAX
        self._credit = float(BURST_MAX)
        self._credit_at: float | None = None

    # ---- what is announced ---------------------------------------------------------------------

    def add(self, kind: KeyKind, name: bytes, now: float, *, size_bytes: int = 0) -> bool:
        """Announce a name (32 bytes) from now on; False if the policy or a bound leaves it out.

        size_bytes: of the file, for OBJECT and SHA256. A name already there stays as it is.
        """
        if (kind, name) in self._names:
            return True
        if not self._is_wanted(kind, size_bytes) or len(self._names) >= NAMES_MAX:
            return False
        if kind is KeyKind.CHUNK:
            if self._chunk_count >= CHUNK_NAMES_MAX:
                return False
            self._chunk_count += 1
        added = _Name(kind, name, next(self._order), now)
        self._names[kind, name] = added
        for key in added.keys:
            self._wait(key, now)
        return True

    def remove(self, kind: KeyKind, name: bytes) -> None:
        """Announce a name no more: its records lapse by themselves."""
        removed = self._names.pop((kind, name), None)
        if removed is not None:
            removed.is_removed = True
            self._chunk_count -= kind is KeyKind.CHUNK

    def __contains__(self, item: tuple[KeyKind, bytes]) -> bool:
        return item in self._names

    def _is_wanted(self, kind: KeyKind, size_bytes: int) -> bool:
        rank = POLICIES.index(self._policy)
        if kind in (KeyKind.OBJECT, KeyKind.SHA256):
            return rank >= 1 and size_bytes >= OBJECT_BYTES_MIN
        return kind is not KeyKind.CHUNK or rank >= 2

    # ---- what happened -------------------------------------------------------------------------

    def on_result(self, announce: Announce, stored_count: int, now: float) -> None:
        """`stored_count` nodes really took the record; 0: nobody can find us by it."""
        name = self._names.get((announce.kind, announce.name))
        self._in_flight_count = max(0, self._in_flight_count - 1)
        if name is None:
            return
        key = name.keys[announce.number]
        key.is_in_flight = False
        key.stored_count = stored_count
        if stored_count <= 0:
            wait_s = min(RETRY_S * (1 << min(key.failure_count, 16)), RETRY_S_MAX)
            key.failure_count += 1
            self._pace_per_s = max(PACE_PER_S_MIN, self._pace_per_s / 2)
            wait_s *= 1.0 + self._rng.random() / 2
        else:
            key.failure_count = 0
            self._pace_per_s = min(PACE_PER_S_MAX, self._pace_per_s * PACE_GROWTH)
            wait_s = FEW_STORED_RETRY_S if stored_count < FEW_STORED_COUNT else REPUBLISH_S
            wait_s *= 1.0 - REPUBLISH_JITTER * self._rng.random()
        self._wait(key, now + wait_s)

    def on_providers(self, kind: KeyKind, name: bytes, count: int) -> None:
        """A lookup found `count` other providers of a name: rarer names go first."""
        known = self._names.get((kind, name))
        if known is not None:
            known.provider_count = count

    def on_network(self, now: float) -> None:
        """The network is back, or is another one: what failed is tried now, at the usual pace."""
        for name in self._names.values():
            for key in name.keys:
                if key.failure_count and not key.is_in_flight and key.due > now:
                    key.failure_count = 0
                    self._wait(key, now)

    # ---- what to do ----------------------------------------------------------------------------

    def next_actions(self, now: float) -> list[Announce]:
        """The keys to announce now; at most ANNOUNCES_MAX are in the air."""
        self._earn(now)
        while self._waiting and self._waiting[0][0] <= now:
            due, _, key = heapq.heappop(self._waiting)
            if key.due == due and not key.is_in_flight and not key.name.is_removed:
                heapq.heappush(self._ready, (_rank(key), next(self._sequence), key))
        actions = []
        while (
            self._ready and self._credit >= CREDIT_NEEDED and self._in_flight_count < ANNOUNCES_MAX
        ):
            _, _, key = heapq.heappop(self._ready)
            if key.is_in_flight or key.name.is_removed:
                continue
            key.is_in_flight = True
            self._in_flight_count += 1
            self._credit -= 1.0
            name = key.name
            derived = provider_key(name.kind, name.name, key.number)
            actions.append(Announce(derived, name.kind, name.name, key.number))
        return actions

    def next_deadline(self) -> float | None:
        """When `next_actions` has something to do; None: only after an event."""
        if self._in_flight_count >= ANNOUNCES_MAX:
            return None
        if self._ready:
            if self._credit_at is None or self._credit >= CREDIT_NEEDED:
                return self._credit_at
            return self._credit_at + (1.0 - self._credit) / self._pace_per_s
        return self._waiting[0][0] if self._waiting else None

    def statistics(self, now: float) -> AnnounceStatistics:
        keys = [key for name in self._names.values() for key in name.keys]
        return AnnounceStatistics(
            names_count=len(self._names),
            keys_count=len(keys),
            stored_keys_count=sum(bool(key.stored_count) for key in keys),
            due_keys_count=sum(key.due <= now and not key.is_in_flight for key in keys),
            pace_per_s=self._pace_per_s,
        )

    def _wait(self, key: _Key, due: float) -> None:
        key.due = due
        heapq.heappush(self._waiting, (due, next(self._sequence), key))

    def _earn(self, now: float) -> None:
        if self._credit_at is not None and now > self._credit_at:
            self._credit += (now - self._credit_at) * self._pace_per_s
            self._credit = min(self._credit, float(BURST_MAX))
        self._credit_at = now

    # ---- kept over a restart -------------------------------------------------------------------

    def to_dict(self, now: float, wall_s: float) -> dict[str, Any]:
        """The state as plain JSON values. wall_s: Unix time at `now`."""
        rows = [
            [
                name.kind.value,
                name.name.hex(),
                name.provider_count,
                [
                    [round(wall_s + key.due - now, 1), key.stored_count, key.failure_count]
                    for key in name.keys
                ],
            ]
            for name in self._names.values()
        ]
        return {"version": 1, "names": rows}

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        rng: random.Random,
        now: float,
        wall_s: float,
        policy: str = "objects",
    ) -> AnnounceQueue:
        """A queue as it was kept, the time since counted. Rows that make no sense are left out.

        If the clock was set back, nothing waits longer than one republish interval.
        """
        queue = cls(rng, policy)
        rows = data.get("names", []) if data.get("version") == 1 else []
        for kind, name, provider_count, keys in _valid_rows(rows):
            size_bytes = OBJECT_BYTES_MIN  # it was large enough when it was added
            if not queue.add(kind, name, now, size_bytes=size_bytes):
                continue
            added = queue._names[kind, name]
            added.provider_count = provider_count
            for key, (due_wall_s, stored_count, failure_count) in zip(
                added.keys, keys, strict=True
            ):
                key.stored_count, key.failure_count = stored_count, failure_count
                wait_s = min(max(due_wall_s - wall_s, 0.0), REPUBLISH_S)
                if wait_s > 0.0:
                    queue._wait(key, now + wait_s)
        return queue


def _rank(key: _Key) -> tuple[int, ...]:
    """What goes first: smaller."""
    name = key.name
    was_announced = bool(key.stored_count)
    return was_announced, _KIND_RANKS[name.kind], key.number, name.provider_count, -name.order


_Row = tuple[KeyKind, bytes, int, list[tuple[float, int | None, int]]]


def _valid_rows(rows: Any) -> Iterator[_Row]:
    for row in rows if isinstance(rows, list) else []:
        try:
            kind, name, provider_count, keys = row
            parsed = [
                (float(due), None if stored is None else int(stored), int(failures))
                for due, stored, failures in keys
            ]
            found = (KeyKind(kind), bytes.fromhex(name), int(provider_count), parsed)
        except (ValueError, TypeError, OverflowError):
            continue
        is_finite = all(abs(due) < 1e12 for due, _, _ in parsed)
        if len(found[1]) == 32 and len(parsed) == KEYS_PER_NAME and is_finite:
            yield found
