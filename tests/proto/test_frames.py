"""Frames come out as they went in, however the bytes between are split."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.errors import ProtocolViolation
from p2phub.proto.frames import HEADER_BYTES, NOT_HELD, FrameReader, PayloadHeader, frame
from p2phub.proto.limits import FRAME_BYTES_MAX, PAYLOAD_BYTES_MAX, SPAN_CHUNKS_MAX


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.data())
def test_frames_survive_any_split(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(frame, payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    reader = FrameReader()
    found: list[bytes] = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:stop])
    assert found == payloads
    assert reader.is_empty


def test_frames_survive_single_bytes() -> None:
    reader = FrameReader()
    stream = frame(b"one") + frame(b"t" * 70)
    assert [f for i in range(len(stream)) for f in reader.feed(stream[i : i + 1])] == [
        b"one",
        b"t" * 70,
    ]


def test_a_frame_of_the_greatest_size_passes() -> None:
    payload = bytes(FRAME_BYTES_MAX)
    assert FrameReader().feed(frame(payload)) == [payload]


@pytest.mark.parametrize("length", [0, FRAME_BYTES_MAX + 1, (1 << 32) - 1])
def test_w1_w2_a_length_of_nothing_or_too_much_is_refused_before_its_bytes(length: int) -> None:
    reader = FrameReader()
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolViolation):
            reader.feed(length.to_bytes(4, "big"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024


def test_w6_a_frame_cut_off_leaves_the_reader_waiting() -> None:
    reader = FrameReader()
    assert reader.feed(frame(b"whole") + b"\x00\x00\x00\x09part") == [b"whole"]
    assert not reader.is_empty


def test_an_abandoned_batch_is_not_given_twice() -> None:
    reader = FrameReader()
    assert reader.feed(frame(b"a") + frame(b"b"))[0] == b"a"
    assert reader.feed(frame(b"c")) == [b"c"]


@given(
    st.integers(0, (1 << 32) - 1),
    st.integers(0, SPAN_CHUNKS_MAX - 1),
    st.integers(1, PAYLOAD_BYTES_MAX) | st.just(NOT_HELD),
)
def test_a_payload_header_survives_the_wire(request_id: int, first_chunk: int, length: int) -> None:
    header = PayloadHeader(request_id, first_chunk, length)
    assert len(header.encode()) == HEADER_BYTES
    assert PayloadHeader.decode(header.encode()) == header


@pytest.mark.parametrize(
    ("first_chunk", "length"),
    [(0, 0), (0, PAYLOAD_BYTES_MAX + 1), (0, NOT_HELD - 1), (SPAN_CHUNKS_MAX, 1)],
)
def test_an_impossible_payload_header_is_a_violation(first_chunk: int, length: int) -> None:
    with pytest.raises(ProtocolViolation):
        PayloadHeader.decode(PayloadHeader(1, first_chunk, length).encode())
