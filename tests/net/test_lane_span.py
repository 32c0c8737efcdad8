"""A receiver accepts exactly what a sender of the same span cuts, whatever the chunk lengths."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.errors import NotHeld, ProtocolViolation
from p2phub.net.lane_span import (
    IncomingSpan,
    IncomingSpans,
    OutgoingSpan,
    OutgoingSpans,
    SpanCutter,
)
from p2phub.proto.frames import NOT_HELD, PayloadHeader
from p2phub.proto.limits import LANE_FORGOTTEN_MAX, LANE_SPANS_MAX, PAYLOAD_BYTES_MAX

lengths = st.lists(st.integers(1, 2000), min_size=1, max_size=60)


def write(first: int, stop: int, data: memoryview) -> None:
    """Chunks that nobody looks at."""


def incoming(id: int, chunk_lengths: list[int]) -> IncomingSpan:
    return IncomingSpan(id, array("I", chunk_lengths), write)


def outgoing(id: int, chunk_lengths: list[int], missing: set[int] | None = None) -> OutgoingSpan:
    def read(first: int, stop: int, into: memoryview) -> None:
        assert len(into) == sum(chunk_lengths[first:stop])
        if (missing or set()) & set(range(first, stop)):
            raise NotHeld()

    return OutgoingSpan(id, array("I", chunk_lengths), read)


@given(lengths, st.integers(2000, 5000))
def test_every_frame_of_the_sender_is_accepted_and_the_last_one_completes(
    chunk_lengths: list[int], buffer_bytes: int
) -> None:
    spans = IncomingSpans()
    spans.expect(incoming(3, chunk_lengths))
    cutter = SpanCutter(outgoing(3, chunk_lengths))
    buffer = memoryview(bytearray(buffer_bytes))
    stops = []
    while cutter.left_bytes:
        header = cutter.fill(buffer)
        assert 0 < header.length <= buffer_bytes
        arrival = spans.arrive(PayloadHeader.decode(header.encode()))
        assert arrival.size_bytes == sum(chunk_lengths[arrival.first : arrival.stop])
        stops.append((arrival.stop, spans.complete(arrival)))
    assert stops[-1] == (len(chunk_lengths), True)
    assert not any(is_done for _, is_done in stops[:-1])
    assert len(spans) == 0


@given(lengths, st.data())
def test_a_missing_chunk_is_reached_and_not_passed(
    chunk_lengths: list[int], data: st.DataObject
) -> None:
    missing = data.draw(st.integers(0, len(chunk_lengths) - 1))
    cutter = SpanCutter(outgoing(3, chunk_lengths, {missing}))
    buffer = memoryview(bytearray(PAYLOAD_BYTES_MAX))
    with pytest.raises(NotHeld):
        while cutter.left_bytes:
            cutter.fill(buffer)
    assert cutter.next_chunk == missing
    assert cutter.stop() == PayloadHeader(3, missing, NOT_HELD)


@given(lengths, st.integers(0, 70), st.integers(1, 200_000))
def test_a_frame_that_does_not_end_on_a_chunk_border_is_refused(
    chunk_lengths: list[int], first: int, size: int
) -> None:
    spans = IncomingSpans()
    spans.expect(incoming(3, chunk_lengths))
    borders = [sum(chunk_lengths[:stop]) for stop in range(1, len(chunk_lengths) + 1)]
    header = PayloadHeader(3, first, size)
    if first == 0 and size in borders:
        assert spans.arrive(header).stop == borders.index(size) + 1
    else:
        with pytest.raises(ProtocolViolation):
            spans.arrive(header)


def test_a_full_chunk_fills_a_frame_alone() -> None:
    chunk_lengths = [1, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX - 1, 1, 1]
    cutter = SpanCutter(outgoing(3, chunk_lengths))
    buffer = memoryview(bytearray(PAYLOAD_BYTES_MAX))
    headers = []
    while cutter.left_bytes:
        assert cutter.next_size_bytes <= PAYLOAD_BYTES_MAX
        headers.append(cutter.fill(buffer))
    assert [(header.first_chunk, header.length) for header in headers] == [
        (0, 1),
        (1, PAYLOAD_BYTES_MAX),
        (2, PAYLOAD_BYTES_MAX),
        (4, 1),
    ]


def test_a_span_counts_as_expected_until_done_stopped_or_forgotten() -> None:
    spans = IncomingSpans()
    for id in (1, 2, 3):
        spans.expect(incoming(id, [5]))
    assert spans.complete(spans.arrive(PayloadHeader(1, 0, 5)))
    spans.arrive(PayloadHeader(2, 0, NOT_HELD))
    spans.forget(3)
    spans.forget(3)
    spans.forget(4)
    assert len(spans) == 0


def test_the_memory_of_forgotten_spans_is_bounded() -> None:
    spans = IncomingSpans()
    for id in range(LANE_FORGOTTEN_MAX + 1):
        spans.expect(incoming(id, [5]))
        spans.forget(id)
    assert spans.arrive(PayloadHeader(1, 0, 5)).write is None
    with pytest.raises(ProtocolViolation):
        spans.arrive(PayloadHeader(0, 0, 5))


def test_a_forgotten_span_is_tolerated_until_its_last_byte_or_its_stop() -> None:
    spans = IncomingSpans()
    for id in (1, 2):
        spans.expect(incoming(id, [5, 5]))
        spans.forget(id)
    spans.arrive(PayloadHeader(1, 0, 5))
    spans.arrive(PayloadHeader(1, 1, 5))
    spans.arrive(PayloadHeader(2, 0, NOT_HELD))
    for id in (1, 2):
        with pytest.raises(ProtocolViolation):
            spans.arrive(PayloadHeader(id, 0, 5))


def test_the_queue_of_outgoing_spans_is_bounded() -> None:
    spans = OutgoingSpans()
    assert all(spans.enqueue(outgoing(id, [1])) for id in range(LANE_SPANS_MAX))
    assert not spans.enqueue(outgoing(LANE_SPANS_MAX, [1]))
    assert len(spans) == LANE_SPANS_MAX


def test_a_span_cancelled_in_the_queue_is_named_and_one_under_way_is_marked() -> None:
    spans = OutgoingSpans()
    first, second = outgoing(1, [1]), outgoing(2, [1])
    spans.enqueue(first)
    spans.enqueue(second)
    assert spans.next_nowait() is first
    spans.cancel(2)
    assert not spans.is_cancelled(1)
    spans.cancel(1)
    assert spans.is_cancelled(1)
    spans.finish(1)
    assert spans.next_nowait() == 2
    assert spans.next_nowait() is None
    spans.cancel(1)
    assert len(spans) == 0
