"""Byte channels of two nodes: how they open, whom their events reach, what is left of them."""

from __future__ import annotations

import threading
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import trio

from p2phub.errors import LanesBusy, P2phubError
from p2phub.net.base import Stream
from p2phub.net.lane_events import ChannelClosed, ChannelEvent, SpanDone
from p2phub.net.lane_listener import LaneListener
from p2phub.net.memory import MemoryHub
from p2phub.node.channels import Channels, IncomingSpan, OutgoingSpan, SendingChannel
from p2phub.node.sessions import Session
from p2phub.proto import protocols
from p2phub.proto.limits import LANE_CANCEL_S, LANES_EACH_WAY_MAX, STREAMS_PER_PEER_MAX
from p2phub.proto.messages import LaneRefused, LaneTicket
from tests.conftest import LoggedFaults
from tests.node.cancelling import CancelAtStep


@dataclass
class Ends:
    """A session between an uploader and a downloader, and their channels."""

    up: Channels
    down: Channels
    up_session: Session
    down_session: Session
    sending: list[SendingChannel] = field(default_factory=list)

    async def ticket(self) -> LaneTicket:
        offer = self.up.offer_sending(self.up_session, self.sending.append, ignore)
        assert isinstance(offer, LaneTicket)
        return offer


def ignore(event: ChannelEvent) -> None:
    """For the end that a test does not look at."""


@asynccontextmanager
async def ends(
    *, has_listeners: bool, sending_max: int = LANES_EACH_WAY_MAX
) -> AsyncIterator[Ends]:
    hub = MemoryHub()
    networks = hub.network("up"), hub.network("down")
    accepted: list[Session] = []
    is_over = trio.Event()

    async def on_session(stream: Stream) -> None:
        accepted.append(Session(stream))
        await is_over.wait()

    networks[0].serve(protocols.SWARM, on_session)
    up, down = (
        Channels(
            network,
            LaneListener("127.0.0.1", 0) if has_listeners else None,
            sending_max=sending_max,
        )
        for network in networks
    )
    async with trio.open_nursery() as nursery:
        for channels in (up, down):
            await nursery.start(channels.run)
        for network in networks:
            await nursery.start(network.run)
        opened = Session(await networks[1].open(networks[0].peer_id, protocols.SWARM))
        while not accepted:
            await trio.lowlevel.checkpoint()
        yield Ends(up, down, accepted[0], opened)
        is_over.set()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("has_listeners", [True, False], ids=["lane", "stream"])
async def test_an_exception_in_one_owner_s_events_ends_that_channel_alone(
    logged_faults: LoggedFaults, has_listeners: bool
) -> None:
    async with ends(has_listeners=has_listeners) as both:
        heard: list[ChannelEvent] = []
        closed = trio.Event()

        def fail(event: ChannelEvent) -> None:
            heard.append(event)
            if isinstance(event, ChannelClosed):
                closed.set()
            else:
                raise RuntimeError("a bug")

        channel = await both.down.open_receiving(await both.ticket(), both.down_session, fail)
        while not both.sending:
            await trio.lowlevel.checkpoint()
        channel.expect(IncomingSpan(1, array("I", [4]), lambda first, stop, data: None))
        both.sending[0].enqueue(OutgoingSpan(1, array("I", [4]), _fill))
        with trio.fail_after(5):
            await closed.wait()
        assert both.down.faults_count >= 1
        assert "a bug" in str(logged_faults.take()[0].exc_info)
        done = trio.Event()

        def listen(event: ChannelEvent) -> None:
            if isinstance(event, SpanDone):
                done.set()

        channel = await both.down.open_receiving(await both.ticket(), both.down_session, listen)
        while len(both.sending) < 2:
            await trio.lowlevel.checkpoint()
        channel.expect(IncomingSpan(1, array("I", [4]), lambda first, stop, data: None))
        both.sending[1].enqueue(OutgoingSpan(1, array("I", [4]), _fill))
        with trio.fail_after(5):
            await done.wait()


async def test_many_channels_take_no_more_threads_than_lanes_may_and_all_of_them_work() -> None:
    async with ends(has_listeners=True) as both, ends(has_listeners=True) as others:
        done_count = 0

        def listen(event: ChannelEvent) -> None:
            nonlocal done_count
            done_count += isinstance(event, SpanDone)

        receiving = []
        # No one uploader gives as many: some of the lanes come from another.
        for end, count in ((others, STREAMS_PER_PEER_MAX), (both, LANES_EACH_WAY_MAX)):
            for number in range(count):
                with trio.fail_after(10):
                    ticket = await end.ticket()
                    opened = await both.down.open_receiving(ticket, end.down_session, listen)
                    receiving.append(opened)
                    while len(end.sending) <= number:
                        await trio.sleep(0.001)
        threads = [t for t in threading.enumerate() if t.name == "ReceivingLane"]
        assert len(threads) == LANES_EACH_WAY_MAX
        for incoming, outgoing in zip(receiving, others.sending + both.sending, strict=True):
            incoming.expect(IncomingSpan(1, array("I", [4]), lambda first, stop, data: None))
            outgoing.enqueue(OutgoingSpan(1, array("I", [4]), _fill))
        with trio.fail_after(30):
            while done_count < len(receiving):
                await trio.sleep(0.01)
        for channel in receiving:
            channel.close()
        with trio.fail_after(LANE_CANCEL_S + 5):  # and a machine that is busy
            while both.down.open_count:
                await trio.sleep(0.01)


@pytest.mark.parametrize("has_listeners", [True, False], ids=["lane", "stream"])
async def test_no_more_channels_send_than_may_and_each_that_ends_makes_room(
    has_listeners: bool,
) -> None:
    async with ends(has_listeners=has_listeners, sending_max=2) as both:
        for number in range(2):
            ticket = await both.ticket()
            await both.down.open_receiving(ticket, both.down_session, ignore)
            while len(both.sending) <= number:
                await trio.sleep(0.001)
        refused = both.up.offer_sending(both.up_session, both.sending.append, ignore)
        assert refused == LaneRefused()
        both.sending[0].close()
        await both.ticket()
        assert not both.up.has_room_to_send(is_served=True)  # it may be used any moment
        both.up.take_back(both.up_session)
        assert both.up.has_room_to_send(is_served=True)
        assert not both.up.has_room_to_send(is_served=False)


def _fill(first: int, stop: int, into: memoryview) -> None:
    into[:] = b"data"


@pytest.mark.parametrize("has_listeners", [True, False], ids=["lane", "stream"])
async def test_a_channel_whose_opening_is_cancelled_leaves_nothing(has_listeners: bool) -> None:
    async with ends(has_listeners=has_listeners) as both:
        for number in range(1, 31, 2):
            ticket = await both.ticket()
            with trio.CancelScope() as scope:
                canceller = CancelAtStep(scope, number)
                trio.lowlevel.add_instrument(canceller)
                try:
                    await both.down.open_receiving(ticket, both.down_session, ignore)
                except P2phubError:
                    pass
                finally:
                    trio.lowlevel.remove_instrument(canceller)
            with trio.fail_after(5):
                while channels := [*both.down._open, *both.up._open]:
                    for channel in channels:
                        channel.close()
                    await trio.sleep(0.001)
        both.up.take_back(both.up_session)
        assert not both.up._stream_tickets
        assert not both.up._offered


async def test_nobody_is_dialled_who_was_given_no_ticket() -> None:
    async with ends(has_listeners=True) as both:
        own = both.down.offer_sending(both.down_session, lambda channel: None, ignore)
        assert isinstance(own, LaneTicket)
        with pytest.raises(LanesBusy):
            await both.up.open_sending(own, both.up_session, ignore)
        assert both.up.open_count == 0


async def test_who_cannot_reach_our_listener_is_dialled_in_its_place() -> None:
    async with ends(has_listeners=True) as both:
        ticket = replace(await both.ticket(), port=1)  # nobody listens there

        async def answer() -> None:
            own = await both.up_session.receive()
            assert isinstance(own, LaneTicket)
            await both.up.open_sending(own, both.up_session, ignore)

        # Both ends: the one that is dialled may have its lane a moment before the other.
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                await both.down.open_receiving(ticket, both.down_session, ignore)
        assert (both.up.open_count, both.down.open_count) == (1, 1)
        assert both.up.has_room_to_send(is_served=False)  # its ticket is used up
