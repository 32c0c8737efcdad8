"""Carries out what a `Download` decides: sessions to peers, requests, writers, verdicts.

One `Transfer` is one download that runs. It owns the machine; a task per peer owns a session and a
byte channel; the lane threads write verified bytes through the store and report. All decisions are
the machine's: this module only tells it what happened and does what it says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from p2phub.core.swarm.actions import (
    AskPages,
    DownloadAction,
    DropPeer,
    DropReason,
    SendCancel,
    SendRequest,
)
from p2phub.core.swarm.download import Download
from p2phub.core.swarm.spans import Span
from p2phub.core.swarm.statistics import DownloadStatistics
from p2phub.digest import Digest
from p2phub.errors import (
    ContentError,
    P2phubError,
    PeerError,
    PeerTimeout,
    ProtocolViolation,
    StoreError,
    TransferStalled,
)
from p2phub.net.base import Network, PeerAddress, PeerId, parse_address, parse_peer_id
from p2phub.net.lane_events import (
    ChannelClosed,
    ChannelEvent,
    ChannelFailed,
    ReceivedChunks,
    SpanDone,
    SpanStopped,
)
from p2phub.node.channels import Channels, IncomingSpan, ReceivingChannel
from p2phub.node.search import Search
from p2phub.node.sessions import Session
from p2phub.node.tasks import open_tasks
from p2phub.node.watching import PageWatch, Watches, entries_of
from p2phub.proto import protocols
from p2phub.proto.messages import (
    Ask,
    Bye,
    Cancel,
    Choke,
    Have,
    HaveDelta,
    Join,
    LaneRefused,
    LaneTicket,
    LaneWanted,
    Message,
    Offer,
    Peers,
    Reject,
    Request,
    Unchoke,
)
from p2phub.store.base import Store

SESSIONS_MAX = 50  # of one download: more peers than that add nothing but bookkeeping
STALL_TIMEOUT_S = 60.0  # without one verified byte from anyone
LANE_RETRY_S = 5.0  # after a peer had no lane to give
WIDEN_BYTES_MIN = 64 << 20  # left to fetch: below it a second strand would hardly begin in time
REDIAL_PAUSE_S, REDIALS_MAX = 2.0, 5  # a session that broke is opened anew, so often
OUTBOX_MAX = 4096  # actions waiting for one peer: more only where it flips slots and reads nothing
QUESTIONS_MAX = 64  # of a seed, waiting for their answers: it asks of a whole release at once


@dataclass(slots=True)
class Share:
    """What one peer did for a transfer."""

    peer: PeerId
    address: str = ""  # multiaddr of the live connection
    received_bytes: int = 0  # verified
    fault: str = ""  # why it was dropped


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
    ) -> None:
        self.swarm = swarm
        self.machine = machine
        self.search = search
        self.shares: dict[PeerId, Share] = {}
        self._network = network
        self._store = store
        self._channels = channels
        self.watches = watches
        self._sessions: dict[PeerId, _PeerSession] = {}
        self._changed = trio.Event()
        self._arrived = trio.Event()
        self._failure: P2phubError | None = None
        self._last_progress_s = trio.current_time()

    async def run(self) -> None:
        """Until every wanted chunk is held.

        Raises StoreError where the disk refuses, NoProvider where nobody was found, TransferStalled
        where all fell silent.
        """
        async with open_tasks() as nursery:
            nursery.start_soon(self._recruit, nursery)
            nursery.start_soon(self._checkpoint)
            nursery.start_soon(self._watch)
            await self._drive()
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    def statistics(self) -> DownloadStatistics:
        return self.machine.statistics(trio.current_time())

    def wake(self) -> None:
        """Something happened: ask the machine what to do."""
        self._changed.set()

    def next_arrival(self) -> trio.Event:
        """Set when the next chunks are verified and written."""
        return self._arrived

    def fail(self, error: P2phubError) -> None:
        """End the transfer with `error`; what was verified stays."""
        self._failure = self._failure or error
        self.wake()

    async def _drive(self) -> None:
        while not self.machine.is_complete and self._failure is None:
            self._changed = trio.Event()
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
        """Open a session with every peer found, as long as there is room."""
        started: set[PeerId] = set()
        while True:
            for peer in list(self.search.found):
                if peer not in started and len(self._sessions) < SESSIONS_MAX:
                    started.add(peer)
                    nursery.start_soon(self._keep_session, peer)
            await self.search.wait_more(len(self.search.found))

    async def _keep_session(self, peer: PeerId) -> None:
        share = self.shares.setdefault(peer, Share(peer))
        pause_s = REDIAL_PAUSE_S
        for _ in range(REDIALS_MAX):
            session = _PeerSession(self, peer, share)
            self._sessions[peer] = session
            try:
                await session.run()
            except (PeerError, ContentError) as error:
                share.fault = share.fault or str(error)
            except P2phubError:
                pass  # it is away, or cannot be reached: nobody's fault
            finally:
                del self._sessions[peer]
                self.machine.on_peer_gone(peer, trio.current_time())
                self.wake()
            if session.is_ended:
                return
            await trio.sleep(pause_s)
            pause_s *= 2

    async def _checkpoint(self) -> None:
        while True:
            await trio.sleep(0.25)
            if self._store.checkpoint_due(trio.current_time()):
                try:
                    await trio.to_thread.run_sync(self._store.checkpoint)
                except StoreError as error:
                    self.fail(error)
                    return

    async def _watch(self) -> None:
        while True:
            await trio.sleep(1.0)
            if trio.current_time() - self._last_progress_s < STALL_TIMEOUT_S:
                continue
            if not self._sessions and not any(
                share.received_bytes for share in self.shares.values()
            ):
                self.fail(self.search.report("the content"))
            else:
                self.fail(self._stalled())

    def _stalled(self) -> TransferStalled:
        facts = self.statistics()
        missing_bytes = facts.total_bytes - facts.verified_bytes
        return TransferStalled(
            f"{missing_bytes:,} bytes are missing: {len(self._sessions)} connected peers sent none "
            f"of them for {STALL_TIMEOUT_S:.0f} s, so they may not hold them",
            peers=[str(peer) for peer in self._sessions],
            missing=missing_bytes,
        )

    # ---- told by the sessions --------------------------------------------------------------------

    def on_chunks(self, span: Span, first: int, stop: int) -> None:
        """Chunks [first, stop) of a span are verified and written: others may have them."""
        self._last_progress_s = trio.current_time()
        self._arrived.set()
        self._arrived = trio.Event()
        self.watches.on_held(entries_of(span.runs, first, stop))

    def peer_addresses(self, peer: PeerId) -> str:
        return next((s.address or "" for s in self._network.peers() if s.peer == peer), "")


class _PeerSession:
    """The session and the byte channel to one peer."""

    def __init__(self, transfer: Transfer, peer: PeerId, share: Share) -> None:
        self._transfer = transfer
        self._machine = transfer.machine
        self._peer = peer
        self._share = share
        self._outbox: deque[DownloadAction] = deque()
        self._outbox_filled = trio.Event()
        self._spans: dict[int, Span] = {}  # requested, by request id
        self._channel: ReceivingChannel | None = None
        self._channel_closed = trio.Event()
        self._is_lane_wanted = False  # asked for, and neither given nor refused yet
        self._lane_send, self._lane = trio.open_memory_channel[LaneTicket | LaneRefused](1)
        self._is_unchoked = False
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._asked_send, self._asked = trio.open_memory_channel[Ask](QUESTIONS_MAX)
        self._told_send, self._told = trio.open_memory_channel[Message](256)
        self._watch = PageWatch(transfer.watches, self._told_send.send)  # of what we hold
        self.is_ended = False  # dropped by the machine or said goodbye: do not open it again

    def do(self, action: DownloadAction) -> None:
        if len(self._outbox) >= OUTBOX_MAX:
            self._share.fault = str(PeerTimeout("a peer stopped reading its session"))
            self.end()
            return
        self._outbox.append(action)
        self._outbox_filled.set()

    def end(self) -> None:
        """The machine wants nothing more of this peer."""
        self.is_ended = True
        self._scope.cancel()

    async def run(self) -> None:
        """Until the peer goes or the transfer ends. Raises what broke it."""
        with self._scope:
            stream = await self._transfer._network.open(self._peer, protocols.SWARM)
            session = Session(stream)
            try:
                await session.greet()
                self._share.address = self._transfer.peer_addresses(self._peer)
                await session.send(Join(self._transfer.swarm))
                is_local = self._transfer._channels.is_local(session.remote_host)
                self._machine.on_peer(
                    self._peer,
                    trio.current_time(),
                    is_local=is_local,
                    requests_max=session.peer_requests_max,
                )
                self._transfer.wake()
                async with open_tasks() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._send, session)
                    nursery.start_soon(self._keep_channel, session)
                    nursery.start_soon(self._answer)
                    nursery.start_soon(self._tell, session)
                    nursery.start_soon(self._watch.run)
                    await self._receive(session)
                    nursery.cancel_scope.cancel()
            finally:
                self._nursery = None
                self._watch.close()
                if self._channel is not None:
                    self._channel.close()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                    await stream.reset()

    # ---- to the peer -----------------------------------------------------------------------------

    async def _send(self, session: Session) -> None:
        while True:
            if not self._outbox:
                self._outbox_filled = trio.Event()
                await self._outbox_filled.wait()
            messages: list[Message] = []
            while self._outbox and len(messages) < 16:
                message = await self._prepare(self._outbox.popleft())
                if message is not None:
                    messages.append(message)
            if messages:
                await session.send(*messages)

    async def _answer(self) -> None:
        """Look up what a seed asked about."""
        async for question in self._asked:
            await self._watch.tell(question.pages)

    async def _tell(self, session: Session) -> None:
        """Send what we hold to a seed that asked."""
        async for message in self._told:
            await session.send(message)

    async def _prepare(self, action: DownloadAction) -> Message | None:
        match action:
            case AskPages(_, pages):
                return Ask(pages)
            case SendCancel(_, request_id):
                if self._channel is not None and self._spans.pop(request_id, None) is not None:
                    self._channel.forget(request_id)
                return Cancel(request_id)
            case SendRequest(_, request_id, span):
                return await self._request(request_id, span)
        return None

    async def _request(self, request_id: int, span: Span) -> Message | None:
        channel = self._channel
        if channel is None:
            self._machine.on_failed(self._peer, request_id, trio.current_time())
            self._transfer.wake()
            return None
        try:
            writer = await trio.to_thread.run_sync(self._transfer._store.span_writer, span.runs)
        except StoreError as error:
            self._transfer.fail(error)
            return None
        if self._channel is not channel:  # it closed meanwhile, and this request with it
            self._machine.on_failed(self._peer, request_id, trio.current_time())
            return None
        self._spans[request_id] = span
        channel.expect(IncomingSpan(request_id, writer.lengths, writer.write))
        return Request(request_id, span.runs)

    # ---- from the peer ---------------------------------------------------------------------------

    async def _receive(self, session: Session) -> None:
        while (message := await session.receive()) is not None:
            self._on_message(message, trio.current_time())
            self._transfer.wake()

    def _on_message(self, message: Message, now: float) -> None:
        assert self._nursery is not None
        match message:
            case Have(page, bits):
                self._machine.on_have(self._peer, page, bits, now)
            case HaveDelta(page, indexes):
                self._machine.on_have_delta(self._peer, page, indexes, now)
            case Choke():
                self._is_unchoked = False
                self._machine.on_choke(self._peer, now)
            case Unchoke():
                self._is_unchoked = True
                if self._channel is not None:
                    self._machine.on_unchoke(self._peer, now)
            case Reject(request_id, code):
                if self._spans.pop(request_id, None) is not None:
                    if self._channel is not None:
                        self._channel.forget(request_id)
                    self._machine.on_reject(self._peer, request_id, code, now)
            case Offer(run):
                self._machine.on_offer(self._peer, run, now)
            case Ask():
                try:
                    self._asked_send.send_nowait(message)
                except trio.WouldBlock:
                    raise ProtocolViolation("a seed asks more than it reads answers") from None
            case LaneTicket() | LaneRefused():
                if not self._is_lane_wanted:
                    raise ProtocolViolation("a lane came that was not asked for")
                self._is_lane_wanted = False
                self._lane_send.send_nowait(message)
            case Peers(manifest, peers) if manifest == self._transfer.swarm:
                for peer, addresses in peers:
                    self._take_hint(peer, addresses)
            case Bye():
                raise PeerError("the peer ended the session")
            case _:
                raise ProtocolViolation(
                    f"an uploader sent {type(message).__name__}, which only a downloader may"
                )

    def _take_hint(self, peer: str, addresses: Sequence[str]) -> None:
        assert self._nursery is not None
        try:
            address = PeerAddress(parse_peer_id(peer), tuple(parse_address(a) for a in addresses))
        except P2phubError:
            return  # hints are cheap: a bad one is not worth a quarrel
        self._nursery.start_soon(self._transfer.search.offer, address)

    # ---- the byte channel ------------------------------------------------------------------------

    async def _keep_channel(self, session: Session) -> None:
        """Have a byte channel, and another one when it closes."""
        while True:
            ticket = await self._want_lane(session)
            if isinstance(ticket, LaneTicket):
                await self._use_channel(ticket, session)
            await trio.sleep(LANE_RETRY_S)

    async def _want_lane(self, session: Session) -> LaneTicket | LaneRefused:
        self._is_lane_wanted = True
        await session.send(LaneWanted())
        return await self._lane.receive()

    async def _use_channel(self, ticket: LaneTicket, session: Session) -> None:
        """Open a channel by the peer's listener, else by ours, else over a stream; until it closes.

        A second strand is asked for where much is left to fetch.
        """
        channels = self._transfer._channels
        channel = await channels.open_receiving(ticket, session, self._on_event)
        closed = self._channel_closed = trio.Event()
        self._channel = channel
        if self._is_unchoked:
            self._machine.on_unchoke(self._peer, trio.current_time())
            self._transfer.wake()
        facts = self._transfer.statistics()
        is_long = facts.total_bytes - facts.verified_bytes >= WIDEN_BYTES_MIN
        if is_long and channels.can_widen(channel):
            more = await self._want_lane(session)
            if isinstance(more, LaneTicket):
                await channels.widen_receiving(more, session, channel)
        await closed.wait()

    def _on_event(self, event: ChannelEvent) -> None:
        if self._nursery is None:
            return  # the session is over, and all its requests with it
        now = trio.current_time()
        self._transfer.wake()
        match event:
            case ReceivedChunks(_, request_id, first, stop, size_bytes):
                self._share.received_bytes += size_bytes
                span = self._spans.get(request_id)
                if span is not None:
                    self._machine.on_progress(self._peer, request_id, stop, now)
                    self._transfer.on_chunks(span, first, stop)
            case SpanDone(_, request_id):
                if self._spans.pop(request_id, None) is not None:
                    self._machine.on_done(self._peer, request_id, now)
            case SpanStopped(_, request_id, chunk):
                if self._spans.pop(request_id, None) is not None:
                    self._machine.on_stopped(self._peer, request_id, chunk, now)
            case ChannelFailed(_, request_id, error):
                self._on_channel_failed(request_id, error, now)
            case ChannelClosed():
                self._channel = None
                self._channel_closed.set()
                for request_id in list(self._spans):
                    self._machine.on_failed(self._peer, request_id, now)
                self._spans.clear()
                self._machine.on_choke(self._peer, now)
                if self.is_ended:
                    self._scope.cancel()

    def _on_channel_failed(self, request_id: int | None, error: P2phubError, now: float) -> None:
        if isinstance(error, StoreError):
            self._transfer.fail(error)
        elif isinstance(error, ContentError) and request_id is not None:
            self._share.fault = str(error)
            self._spans.pop(request_id, None)
            self._machine.on_wrong_bytes(self._peer, request_id, now)
        elif isinstance(error, ProtocolViolation):
            self._share.fault = str(error)
            self.is_ended = True
        # A line that broke or a peer that stalled is nobody's fault: the session tries again.
