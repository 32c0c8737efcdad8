"""One session that another peer opened: its requests, what it is told, and its byte channel.

Tells the machines of its `Serving` what the peer says and what went out, and carries out what they
decide for it. Nothing leaves this node that was not verified in the same breath: a span's reader
checks every chunk as it is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from p2phub.core.swarm.actions import (
    SendChoke,
    SendReject,
    SendUnchoke,
    StartUpload,
    StopUpload,
    UploadAction,
)
from p2phub.core.swarm.uploads import REQUESTS_PER_PEER_MAX
from p2phub.digest import Digest
from p2phub.errors import (
    ContentError,
    NotHeld,
    P2phubError,
    PeerTimeout,
    ProtocolViolation,
    StoreError,
)
from p2phub.net.addresses import network_of
from p2phub.net.base import PeerId
from p2phub.net.lane_events import (
    ChannelClosed,
    ChannelEvent,
    SentChunks,
    SpanSent,
    SpanUnserved,
)
from p2phub.node.channels import OutgoingSpan, SendingChannel
from p2phub.node.sessions import Session
from p2phub.node.tasks import open_tasks
from p2phub.node.watching import PageWatch
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
from p2phub.store.base import SpanReader

if TYPE_CHECKING:
    from p2phub.node.serving import Serving

OUTBOX_MAX = 1024  # messages that wait for one session; whoever reads none of them is let go
INTRODUCE_PAUSE_S = 0.1  # in which who joins is gathered, so that a crowd is told of in one message
IDLE_TIMEOUT_S = 600.0  # a session on which nothing is said for this long is closed


class ServedSession:
    """One session, its readers and its byte channel."""

    def __init__(self, key: str, session: Session, serving: Serving) -> None:
        self._key = key
        self._session = session
        self._serving = serving
        self._machine = serving.machine
        self._store = serving.store
        self._readers: dict[int, SpanReader] = {}  # requested, by request id
        self._outbox_send, self._outbox = trio.open_memory_channel[Message](OUTBOX_MAX)
        self._channel: SendingChannel | None = None
        self.place_used_s = 0.0
        self._is_dialling = False
        self._is_lane_owed = False  # wanted, when the one before was closing
        self._scope = trio.CancelScope()
        host = session.remote_host
        self._watch = PageWatch(
            serving.watches,
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

    @property
    def watched(self) -> Iterable[Digest]:
        """The pages that it asked about."""
        return self._watch.pages

    def end(self) -> None:
        self._scope.cancel()

    async def run(self) -> None:
        try:
            with self._scope:
                await self._session.greet()
                is_local = self._serving.channels.is_local(self._session.remote_host)
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
            self._serving.channels.take_back(self._session)
            if self._channel is not None:
                self._channel.close()

    # ---- what the machine says -------------------------------------------------------------------

    def do(self, action: UploadAction) -> None:
        match action:
            case SendChoke():
                self.say(Choke())
            case SendUnchoke():
                self.say(Unchoke())
            case SendReject(_, request_id, code):
                self._readers.pop(request_id, None)
                self.say(Reject(request_id, code))
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
            self.say(Reject(request_id, REJECT_BUSY))
            self._machine.on_upload_done(self._key, request_id, trio.current_time())
            self._serving.wake()

    def say(self, message: Message) -> None:
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
                self._serving.seeding.on_ask(self._key, pages)
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
                    self.say(self._serving.channels.offer_strand(self._session, self._channel))
            case LaneTicket():
                if self._channel is None and not self._is_dialling:
                    self._is_dialling = True
                    nursery.start_soon(self._dial_lane, message)
            case Have(page, bits):
                self._serving.seeding.on_have(self._key, page, bits)
            case HaveDelta(page, indexes):
                self._serving.seeding.on_have_delta(self._key, page, indexes)
            case Peers(manifest, peers):
                self._serving.seeding.on_seeds(self._key, manifest, [peer for peer, _ in peers])
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
            self.say(Reject(request_id, REJECT_BUSY))
            return
        try:
            reader = await trio.to_thread.run_sync(
                self._store.span_reader, runs, limiter=self._serving.watches.disk
            )
        except (NotHeld, ContentError):
            self.say(Reject(request_id, REJECT_NOT_HELD))
            return
        except StoreError:
            self.say(Reject(request_id, REJECT_BUSY))
            return
        size_bytes = sum(reader.lengths)
        if size_bytes > SPAN_BYTES_MAX:
            self.say(Reject(request_id, REJECT_TOO_LARGE))
            return
        if 0 in reader.lengths:  # an empty file among a page's entries: no chunk, and no frame
            self.say(Reject(request_id, REJECT_NOT_HELD))
            return
        self._readers[request_id] = reader
        self._machine.on_request(self._key, request_id, runs, size_bytes, trio.current_time())
        self._serving.seeding.on_request(self._key, runs)

    async def _on_join(self, manifest: Digest) -> None:
        if manifest in self.manifests:
            return  # or whoever says it often makes us drown the others in introductions
        if len(self.manifests) >= MANIFESTS_PER_PEER_MAX:
            raise ProtocolViolation("a session joined more swarms than one may")
        others = self._serving.members(manifest, but=self.peer)
        self.manifests.add(manifest)
        self._serving.seeding.on_join(self._key, manifest)
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
        known = map(self._serving.network.known_address, peers)
        rows = tuple((str(a.peer), a.addresses) for a in known if a is not None and a.addresses)
        # Who has more to read than that is not let go for what strangers do.
        is_busy = self._outbox.statistics().current_buffer_used > OUTBOX_MAX // 2
        if rows and not is_busy:
            self.say(Peers(manifest, rows))

    # ---- the byte channel ------------------------------------------------------------------------

    @property
    def is_place_idle(self) -> bool:
        """Whether the channel that it has, or has a ticket for, is of no use until it has a
        slot.
        """
        channels = self._serving.channels
        has_place = channels.has_offered(self._session) or (
            self._channel is not None and not self._channel.is_closing
        )
        return has_place and not self._readers and not self._machine.has_slot(self._key)

    def give_place(self) -> None:
        self._serving.channels.take_back(self._session)
        if self._channel is not None:
            self._channel.close()

    def _offer_lane(self) -> None:
        self._is_lane_owed = False
        channels = self._serving.channels
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
        self.say(offer)

    async def _dial_lane(self, ticket: LaneTicket) -> None:
        """The downloader could not reach our listener and offers its own."""
        try:
            channel = await self._serving.channels.open_sending(
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
                self._serving.seeding.on_sent(self._key, size_bytes)
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
