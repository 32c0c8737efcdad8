"""Sources of readers: what a reference means, who holds it, sessions with them; kept for a while.

A reader of ranges comes back soon. What it opened stays open for IDLE_S, so that its next range
costs one round trip: no lookup, no handshake, no lane to dial, no question what the peer holds.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from p2phub.errors import NetworkError, P2phubError
from p2phub.net.base import Network
from p2phub.node.channels import Channels
from p2phub.node.documents import Documents
from p2phub.node.downloads import MissingPage, Transfer, download_of
from p2phub.node.resolving import Resolver
from p2phub.node.search import Search
from p2phub.node.tasks import open_tasks
from p2phub.node.trees import Tree, keeping, load_tree
from p2phub.node.watching import Watches
from p2phub.proto.manifest import FileRecord
from p2phub.proto.names import Reference
from p2phub.store.base import ObjectState, Store

IDLE_S = 30.0  # without a reader: longer than a person or a program pauses between two ranges
IDLE_MAX = 4  # sources without a reader: each holds a session, and a peer grants eight
REPORT_S = 1.0  # within which a lane's report of what it wrote arrives, even on a busy machine
RECENT_S = 60.0  # metadata this young is good enough for a reader; no source is given out older

_Key = tuple[Reference, tuple[str, ...]]


class Source:
    """One tree and a transfer for it that serves one reader at a time."""

    def __init__(self, key: _Key, tree: Tree, search: Search, transfer: Transfer) -> None:
        self.key = key
        self.tree = tree
        self.search = search
        self.transfer = transfer
        self.files: dict[FileRecord, None] = {}  # of which something was fetched
        self.failure: P2phubError | None = None
        self.life = trio.CancelScope()  # ends the source
        self.reader: trio.CancelScope | None = None
        self._wanted = trio.Event()
        self.opened_s = trio.current_time()

    def begin(self, file: FileRecord, pages: Sequence[MissingPage], rng: random.Random) -> None:
        """Fetch what is missing of some pages of a file."""
        self.files[file] = None
        self._wanted.set()
        self.transfer.go_on(download_of(pages, rng, self.transfer.request_ids))

    async def run(self) -> None:
        """Fetch what readers want, until cancelled; no peer is bothered before they want it."""
        await self._wanted.wait()
        await self.transfer.run()

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is under way, so that another reader may have it."""
        return self.failure is None and self.transfer.machine.is_complete

    async def come_to_rest(self) -> None:
        """Wait for the report of chunks that are here: they can be read a moment before it."""
        with trio.move_on_after(REPORT_S):
            while not self.is_at_rest:
                await self.transfer.next_arrival().wait()

    def fail(self, error: P2phubError) -> None:
        """End it with `error`, which its reader gets."""
        self.failure = error
        self.life.cancel()
        if self.reader is not None:
            self.reader.cancel()


class Sources:
    """The sources of one node. `run` must run."""

    def __init__(
        self,
        *,
        network: Network,
        store: Store,
        documents: Documents,
        resolver: Resolver,
        channels: Channels,
        rng: random.Random,
        watches: Watches,
    ) -> None:
        self._network = network
        self._store = store
        self._documents = documents
        self._resolver = resolver
        self._channels = channels
        self._rng = rng
        self._watches = watches
        self._nursery: trio.Nursery | None = None
        self._idle: list[Source] = []  # the one that rests longest first

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep sources open until cancelled."""
        async with open_tasks() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    @asynccontextmanager
    async def open(self, reference: Reference, peers: Sequence[str]) -> AsyncIterator[Source]:
        """A source for one reader: one that rests, else a new one. Raises what ends it."""
        key = (reference, tuple(peers))
        source = self._resting(key)
        if source is None:
            if self._nursery is None:
                raise NetworkError("this node stops")
            source = await self._nursery.start(self._keep, key)
        source.reader = trio.CancelScope()
        try:
            with source.reader:
                yield source
            if source.failure is not None:
                raise source.failure
        finally:
            source.reader = None
            self._give_back(source)

    async def settle(self, file: FileRecord) -> None:
        """Make what was fetched of a file durable; a file that is whole becomes complete.

        Raises DigestMismatch, StoreError.
        """
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._settle, file)

    def _settle(self, file: FileRecord) -> None:
        self._store.checkpoint()
        status = self._store.status(file.object)
        if (
            status is not None
            and status.state is ObjectState.PARTIAL
            and status.held_chunks == status.chunk_count
        ):
            self._store.finish(file.object)

    def _resting(self, key: _Key) -> Source | None:
        oldest_s = trio.current_time() - RECENT_S
        for source in self._idle:
            if source.key == key and source.opened_s > oldest_s and not source.life.cancel_called:
                self._idle.remove(source)
                source.life.deadline = float("inf")
                source.search.resume()
                return source
        return None

    def _give_back(self, source: Source) -> None:
        if not source.is_at_rest:
            source.life.cancel()
            return
        source.life.deadline = trio.current_time() + IDLE_S
        source.search.rest()
        self._idle.append(source)
        if len(self._idle) > IDLE_MAX:
            self._idle.pop(0).life.cancel()

    async def _keep(self, key: _Key, *, task_status: trio.TaskStatus[Source]) -> None:
        source: Source | None = None
        try:
            async with (
                self._resolver.open(*key, recent_s=RECENT_S) as (resolved, search),
                keeping(self._store, resolved.digest),
            ):
                tree = await load_tree(
                    resolved.digest, self._documents, self._store, search, resolved.text
                )
                transfer = Transfer(
                    swarm=tree.digest,
                    machine=download_of((), random.Random(self._rng.getrandbits(64))),
                    search=search,
                    network=self._network,
                    store=self._store,
                    channels=self._channels,
                    watches=self._watches,
                    is_kept=True,
                )
                source = Source(key, tree, search, transfer)
                try:
                    async with open_tasks() as nursery:
                        nursery.start_soon(source.run)
                        task_status.started(source)
                        with source.life:
                            await trio.sleep_forever()
                        nursery.cancel_scope.cancel()
                finally:
                    for file in source.files:
                        await self.settle(file)
        except P2phubError as error:
            if source is None:
                raise
            source.fail(error)
        finally:
            if source in self._idle:
                self._idle.remove(source)
