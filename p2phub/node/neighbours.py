"""Keeps this node among others: bootstrap nodes, peers remembered on disk, peers on the local
network.

A node started offline joins when the network comes back; one whose bootstrap nodes are all gone
joins through whom it met before.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence

import trio

from p2phub.core.discovery.bootstrap import Bootstrap
from p2phub.core.discovery.peer_book import PeerBook
from p2phub.errors import P2phubError, UsageError
from p2phub.net.base import Network, PeerAddress, PeerId, parse_address, parse_peer_address
from p2phub.node.files import read_json, try_write
from p2phub.node.tasks import open_tasks
from p2phub.paths import Home

BOOK_BYTES_MAX = 8 << 20
SAVE_PERIOD_S = 300.0
LOOK_PAUSE_S = 1.0  # between two looks at who is connected and whom to dial
PEERS_WANTED = 8  # fewer connected: remembered peers are dialled
DIALS_AT_ONCE = 4
LOCAL_MAX = 64  # peers of the local network waiting to be dialled


class Neighbours:
    """The peers of a node outside any download. `run` must run."""

    def __init__(
        self,
        network: Network,
        home: Home,
        rng: random.Random,
        *,
        bootstrap: Sequence[str],
        on_joined: Callable[[], None],
    ) -> None:
        self._network = network
        self._path = home.peers
        self._on_joined = on_joined
        saved = read_json(self._path, BOOK_BYTES_MAX)
        now, wall_s = trio.current_time(), time.time()
        self.book = (
            PeerBook.from_dict(saved, rng, now, wall_s)
            if isinstance(saved, dict)
            else PeerBook(rng)
        )
        self._bootstrap = Bootstrap(bootstrap, rng)
        self._changed = trio.Event()
        self._news = trio.Event()  # for `_watch`
        self._connected: frozenset[str] = frozenset()
        self._noted: frozenset[str] = frozenset()  # of them, those whose addresses the book has
        self._dialling: set[str] = set()  # remembered peers
        self._local: dict[str, PeerAddress] = {}  # heard of and not dialled yet

    async def run(self) -> None:
        """Until cancelled; then the book is saved."""
        try:
            async with open_tasks() as nursery:
                nursery.start_soon(self._save_regularly)
                nursery.start_soon(self._dial_bootstrap, nursery)
                nursery.start_soon(self._watch, nursery)
                nursery.start_soon(self._listen)
        finally:
            self._save()

    def add_bootstrap(self, address: str) -> None:
        parse_peer_address(address)
        self._bootstrap.add(address)
        self._changed.set()

    def remove_bootstrap(self, address: str) -> None:
        self._bootstrap.remove(address)

    def hear_of(self, address: PeerAddress) -> None:
        """A peer on the local network said where it is: dial it soon, whoever else is connected."""
        self.book.add(address.peer, address.addresses)
        if len(self._local) < LOCAL_MAX:
            self._local[address.peer] = address
            self._news.set()

    async def _dial_bootstrap(self, nursery: trio.Nursery) -> None:
        while True:
            self._changed = trio.Event()
            for address in self._bootstrap.next_dials(trio.current_time()):
                nursery.start_soon(self._dial_one, address)
            due = self._bootstrap.next_deadline()
            with trio.move_on_at(float("inf") if due is None else due):
                await self._changed.wait()

    async def _dial_one(self, text: str) -> None:
        try:
            await self._network.connect(parse_peer_address(text))
        except P2phubError:
            self._bootstrap.on_failed(text, trio.current_time())
        else:
            self._bootstrap.on_connected(text, trio.current_time())
        self._changed.set()

    async def _listen(self) -> None:
        while True:
            await self._network.peers_changed()
            self._news.set()

    async def _watch(self, nursery: trio.Nursery) -> None:
        """Note who is connected; dial remembered peers while there are few."""
        dials = trio.CapacityLimiter(DIALS_AT_ONCE)
        while True:
            self._news = trio.Event()
            now = trio.current_time()
            self._note(now)
            local, self._local = self._local, {}
            chosen = [peer for peer in local if peer not in self._connected | self._dialling]
            due: float | None = None
            if len(self._connected) < PEERS_WANTED:
                taken = self._connected.union(self._dialling, chosen)
                free_count = max(0, DIALS_AT_ONCE - len(self._dialling))
                chosen += self.book.next_dials(now, free_count, taken)
                due = self.book.next_deadline(taken.union(chosen))
            self._dialling.update(chosen)
            for peer in chosen:
                nursery.start_soon(self._dial_known, peer, dials)
            with trio.move_on_at(float("inf") if due is None else due):
                await self._news.wait()
            await trio.sleep_until(now + LOOK_PAUSE_S)

    def _note(self, now: float) -> None:
        """Who came, and who is gone."""
        connected, noted = set(), set()
        for status in self._network.peers():
            peer = str(status.peer)
            connected.add(peer)
            known = self._network.known_address(status.peer)
            if known is None:
                continue
            noted.add(peer)
            if peer not in self._noted:
                self.book.add(status.peer, known.addresses)
                self.book.on_met(status.peer, now)
        is_joined = bool(connected) and not self._connected
        self._connected, self._noted = frozenset(connected), frozenset(noted)
        self._bootstrap.on_peers(len(connected), now)
        self._changed.set()
        if is_joined:
            self._on_joined()

    async def _dial_known(self, peer: str, dials: trio.CapacityLimiter) -> None:
        try:
            async with dials:
                addresses = tuple(parse_address(text) for text in self.book.addresses(peer))
                await self._network.connect(PeerAddress(PeerId(peer), addresses))
        except (P2phubError, UsageError):
            self.book.on_failed(peer, trio.current_time())
        finally:
            self._dialling.discard(peer)
            self._news.set()

    async def _save_regularly(self) -> None:
        saved = b""
        while True:
            await trio.sleep(SAVE_PERIOD_S)
            data = self._dump()
            if data != saved:
                await trio.to_thread.run_sync(try_write, self._path, data)
                saved = data

    def _save(self) -> None:
        try_write(self._path, self._dump())

    def _dump(self) -> bytes:
        return json.dumps(self.book.to_dict(trio.current_time(), time.time())).encode()
