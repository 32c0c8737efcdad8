"""The sessions that other peers opened: who gets a slot and offers, and who gives way to whom.

All decisions about slots are `Uploads`', those about offers `Seeding`'s; sessions carry them out.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from math import inf

import trio

from p2phub.core.swarm.actions import UploadAction
from p2phub.core.swarm.uploads import Uploads
from p2phub.digest import Digest
from p2phub.net.addresses import gives_way, network_of
from p2phub.net.base import Network, PeerId, Stream
from p2phub.node.channels import Channels
from p2phub.node.peer_bytes import PeerBytes
from p2phub.node.seeding import Seeding
from p2phub.node.served_session import ServedSession
from p2phub.node.sessions import Session
from p2phub.node.tasks import open_tasks
from p2phub.node.watching import Watches
from p2phub.proto import protocols
from p2phub.proto.limits import PEERS_PER_EXCHANGE_MAX
from p2phub.proto.messages import Message
from p2phub.store.base import Store

SESSIONS_PER_PEER_MAX = 8  # downloads of one peer at once
SESSIONS_MAX = 512  # over all peers


class Serving:
    """All sessions that others opened. `run` must run."""

    def __init__(
        self,
        network: Network,
        store: Store,
        channels: Channels,
        watches: Watches,
        rng: random.Random,
        *,
        slots_count: int,
    ) -> None:
        self.network = network
        self.store = store
        self.watches = watches
        self.channels = channels
        self.machine = Uploads(rng, slots_count)
        self._sessions: dict[str, ServedSession] = {}
        self._numbers = itertools.count()
        self._changed = trio.Event()
        self.seeding = Seeding(
            store,
            str(network.peer_id),
            self._say,
            self._withhold,
            lambda: self.machine.served_max,
            self._watched,
            self.machine.requested,
        )
        self.sessions_max = SESSIONS_MAX
        self.sent = PeerBytes()
        network.serve(protocols.SWARM, self._on_stream, streams_per_peer_max=SESSIONS_PER_PEER_MAX)

    async def run(self) -> None:
        """Hand out slots, start uploads and make offers until cancelled."""
        async with open_tasks() as nursery:
            nursery.start_soon(self.seeding.run)
            while True:
                self._changed = trio.Event()
                for action in self.machine.next_actions(trio.current_time()):
                    self._carry_out(action)
                due = self.machine.next_deadline()
                with trio.move_on_at(inf if due is None else due):
                    await self._changed.wait()

    def on_received(self, peer: PeerId, size_bytes: int) -> None:
        """Verified payload came from a peer: reciprocity counts it."""
        now = trio.current_time()
        for key, session in self._sessions.items():
            if session.peer == peer:
                self.machine.on_received(key, size_bytes, now)

    def members(self, manifest: Digest, *, but: PeerId) -> list[ServedSession]:
        """One session of each other peer in the swarm of a manifest: the last to join, so many."""
        by_peer = {s.peer: s for s in self._sessions.values() if manifest in s.manifests}
        by_peer.pop(but, None)
        return list(by_peer.values())[-PEERS_PER_EXCHANGE_MAX:]

    @property
    def sessions_count(self) -> int:
        return len(self._sessions)

    def wake(self) -> None:
        self._changed.set()

    def _carry_out(self, action: UploadAction) -> None:
        session = self._sessions.get(action.peer)
        if session is not None:
            session.do(action)

    def _withhold(self, keys: frozenset[str]) -> None:
        self.machine.withhold(keys, trio.current_time())
        self.wake()

    def _watched(self, key: str) -> Iterable[Digest]:
        session = self._sessions.get(key)
        return session.watched if session is not None else ()

    def _make_place(self, host: str | None) -> bool:
        """End the newest session of the network that has most, if it has two more than `host`'s:
        sessions that say nothing shall keep nobody out.
        """
        if host is None:
            return False
        hosts = {key: session.host for key, session in self._sessions.items() if session.host}
        network = gives_way(hosts.values(), host)
        if network is None:
            return False
        newest = next(key for key in reversed(hosts) if network_of(hosts[key]) == network)
        self._sessions.pop(newest).end()
        return True

    def make_room(self) -> None:
        """Take a channel back, or a ticket for one, that was not used for longest by somebody
        without a slot.
        """
        idle = [session for session in self._sessions.values() if session.is_place_idle]
        if idle:
            min(idle, key=lambda session: session.place_used_s).give_place()

    def _say(self, key: str, message: Message) -> None:
        session = self._sessions.get(key)
        if session is not None:
            session.say(message)

    async def _on_stream(self, stream: Stream) -> None:
        if len(self._sessions) >= self.sessions_max and not self._make_place(stream.remote_host):
            await stream.reset()
            return
        key = f"{stream.peer}/{next(self._numbers)}"
        session = ServedSession(key, Session(stream), self)
        self._sessions[key] = session
        try:
            await session.run()
        finally:
            self._sessions.pop(key, None)  # or another has its place
            self.machine.on_peer_gone(key, trio.current_time())
            self.seeding.on_gone(key)
            self.wake()
