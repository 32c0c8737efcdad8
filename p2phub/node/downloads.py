"""Carries out what a `Download` decides: peers recruited, sessions kept, checkpoints, stalls.

One `Transfer` is one download that runs. It owns the machine; a task per peer owns a session and a
byte channel (peer_session.py); the lane threads write verified bytes through the store and report.
All decisions are the machine's: here it is only told what happened, and done what it says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from random import Random
from typing import TypeAlias

import trio

from p2phub.core.swarm.actions import (
    DownloadAction,
    DropPeer,
    DropReason,
)
from p2phub.core.swarm.download import Download
from p2phub.core.swarm.spans import Span
from p2phub.core.swarm.statistics import DownloadStatistics
from p2phub.digest import Digest
from p2phub.errors import (
    ContentError,
    P2phubError,
    PeerError,
    StoreError,
    TransferStalled,
)
from p2phub.net.base import Network, PeerId
from p2phub.node.channels import Channels
from p2phub.node.peer_session import PeerSession, Share
from p2phub.node.search import Search
from p2phub.node.tasks import open_tasks
from p2phub.node.watching import Watches, entries_of
from p2phub.proto.limits import PEERS_PER_EXCHANGE_MAX
from p2phub.store.base import Store

SESSIONS_MAX = 50  # of one download: more peers than that add nothing but bookkeeping
ROOM_LOOK_S = 1.0  # between two looks for sessions of which nothing comes, while peers wait
STALL_TIMEOUT_S = 60.0  # without one verified byte from anyone
RENEW_S = 20.0  # without one: sessions that give us nothing to ask for are opened anew
# A session that broke is opened anew; so often in a row if nothing came of it, after longer pauses.
REDIAL_PAUSE_S, REDIALS_MAX = 2.0, 5


# The digest of a page, bytes to fetch per entry, and the have-bits of this node.
MissingPage: TypeAlias = tuple[Digest, Sequence[int], bytes]


def download_of(
    pages: Sequence[MissingPage], rng: Random, request_ids: Iterator[int] | None = None
) -> Download:
    """The machine that gets what is missing of some pages. request_ids: see `Download`."""
    machine = Download(sum(sum(lengths) for _, lengths, _ in pages), rng, request_ids)
    for page, lengths, held in pages:
        machine.on_page(page, lengths, held)
    machine.on_pages_complete()
    return machine


OnReceived: TypeAlias = Callable[[PeerId, int], None]


class Transfer:
    """One download under way. Make it, then `run` it; it may be watched meanwhile."""

    def __init__(
        self,
        *,
        swarm: Digest,
        machine: Download,
        search: Search,
        network: Network,
        store: Store,
        channels: Channels,
        watches: Watches,
        is_kept: bool = False,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        rounds_alone_max: int | None = None,
    ) -> None:
        """is_kept: for readers: it goes on when all is held, for the next machine; see `go_on`.

        rounds_alone_max: of the search, with nobody found, after which it ends at once.
        """
        self.swarm = swarm
        self.machine = machine
        self.search = search
        self.shares: dict[PeerId, Share] = {}
        self.network = network
        self.store = store
        self.channels = channels
        self.watches = watches
        self.on_received: OnReceived = lambda peer, size_bytes: None  # as verified payload comes
        self.request_ids = count()  # of machines after the first, whose own ids are lower
        self.is_kept = is_kept
        self._stall_timeout_s = stall_timeout_s
        self._rounds_alone_max = rounds_alone_max
        self._sessions: dict[PeerId, PeerSession] = {}
        self._started: set[PeerId] = set()  # had a session, and shall have no other turn yet
        self._turns: Counter[PeerId] = Counter()  # sessions of which nothing came
        self._seeds: dict[PeerId, PeerSession] = {}  # those that made offers
        self._changed = trio.Event()
        self._arrived = trio.Event()
        self._durable = trio.Event()
        self._failure: P2phubError | None = None
        self._last_progress_s = self._renewed_s = trio.current_time()

    async def run(self) -> None:
        """Until every wanted chunk is held, or cancelled if it is kept.

        Raises StoreError where the disk refuses, NoProvider where nobody was found, TransferStalled
        where all fell silent.
        """
        self.watches.known[self._held_by] = None
        try:
            async with open_tasks() as nursery:
                nursery.start_soon(self._recruit, nursery)
                nursery.start_soon(self._checkpoint)
                nursery.start_soon(self._watch)
                await self._drive()
                nursery.cancel_scope.cancel()
        finally:
            del self.watches.known[self._held_by]
            with trio.CancelScope(shield=True):  # what came is durable, also after a cancel
                await self._checkpoint_now()
        if self._failure is not None:
            raise self._failure

    def go_on(self, machine: Download) -> None:
        """Carry out another download over the sessions there are; the one before is complete."""
        self.machine = machine
        self._last_progress_s = trio.current_time()
        for session in self._sessions.values():
            session.introduce()
        self.wake()

    def statistics(self) -> DownloadStatistics:
        return self.machine.statistics(trio.current_time())

    def wake(self) -> None:
        """Something happened: ask the machine what to do."""
        self._changed.set()

    def next_arrival(self) -> trio.Event:
        """Set when the next chunks are verified and written."""
        return self._arrived

    def next_checkpoint(self) -> trio.Event:
        """Set when the next chunks are durable."""
        return self._durable

    def fail(self, error: P2phubError) -> None:
        """End the transfer with `error`; what was verified stays."""
        self._failure = self._failure or error
        self.wake()

    async def _drive(self) -> None:
        while self._failure is None and (self.is_kept or not self.machine.is_complete):
            self._changed = trio.Event()
            self._excuse_held_back()
            for action in self.machine.next_actions(trio.current_time()):
                self._carry_out(action)
            due = self.machine.next_deadline()
            with trio.move_on_at(due if due is not None else trio.current_time() + 1.0):
                await self._changed.wait()

    def _carry_out(self, action: DownloadAction) -> None:
        session = self._sessions.get(PeerId(action.peer))
        if isinstance(action, DropPeer):
            share = self.shares.setdefault(PeerId(action.peer), Share(PeerId(action.peer)))
            share.fault = action.reason.value
            if action.reason in (DropReason.WRONG_BYTES, DropReason.BANNED):
                self.search.exclude(PeerId(action.peer))
            if session is not None:
                session.end()
        elif session is not None:
            session.do(action)

    async def _recruit(self, nursery: trio.Nursery) -> None:
        """Open a session with every peer found, as long as there is room; who is silent makes room
        for who waits.
        """
        while True:
            waiting = [peer for peer in self.search.found if peer not in self._started]
            waiting.sort(key=self._turns.__getitem__)
            room_count = max(0, self._sessions_max - len(self._sessions))
            for peer in waiting[:room_count]:
                self._started.add(peer)
                nursery.start_soon(self._keep_session, peer)
            del waiting[:room_count]
            if waiting and not self.machine.is_complete:
                self._make_room(len(waiting))
            with trio.move_on_after(ROOM_LOOK_S if waiting else float("inf")):
                await self.search.wait_more(len(self.search.found))

    @property
    def _sessions_max(self) -> int:
        most = self.channels.down.peers_max
        return SESSIONS_MAX if most is None else min(SESSIONS_MAX, most)

    def _make_room(self, wanted_count: int) -> None:
        """End up to so many sessions of which nothing comes; their peers wait for another turn."""
        now = trio.current_time()
        fruitless = [session for session in self._sessions.values() if session.is_fruitless(now)]
        for session in fruitless[:wanted_count]:
            session.give_up()

    async def _keep_session(self, peer: PeerId) -> None:
        share = self.shares.setdefault(peer, Share(peer))
        fruitless_count = 0
        while fruitless_count < REDIALS_MAX:
            received_bytes = share.received_bytes
            session = PeerSession(self, peer, share)
            self._sessions[peer] = session
            try:
                await session.run()
            except (PeerError, ContentError) as error:
                share.fault = share.fault or str(error)
            except P2phubError:
                pass  # it is away, or cannot be reached: nobody's fault
            finally:
                del self._sessions[peer]
                self._seeds.pop(peer, None)
                self.machine.on_peer_gone(peer, trio.current_time())
                self.wake()
            if session.is_given_up:
                self._turns[peer] += 1
                self._started.discard(peer)
            if session.is_ended:
                return
            fruitless_count = 0 if share.received_bytes > received_bytes else fruitless_count + 1
            await trio.sleep(REDIAL_PAUSE_S * 2 ** max(0, fruitless_count - 1))

    async def _checkpoint(self) -> None:
        while True:
            await trio.sleep(0.25)
            if self.store.checkpoint_due(trio.current_time()):
                await self._checkpoint_now()

    async def _checkpoint_now(self) -> None:
        try:
            await trio.to_thread.run_sync(self.store.checkpoint)
        except StoreError as error:
            self.fail(error)
        self._durable.set()
        self._durable = trio.Event()

    async def _watch(self) -> None:
        while True:
            await trio.sleep(1.0)
            self._excuse_held_back()
            if self.machine.is_complete:
                continue  # kept for the next machine
            self._renew_idle()
            is_late = trio.current_time() - self._last_progress_s >= self._stall_timeout_s
            if not is_late and not self._is_alone:
                continue
            if not self._sessions and not any(
                share.received_bytes for share in self.shares.values()
            ):
                self.fail(self.search.report("the content"))
            else:
                self.fail(self._stalled())

    def _renew_idle(self) -> None:
        """Nobody sends anything: whatever the two ends of a session believe that keeps them from
        asking and giving, they begin anew. What was asked for keeps its time.
        """
        now = trio.current_time()
        if now - max(self._last_progress_s, self._renewed_s) < RENEW_S:
            return
        self._renewed_s = now
        for session in self._sessions.values():
            if not session.is_asked:
                session.renew()

    @property
    def _is_alone(self) -> bool:
        """Whether the search told for long enough that there is nobody."""
        rounds_max = self._rounds_alone_max
        is_told = rounds_max is not None and self.search.rounds_count >= rounds_max
        return is_told and not self._sessions and not self.search.found

    def _excuse_held_back(self) -> None:
        """Nobody is late while a limit of our own keeps us from reading; whom it leaves too little
        waits for another turn.
        """
        for session in list(self._sessions.values())[self._sessions_max :]:
            session.give_up()
        now, longest_s = trio.current_time(), 0.0
        for peer, session in self._sessions.items():
            held_s = session.take_held_s()
            if held_s:
                self.machine.on_held_back(peer, held_s, now)
                longest_s = max(longest_s, held_s)
        self._last_progress_s = min(now, self._last_progress_s + longest_s)

    def _stalled(self) -> TransferStalled:
        facts = self.statistics()
        missing_bytes = facts.total_bytes - facts.verified_bytes
        return TransferStalled(
            f"{missing_bytes:,} bytes are missing: {len(self._sessions)} connected peers sent none "
            f"of them for {self._stall_timeout_s:.0f} s, so they may not hold them",
            peers=[str(peer) for peer in self._sessions],
            missing=missing_bytes,
        )

    # ---- told by the sessions --------------------------------------------------------------------

    def on_chunks(self, span: Span, first: int, stop: int) -> None:
        """Chunks [first, stop) of a span are verified and written: others may have them."""
        self._last_progress_s = trio.current_time()
        self.search.on_fed()
        self._arrived.set()
        self._arrived = trio.Event()
        self.watches.on_held(entries_of(span.runs, first, stop))

    def _held_by(self, peer: PeerId, page: Digest) -> int:
        return self.machine.held_by(peer, page)

    def on_seed(self, peer: PeerId) -> None:
        """A peer makes offers, as seeds do: tell it and the other seeds of each other, so that they
        can share the spans.
        """
        session = self._sessions.get(peer)
        if session is None or self._seeds.get(peer) is session:
            return
        self._seeds.pop(peer, None)
        for other in self._seeds.values():
            other.tell_peers([peer])
        session.tell_peers(list(self._seeds)[:PEERS_PER_EXCHANGE_MAX])
        self._seeds[peer] = session

    def peer_addresses(self, peer: PeerId) -> str:
        return next((s.address or "" for s in self.network.peers() if s.peer == peer), "")
