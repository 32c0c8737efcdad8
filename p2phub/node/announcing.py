"""Tells the DHT what this node holds: carries out the announce queue and keeps it over restarts.

What is announced: releases and publishers always; by the setting `announce` also large complete
objects with their SHA-256, or chunks.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence

import trio

from p2phub.core.discovery.announce import (
    OBJECT_BYTES_MIN,
    Announce,
    AnnounceQueue,
    AnnounceStatistics,
)
from p2phub.core.discovery.keys import KeyKind
from p2phub.digest import Digest
from p2phub.errors import P2phubError
from p2phub.net.base import Network
from p2phub.node.files import read_json, try_write
from p2phub.node.tasks import open_tasks
from p2phub.node.trees import held_tree
from p2phub.paths import Home
from p2phub.proto.manifest import FileRecord
from p2phub.store.base import ObjectState, Store

SAVE_PERIOD_S = 60.0  # a crash announces again at most what changed in this time
QUEUE_BYTES_MAX = 64 << 20  # of the saved queue
# Before what was fetched is announced, up to this: a crowd is done at one moment, and would ask the
# same few nodes at once.
FETCHED_WAIT_S_MAX = 3.0


class Announcing:
    """The announce queue of a node. `run` must run."""

    def __init__(
        self, network: Network, store: Store, home: Home, rng: random.Random, *, policy: str
    ) -> None:
        self._network = network
        self._store = store
        self._path = home.announcements
        self._changed = trio.Event()
        self._is_alone = True  # at the last look
        self._dirtied = trio.Event()  # the queue is not as it was saved
        saved = read_json(self._path, QUEUE_BYTES_MAX)
        now, wall_s = trio.current_time(), time.time()
        known = saved if isinstance(saved, dict) else {}
        self._rng = rng
        self._queue = AnnounceQueue.from_dict(known, rng, now, wall_s, policy)

    async def run(self) -> None:
        """Announce until cancelled, then save the queue."""
        try:
            async with open_tasks() as nursery:
                nursery.start_soon(self._save_regularly)
                nursery.start_soon(self._listen)
                while True:
                    self._changed = trio.Event()
                    due = None
                    self._is_alone = not self._network.peers()
                    if not self._is_alone:
                        for announce in self._queue.next_actions(trio.current_time()):
                            nursery.start_soon(self._announce, announce)
                        due = self._queue.next_deadline()
                    with trio.move_on_at(float("inf") if due is None else due):
                        await self._changed.wait()
        finally:
            self._save()

    def add(self, kind: KeyKind, name: bytes, size_bytes: int = 0, wait_s: float = 0.0) -> int:
        """Announce a name from now on, or in a while; how many names that were added (0 or 1)."""
        if (kind, name) in self._queue:
            return 0
        added = self._queue.add(kind, name, trio.current_time() + wait_s, size_bytes=size_bytes)
        if added:
            self._dirtied.set()
        self._changed.set()
        return int(added)

    async def announce_release(
        self, manifest: Digest, files: Sequence[FileRecord] = (), *, is_fetched: bool = False
    ) -> int:
        """Announce a held manifest and its whole large files; how many names are new.

        files: all that it lists, where the caller has them at hand. is_fetched: others hold it, so
        there is time.
        """
        wait_s = self._rng.uniform(0.0, FETCHED_WAIT_S_MAX) if is_fetched else 0.0
        count = self.add(KeyKind.MANIFEST, manifest, wait_s=wait_s)
        complete = await trio.to_thread.run_sync(self._complete_objects, manifest, files)
        for name, size_bytes, sum_sha256 in complete:
            count += self.add(KeyKind.OBJECT, name, size_bytes, wait_s)
            count += self.add(KeyKind.SHA256, sum_sha256, size_bytes, wait_s)
        return count

    def announce_object(self, name: Digest, size_bytes: int, sum_sha256: bytes) -> None:
        """Announce a whole object, if it is large enough for that."""
        if size_bytes >= OBJECT_BYTES_MIN:
            self.add(KeyKind.OBJECT, name, size_bytes)
            self.add(KeyKind.SHA256, sum_sha256, size_bytes)

    def withdraw_object(self, name: Digest, sum_sha256: bytes | None) -> None:
        """Announce an object no longer; records that others keep lapse by themselves."""
        self._queue.remove(KeyKind.OBJECT, name)
        if sum_sha256 is not None:
            self._queue.remove(KeyKind.SHA256, sum_sha256)
        self._dirtied.set()

    def withdraw_release(self, manifest: Digest) -> None:
        """Announce a manifest no longer."""
        self._queue.remove(KeyKind.MANIFEST, manifest)
        self._dirtied.set()

    def on_network(self) -> None:
        """The first peer after none: whatever failed for want of one is due now."""
        self._queue.on_network(trio.current_time())
        self._changed.set()

    def statistics(self) -> AnnounceStatistics:
        return self._queue.statistics(trio.current_time())

    def _complete_objects(
        self, manifest: Digest, files: Sequence[FileRecord]
    ) -> list[tuple[Digest, int, bytes]]:
        found = []
        for file in files or held_tree(self._store, manifest).files:
            if file.size < OBJECT_BYTES_MIN:
                continue
            status = self._store.status(file.object)
            if status is not None and status.state is ObjectState.COMPLETE:
                found.append((file.object, file.size, status.sha256))
        return found

    async def _announce(self, announce: Announce) -> None:
        try:
            stored_count = await self._network.announce(announce.key)
        except P2phubError:
            stored_count = 0
        self._queue.on_result(announce, stored_count, trio.current_time())
        self._dirtied.set()
        self._changed.set()

    async def _save_regularly(self) -> None:
        while True:
            await self._dirtied.wait()
            await trio.sleep(SAVE_PERIOD_S)
            self._dirtied = trio.Event()
            await trio.to_thread.run_sync(try_write, self._path, self._dump())

    async def _listen(self) -> None:
        while True:
            await self._network.peers_changed()
            if self._is_alone:
                self._changed.set()

    def _save(self) -> None:
        try_write(self._path, self._dump())

    def _dump(self) -> bytes:
        return json.dumps(self._queue.to_dict(trio.current_time(), time.time())).encode()
