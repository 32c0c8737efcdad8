"""Spans over a stream keep the rules of lanes: verified, in order, cancellable, bounded in time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from p2phub.errors import (
    NotHeld,
    PeerTimeout,
    ProtocolViolation,
    StoreFull,
    StreamClosed,
    WrongChunk,
)
from p2phub.net.base import Network, Stream, parse_peer_address
from p2phub.net.lane_events import (
    ChannelClosed,
    ChannelEvents,
    ChannelFailed,
    ReceivedChunks,
    SentChunks,
    SpanDone,
    SpanSent,
    SpanStopped,
    SpanUnserved,
)
from p2phub.net.lane_span import IncomingSpan
from p2phub.net.memory import MemoryHub
from p2phub.net.span_stream import ReceivingStream, SendingStream, SpanStream, SpanStreams
from p2phub.proto.frames import NOT_HELD, PayloadHeader
from p2phub.proto.limits import KIB, LANE_PATIENCE_S, LANE_UNUSED_S, MIB
from tests.net.lane_pair import SOON_S, Content, Reports
from tests.net.nodes import node

SPANS = "/p2phub/span/1"


async def two_networks(kind: str, nursery: trio.Nursery) -> tuple[Network, Network]:
    if kind == "libp2p":
        return node(1), node(2)
    hub = MemoryHub()
    return hub.network("downloader"), hub.network("uploader")


@asynccontextmanager
async def streams(kind: str = "memory") -> AsyncIterator[tuple[Stream, Stream]]:
    """The two ends of one stream: of the downloader, which opened it, and of the uploader."""
    accepted_send, accepted_receive = trio.open_memory_channel[Stream](1)
    is_over = trio.Event()

    async def keep(stream: Stream) -> None:
        accepted_send.send_nowait(stream)
        await is_over.wait()

    async with trio.open_nursery() as nursery:
        downloader, uploader = await two_networks(kind, nursery)
        uploader.serve(SPANS, keep)
        await nursery.start(downloader.run)
        await nursery.start(uploader.run)
        await downloader.connect(parse_peer_address(uploader.addresses()[0]))
        opened = await downloader.open(uploader.peer_id, SPANS)
        await opened.send(b"!")  # A real network tells the other end with the first bytes.
        accepted = await accepted_receive.receive()
        assert await accepted.receive_exactly(1) == b"!"
        yield opened, accepted
        is_over.set()
        nursery.cancel_scope.cancel()


@dataclass
class StreamPair:
    """Both ends, running, and what each reports."""

    receiving: ReceivingStream
    sending: SendingStream
    received: Reports
    sent: Reports

    def move(self, content: Content, request_id: int) -> None:
        self.receiving.expect(content.incoming(request_id))
        assert self.sending.enqueue(content.outgoing(request_id))


async def end(stream: SpanStream, reports: Reports) -> None:
    stream.close()
    await reports.until(ChannelClosed)
    assert reports.seen[-1] == ChannelClosed(stream)


@asynccontextmanager
async def stream_pair(kind: str = "memory") -> AsyncIterator[StreamPair]:
    async with streams(kind) as (opened, accepted), trio.open_nursery() as nursery:
        received, sent = Reports(ChannelEvents()), Reports(ChannelEvents())
        pair = StreamPair(
            ReceivingStream(opened, SpanStreams(received.events)),
            SendingStream(accepted, SpanStreams(sent.events)),
            received,
            sent,
        )
        nursery.start_soon(pair.receiving.run)
        nursery.start_soon(pair.sending.run)
        yield pair
        await end(pair.receiving, received)
        await end(pair.sending, sent)


@asynccontextmanager
async def receiving_stream() -> AsyncIterator[tuple[ReceivingStream, Stream, Reports]]:
    """A receiving end and, in place of an honest sender, the bare stream to it."""
    async with streams() as (opened, accepted), trio.open_nursery() as nursery:
        reports = Reports(ChannelEvents())
        receiving = ReceivingStream(opened, SpanStreams(reports.events))
        nursery.start_soon(receiving.run)
        yield receiving, accepted, reports
        await end(receiving, reports)


@pytest.mark.parametrize("kind", ["memory", "libp2p"])
async def test_spans_arrive_whole(kind: str) -> None:
    first, second = Content([MIB, MIB, 17], seed=1), Content([5 * KIB] * 300, seed=2)
    async with stream_pair(kind) as pair:
        pair.move(first, 7)
        pair.move(second, 8)
        await pair.received.until(SpanDone, 2)
        await pair.sent.until(SpanSent, 2)
        assert pair.received.seen[0].channel.peer == pair.receiving.peer
    assert first.is_complete and second.is_complete
    size = sum(first.lengths) + sum(second.lengths)
    assert sum(event.size_bytes for event in pair.received.all(ReceivedChunks)) == size
    assert sum(event.size_bytes for event in pair.sent.all(SentChunks)) == size


async def test_a_chunk_that_is_not_held_stops_its_span() -> None:
    content, next_content = Content([10 * KIB] * 40), Content([1])
    content.missing = {29}
    async with stream_pair() as pair:
        pair.move(content, 1)
        pair.move(next_content, 2)
        stopped = await pair.received.until(SpanStopped)
        await pair.received.until(SpanDone)
        unserved = await pair.sent.until(SpanUnserved)
    assert (stopped.request_id, stopped.chunk) == (1, 29)
    assert isinstance(unserved.error, NotHeld)
    assert sorted(content.received) == list(range(29))
    assert next_content.is_complete


async def test_cancelled_spans_are_stopped_and_the_stream_lives() -> None:
    under_way, queued, wanted = (Content([MIB] * 3, seed=seed) for seed in range(3))
    async with stream_pair() as pair:
        pair.sending.credit.limit()
        pair.move(under_way, 1)
        pair.move(queued, 2)
        await trio.testing.wait_all_tasks_blocked()
        pair.sending.cancel(1)
        pair.sending.cancel(2)
        pair.sending.credit.unlimit()
        pair.move(wanted, 3)
        await pair.received.until(SpanStopped, 2)
        await pair.received.until(SpanDone)
        await pair.sent.until(SpanUnserved, 2)
    assert wanted.is_complete
    assert not queued.received


async def test_late_bytes_of_a_forgotten_span_are_dropped() -> None:
    forgotten, wanted = Content([MIB] * 2, seed=1), Content([MIB], seed=2)
    async with stream_pair() as pair:
        pair.receiving.expect(forgotten.incoming(1))
        pair.receiving.forget(1)
        pair.sending.enqueue(forgotten.outgoing(1))
        pair.move(wanted, 2)
        await pair.received.until(SpanDone)
    assert not forgotten.received


async def test_wrong_bytes_name_their_request_and_end_the_stream() -> None:
    content = Content([KIB, KIB])
    async with receiving_stream() as (receiving, stream, reports):
        receiving.expect(content.incoming(5))
        await stream.send(PayloadHeader(5, 0, KIB).encode() + bytes(KIB))
        failed = await reports.until(ChannelFailed)
    assert isinstance(failed.error, WrongChunk)
    assert failed.request_id == 5


@pytest.mark.parametrize(
    "header",
    [
        PayloadHeader(6, 0, KIB),
        PayloadHeader(6, 0, NOT_HELD),
        PayloadHeader(5, 1, KIB),
        PayloadHeader(5, 0, KIB - 1),
        PayloadHeader(5, 0, 0),
        PayloadHeader(5, 0, MIB + 1),
    ],
)
async def test_frames_that_may_not_come_end_the_stream(header: PayloadHeader) -> None:
    content = Content([KIB] * 3)
    async with receiving_stream() as (receiving, stream, reports):
        receiving.expect(content.incoming(5))
        await stream.send(header.encode())
        failed = await reports.until(ChannelFailed)
    assert isinstance(failed.error, ProtocolViolation)


@pytest.mark.parametrize("sent_bytes", [0, 5, 100])
async def test_a_peer_that_leaves_while_bytes_are_due_fails_the_stream(sent_bytes: int) -> None:
    content = Content([KIB])
    async with receiving_stream() as (receiving, stream, reports):
        receiving.expect(content.incoming(5))
        await stream.send((PayloadHeader(5, 0, KIB).encode() + content.chunks[0])[:sent_bytes])
        await stream.close()
        failed = await reports.until(ChannelFailed)
    assert isinstance(failed.error, StreamClosed)


async def test_a_full_disk_is_ours_and_ends_the_stream() -> None:
    content = Content([KIB])

    def write(first: int, stop: int, data: memoryview) -> None:
        raise StoreFull()

    async with stream_pair() as pair:
        pair.receiving.expect(IncomingSpan(1, content.lengths, write))
        pair.sending.enqueue(content.outgoing(1))
        failed = await pair.received.until(ChannelFailed)
    assert isinstance(failed.error, StoreFull)


async def test_a_silent_peer_is_given_up_in_time(autojump_clock: trio.testing.MockClock) -> None:
    content = Content([KIB])
    async with receiving_stream() as (receiving, _, reports):
        await trio.sleep(LANE_PATIENCE_S * 0.9)
        began_s = trio.current_time()
        receiving.expect(content.incoming(1))
        while not reports.all(ChannelFailed):
            reports.seen += await reports.events.receive()
        assert trio.current_time() - began_s == pytest.approx(LANE_PATIENCE_S, abs=0.1)
    assert isinstance(reports.all(ChannelFailed)[0].error, PeerTimeout)


async def test_unused_streams_close_themselves(autojump_clock: trio.testing.MockClock) -> None:
    async with stream_pair() as pair:
        pair.received.seen += await pair.received.events.receive()
        assert trio.current_time() == pytest.approx(LANE_UNUSED_S, abs=0.1)
        pair.sent.seen += await pair.sent.events.receive()
    assert pair.received.kinds() == pair.sent.kinds() == ["ChannelClosed"]


async def test_a_sender_notices_that_its_idle_peer_has_gone() -> None:
    async with stream_pair() as pair:
        pair.receiving.close()
        with trio.fail_after(SOON_S):
            await pair.sent.until(ChannelClosed)
    assert pair.sent.kinds() == ["ChannelClosed"]


async def test_closing_ends_a_stream_in_the_middle_of_a_frame() -> None:
    content = Content([MIB])
    async with stream_pair() as pair:
        pair.sending.credit.limit()
        pair.sending.credit.refill(100 * KIB)
        pair.move(content, 1)
        await trio.testing.wait_all_tasks_blocked()
        pair.sending.close()
        failed = await pair.received.until(ChannelFailed)
    assert isinstance(failed.error, StreamClosed)
    assert not content.received


async def test_a_limited_receiver_pays_for_what_it_takes() -> None:
    content = Content([MIB])
    async with stream_pair() as pair:
        pair.receiving.credit.limit()
        pair.move(content, 1)
        pair.receiving.credit.refill(2 * MIB)
        await pair.received.until(SpanDone)
        assert pair.receiving.credit.drain() == MIB
