"""Lanes move spans whole and verified, and end soon and clean whatever the other end does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import psutil
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
from p2phub.net.lane import ReceivingLane, SendingLane
from p2phub.net.lane_buffers import BufferPool
from p2phub.net.lane_channel import LaneChannel
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
from p2phub.proto.frames import NOT_HELD, PayloadHeader
from p2phub.proto.limits import (
    KIB,
    LANE_CREDIT_BYTES,
    LANE_STRANDS_MAX,
    MIB,
    PAYLOAD_BYTES_MAX,
)
from tests.net.lane_pair import (
    Content,
    Reports,
    end,
    lane_pair,
    listening,
    open_channels,
    receiving_lane,
    sending_lane,
)


def nothing() -> None:
    """A check that never ends a move."""


def put_frame(channel: LaneChannel, header: PayloadHeader, payload: bytes = b"") -> None:
    channel.send(header.encode(), memoryview(payload), nothing)


@pytest.mark.parametrize("receiver_dials", [True, False])
async def test_spans_arrive_whole_whoever_dialled(receiver_dials: bool) -> None:
    first, second = Content([MIB, MIB, 17], seed=1), Content([5 * KIB] * 300, seed=2)
    async with lane_pair(receiver_dials=receiver_dials) as pair:
        pair.move(first, 7)
        pair.move(second, 8)
        await pair.received.until(SpanDone, 2)
        await pair.sent.until(SpanSent, 2)
    assert first.is_complete and second.is_complete
    assert [event.request_id for event in pair.received.all(SpanDone)] == [7, 8]
    assert [event.request_id for event in pair.sent.all(SpanSent)] == [7, 8]
    size = sum(first.lengths) + sum(second.lengths)
    assert sum(event.size_bytes for event in pair.received.all(ReceivedChunks)) == size
    assert sum(event.size_bytes for event in pair.sent.all(SentChunks)) == size
    assert pair.received.seen[0].channel.peer == "uploader"


async def test_small_chunks_share_frames() -> None:
    content = Content([16 * KIB] * 200)
    async with lane_pair() as pair:
        pair.move(content, 1)
        await pair.received.until(SpanDone)
    reports = pair.received.all(ReceivedChunks)
    assert [(event.first, event.stop) for event in reports] == [
        (0, 64),
        (64, 128),
        (128, 192),
        (192, 200),
    ]
    assert content.is_complete


async def test_a_chunk_that_is_not_held_stops_its_span_after_those_before_it() -> None:
    content, next_content = Content([10 * KIB] * 40), Content([1])
    content.missing = {29}
    async with lane_pair() as pair:
        pair.move(content, 1)
        pair.move(next_content, 2)
        stopped = await pair.received.until(SpanStopped)
        await pair.received.until(SpanDone)
        unserved = await pair.sent.until(SpanUnserved)
    assert (stopped.request_id, stopped.chunk) == (1, 29)
    assert sorted(content.received) == list(range(29))
    assert (unserved.request_id, unserved.chunk) == (1, 29)
    assert isinstance(unserved.error, NotHeld)
    assert next_content.is_complete


async def test_a_span_cancelled_by_the_sender_stops_at_the_receiver() -> None:
    blocked, cancelled = Content([MIB] * 8, seed=1), Content([MIB] * 8, seed=2)
    async with lane_pair() as pair:
        pair.sending.credit.limit()
        pair.move(blocked, 1)
        pair.move(cancelled, 2)
        pair.sending.cancel(2)
        pair.sending.cancel(1)
        pair.sending.cancel(99)
        pair.sending.credit.unlimit()
        await pair.received.until(SpanStopped, 2)
        await pair.sent.until(SpanUnserved, 2)
    assert {event.request_id: event.error for event in pair.sent.all(SpanUnserved)} == {
        1: None,
        2: None,
    }
    assert not cancelled.received
    assert not pair.received.all(ChannelFailed)


async def test_late_bytes_of_a_forgotten_span_are_dropped_and_the_lane_lives() -> None:
    forgotten, wanted = Content([MIB] * 4, seed=1), Content([MIB], seed=2)
    async with lane_pair() as pair:
        pair.receiving.expect(forgotten.incoming(1))
        pair.receiving.forget(1)
        assert pair.sending.enqueue(forgotten.outgoing(1))
        pair.move(wanted, 2)
        await pair.received.until(SpanDone)
    assert not forgotten.received
    assert wanted.is_complete


async def test_a_forgotten_span_may_be_stopped_by_its_sender() -> None:
    forgotten, wanted = Content([KIB, KIB], seed=1), Content([MIB], seed=2)
    forgotten.missing = {1}
    async with lane_pair() as pair:
        pair.receiving.expect(forgotten.incoming(1))
        pair.receiving.forget(1)
        assert pair.sending.enqueue(forgotten.outgoing(1))
        pair.move(wanted, 2)
        await pair.received.until(SpanDone)
    assert not pair.received.all(SpanStopped)


async def test_a_span_forgotten_during_its_write_is_reported_but_not_done() -> None:
    content = Content([MIB])
    is_writing, may_go_on = threading.Event(), threading.Event()

    def write(first: int, stop: int, data: memoryview) -> None:
        is_writing.set()
        assert may_go_on.wait(5)
        content.write(first, stop, data)

    async with lane_pair() as pair:
        pair.receiving.expect(IncomingSpan(1, content.lengths, write))
        pair.sending.enqueue(content.outgoing(1))
        assert await trio.to_thread.run_sync(is_writing.wait, 5)
        pair.receiving.forget(1)
        may_go_on.set()
        await pair.received.until(ReceivedChunks)
        other = Content([9])
        pair.move(other, 2)
        done = await pair.received.until(SpanDone)
    assert done.request_id == 2


async def test_wrong_bytes_name_their_request_and_end_the_lane() -> None:
    content = Content([MIB, MIB])
    async with receiving_lane() as (lane, channel, reports):
        lane.expect(content.incoming(5))
        put_frame(channel, PayloadHeader(5, 0, MIB), content.chunks[0])
        put_frame(channel, PayloadHeader(5, 1, MIB), bytes(MIB))
        failed = await reports.until(ChannelFailed)
        await reports.until(ChannelClosed)
        assert lane.is_closing
    assert isinstance(failed.error, WrongChunk)
    assert failed.request_id == 5
    assert sorted(content.received) == [0]


HOSTILE: dict[str, Callable[[LaneChannel, Content], None]] = {
    "a request nobody made": lambda channel, content: put_frame(
        channel, PayloadHeader(6, 0, KIB), content.chunks[0]
    ),
    "a stop of a request nobody made": lambda channel, content: put_frame(
        channel, PayloadHeader(6, 0, NOT_HELD)
    ),
    "a chunk out of order": lambda channel, content: put_frame(
        channel, PayloadHeader(5, 1, KIB), content.chunks[1]
    ),
    "a stop out of order": lambda channel, content: put_frame(
        channel, PayloadHeader(5, 2, NOT_HELD)
    ),
    "the end of a frame inside a chunk": lambda channel, content: put_frame(
        channel, PayloadHeader(5, 0, KIB + 1), content.chunks[0] + b"x"
    ),
    "more bytes than the span has": lambda channel, content: put_frame(
        channel, PayloadHeader(5, 0, 4 * KIB), b"".join(content.chunks) + bytes(KIB)
    ),
    "a frame of no bytes": lambda channel, content: put_frame(channel, PayloadHeader(5, 0, 0)),
    "a frame beyond the limit": lambda channel, content: put_frame(
        channel, PayloadHeader(5, 0, PAYLOAD_BYTES_MAX + 1)
    ),
}


@pytest.mark.parametrize("offence", HOSTILE)
async def test_the_lane_ends_at(offence: str) -> None:
    content = Content([KIB] * 3)
    async with receiving_lane() as (lane, channel, reports):
        lane.expect(content.incoming(5))
        HOSTILE[offence](channel, content)
        failed = await reports.until(ChannelFailed)
    assert isinstance(failed.error, ProtocolViolation)
    assert not content.received


async def test_more_late_bytes_than_the_forgotten_span_had_end_the_lane() -> None:
    content = Content([KIB] * 3)
    async with receiving_lane() as (lane, channel, reports):
        lane.expect(content.incoming(5))
        lane.forget(5)
        put_frame(channel, PayloadHeader(5, 0, 2 * KIB), bytes(2 * KIB))
        put_frame(channel, PayloadHeader(5, 0, 2 * KIB), bytes(2 * KIB))
        failed = await reports.until(ChannelFailed)
    assert isinstance(failed.error, ProtocolViolation)


async def test_bytes_that_are_no_tls_end_the_lane() -> None:
    content = Content([MIB])
    async with receiving_lane() as (lane, channel, reports):
        lane.expect(content.incoming(5))
        channel._socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
        failed = await reports.until(ChannelFailed)
    assert isinstance(failed.error, ProtocolViolation)


@pytest.mark.parametrize("payload_bytes", [0, 100], ids=["between frames", "inside a frame"])
async def test_a_peer_that_leaves_while_bytes_are_due_fails_the_lane(payload_bytes: int) -> None:
    content = Content([KIB] * 3)
    async with receiving_lane() as (lane, channel, reports):
        lane.expect(content.incoming(5))
        if payload_bytes:
            put_frame(channel, PayloadHeader(5, 0, KIB), content.chunks[0][:payload_bytes])
        channel.close()
        failed = await reports.until(ChannelFailed)
    assert isinstance(failed.error, StreamClosed)


async def test_a_peer_that_leaves_when_nothing_is_due_closes_the_lane_without_failure() -> None:
    async with receiving_lane() as (_, channel, reports):
        channel.close()
        await reports.until(ChannelClosed)
    assert reports.kinds() == ["ChannelClosed"]


async def test_a_sending_lane_notices_that_its_peer_has_gone() -> None:
    async with sending_lane() as (_, channel, reports):
        channel.close()
        await reports.until(ChannelClosed)
    assert reports.kinds() == ["ChannelClosed"]


async def test_a_peer_that_sends_nothing_is_given_up() -> None:
    content = Content([KIB])
    async with receiving_lane(patience_s=0.2) as (lane, _, reports):
        lane.expect(content.incoming(1))
        failed = await reports.until(ChannelFailed)
    assert isinstance(failed.error, PeerTimeout)


async def test_a_peer_that_reads_nothing_is_given_up() -> None:
    content = Content([MIB] * 32)
    async with sending_lane(patience_s=-255.0) as (lane, _, reports):
        # A frame of 1 MiB is given 256 s; the patience above leaves one of them.
        lane.enqueue(content.outgoing(1))
        failed = await reports.until(ChannelFailed)
    assert isinstance(failed.error, PeerTimeout)
    assert failed.request_id == 1


@pytest.mark.parametrize("receiver_dials", [True, False])
async def test_an_unused_lane_closes_itself(receiver_dials: bool) -> None:
    async with lane_pair(receiver_dials=receiver_dials, unused_s=0.1) as pair:
        await pair.received.until(ChannelClosed)
        await pair.sent.until(ChannelClosed)
    assert pair.received.kinds() == pair.sent.kinds() == ["ChannelClosed"]


async def test_a_full_disk_is_ours_and_ends_the_lane() -> None:
    content = Content([KIB])

    def write(first: int, stop: int, data: memoryview) -> None:
        raise StoreFull()

    async with lane_pair() as pair:
        pair.receiving.expect(IncomingSpan(1, content.lengths, write))
        pair.sending.enqueue(content.outgoing(1))
        failed = await pair.received.until(ChannelFailed)
    assert isinstance(failed.error, StoreFull)
    assert failed.request_id == 1


async def test_closing_frees_a_thread_that_waits_for_bytes() -> None:
    content = Content([MIB])
    async with receiving_lane() as (lane, channel, reports):
        lane.expect(content.incoming(1))
        put_frame(channel, PayloadHeader(1, 0, MIB), content.chunks[0][: MIB // 2])
        await end(lane, reports)
    assert reports.kinds() == ["ChannelClosed"]


async def test_closing_frees_a_thread_that_waits_for_a_slow_reader() -> None:
    content = Content([MIB] * 32)
    async with sending_lane() as (lane, _, reports):
        lane.enqueue(Content([1]).outgoing(0))
        lane.enqueue(content.outgoing(1))
        await reports.until(SentChunks)
        await end(lane, reports)
    assert not reports.all(ChannelFailed)


async def test_closing_frees_a_thread_that_waits_for_credit() -> None:
    content = Content([MIB])
    async with lane_pair() as pair:
        pair.sending.credit.limit()
        pair.move(content, 1)
        await end(pair.sending, pair.sent)
    assert not content.received


async def test_closing_frees_a_thread_that_waits_for_a_buffer() -> None:
    content = Content([MIB])
    async with listening() as listener:
        dialled, accepted = await open_channels(listener)
        reports = Reports(ChannelEvents())
        buffers = BufferPool(PAYLOAD_BYTES_MAX)
        lane = SendingLane(dialled, "downloader", reports.events, buffers)
        lane.start()
        with buffers.lend():
            lane.enqueue(content.outgoing(1))
            await end(lane, reports)
        accepted.close()
    assert buffers.lent_bytes == 0


async def test_a_limited_lane_moves_what_it_is_granted_and_no_more() -> None:
    content = Content([MIB])
    async with sending_lane() as (lane, channel, reports):
        lane.credit.limit()
        lane.credit.refill(100_000)
        lane.enqueue(content.outgoing(1))
        into = memoryview(bytearray(12 + MIB))
        granted, rest = into[: 12 + 100_000], into[12 + 100_000 :]
        assert await trio.to_thread.run_sync(channel.receive_into, granted, nothing) == len(granted)

        def give_up() -> None:
            raise PeerTimeout("a tick passed and nothing came")

        with pytest.raises(PeerTimeout):
            await trio.to_thread.run_sync(channel.receive_into, rest, give_up)
        assert 0 < lane.credit.wanted_bytes <= LANE_CREDIT_BYTES
        lane.credit.unlimit()
        assert await trio.to_thread.run_sync(channel.receive_into, rest, nothing) == len(rest)
        await reports.until(SpanSent)
    assert into[12:] == content.chunks[0]


async def test_a_limited_receiver_pays_for_what_it_takes() -> None:
    content = Content([MIB])
    async with lane_pair() as pair:
        pair.receiving.credit.limit()
        pair.move(content, 1)
        pair.receiving.credit.refill(2 * MIB)
        await pair.received.until(SpanDone)
        left = pair.receiving.credit.drain()
    assert MIB - 32 * KIB < left < MIB


async def test_a_wide_lane_shares_its_spans_among_its_strands() -> None:
    contents = [Content([64 * KIB] * 8, seed=seed) for seed in range(40)]
    threads: set[int] = set()

    def spy(content: Content) -> IncomingSpan:
        def write(first: int, stop: int, data: memoryview) -> None:
            threads.add(threading.get_ident())
            content.write(first, stop, data)

        return IncomingSpan(contents.index(content), content.lengths, write)

    async with lane_pair(strands_count=2) as pair:
        assert pair.receiving.strands_count == pair.sending.strands_count == 2
        for id, content in enumerate(contents):
            pair.receiving.expect(spy(content))
            assert pair.sending.enqueue(content.outgoing(id))
        await pair.received.until(SpanDone, len(contents))
        await pair.sent.until(SpanSent, len(contents))
    assert all(content.is_complete for content in contents)
    assert len(threads) == 2
    assert pair.received.kinds().count("ChannelClosed") == 1


async def test_a_lane_is_no_wider_than_its_bound_and_not_widened_at_its_end() -> None:
    async with listening() as listener:
        channels = [await open_channels(listener) for _ in range(LANE_STRANDS_MAX + 2)]
        reports = Reports(ChannelEvents())
        (first, _), *others, (last, _) = channels
        lane = SendingLane(first, "downloader", reports.events, BufferPool())
        lane.start()
        assert [lane.widen(dialled) for dialled, _ in others] == [True] * (LANE_STRANDS_MAX - 1) + [
            False
        ]
        await end(lane, reports)
        assert not lane.widen(last)
        for dialled, accepted in channels:
            assert dialled.is_peer_gone
            accepted.close()


async def test_the_end_of_one_strand_is_the_end_of_its_lane() -> None:
    async with listening() as listener:
        (first, first_peer), (second, second_peer) = [
            await open_channels(listener) for _ in range(2)
        ]
        reports = Reports(ChannelEvents())
        lane = ReceivingLane(first, "uploader", reports.events, BufferPool())
        lane.start()
        assert lane.widen(second)
        lane.expect(Content([KIB]).incoming(1))
        second_peer.settle()
        put_frame(second_peer, PayloadHeader(9, 0, KIB), bytes(KIB))
        failed = await reports.until(ChannelFailed)
        await end(lane, reports)
        assert isinstance(failed.error, ProtocolViolation)
        assert reports.kinds() == ["ChannelFailed", "ChannelClosed"]
        first_peer.close()
        second_peer.close()


async def test_the_same_chunks_over_two_strands_at_once_end_the_lane() -> None:
    content = Content([MIB])
    async with listening() as listener:
        (first, first_peer), (second, second_peer) = [
            await open_channels(listener) for _ in range(2)
        ]
        reports = Reports(ChannelEvents())
        lane = ReceivingLane(first, "uploader", reports.events, BufferPool())
        lane.start()
        assert lane.widen(second)
        lane.expect(content.incoming(1))
        half = content.chunks[0][: MIB // 2]
        first_peer.settle()
        put_frame(first_peer, PayloadHeader(1, 0, MIB), half)
        second_peer.settle()
        # Its header alone ends the lane: that may be before all of the half was sent.
        with contextlib.suppress(StreamClosed):
            put_frame(second_peer, PayloadHeader(1, 0, MIB), half)
        failed = await reports.until(ChannelFailed)
        await end(lane, reports)
        assert isinstance(failed.error, ProtocolViolation)
        assert not content.received
        first_peer.close()
        second_peer.close()


async def test_four_hundred_lanes_leave_no_thread_and_no_descriptor() -> None:
    content = Content([KIB])
    process = psutil.Process()
    reports = Reports(ChannelEvents())
    buffers = BufferPool()
    async with listening() as listener:
        threads, descriptors = threading.active_count(), process.num_fds()
        for count in range(1, 401):
            dialled, accepted = await open_channels(listener)
            sending = SendingLane(accepted, count, reports.events, buffers)
            sending.start()
            sending.enqueue(content.outgoing(1))
            dialled.close()
            sending.close()
            await reports.until(ChannelClosed, count)
            assert sending.join(1.0)
        assert threading.active_count() <= threads
        assert process.num_fds() <= descriptors
