"""The peer book: who was met or heard of, at which addresses, and when to try again.

Kept over restarts.

Bounded: when it is full, who failed most and was met longest ago goes first; peers that the user
named stay. Times are monotonic seconds; `to_dict` turns them into Unix time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2phub.proto.limits import ADDRESS_BYTES_MAX, ADDRESSES_PER_PEER_MAX

PEERS_REMEMBERED_MAX = 2000  # 1 MB on disk; a person's swarms fit many times over
RETRY_S = 5.0  # after the first failure; doubles
RETRY_S_MAX = 3600.0
FAILURES_FORGOTTEN = 12  # in a row, about six hours of trying: forgotten unless the user named it
PEER_BYTES_MAX = 128


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """A page of the book."""

    peer: str
    addresses: tuple[str, ...]  # multiaddrs without /p2p; the ones that worked last come first
    is_named: bool  # by the user: never forgotten by itself
    last_met_s_ago: float | None  # None: never
    failure_count: int  # in a row
    is_banned: bool


class _Page:
    __slots__ = ("addresses", "banned_until", "failure_count", "is_named", "met_at", "retry_at")

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.is_named = False
        self.met_at: float | None = None
        self.failure_count = 0
        self.retry_at = float("-inf")
        self.banned_until = float("-inf")


class PeerBook:
    """Addresses, and what came of them."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._pages: dict[str, _Page] = {}

    def __len__(self) -> int:
        return len(self._pages)

    def add(self, peer: str, addresses: Sequence[str], *, is_named: bool = False) -> None:
        """Somebody told of a peer: a hint. What is known to work is not pushed out by it."""
        if not 0 < len(peer) <= PEER_BYTES_MAX:
            return
        page = self._pages.get(peer)
        if page is None:
            page = self._pages[peer] = _Page()
            page.is_named = is_named
            self._make_room(peer)
        page.is_named = page.is_named or is_named
        for address in addresses:
            is_new = address not in page.addresses and len(address.encode()) <= ADDRESS_BYTES_MAX
            if is_new and len(page.addresses) < ADDRESSES_PER_PEER_MAX:
                page.addresses.append(address)

    def forget(self, peer: str) -> None:
        self._pages.pop(peer, None)

    def _make_room(self, newcomer: str) -> None:
        if len(self._pages) <= PEERS_REMEMBERED_MAX:
            return
        removable = [
            (-page.failure_count, page.met_at if page.met_at is not None else float("-inf"), peer)
            for peer, page in self._pages.items()
            if not page.is_named and peer != newcomer
        ]
        worst = min(removable, default=None)
        del self._pages[worst[2] if worst is not None else newcomer]

    # ---- what happened -------------------------------------------------------------------------

    def on_met(self, peer: str, now: float, address: str | None = None) -> None:
        """A connection was made, by `address` if we dialled."""
        self.add(peer, () if address is None else (address,))
        page = self._pages.get(peer)
        if page is None:
            return
        page.met_at, page.failure_count, page.retry_at = now, 0, now + RETRY_S
        if address is not None and address in page.addresses:
            page.addresses.remove(address)
            page.addresses.insert(0, address)

    def on_failed(self, peer: str, now: float) -> None:
        """No address of it answered."""
        page = self._pages.get(peer)
        if page is None:
            return
        wait_s = min(RETRY_S * (1 << min(page.failure_count, 16)), RETRY_S_MAX)
        page.retry_at = now + wait_s * (1.0 + self._rng.random() / 2)
        page.failure_count += 1
        if page.failure_count >= FAILURES_FORGOTTEN and not page.is_named:
            del self._pages[peer]

    def ban(self, peer: str, until: float) -> None:
        """Have nothing to do with a peer until then."""
        self.add(peer, ())
        if peer in self._pages:
            self._pages[peer].banned_until = max(until, self._pages[peer].banned_until)

    def is_banned(self, peer: str, now: float) -> bool:
        page = self._pages.get(peer)
        return page is not None and now < page.banned_until

    def on_network(self, now: float) -> None:
        """The network is back, or another one: everybody may be tried at once."""
        for page in self._pages.values():
            page.retry_at = min(page.retry_at, now)

    # ---- whom to try ---------------------------------------------------------------------------

    def addresses(self, peer: str) -> tuple[str, ...]:
        """What is known of where a peer is; empty if nothing."""
        page = self._pages.get(peer)
        return () if page is None else tuple(page.addresses)

    def next_dials(
        self, now: float, count: int, connected: frozenset[str] = frozenset()
    ) -> list[str]:
        """Up to `count` peers worth dialling now: named ones, then who failed least, then who was
        met last.
        """
        rows = [
            (not page.is_named, page.failure_count, -(page.met_at or float("-inf")), peer)
            for peer, page in self._pages.items()
            if page.addresses
            and peer not in connected
            and page.retry_at <= now
            and page.banned_until <= now
        ]
        rows.sort()
        return [row[3] for row in rows[:count]]

    def next_deadline(self, connected: frozenset[str] = frozenset()) -> float | None:
        """When somebody is worth dialling, perhaps long ago; None: nobody will be."""
        dues = (
            max(page.retry_at, page.banned_until)
            for peer, page in self._pages.items()
            if page.addresses and peer not in connected
        )
        return min(dues, default=None)

    def peers(self, now: float) -> list[KnownPeer]:
        """All pages, for people."""
        return [
            KnownPeer(
                peer=peer,
                addresses=tuple(page.addresses),
                is_named=page.is_named,
                last_met_s_ago=None if page.met_at is None else now - page.met_at,
                failure_count=page.failure_count,
                is_banned=now < page.banned_until,
            )
            for peer, page in self._pages.items()
        ]

    # ---- kept over a restart -------------------------------------------------------------------

    def to_dict(self, now: float, wall_s: float) -> dict[str, Any]:
        """The book as plain JSON values. wall_s: Unix time at `now`."""
        rows = []
        for peer, page in self._pages.items():
            met_wall_s = None if page.met_at is None else round(wall_s + page.met_at - now, 1)
            is_banned = page.banned_until > now
            banned_wall_s = round(wall_s + page.banned_until - now, 1) if is_banned else None
            rows.append([peer, list(page.addresses), page.is_named, met_wall_s, banned_wall_s])
        return {"version": 1, "peers": rows}

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], rng: random.Random, now: float, wall_s: float
    ) -> PeerBook:
        """A book as it was kept; everybody may be tried at once.

        Rows that make no sense are left out.
        """
        book = cls(rng)
        rows = data.get("peers", []) if data.get("version") == 1 else []
        for peer, addresses, is_named, met_wall_s, banned_wall_s in _valid_rows(rows):
            book.add(peer, addresses, is_named=is_named)
            page = book._pages.get(peer)
            if page is None:
                continue
            if met_wall_s is not None:
                page.met_at = now + min(met_wall_s - wall_s, 0.0)
            if banned_wall_s is not None:
                page.banned_until = now + (banned_wall_s - wall_s)
        return book


_Row = tuple[str, list[str], bool, float | None, float | None]


def _valid_rows(rows: Any) -> Iterator[_Row]:
    for row in rows if isinstance(rows, list) else []:
        match row:
            case [
                str(peer), list(addresses), bool(is_named),
                int() | float() | None as met, int() | float() | None as banned,
            ] if all(isinstance(address, str) for address in addresses):  # fmt: skip
                yield peer, addresses, is_named, met, banned
