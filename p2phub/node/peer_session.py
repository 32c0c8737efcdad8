"""One peer of a download: its session, the requests sent to it, the byte channel they are met by.

Tells the machine of its `Transfer` what the peer says and what arrives, and carries out the
machine's actions for this peer, in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from p2phub.core.swarm.actions import (
    AskPages,
    DownloadAction,
    SendCancel,
    SendRequest,
)
from p2phub.core.swarm.download import Download
from p2phub.core.swarm.spans import Span
from p2phub.digest import Digest
from p2phub.errors import (
    ContentError,
    P2phubError,
    PeerError,
    PeerTimeout,
    ProtocolViolation,
    StoreError,
)
from p2phub.net.base import PeerAddress, PeerId, parse_address, parse_peer_id
from p2phub.net.lane_events import (
    ChannelClosed,
    ChannelEvent,
    ChannelFailed,
    ReceivedChunks,
    SpanDone,
    SpanStopped,
)
from p2phub.node.channels import IncomingSpan, ReceivingChannel
from p2phub.node.sessions import Session
from p2phub.node.tasks import open_tasks
from p2phub.node.watching import PageWatch
from p2phub.proto import protocols
from p2phub.proto.messages import (
    REJECT_NOT_HELD,
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

if TYPE_CHECKING:
    from p2phub.node.downloads import Transfer

# Without a word on what it holds, then without a byte, a peer gives its place to one that waits.
# Four times over is less than the time after which a transfer counts as stalled.
SILENT_S = 5.0
FRUITLESS_S = 15.0
LANE_RETRY_S = 5.0  # after a peer had no lane to give, or one that carried nothing, but a slot
WIDEN_BYTES_MIN = 64 << 20  # left to fetch: below it a second strand would hardly begin in time
WIDEN_AFTER_BYTES = 8 << 20  # received over a lane before its rate is judged
WIDEN_RATE_BYTES_PER_S = 50_000_000  # a slower lane waits for its wire, not for its thread
OUTBOX_MAX = 4096  # actions waiting for one peer: more only where it flips slots and reads nothing
HAVES_MAX = 16  # pages whose bits are remembered for the next machine: a frame each at most
QUESTIONS_MAX = 64  # of a seed, waiting for their answers: it asks of a whole release at once


@dataclass(slots=True)
class Share:
    """What one peer did for a transfer."""

    peer: PeerId
    address: str = ""  # multiaddr of the live connection
    received_bytes: int = 0  # verified
    fault: str = ""  # why it was dropped


class PeerSession:
    """The session and the byte channel to one peer."""

    def __init__(self, transfer: Transfer, peer: PeerId, share: Share) -> None:
        self._transfer = transfer
        self._peer = peer
        self._share = share
        self._outbox: deque[DownloadAction | LaneWanted] = deque()
        self._outbox_filled = trio.Event()
        self._session: Session | None = None  # once greeted
        self._haves: dict[Digest, bytearray] = {}  # what the peer said of pages it watches for us
        self._spans: dict[int, Span] = {}  # requested, by request id
        self._channel: ReceivingChannel | None = None
        self._channel_closed = trio.Event()
        self._channel_since_s = 0.0  # when it opened, and what came over it since
        self._channel_bytes = 0
        self._held_s = 0.0  # as `take_held_s` saw it last
        self._is_fast = trio.Event()  # one thread may be too few for it; or it closed
        self._is_lane_wanted = False  # asked for, and neither given nor refused yet
        self._lane_send, self._lane = trio.open_memory_channel[LaneTicket | LaneRefused](1)
        self._unchoked = trio.Event()  # set while it is
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._asked_send, self._asked = trio.open_memory_channel[Ask](QUESTIONS_MAX)
        self._told_send, self._told = trio.open_memory_channel[Message](256)
        self._watch = PageWatch(transfer.watches, self._told_send.send)  # of what we hold
        self.is_ended = False  # dropped by the machine or said goodbye: do not open it again
        self.is_given_up = False  # for the sake of one that waited
        self._has_answered = False
        self._gave_at_s = trio.current_time()  # the last verified chunk, or the beginning

    @property
    def _machine(self) -> Download:
        return self._transfer.machine

    def introduce(self) -> None:
        """Tell the transfer's machine of this peer, once it was greeted."""
        if self._session is None:
            return
        now = trio.current_time()
        is_local = self._transfer.channels.is_local(self._session.remote_host)
        requests_max = self._session.peer_requests_max
        self._machine.on_peer(self._peer, now, is_local=is_local, requests_max=requests_max)
        if self._channel is not None and self._unchoked.is_set():
            self._machine.on_unchoke(self._peer, now)

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

    def take_held_s(self) -> float:
        """For how long a limit of our own kept its channel waiting since this was asked last."""
        if self._channel is None:
            return 0.0
        held_s, self._held_s = self._held_s, self._channel.credit.held_s
        self._gave_at_s += self._held_s - held_s
        return self._held_s - held_s

    def is_fruitless(self, now: float) -> bool:
        """Whether another peer may have its place: it is silent, or nothing comes of what it
        says.
        """
        return now - self._gave_at_s > (FRUITLESS_S if self._has_answered else SILENT_S)

    @property
    def is_asked(self) -> bool:
        """Whether the peer owes us something."""
        return bool(self._spans)

    def renew(self) -> None:
        """End the session; it is opened anew, as one that broke."""
        self._scope.cancel()

    def give_up(self) -> None:
        """Another peer may do better. It may have another turn."""
        self.is_given_up = True
        self.end()

    async def run(self) -> None:
        """Until the peer goes or the transfer ends. Raises what broke it."""
        with self._scope:
            stream = await self._transfer.network.open(self._peer, protocols.SWARM)
            session = Session(stream)
            try:
                await session.greet()
                self._share.address = self._transfer.peer_addresses(self._peer)
                await session.send(Join(self._transfer.swarm))
                self._session = session
                self.introduce()
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
                self._nursery = self._session = None
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

    def tell_peers(self, peers: Sequence[PeerId]) -> None:
        """Name other members of the swarm to this one, as far as they can be dialled."""
        known = map(self._transfer.network.known_address, peers)
        rows = tuple((str(a.peer), a.addresses) for a in known if a is not None and a.addresses)
        if rows:
            try:
                self._told_send.send_nowait(Peers(self._transfer.swarm, rows))
            except trio.WouldBlock:
                pass  # it reads slowly, and it is a hint only

    async def _answer(self) -> None:
        """Look up what a seed asked about."""
        async for question in self._asked:
            await self._watch.tell(question.pages)

    async def _tell(self, session: Session) -> None:
        """Send what we hold to a seed that asked."""
        async for message in self._told:
            await session.send(message)

    async def _prepare(self, action: DownloadAction | LaneWanted) -> Message | None:
        match action:
            case LaneWanted():
                return action
            case AskPages(_, pages):
                return self._ask(pages)
            case SendCancel(_, request_id):
                if self._channel is not None and self._spans.pop(request_id, None) is not None:
                    self._channel.forget(request_id)
                return Cancel(request_id)
            case SendRequest(_, request_id, span):
                return await self._request(request_id, span)
        return None

    def _ask(self, pages: Sequence[Digest]) -> Message | None:
        """The question that is left after what the peer said before."""
        unknown = [page for page in pages if page not in self._haves]
        for page in pages:
            if page in self._haves:
                bits = bytes(self._haves[page])
                self._machine.on_have(self._peer, page, bits, trio.current_time())
                self._transfer.wake()
        return Ask(tuple(unknown)) if unknown else None

    async def _request(self, request_id: int, span: Span) -> Message | None:
        channel = self._channel
        if channel is None:
            self._machine.on_failed(self._peer, request_id, trio.current_time())
            self._transfer.wake()
            return None
        try:
            writer = await trio.to_thread.run_sync(self._transfer.store.span_writer, span.runs)
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
                self._has_answered = True
                self._remember(page, bits)
                self._machine.on_have(self._peer, page, bits, now)
            case HaveDelta(page, indexes):
                self._add_haves(page, indexes)
                self._machine.on_have_delta(self._peer, page, indexes, now)
            case Choke():
                self._unchoked = trio.Event()
                self._machine.on_choke(self._peer, now)
            case Unchoke():
                self._unchoked.set()
                if self._channel is not None:
                    self._machine.on_unchoke(self._peer, now)
            case Reject(request_id, code):
                if code == REJECT_NOT_HELD:
                    self._haves.clear()  # one of them is wrong
                if self._spans.pop(request_id, None) is not None:
                    if self._channel is not None:
                        self._channel.forget(request_id)
                    self._machine.on_reject(self._peer, request_id, code, now)
            case Offer(run):
                self._machine.on_offer(self._peer, run, now)
                self._transfer.on_seed(self._peer)
            case Ask():
                if self._transfer.is_kept:
                    return  # who reads ranges takes no offers, and others would wait for it
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

    def _remember(self, page: Digest, bits: bytes | None) -> None:
        self._haves.pop(page, None)
        if bits and self._transfer.is_kept:
            self._haves[page] = bytearray(bits)
            if len(self._haves) > HAVES_MAX:
                del self._haves[next(iter(self._haves))]

    def _add_haves(self, page: Digest, indexes: Sequence[int]) -> None:
        bits = self._haves.get(page, bytearray())
        for index in indexes:
            if index >> 3 < len(bits):
                bits[index >> 3] |= 0x80 >> (index & 7)

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
            had_slot, is_fruitful = self._unchoked.is_set(), False
            ticket = await self._want_lane()
            if isinstance(ticket, LaneTicket):
                await self._use_channel(ticket, session)
                had_slot, is_fruitful = self._unchoked.is_set(), self._channel_bytes > 0
            if had_slot and not is_fruitful:
                await trio.sleep(LANE_RETRY_S)
            # Who has few lanes gives them to whom it gives a slot.
            await self._unchoked.wait()

    async def _want_lane(self) -> LaneTicket | LaneRefused:
        self._is_lane_wanted = True
        # Behind all that was said of requests over a channel before: none is met by the next one.
        self._outbox.append(LaneWanted())
        self._outbox_filled.set()
        return await self._lane.receive()

    async def _use_channel(self, ticket: LaneTicket, session: Session) -> None:
        """Open a channel by the peer's listener, else by ours, else over a stream; until it closes.

        A second strand is asked for where it is fast and much is left to fetch.
        """
        channels = self._transfer.channels
        channel = await channels.open_receiving(ticket, session, self._on_event)
        closed = self._channel_closed = trio.Event()
        self._channel = channel
        channel.credit.is_first = self._transfer.is_kept  # for readers
        self._channel_since_s, self._channel_bytes, self._held_s = trio.current_time(), 0, 0.0
        fast = self._is_fast = trio.Event()
        if self._unchoked.is_set():
            self._machine.on_unchoke(self._peer, trio.current_time())
            self._transfer.wake()
        await fast.wait()
        facts = self._transfer.statistics()
        is_long = facts.total_bytes - facts.verified_bytes >= WIDEN_BYTES_MIN
        if is_long and not closed.is_set() and channels.can_widen(channel):
            # The answer is waited for also when the channel closes: the next one is not for this.
            more = await self._want_lane()
            if isinstance(more, LaneTicket):
                await channels.widen_receiving(more, session, channel)
        await closed.wait()

    def _judge_pace(self, size_bytes: int, now: float) -> None:
        self._channel_bytes += size_bytes
        if self._channel_bytes >= WIDEN_AFTER_BYTES and not self._is_fast.is_set():
            elapsed_s = now - self._channel_since_s
            if self._channel_bytes >= WIDEN_RATE_BYTES_PER_S * elapsed_s:
                self._is_fast.set()

    def _on_event(self, event: ChannelEvent) -> None:
        if self._nursery is None:
            return  # the session is over, and all its requests with it
        now = trio.current_time()
        self._transfer.wake()
        match event:
            case ReceivedChunks(_, request_id, first, stop, size_bytes):
                self._share.received_bytes += size_bytes
                self._gave_at_s = now
                self._transfer.on_received(self._peer, size_bytes)
                self._judge_pace(size_bytes, now)
                span = self._spans.get(request_id)
                if span is not None:
                    self._machine.on_progress(self._peer, request_id, stop, now)
                    self._transfer.on_chunks(span, first, stop)
            case SpanDone(_, request_id):
                if self._spans.pop(request_id, None) is not None:
                    self._machine.on_done(self._peer, request_id, now)
            case SpanStopped(_, request_id, chunk):
                self._haves.clear()  # one of them is wrong
                if self._spans.pop(request_id, None) is not None:
                    self._machine.on_stopped(self._peer, request_id, chunk, now)
            case ChannelFailed(_, request_id, error):
                self._on_channel_failed(request_id, error, now)
            case ChannelClosed():
                self._channel = None
                self._channel_closed.set()
                self._is_fast.set()
                failed, self._spans = self._spans, {}
                for request_id in failed:
                    self._machine.on_failed(self._peer, request_id, now)
                    self.do(SendCancel(self._peer, request_id))
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
