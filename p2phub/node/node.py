"""A node: everything that runs, built once, nested in the order in which it must end.

`open_node` builds the parts, starts their tasks and gives what the doors talk to. Parts know each
other only by what is passed to them here. A failure of the node's own tasks ends the node; a peer's
fault ends that peer's task.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from p2phub.config import Settings
from p2phub.errors import P2phubError, UsageError
from p2phub.net.base import Network, PeerId, parse_peer_address
from p2phub.net.identity import load_or_create_identity
from p2phub.net.lane_listener import LaneListener
from p2phub.net.libp2p import AGENT, Libp2pNetwork
from p2phub.net.mdns import find_local_peers
from p2phub.node import api
from p2phub.node.announcing import Announcing
from p2phub.node.api import (
    Fetched,
    FetchRequest,
    IdentityView,
    Metric,
    Notice,
    PeerView,
    Prepared,
    Progress,
    ProgressSink,
    Published,
    PublisherView,
    ReadBytes,
    ReleaseSummary,
    ReleaseTerms,
    ReleaseView,
    StatusView,
    Verified,
    VersionsView,
)
from p2phub.node.channels import Channels
from p2phub.node.documents import Documents, DocumentServer
from p2phub.node.downloads import Transfer
from p2phub.node.exchange import Exchange
from p2phub.node.fetching import Fetching
from p2phub.node.files import read_json, write_durably
from p2phub.node.following import Following
from p2phub.node.library import Library
from p2phub.node.limits import Limiting
from p2phub.node.neighbours import Neighbours
from p2phub.node.publishers import Publishers
from p2phub.node.publishing import Publishing
from p2phub.node.reading import Reading
from p2phub.node.rechecking import RECHECKED_FILES, Rechecking
from p2phub.node.repairing import Repairing
from p2phub.node.resolving import Resolved, Resolver
from p2phub.node.serving import Serving
from p2phub.node.sources import Sources
from p2phub.node.tasks import open_tasks
from p2phub.node.upkeep import Upkeep
from p2phub.node.watching import Watches
from p2phub.paths import Home
from p2phub.proto.content_id import content_id_text
from p2phub.proto.names import (
    PetnameReference,
    PublisherReference,
    Reference,
    ReleaseReference,
)
from p2phub.store.base import Release, Store, StoreUsage
from p2phub.store.disk import DiskStore
from p2phub.trust.petnames import Petnames

NOTICES_MAX = 100  # the last ones; older ones are in the log
LISTS_BYTES_MAX = 1 << 20

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
        self._transfers: dict[Transfer, tuple[Resolved, int]] = {}
        self._received_from: dict[PeerId, int] = {}
        self._petnames = Petnames(home.petnames)
        self._bootstrap = _kept_addresses(home)
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
        self._announcing = Announcing(network, store, home, rng, policy=settings.announce)
        self._neighbours = Neighbours(
            network,
            home,
            rng,
            bootstrap=[*settings.bootstrap, *self._bootstrap],
            on_joined=self._announcing.on_network,
        )
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
            on_transfer=self._during_transfer,
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
            on_transfer=self._during_transfer,
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
        self._following = Following(
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
            nursery.start_soon(self._following.run)
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
        self._following.wake()
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
            received_bytes=self._received_bytes(),
            sent_bytes=self._sent_bytes(),
            announcements_queued=announced.keys_count - announced.stored_keys_count,
            announcements_held=announced.stored_keys_count,
            transfers=tuple(self._running()),
            notices=tuple(self._notices),
        )

    def _used(self) -> tuple[StoreUsage, list[Release]]:
        return self._store.usage(), self._store.releases()

    async def peers(self) -> tuple[PeerView, ...]:
        return tuple(
            self._peer_view(status.peer, status.is_outbound) for status in self._network.peers()
        )

    async def connect(self, address: str) -> PeerView:
        wanted = parse_peer_address(address)
        await self._network.connect(wanted)
        self._neighbours.book.add(wanted.peer, wanted.addresses)
        for status in self._network.peers():
            if status.peer == wanted.peer:
                return self._peer_view(status.peer, status.is_outbound)
        return self._peer_view(wanted.peer, True)

    async def bootstrap_list(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self._settings.bootstrap, *self._bootstrap]))

    async def bootstrap_add(self, address: str) -> tuple[str, ...]:
        parse_peer_address(address)
        if address not in self._bootstrap:
            self._bootstrap.append(address)
            await self._keep_bootstrap()
        self._neighbours.add_bootstrap(address)
        return await self.bootstrap_list()

    async def bootstrap_remove(self, address: str) -> tuple[str, ...]:
        if address not in self._bootstrap:
            where = (
                "it stands in config.toml"
                if address in self._settings.bootstrap
                else "it is not kept"
            )
            raise UsageError(f"{address} cannot be removed: {where}", address=address)
        self._bootstrap.remove(address)
        self._neighbours.remove_bootstrap(address)
        await self._keep_bootstrap()
        return await self.bootstrap_list()

    # ---- trust -----------------------------------------------------------------------------------

    async def trust_add(self, publisher: PublisherReference, petname: str) -> PublisherView:
        return await self._following.add(publisher, petname)

    async def trust_list(self) -> tuple[PublisherView, ...]:
        return await self._following.views()

    async def trust_remove(self, petname: str) -> PublisherView:
        return await self._following.remove(petname)

    async def trust_reset(self, petname: str | None) -> tuple[PublisherView, ...]:
        return await self._following.reset(petname)

    # ---- figures ---------------------------------------------------------------------------------

    def metrics(self) -> tuple[Metric, ...]:
        routing, announced = self._network.routing(), self._announcing.statistics()
        rows: list[tuple[str, str, float]] = [
            (
                "received_bytes_total",
                "Verified payload received from peers.",
                self._received_bytes(),
            ),
            ("sent_bytes_total", "Payload sent to peers.", self._sent_bytes()),
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
            ("transfers", "Downloads that run now.", len(self._transfers)),
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

    # ---- parts -----------------------------------------------------------------------------------

    @contextmanager
    def _during_transfer(
        self, transfer: Transfer, resolved: Resolved, total_bytes: int
    ) -> Iterator[None]:
        self._transfers[transfer] = (resolved, total_bytes)
        transfer.on_received = self._serving.on_received
        try:
            yield
        finally:
            del self._transfers[transfer]
            for share in transfer.shares.values():
                total = self._received_from.get(share.peer, 0) + share.received_bytes
                self._received_from[share.peer] = total
                if share.fault:
                    self.notice(
                        "PeerError", f"{share.peer} was dropped from {resolved.text}: {share.fault}"
                    )

    def _running(self) -> Iterator[api.Transfer]:
        for transfer, (resolved, total_bytes) in self._transfers.items():
            facts = transfer.statistics()
            held_before = total_bytes - facts.total_bytes
            progress = Progress(
                "transfer",
                held_before + facts.verified_bytes,
                total_bytes,
                facts.rate_bytes_per_s,
                sum(1 for peer in facts.peers if peer.rate_bytes_per_s > 0),
            )
            yield api.Transfer(
                reference=resolved.text,
                content_id=content_id_text(resolved.digest),
                progress=progress,
            )
        yield from self._fetching.pauses.views()

    def _received_bytes(self) -> int:
        running = sum(s.received_bytes for t in self._transfers for s in t.shares.values())
        return sum(self._received_from.values()) + running + self._documents.received_bytes

    def _sent_bytes(self) -> int:
        return self._serving.sent_bytes + self._document_server.sent_bytes

    def _peer_view(self, peer: PeerId, is_outbound: bool) -> PeerView:
        known = self._network.known_address(peer)
        rates = [f for t in self._transfers for f in t.statistics().peers if f.peer == peer]
        running = sum(t.shares[peer].received_bytes for t in self._transfers if peer in t.shares)
        return PeerView(
            peer_id=str(peer),
            addresses=known.addresses if known else (),
            direction="out" if is_outbound else "in",
            received_bytes=self._received_from.get(peer, 0) + running,
            sent_bytes=self._serving.sent_to.get(peer, 0),
            down_bytes_per_s=sum(f.rate_bytes_per_s for f in rates),
            downloads=len(rates),
        )

    async def _keep_bootstrap(self) -> None:
        data = json.dumps(self._bootstrap).encode()
        await trio.to_thread.run_sync(write_durably, self._home.bootstrap, data)


def _kept_addresses(home: Home) -> list[str]:
    """Bootstrap addresses that the user added; what is not an address is left out."""
    kept = []
    for text in read_json(home.bootstrap, LISTS_BYTES_MAX) or []:
        try:
            parse_peer_address(str(text))
        except P2phubError:
            continue
        kept.append(str(text))
    return kept
