"""A node: everything that runs, built once, nested in the order in which it must end.

`open_node` builds the parts, starts their tasks and gives what the doors talk to. Parts know each
other only by what is passed to them here. A failure of the node's own tasks ends the node; a peer's
fault ends that peer's task.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from p2phub.config import Settings
from p2phub.net.base import Network, parse_peer_address
from p2phub.net.identity import load_or_create_identity
from p2phub.net.lane_listener import LaneListener
from p2phub.net.libp2p import AGENT, Libp2pNetwork
from p2phub.net.mdns import find_local_peers
from p2phub.node.announcing import Announcing
from p2phub.node.api import (
    Fetched,
    FetchRequest,
    Prepared,
    ProgressSink,
    Published,
    ReadBytes,
    ReleaseSummary,
    ReleaseTerms,
    ReleaseView,
    Verified,
    VersionsView,
)
from p2phub.node.bootstrap import BootstrapList
from p2phub.node.channels import Channels
from p2phub.node.documents import Documents, DocumentServer
from p2phub.node.exchange import Exchange
from p2phub.node.fetching import Fetching
from p2phub.node.figures import IdentityView, Metric, Notice, PeerView, StatusView
from p2phub.node.following import Following
from p2phub.node.library import Library
from p2phub.node.limits import Limiting
from p2phub.node.neighbours import Neighbours
from p2phub.node.publishers import Publishers
from p2phub.node.publishing import Publishing
from p2phub.node.reading import Reading
from p2phub.node.rechecking import RECHECKED_FILES, Rechecking
from p2phub.node.repairing import Repairing
from p2phub.node.resolving import Resolver
from p2phub.node.serving import Serving
from p2phub.node.sources import Sources
from p2phub.node.tasks import open_tasks
from p2phub.node.traffic import Traffic
from p2phub.node.upkeep import Upkeep
from p2phub.node.watching import Watches
from p2phub.paths import Home
from p2phub.proto.names import (
    PetnameReference,
    Reference,
    ReleaseReference,
)
from p2phub.store.base import Release, Store, StoreUsage
from p2phub.store.disk import DiskStore
from p2phub.trust.petnames import Petnames

NOTICES_MAX = 100  # the last ones; older ones are in the log

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_node(
    home: Home, settings: Settings, *, network: Network | None = None, store: Store | None = None
) -> AsyncIterator[Node]:
    """A running node. network, store: other ones than libp2p and the disk, for tests.

    Raises PortInUse, StoreNewer, BadSetting, UnsafeKeyFile.
    """
    home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if network is None:
        identity = load_or_create_identity(home.identity)
        network = Libp2pNetwork(identity, settings.listen)
    own_store: Store
    if store is None:
        own_store = await trio.to_thread.run_sync(DiskStore, home.store)
    else:
        own_store = store
    try:
        listener = LaneListener(settings.lane_listen.host, settings.lane_listen.port)
        node = Node(home, settings, network, own_store, listener)
        try:
            async with open_tasks() as nursery:
                await nursery.start(node.run)
                yield node
                nursery.cancel_scope.cancel()
        finally:
            node.close()
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(own_store.close)


class Node:
    """See `p2phub.node.api.NodeApi`."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        network: Network,
        store: Store,
        listener: LaneListener | None,
    ) -> None:
        rng = random.Random()
        self._home = home
        self._settings = settings
        self._network = network
        self._store = store
        self._started_s = trio.current_time()
        self._notices: deque[Notice] = deque(maxlen=NOTICES_MAX)
        self._petnames = Petnames(home.petnames)
        self._channels = Channels(network, listener, sending_max=settings.lanes)
        self.limits = Limiting(
            home.limits,
            self._channels.down,
            self._channels.up,
            down_rate=settings.down_rate or None,
            up_rate=settings.up_rate or None,
        )
        self._publishers = Publishers(network, home)
        self._watches = Watches(store)
        self._document_server = DocumentServer(network, store)
        self._documents = Documents(network, store)
        self._serving = Serving(
            network, store, self._channels, self._watches, rng, slots_count=settings.lanes
        )
        self._traffic = Traffic(
            network, self._documents, self._document_server, self._serving, self.notice
        )
        self._announcing = Announcing(network, store, home, rng, policy=settings.announce)
        self._neighbours = Neighbours(
            network,
            home,
            rng,
            bootstrap=settings.bootstrap,
            on_joined=self._announcing.on_network,
        )
        self.bootstrap = BootstrapList(home.bootstrap, settings.bootstrap, self._neighbours)
        self._resolver = Resolver(network, home, self._publishers, self._petnames, self._documents)
        self.upkeep = Upkeep(
            home,
            store,
            self._publishers,
            self._resolver,
            self._announcing,
            settings.store_max,
            settings.scrub_rate,
        )
        self._fetching = Fetching(
            upkeep=self.upkeep,
            network=network,
            home=home,
            store=store,
            documents=self._documents,
            resolver=self._resolver,
            channels=self._channels,
            announcing=self._announcing,
            rng=rng,
            watches=self._watches,
            on_transfer=self._traffic.during,
        )
        self.repairing = Repairing(
            home=home,
            store=store,
            documents=self._documents,
            resolver=self._resolver,
            publishers=self._publishers,
            fetching=self._fetching,
            upkeep=self.upkeep,
            announcing=self._announcing,
            on_transfer=self._traffic.during,
            on_notice=self.notice,
        )
        self._rechecking = Rechecking(
            store, self._announcing, self.notice, on_damage=self.repairing.wake
        )
        self._sources = Sources(
            network=network,
            store=store,
            documents=self._documents,
            resolver=self._resolver,
            channels=self._channels,
            rng=rng,
            watches=self._watches,
        )
        self._reading = Reading(self._sources, store, self._documents, rng)
        self._publishing = Publishing(
            network, store, self._publishers, self._petnames, self._announcing, home
        )
        self._library = Library(
            store, self._documents, self._resolver, self._publishers, self._petnames
        )
        self.exchange = Exchange(store, self._library, self._publishing)
        self.trust = Following(
            home, self._publishers, self._petnames, self._resolver, self._announcing, network
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Everything that goes on by itself, until cancelled."""
        async with open_tasks() as nursery:
            await nursery.start(self._channels.run)
            await nursery.start(self._network.run)
            await nursery.start(self._sources.run)
            nursery.start_soon(self.limits.run)
            nursery.start_soon(self._serving.run)
            nursery.start_soon(self._announcing.run)
            nursery.start_soon(self._neighbours.run)
            nursery.start_soon(self.trust.run)
            nursery.start_soon(self._rechecking.run)
            nursery.start_soon(self.upkeep.scrub_slowly)
            nursery.start_soon(self.repairing.run)
            if self._settings.mdns:
                nursery.start_soon(find_local_peers, self._network, self._neighbours.hear_of)
            task_status.started()

    def close(self) -> None:
        self._publishers.close()

    # ---- publishing ------------------------------------------------------------------------------

    async def publish_prepare(
        self, folder: Path, terms: ReleaseTerms, progress: ProgressSink
    ) -> Prepared:
        return await self._publishing.prepare(folder, terms, progress)

    async def publish_commit(
        self, publisher_id: str, name: str, version: str, files: Mapping[str, bytes], petname: str
    ) -> Published:
        published = await self._publishing.commit(publisher_id, name, version, files, petname)
        self.trust.wake()
        return published

    # ---- releases --------------------------------------------------------------------------------

    async def fetch(self, request: FetchRequest, progress: ProgressSink) -> Fetched:
        return await self._fetching.fetch(request, progress)

    async def show(self, reference: Reference, peers: tuple[str, ...] = ()) -> ReleaseView:
        return await self._library.show(reference, peers)

    async def versions(
        self, reference: PetnameReference | ReleaseReference, peers: tuple[str, ...] = ()
    ) -> VersionsView:
        return await self._library.versions(reference, peers)

    def read(
        self,
        reference: Reference,
        path: str | None,
        start: int = 0,
        stop: int | None = None,
        peers: tuple[str, ...] = (),
    ) -> ReadBytes:
        return self._reading.read(reference, path, start, stop, peers)

    async def releases(self) -> tuple[ReleaseSummary, ...]:
        return await self._library.releases()

    async def verify(self, reference: Reference, progress: ProgressSink) -> Verified:
        return await self._library.verify(reference, progress)

    # ---- peers -----------------------------------------------------------------------------------

    async def identity(self) -> IdentityView:
        return IdentityView(
            peer_id=str(self._network.peer_id),
            addresses=tuple(self._network.addresses()),
            agent=AGENT,
        )

    async def status(self) -> StatusView:
        await self._rechecking.look(RECHECKED_FILES)
        # Each turn in a thread waits for the interpreter lock among busy lanes: one for both.
        usage, releases = await trio.to_thread.run_sync(self._used)
        announced = self._announcing.statistics()
        return StatusView(
            peer_id=str(self._network.peer_id),
            addresses=tuple(self._network.addresses()),
            uptime_s=trio.current_time() - self._started_s,
            peers=len(self._network.peers()),
            routing_table=self._network.routing().peers_count,
            releases=len({release.manifest for release in releases}),
            stored_bytes=usage.data_bytes + usage.part_bytes + usage.pack_bytes,
            received_bytes=self._traffic.received_bytes,
            sent_bytes=self._traffic.sent_bytes,
            announcements_queued=announced.keys_count - announced.stored_keys_count,
            announcements_held=announced.stored_keys_count,
            transfers=(*self._traffic.transfers(), *self._fetching.pauses.views()),
            notices=tuple(self._notices),
        )

    def _used(self) -> tuple[StoreUsage, list[Release]]:
        return self._store.usage(), self._store.releases()

    async def peers(self) -> tuple[PeerView, ...]:
        return tuple(
            self._traffic.peer(status.peer, status.is_outbound) for status in self._network.peers()
        )

    async def connect(self, address: str) -> PeerView:
        wanted = parse_peer_address(address)
        await self._network.connect(wanted)
        self._neighbours.book.add(wanted.peer, wanted.addresses)
        for status in self._network.peers():
            if status.peer == wanted.peer:
                return self._traffic.peer(status.peer, status.is_outbound)
        return self._traffic.peer(wanted.peer, True)

    # ---- figures ---------------------------------------------------------------------------------

    def metrics(self) -> tuple[Metric, ...]:
        routing, announced = self._network.routing(), self._announcing.statistics()
        rows: list[tuple[str, str, float]] = [
            (
                "received_bytes_total",
                "Verified payload received from peers.",
                self._traffic.received_bytes,
            ),
            ("sent_bytes_total", "Payload sent to peers.", self._traffic.sent_bytes),
            (
                "faults_total",
                "Tasks that died of a bug while serving a peer.",
                self._network.faults_count + self._channels.faults_count,
            ),
            ("peers", "Connected peers.", len(self._network.peers())),
            ("routing_table_peers", "Peers in the DHT's table.", routing.peers_count),
            ("dht_records", "Provider records kept for others.", routing.records_count),
            ("sessions", "Sessions that others opened.", self._serving.sessions_count),
            ("channels", "Open lanes and span streams.", self._channels.open_count),
            ("transfers", "Downloads that run now.", self._traffic.transfers_count),
            ("announced_keys", "Keys that some node remembers us by.", announced.stored_keys_count),
        ]
        return tuple(
            Metric(
                name=name,
                help=help,
                type="counter" if name.endswith("_total") else "gauge",
                value=value,
                labels={},
            )
            for name, help, value in rows
        )

    def notice(self, kind: str, message: str) -> None:
        """Keep something that the user should know and no command asked for."""
        log.warning("%s: %s", kind, message)
        self._notices.append(Notice(time=time.time(), kind=kind, message=message))
