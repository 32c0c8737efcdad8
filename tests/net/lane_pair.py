"""Real lanes over loopback for the tests: both ends, their events, and content to move."""

from __future__ import annotations

import random
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from p2phub.digest import Digest, digest
from p2phub.errors import NotHeld, WrongChunk
from p2phub.net.lane import Lane, ReceivingLane, SendingLane
from p2phub.net.lane_buffers import BufferPool
from p2phub.net.lane_channel import LaneChannel
from p2phub.net.lane_events import ChannelClosed, ChannelEvent, ChannelEvents
from p2phub.net.lane_listener import LaneListener, connect_lane
from p2phub.net.lane_span import IncomingSpan, OutgoingSpan

LOOPBACK = "127.0.0.1"
SOON_S = 10.0  # for what takes milliseconds, on a machine that is busy with other tests

E = TypeVar("E", bound=ChannelEvent)


class Content:
    """Chunks of random bytes, to be read by one end and verified by the other."""

    def __init__(self, lengths: Sequence[int], seed: int = 0) -> None:
        rng = random.Random(seed)
        self.chunks = [rng.randbytes(length) for length in lengths]
        self.lengths = array("I", lengths)
        self.missing: set[int] = set()  # chunks that the sender does not hold
        self.received: dict[int, bytes] = {}
        self._digests: list[Digest] = [digest(chunk) for chunk in self.chunks]

    @property
    def is_complete(self) -> bool:
        return [self.received.get(i) for i in range(len(self.chunks))] == self.chunks

    def read(self, first: int, stop: int, into: memoryview) -> None:
        if self.missing & set(range(first, stop)):
            raise NotHeld("a chunk is missing")
        into[:] = b"".join(self.chunks[first:stop])

    def write(self, first: int, stop: int, data: memoryview) -> None:
        start = 0
        for index in range(first, stop):
            chunk = bytes(data[start : start + self.lengths[index]])
            if digest(chunk) != self._digests[index]:
                raise WrongChunk("not the bytes of this name", index=index)
            self.received[index] = chunk
            start += len(chunk)
        assert start == len(data)

    def incoming(self, request_id: int) -> IncomingSpan:
        return IncomingSpan(request_id, self.lengths, self.write)

    def outgoing(self, request_id: int) -> OutgoingSpan:
        return OutgoingSpan(request_id, self.lengths, self.read)


@dataclass
class Reports:
    """The events of one channel, in order."""

    events: ChannelEvents
    seen: list[ChannelEvent] = field(default_factory=list)

    async def until(self, kind: type[E], count: int = 1) -> E:
        """Receive until `count` events of this kind were seen; the last of them."""
        with trio.fail_after(SOON_S):
            while len(self.all(kind)) < count:
                self.seen += await self.events.receive()
        return self.all(kind)[count - 1]

    def all(self, kind: type[E]) -> list[E]:
        return [event for event in self.seen if isinstance(event, kind)]

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.seen]


@asynccontextmanager
async def listening(**times: float) -> AsyncIterator[LaneListener]:
    """A listener on a free port, running."""
    listener = LaneListener(LOOPBACK, 0, **times)
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.run)
        yield listener
        nursery.cancel_scope.cancel()


async def open_channels(listener: LaneListener) -> tuple[LaneChannel, LaneChannel]:
    """The two ends of a new lane: of the one that dialled, and of the one that listens."""
    send, receive = trio.open_memory_channel[LaneChannel](1)
    ticket = listener.issue_ticket(LOOPBACK, send.send_nowait)
    with trio.fail_after(SOON_S):
        dialled = await connect_lane(LOOPBACK, listener.port, ticket, listener.fingerprint)
        return dialled, await receive.receive()


@dataclass
class LanePair:
    """A receiving and a sending lane, started, and what each reports."""

    receiving: ReceivingLane
    sending: SendingLane
    received: Reports
    sent: Reports
    buffers: BufferPool

    def move(self, content: Content, request_id: int) -> None:
        self.receiving.expect(content.incoming(request_id))
        assert self.sending.enqueue(content.outgoing(request_id))


@asynccontextmanager
async def lane_pair(
    *, receiver_dials: bool = True, strands_count: int = 1, **times: float
) -> AsyncIterator[LanePair]:
    """Both ends of one lane; closed and gone at the end of the block."""
    async with listening() as listener:
        dialled, accepted = await open_channels(listener)
        receiver, sender = (dialled, accepted) if receiver_dials else (accepted, dialled)
        received, sent = Reports(ChannelEvents()), Reports(ChannelEvents())
        buffers = BufferPool()
        pair = LanePair(
            ReceivingLane(receiver, "uploader", received.events, buffers, **times),
            SendingLane(sender, "downloader", sent.events, buffers, **times),
            received,
            sent,
            buffers,
        )
        pair.receiving.start()
        pair.sending.start()
        for _ in range(strands_count - 1):
            dialled, accepted = await open_channels(listener)
            assert pair.receiving.widen(dialled)
            assert pair.sending.widen(accepted)
        try:
            yield pair
        finally:
            await end(pair.receiving, received)
            await end(pair.sending, sent)
            assert buffers.lent_bytes == 0


@asynccontextmanager
async def receiving_lane(
    **times: float,
) -> AsyncIterator[tuple[ReceivingLane, LaneChannel, Reports]]:
    """A receiving lane and, in place of an honest sender, the bare channel to it."""
    async with listening() as listener:
        dialled, accepted = await open_channels(listener)
        reports = Reports(ChannelEvents())
        lane = ReceivingLane(dialled, "uploader", reports.events, BufferPool(), **times)
        lane.start()
        accepted.settle()
        try:
            yield lane, accepted, reports
        finally:
            accepted.close()
            await end(lane, reports)


@asynccontextmanager
async def sending_lane(**times: float) -> AsyncIterator[tuple[SendingLane, LaneChannel, Reports]]:
    """A sending lane and, in place of an honest receiver, the bare channel from it."""
    async with listening() as listener:
        dialled, accepted = await open_channels(listener)
        reports = Reports(ChannelEvents())
        lane = SendingLane(dialled, "downloader", reports.events, BufferPool(), **times)
        lane.start()
        accepted.settle()
        try:
            yield lane, accepted, reports
        finally:
            accepted.close()
            await end(lane, reports)


async def end(lane: Lane, reports: Reports) -> None:
    """Close a lane; its last event is ChannelClosed, and its thread is gone within a second."""
    began_s = trio.current_time()
    lane.close()
    await reports.until(ChannelClosed)
    assert lane.join(1.0)
    assert trio.current_time() - began_s < 1.0 + SOON_S / 10
    assert len(reports.all(ChannelClosed)) == 1
    assert isinstance(reports.seen[-1], ChannelClosed)
