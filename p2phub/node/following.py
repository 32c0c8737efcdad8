"""Publishers that the user named: their metadata is refreshed now and then, kept, served and
announced.

A publisher whose keys are in this home is also kept fresh: the online key, the only one that a
daemon may hold, signs the timestamp anew before followers would call it stale.
"""

from __future__ import annotations

import logging
import random
import time

import trio

from p2phub.core.discovery.keys import KeyKind
from p2phub.errors import P2phubError
from p2phub.net.base import Network
from p2phub.node.acquaintances_api import PublisherView
from p2phub.node.announcing import Announcing
from p2phub.node.publishers import Publishers
from p2phub.node.resolving import Resolver
from p2phub.paths import Home
from p2phub.proto.names import PublisherReference, parse_publisher_id
from p2phub.trust.keys import KeyRole, key_file, load_key
from p2phub.trust.petnames import Petname, Petnames
from p2phub.trust.publisher import PublisherRepository

REFRESH_PERIOD_S = 6 * 3600.0  # of each followed publisher, with jitter
FIRST_PERIOD_S = 60.0  # after a start, and while a publisher was not reached yet
SIGN_PERIOD_S = 24 * 3600.0  # of own publishers' timestamps: a seventh of what followers call fresh

log = logging.getLogger(__name__)


class Following:
    """The publishers of a node. `run` must run."""

    def __init__(
        self,
        home: Home,
        publishers: Publishers,
        petnames: Petnames,
        resolver: Resolver,
        announcing: Announcing,
        network: Network,
    ) -> None:
        self._home = home
        self._publishers = publishers
        self._petnames = petnames
        self._resolver = resolver
        self._announcing = announcing
        self._network = network
        self._due_s: dict[str, float] = {}  # publisher id: when to refresh it
        self._changed = trio.Event()  # who is followed
        self._seen_from: dict[str, int] = {}
        self._last_seen: dict[str, float] = {}

    async def run(self) -> None:
        """Refresh what is due until cancelled."""
        for entry in self._petnames.list():
            self._announce(entry.publisher_id)
        while True:
            self._changed = trio.Event()
            entries = self._petnames.list()
            for entry in entries:
                if self._due(entry) <= trio.current_time():
                    await self._refresh(entry)
            with trio.move_on_at(min(map(self._due, entries), default=float("inf"))):
                await self._changed.wait()

    def wake(self) -> None:
        """Another publisher may be named."""
        self._changed.set()

    async def add(self, publisher: PublisherReference, petname: str) -> PublisherView:
        """See `TrustApi.add`."""
        entry = await trio.to_thread.run_sync(
            self._petnames.add, petname, publisher.publisher_id, time.time(), publisher.peers
        )
        self._announce(entry.publisher_id)
        self.wake()
        return await trio.to_thread.run_sync(self._view, entry)

    async def list(self) -> tuple[PublisherView, ...]:
        """See `TrustApi.list`."""
        return tuple([await trio.to_thread.run_sync(self._view, e) for e in self._petnames.list()])

    async def remove(self, petname: str) -> PublisherView:
        """See `TrustApi.remove`."""
        view = await trio.to_thread.run_sync(self._view, self._petnames.resolve(petname))
        await trio.to_thread.run_sync(self._petnames.remove, petname)
        return view

    async def reset(self, petname: str | None) -> tuple[PublisherView, ...]:
        """See `TrustApi.reset`."""
        entries = self._petnames.list() if petname is None else [self._petnames.resolve(petname)]
        for entry in entries:
            follower = self._publishers.follower(entry.publisher_id)
            await trio.to_thread.run_sync(follower.reset, time.time())
            self._due_s.pop(entry.publisher_id, None)
        self.wake()
        return tuple([await trio.to_thread.run_sync(self._view, entry) for entry in entries])

    def _due(self, entry: Petname) -> float:
        return self._due_s.get(entry.publisher_id, float("-inf"))

    def _announce(self, publisher_id: str) -> None:
        self._announcing.add(KeyKind.PUBLISHER, parse_publisher_id(publisher_id))

    async def _refresh(self, entry: Petname) -> None:
        publisher_id = entry.publisher_id
        is_own = self._resolver.is_own(publisher_id)
        period_s = SIGN_PERIOD_S if is_own else REFRESH_PERIOD_S
        try:
            if is_own:
                await self._sign_timestamp(publisher_id)
            elif self._network.peers() or entry.peers:
                _, peers_count, _ = await self._resolver.refresh(publisher_id, entry.peers)
                self._seen_from[publisher_id] = peers_count
                self._last_seen[publisher_id] = time.time()
            else:
                period_s = FIRST_PERIOD_S
        except P2phubError as error:
            log.info("publisher %s could not be refreshed: %s", publisher_id, error)
            period_s = FIRST_PERIOD_S if publisher_id not in self._last_seen else period_s
        jitter = random.uniform(0.8, 1.2)
        self._due_s[publisher_id] = trio.current_time() + period_s * jitter

    async def _sign_timestamp(self, publisher_id: str) -> None:
        path = key_file(self._home.publisher_keys(publisher_id), KeyRole.ONLINE)
        if not path.exists():
            return  # its owner keeps this key elsewhere
        addresses = self._network.addresses()

        def sign() -> dict[str, bytes]:
            repository = PublisherRepository.open(self._home.publisher(publisher_id))
            repository.refresh_timestamp(load_key(path), time.time(), addresses)
            # All files: what a command signed may not have reached this daemon.
            return repository.files()

        files = await trio.to_thread.run_sync(sign)
        await self._publishers.import_metadata(publisher_id, files)

    def _view(self, entry: Petname) -> PublisherView:
        follower = self._publishers.follower(entry.publisher_id)
        try:
            state = follower.known(time.time()).state.value
        except P2phubError:
            state = "unknown"
        return PublisherView(
            publisher_id=entry.publisher_id,
            petname=entry.name,
            own=self._resolver.is_own(entry.publisher_id),
            freshness=state,
            releases=len(follower.releases()),
            seen_from=self._seen_from.get(entry.publisher_id, 0),
            last_seen=self._last_seen.get(entry.publisher_id),
        )
