"""Serves sessions that other peers opened: what is held, requests, upload slots, byte channels.

All decisions about slots are `Uploads`'; this module tells it what happened and does what it says.
Nothing leaves this node that was not verified in the same breath: a span's reader checks every
chunk as it is sent.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Iterable
from math import inf

import trio

from p2phub.core.swarm.actions import (
    SendChoke,
    SendReject,
    SendUnchoke,
    StartUpload,
    StopUpload,
    UploadAction,
)
from p2phub.core.swarm.uploads import REQUESTS_PER_PEER_MAX, Uploads
from p2phub.digest import Digest
from p2phub.errors import (
    ContentError,
    NotHeld,
    P2phubError,
    PeerTimeout,
    ProtocolViolation,
    StoreError,
)
from p2phub.net.addresses import gives_way, network_of
from p2phub.net.base import Network, PeerId, Stream
from p2phub.net.lane_events import (
    ChannelClosed,
    ChannelEvent,
    SentChunks,
    SpanSent,
    SpanUnserved,
)
from p2phub.node.channels import Channels, OutgoingSpan, SendingChannel
from p2phub.node.peer_bytes import PeerBytes
from p2phub.node.seeding import Seeding
from p2phub.node.sessions import Session
from p2phub.node.tasks import open_tasks
from p2phub.node.watching import PageWatch, Watches
from p2phub.proto import protocols
from p2phub.proto.limits import (
    MANIFESTS_PER_PEER_MAX,
    PEERS_PER_EXCHANGE_MAX,
    SPAN_BYTES_MAX,
)
from p2phub.proto.messages import (
    REJECT_BUSY,
    REJECT_NOT_HELD,
    REJECT_TOO_LARGE,
    Ask,
    Bye,
    Cancel,
    Choke,
    Have,
    HaveDelta,
    Join,
    LaneTicket,
    LaneWanted,
    Message,
    Peers,
    Reject,
    Request,
    Run,
    Unchoke,
)
from p2phub.store.base import SpanReader, Store

SESSIONS_PER_PEER_MAX = 8  # downloads of one peer at once
SESSIONS_MAX = 512  # over all peers
OUTBOX_MAX = 1024  # messages that wait for one session; whoever reads none of them is let go
INTRODUCE_PAUSE_S = 0.1  # in which who joins is gathered, so that a crowd is told of in one message
IDLE_TIMEOUT_S = 600.0  # a session on which nothing is said for this long is closed


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
        self._network = network
        self._store = store
        self._watches = watches
        self._channels = channels
        self._machine = Uploads(rng, slots_count)
        self._sessions: dict[str, _ServedSession] = {}
        self._numbers = itertools.count()
        self._changed = trio.Event()
        self._seeding = Seeding(
            store,
            str(network.peer_id),
            self._say,
            self._withhold,
            lambda: self._machine.served_max,
            self._watched,
            self._machine.requested,
        )
        self.sessions_max = SESSIONS_MAX
        self.sent = PeerBytes()
        network.serve(protocols.SWARM, self._on_stream, streams_per_peer_max=SESSIONS_PER_PEER_MAX)

    async def run(self) -> None:
        """Hand out slots, start uploads and make offers until cancelled."""
        async with open_tasks() as nursery:
            nursery.start_soon(self._seeding.run)
            while True:
                self._changed = trio.Event()
                for action in self._machine.next_actions(trio.current_time()):
                    self._carry_out(action)
                due = self._machine.next_deadline()
                with trio.move_on_at(inf if due is None else due):
                    await self._changed.wait()

    def on_received(self, peer: PeerId, size_bytes: int) -> None:
        """Verified payload came from a peer: reciprocity counts it."""
        now = trio.current_time()
        for key, session in self._sessions.items():
            if session.peer == peer:
                self._machine.on_received(key, size_bytes, now)

    def members(self, manifest: Digest, *, but: PeerId) -> list[_ServedSession]:
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
        self._machine.withhold(keys, trio.current_time())
        self.wake()

    def _watched(self, key: str) -> Iterable[Digest]:
        session = self._sessions.get(key)
        return session._watch.pages if session is not None else ()

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
            session._say(message)

    async def _on_stream(self, stream: Stream) -> None:
        if len(self._sessions) >= self.sessions_max and not self._make_place(stream.remote_host):
            await stream.reset()
            return
        key = f"{stream.peer}/{next(self._numbers)}"
        session = _ServedSession(key, Session(stream), self)
        self._sessions[key] = session
        try:
            await session.run()
        finally:
            self._sessions.pop(key, None)  # or another has its place
            self._machine.on_peer_gone(key, trio.current_time())
            self._seeding.on_gone(key)
            self.wake()


class _ServedSession:
    """One session, its readers and its byte channel."""

    def __init__(self, key: str, session: Session, serving: Serving) -> None:
        self._key = key
        self._session = session
        self._serving = serving
        self._machine = serving._machine
        self._store = serving._store
        self._readers: dict[int, SpanReader] = {}  # requested, by request id
        self._outbox_send, self._outbox = trio.open_memory_channel[Message](OUTBOX_MAX)
        self._channel: SendingChannel | None = None
        self.place_used_s = 0.0
        self._is_dialling = False
        self._is_lane_owed = False  # wanted, when the one before was closing
        self._scope = trio.CancelScope()
        host = session.remote_host
        self._watch = PageWatch(
            serving._watches,
            self._outbox_send.send,
            downloader=session.peer,
            network="" if host is None else network_of(host),
        )
        self.manifests: set[Digest] = set()
        self._joined: dict[Digest, deque[PeerId]] = {}  # since the last introduction, by swarm
        self._has_joined = trio.Event()

    @property
    def peer(self) -> PeerId:
        return self._session.peer

    @property
    def host(self) -> str | None:
        return self._session.remote_host

    def end(self) -> None:
        self._scope.cancel()

    async def run(self) -> None:
        try:
            with self._scope:
                await self._session.greet()
                is_local = self._serving._channels.is_local(self._session.remote_host)
                self._machine.on_peer(self._key, trio.current_time(), is_local=is_local)
                self._serving.wake()
                async with open_tasks() as nursery:
                    nursery.start_soon(self._send)
                    nursery.start_soon(self._watch.run)
                    nursery.start_soon(self._introduce_gathered)
                    await self._receive(nursery)
                    nursery.cancel_scope.cancel()
        finally:
            self._watch.close()
            self._serving._channels.take_back(self._session)
            if self._channel is not None:
                self._channel.close()

    # ---- what the machine says -------------------------------------------------------------------

    def do(self, action: UploadAction) -> None:
        match action:
            case SendChoke():
                self._say(Choke())
            case SendUnchoke():
                self._say(Unchoke())
            case SendReject(_, request_id, code):
                self._readers.pop(request_id, None)
                self._say(Reject(request_id, code))
            case StartUpload(_, request_id, _):
                self._start(request_id)
            case StopUpload(_, request_id):
                self._readers.pop(request_id, None)
                if self._channel is not None:
                    self._channel.cancel(request_id)

    def _start(self, request_id: int) -> None:
        reader = self._readers.get(request_id)
        span = None if reader is None else OutgoingSpan(request_id, reader.lengths, reader.read)
        if span is None or self._channel is None or not self._channel.enqueue(span):
            self._readers.pop(request_id, None)
            self._say(Reject(request_id, REJECT_BUSY))
            self._machine.on_upload_done(self._key, request_id, trio.current_time())
            self._serving.wake()

    def _say(self, message: Message) -> None:
        try:
            self._outbox_send.send_nowait(message)
        except trio.WouldBlock:
            self._scope.cancel()  # it reads nothing: whatever it waits for, it will not get it
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass

    # ---- to the peer -----------------------------------------------------------------------------

    async def _send(self) -> None:
        async for message in self._outbox:
            await self._session.send(message)

    # ---- from the peer ---------------------------------------------------------------------------

    async def _receive(self, nursery: trio.Nursery) -> None:
        while True:
            with trio.move_on_after(IDLE_TIMEOUT_S) as idle:
                message = await self._session.receive()
            if idle.cancelled_caught:
                raise PeerTimeout("a session was silent for too long")
            if message is None:
                return
            await self._on_message(message, nursery)
            self._serving.wake()

    async def _on_message(self, message: Message, nursery: trio.Nursery) -> None:
        match message:
            case Ask(pages):
                self._serving._seeding.on_ask(self._key, pages)
                await self._watch.tell(pages)
            case Request(request_id, runs):
                await self._on_request(request_id, runs)
            case Cancel(request_id):
                self._readers.pop(request_id, None)
                self._machine.on_cancel(self._key, request_id, trio.current_time())
            case Join(manifest):
                await self._on_join(manifest)
            case LaneWanted():
                if self._channel is None:
                    self._offer_lane()
                elif self._channel.is_closing:
                    self._is_lane_owed = True
                else:
                    self._say(self._serving._channels.offer_strand(self._session, self._channel))
            case LaneTicket():
                if self._channel is None and not self._is_dialling:
                    self._is_dialling = True
                    nursery.start_soon(self._dial_lane, message)
            case Have(page, bits):
                self._serving._seeding.on_have(self._key, page, bits)
            case HaveDelta(page, indexes):
                self._serving._seeding.on_have_delta(self._key, page, indexes)
            case Peers(manifest, peers):
                self._serving._seeding.on_seeds(self._key, manifest, [peer for peer, _ in peers])
            case Bye():
                self._scope.cancel()
            case _:
                raise ProtocolViolation(
                    f"a downloader sent {type(message).__name__}, which only an uploader may"
                )

    async def _on_request(self, request_id: int, runs: tuple[Run, ...]) -> None:
        if request_id in self._readers:
            raise ProtocolViolation("a request id was used twice at once")
        if len(self._readers) >= REQUESTS_PER_PEER_MAX:
            self._say(Reject(request_id, REJECT_BUSY))
            return
        try:
            reader = await trio.to_thread.run_sync(
                self._store.span_reader, runs, limiter=self._serving._watches.disk
            )
        except (NotHeld, ContentError):
            self._say(Reject(request_id, REJECT_NOT_HELD))
            return
        except StoreError:
            self._say(Reject(request_id, REJECT_BUSY))
            return
        size_bytes = sum(reader.lengths)
        if size_bytes > SPAN_BYTES_MAX:
            self._say(Reject(request_id, REJECT_TOO_LARGE))
            return
        if 0 in reader.lengths:  # an empty file among a page's entries: no chunk, and no frame
            self._say(Reject(request_id, REJECT_NOT_HELD))
            return
        self._readers[request_id] = reader
        self._machine.on_request(self._key, request_id, runs, size_bytes, trio.current_time())
        self._serving._seeding.on_request(self._key, runs)

    async def _on_join(self, manifest: Digest) -> None:
        if manifest in self.manifests:
            return  # or whoever says it often makes us drown the others in introductions
        if len(self.manifests) >= MANIFESTS_PER_PEER_MAX:
            raise ProtocolViolation("a session joined more swarms than one may")
        others = self._serving.members(manifest, but=self.peer)
        self.manifests.add(manifest)
        self._serving._seeding.on_join(self._key, manifest)
        self._introduce(manifest, [session.peer for session in others])
        for session in others:
            newcomers = deque[PeerId](maxlen=PEERS_PER_EXCHANGE_MAX)
            session._joined.setdefault(manifest, newcomers).append(self.peer)
            session._has_joined.set()

    async def _introduce_gathered(self) -> None:
        while True:
            await self._has_joined.wait()
            await trio.sleep(INTRODUCE_PAUSE_S)
            joined, self._joined, self._has_joined = self._joined, {}, trio.Event()
            for manifest, peers in joined.items():
                self._introduce(manifest, peers)

    def _introduce(self, manifest: Digest, peers: Iterable[PeerId]) -> None:
        """Tell the other end of further members of a swarm, as far as they can be dialled."""
        known = map(self._serving._network.known_address, peers)
        rows = tuple((str(a.peer), a.addresses) for a in known if a is not None and a.addresses)
        # Who has more to read than that is not let go for what strangers do.
        is_busy = self._outbox.statistics().current_buffer_used > OUTBOX_MAX // 2
        if rows and not is_busy:
            self._say(Peers(manifest, rows))

    # ---- the byte channel ------------------------------------------------------------------------

    @property
    def is_place_idle(self) -> bool:
        """Whether the channel that it has, or has a ticket for, is of no use until it has a
        slot.
        """
        channels = self._serving._channels
        has_place = channels.has_offered(self._session) or (
            self._channel is not None and not self._channel.is_closing
        )
        return has_place and not self._readers and not self._machine.has_slot(self._key)

    def give_place(self) -> None:
        self._serving._channels.take_back(self._session)
        if self._channel is not None:
            self._channel.close()

    def _offer_lane(self) -> None:
        self._is_lane_owed = False
        channels = self._serving._channels
        is_served = self._machine.has_slot(self._key)
        if is_served and not channels.has_room_to_send(is_served=True):
            self._serving.make_room()
        now = trio.current_time()
        if not channels.has_offered(self._session):
            self.place_used_s = now  # asking again for what is not used is no use of it
        self._machine.on_preparing(self._key, now)
        offer = channels.offer_sending(
            self._session, self._on_channel, self._on_event, is_served=is_served
        )
        self._say(offer)

    async def _dial_lane(self, ticket: LaneTicket) -> None:
        """The downloader could not reach our listener and offers its own."""
        try:
            channel = await self._serving._channels.open_sending(
                ticket, self._session, self._on_event
            )
        except P2phubError:
            return  # it will fall back to a stream
        finally:
            self._is_dialling = False
        self._on_channel(channel)

    def _on_channel(self, channel: SendingChannel) -> None:
        if self._channel is not None or self._scope.cancel_called:
            channel.close()
            return
        self._channel = channel
        self.place_used_s = trio.current_time()
        self._machine.on_preparing(self._key, self.place_used_s)
        self._serving.wake()

    def _on_event(self, event: ChannelEvent) -> None:
        now = trio.current_time()
        self._serving.wake()
        match event:
            case SentChunks(_, _, size_bytes):
                self._serving.sent.add(self.peer, size_bytes)
                self._machine.on_sent(self._key, size_bytes, now)
                self._serving._seeding.on_sent(self._key, size_bytes)
            case SpanSent(_, request_id) | SpanUnserved(_, request_id):
                self.place_used_s = now
                if self._readers.pop(request_id, None) is not None:
                    self._machine.on_upload_done(self._key, request_id, now)
            case ChannelClosed(channel) if channel is self._channel:
                self._channel = None
                for request_id in list(self._readers):
                    self._machine.on_cancel(self._key, request_id, now)
                self._readers.clear()
                if self._is_lane_owed:
                    self._offer_lane()
