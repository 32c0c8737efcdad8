"""Byte channels for sessions: lanes where a socket can be opened, span streams where none can.

A session's uploader offers a ticket. The downloader dials the uploader's listener with it; where
that fails it offers a ticket for its own listener; where that fails too it shows the first ticket
on a /p2phub/span/1 stream. All channels report into one queue, whose events this module hands to
the session that each channel belongs to.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import trio

from p2phub.errors import LanesBusy, NetworkError, P2phubError
from p2phub.net.base import Network, PeerId, Stream
from p2phub.net.lane import Lane, ReceivingLane, SendingLane
from p2phub.net.lane_buffers import BufferPool
from p2phub.net.lane_channel import LaneChannel
from p2phub.net.lane_credit import RateCredit
from p2phub.net.lane_events import Channel, ChannelClosed, ChannelEvent, ChannelEvents
from p2phub.net.lane_listener import LaneListener, connect_lane
from p2phub.net.lane_span import IncomingSpan, OutgoingSpan
from p2phub.net.span_stream import ReceivingStream, SendingStream, SpanStreams
from p2phub.node.rates import Rates
from p2phub.node.sessions import Session
from p2phub.proto import protocols
from p2phub.proto.limits import (
    LANE_HANDSHAKE_TIMEOUT_S,
    LANE_STRANDS_MAX,
    LANE_TICKET_LIFETIME_S,
    LANES_EACH_WAY_MAX,
)
from p2phub.proto.messages import FINGERPRINT_BYTES, TICKET_BYTES, LaneRefused, LaneTicket

__all__ = ["Channels", "IncomingSpan", "OutgoingSpan", "ReceivingChannel", "SendingChannel"]

REVERSE_TIMEOUT_S = LANE_HANDSHAKE_TIMEOUT_S + 1.0  # for the uploader to dial us

log = logging.getLogger(__name__)

OnEvent: TypeAlias = Callable[[ChannelEvent], None]


class ReceivingChannel(Channel, Protocol):
    """The downloading end of a lane or span stream."""

    @property
    def credit(self) -> RateCredit: ...
    def expect(self, span: IncomingSpan) -> None: ...
    def forget(self, request_id: int) -> None: ...


class SendingChannel(Channel, Protocol):
    """The uploading end of a lane or span stream."""

    @property
    def credit(self) -> RateCredit: ...
    def enqueue(self, span: OutgoingSpan) -> bool: ...
    def cancel(self, request_id: int) -> None: ...


OnSending: TypeAlias = Callable[[SendingChannel], None]


@dataclass(frozen=True, slots=True)
class _StreamTicket:
    """Who may show a ticket on a span stream, and whom the channel is for."""

    peer: PeerId
    on_channel: OnSending
    on_event: OnEvent
    expires_s: float  # clock of the event loop


@dataclass(frozen=True, slots=True)
class _Open:
    """Whom an open channel is for, and which limits bind it."""

    on_event: OnEvent
    rates: Rates
    credit: RateCredit


class Channels:
    """All byte channels of a node. Make it inside trio, before the network runs; `run` must run."""

    def __init__(
        self,
        network: Network,
        listener: LaneListener | None,
        *,
        sending_max: int = LANES_EACH_WAY_MAX,
    ) -> None:
        self.down = Rates()
        self.up = Rates()
        self._sending_max = sending_max  # channels that send at once
        self._network = network
        self._listener = listener  # None: no lanes are accepted here
        self._events = ChannelEvents()
        self._buffers = BufferPool()
        self._offered: dict[Session, bytes] = {}  # the one ticket that each session has open
        self._stream_tickets: dict[bytes, _StreamTicket] = {}
        self._nursery: trio.Nursery | None = None
        self._streams = SpanStreams(self._events)
        self._open: dict[Channel, _Open] = {}
        self.faults_count = 0  # events that met an exception of ours: must stay 0
        network.serve(protocols.SPAN, self._on_stream)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and hand events out until cancelled; then every channel is closed."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.down.run)
                nursery.start_soon(self.up.run)
                if self._listener is not None:
                    await nursery.start(self._listener.run)
                task_status.started()
                try:
                    while True:
                        for event in await self._events.receive():
                            self._hand_out(event)
                finally:
                    self._nursery = None
        finally:
            for channel in list(self._open):
                channel.close()

    @property
    def open_count(self) -> int:
        return len(self._open)

    def is_local(self, host: str | None) -> bool:
        """Whether a peer is on this machine or its own network."""
        if host is None:
            return True
        address = ipaddress.ip_address(host.partition("%")[0])
        return address.is_private or address.is_loopback or address.is_link_local

    def can_widen(self, channel: object) -> bool:
        """Whether a second strand would speed this channel up: a lane, cores and room for it."""
        return (
            isinstance(channel, Lane)
            and channel.strands_count < LANE_STRANDS_MAX
            and (os.cpu_count() or 1) >= LANE_STRANDS_MAX
            and len(self._open) <= LANES_EACH_WAY_MAX // 2
        )

    # ---- the uploading end -----------------------------------------------------------------------

    def has_room_to_send(self, *, is_served: bool) -> bool:
        """Whether one more channel may send, beside those there are and those that may come.

        is_served: for a peer with a slot; the others get no more than half of them.
        """
        sending = (SendingLane, SendingStream)
        count = sum(isinstance(c, sending) and not c.is_closing for c in self._open)
        now = trio.current_time()
        count += sum(now < ticket.expires_s for ticket in self._stream_tickets.values())
        return count < (self._sending_max if is_served else self._sending_max // 2)

    def offer_sending(
        self, session: Session, on_channel: OnSending, on_event: OnEvent, *, is_served: bool = True
    ) -> LaneTicket | LaneRefused:
        """A ticket for the other end of `session`, if there is room (see `has_room_to_send`).

        It takes the place of the one offered before: `take_back` it when the session ends.
        """
        self.take_back(session)
        if not self.has_room_to_send(is_served=is_served):
            return LaneRefused()
        port, fingerprint = 0, bytes(FINGERPRINT_BYTES)
        secret = secrets.token_bytes(TICKET_BYTES)
        if self._listener is not None and session.remote_host is not None:

            def on_lane(channel: LaneChannel) -> None:
                self._stream_tickets.pop(secret, None)
                on_channel(self._sending_lane(channel, session.peer, on_event))

            try:
                secret = self._listener.issue_ticket(session.remote_host, on_lane)
            except LanesBusy:
                return LaneRefused()
            port, fingerprint = self._listener.port, self._listener.fingerprint
        expires_s = trio.current_time() + LANE_TICKET_LIFETIME_S
        ticket = _StreamTicket(session.peer, on_channel, on_event, expires_s)
        self._stream_tickets[secret] = ticket
        self._offered[session] = secret
        return LaneTicket(secret, fingerprint, port)

    def has_offered(self, session: Session) -> bool:
        """Whether a ticket of `session` may become one more channel that sends."""
        ticket = self._stream_tickets.get(self._offered.get(session, b""))
        return ticket is not None and trio.current_time() < ticket.expires_s

    def take_back(self, session: Session) -> None:
        """Let nobody use the ticket that `session` has open, if it has one."""
        secret = self._offered.pop(session, None)
        if secret is not None:
            self._stream_tickets.pop(secret, None)
            if self._listener is not None:
                self._listener.revoke_ticket(secret)

    async def open_sending(
        self, ticket: LaneTicket, session: Session, on_event: OnEvent
    ) -> SendingChannel:
        """Dial the downloader's own listener.

        It takes the place of the ticket of ours that it could not use: who was given none is not
        dialled. Raises LanesBusy, PeerUnreachable, PeerTimeout, ProtocolViolation.
        """
        if not self.has_offered(session):
            raise LanesBusy()
        channel = await self._dial(ticket, session)
        self.take_back(session)
        return self._sending_lane(channel, session.peer, on_event)

    def offer_strand(self, session: Session, channel: SendingChannel) -> LaneTicket | LaneRefused:
        """As `offer_sending`, for one more strand of a lane that the other end dialled."""
        self.take_back(session)
        if (
            self._listener is None
            or session.remote_host is None
            or not isinstance(channel, Lane)
            or not self.can_widen(channel)
        ):
            return LaneRefused()
        lane: Lane = channel

        def on_strand(strand: LaneChannel) -> None:
            lane.widen(strand)

        try:
            secret = self._listener.issue_ticket(session.remote_host, on_strand)
        except LanesBusy:
            return LaneRefused()
        self._offered[session] = secret
        return LaneTicket(secret, self._listener.fingerprint, self._listener.port)

    def _sending_lane(self, channel: LaneChannel, peer: PeerId, on_event: OnEvent) -> SendingLane:
        lane = SendingLane(channel, None, self._events, self._buffers)
        self._add(lane, peer, on_event, self.up)
        lane.start()
        return lane

    async def _on_stream(self, stream: Stream) -> None:
        secret = b""
        with trio.move_on_after(LANE_HANDSHAKE_TIMEOUT_S):
            secret = await stream.receive_exactly(TICKET_BYTES)
        ticket = self._stream_tickets.get(secret)
        is_late = ticket is not None and trio.current_time() > ticket.expires_s
        if ticket is None or is_late or ticket.peer != stream.peer:
            await stream.reset()
            return
        del self._stream_tickets[secret]
        if self._listener is not None:
            self._listener.revoke_ticket(secret)
        channel = SendingStream(stream, self._streams)
        self._add(channel, ticket.peer, ticket.on_event, self.up)
        ticket.on_channel(channel)
        await channel.run()

    # ---- the downloading end ---------------------------------------------------------------------

    async def open_receiving(
        self, ticket: LaneTicket, session: Session, on_event: OnEvent
    ) -> ReceivingChannel:
        """A channel by the other end's ticket: its listener, else ours, else a stream.

        Raises P2phubError.
        """
        if self._has_room_to_receive:
            try:
                channel = await self._dial(ticket, session)
                return self._receiving_lane(channel, session.peer, on_event)
            except P2phubError:
                pass  # behind a firewall, perhaps: it may reach us
            dialled = await self._be_dialled(session)
            if dialled is not None:
                return self._receiving_lane(dialled, session.peer, on_event)
        stream = await self._network.open(session.peer, protocols.SPAN)
        try:
            await stream.send(ticket.ticket)
        except BaseException:
            await stream.reset()
            raise
        if self._nursery is None:
            await stream.reset()
            raise NetworkError("this node stops")
        receiving = ReceivingStream(stream, self._streams)
        self._add(receiving, session.peer, on_event, self.down)
        self._nursery.start_soon(receiving.run)
        return receiving

    async def widen_receiving(
        self, ticket: LaneTicket, session: Session, channel: ReceivingChannel
    ) -> None:
        """Dial one more strand of a lane; where that fails the lane stays as it is."""
        assert isinstance(channel, Lane)
        try:
            channel.widen(await self._dial(ticket, session))
        except P2phubError:
            pass  # one strand moves everything, too

    def _receiving_lane(
        self, channel: LaneChannel, peer: PeerId, on_event: OnEvent
    ) -> ReceivingLane:
        lane = ReceivingLane(channel, None, self._events, self._buffers)
        self._add(lane, peer, on_event, self.down)
        lane.start()
        return lane

    async def _dial(self, ticket: LaneTicket, session: Session) -> LaneChannel:
        if not ticket.port or session.remote_host is None:
            raise LanesBusy()
        # Only the address of the live session is dialled: a ticket cannot make us knock elsewhere.
        return await connect_lane(
            session.remote_host, ticket.port, ticket.ticket, ticket.fingerprint
        )

    @property
    def _has_room_to_receive(self) -> bool:
        """Whether one more lane, and its thread, may receive; beyond, streams do."""
        lanes_count = sum(isinstance(channel, ReceivingLane) for channel in self._open)
        return lanes_count < LANES_EACH_WAY_MAX

    async def _be_dialled(self, session: Session) -> LaneChannel | None:
        if self._listener is None or session.remote_host is None:
            return None
        arrived: list[LaneChannel] = []
        done = trio.Event()

        def on_lane(channel: LaneChannel) -> None:
            arrived.append(channel)
            done.set()

        try:
            secret = self._listener.issue_ticket(session.remote_host, on_lane)
        except LanesBusy:
            return None
        try:
            await session.send(LaneTicket(secret, self._listener.fingerprint, self._listener.port))
            with trio.move_on_after(REVERSE_TIMEOUT_S):
                await done.wait()
        except BaseException:
            for channel in arrived:
                channel.close()
            raise
        finally:
            self._listener.revoke_ticket(secret)
        return arrived[0] if arrived else None

    # ---- events ----------------------------------------------------------------------------------

    def _add(
        self,
        channel: SendingLane | ReceivingLane | SendingStream | ReceivingStream,
        peer: PeerId,
        on_event: OnEvent,
        rates: Rates,
    ) -> None:
        self._open[channel] = _Open(on_event, rates, channel.credit)
        rates.add(channel.credit, peer)

    def _hand_out(self, event: ChannelEvent) -> None:
        told = self._open[event.channel]
        if isinstance(event, ChannelClosed):
            del self._open[event.channel]
            told.rates.remove(told.credit)
        try:
            told.on_event(event)
        except Exception:  # of whom the channel is for: the others' events go on
            self.faults_count += 1
            log.exception("an event of a byte channel could not be handled")
            event.channel.close()
