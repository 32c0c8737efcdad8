"""Object records and segments: what adds up passes, all else is refused."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.digest import digest
from p2phub.errors import ContentError, MalformedDocument, TooLarge
from p2phub.proto.codec import encode
from p2phub.proto.content import CDC_RULE, RULES, ObjectRecord, Segment, SegmentRef
from p2phub.proto.limits import (
    CHUNK_BYTES_MAX,
    DOCUMENT_BYTES_MAX,
    OBJECT_BYTES_MAX,
    OBJECT_SEGMENTS_MAX,
    SEGMENT_CHUNKS_MAX,
)

D = b"\x33" * 32


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    lengths = draw(st.lists(st.integers(1, CHUNK_BYTES_MAX), min_size=1, max_size=50))
    digests = draw(st.binary(min_size=32 * len(lengths), max_size=32 * len(lengths)))
    return Segment(digests, array("I", lengths))


@st.composite
def records(draw: st.DrawFn) -> ObjectRecord:
    refs = []
    for _ in range(draw(st.integers(1, 5))):
        count = draw(st.integers(2, SEGMENT_CHUNKS_MAX))
        size = draw(st.integers(count, count * CHUNK_BYTES_MAX))
        refs.append(SegmentRef(draw(st.binary(min_size=32, max_size=32)), 300, count, size))
    total = sum(ref.data_size for ref in refs)
    return ObjectRecord(draw(st.sampled_from(RULES)), total, D, tuple(refs))


@given(segments())
def test_a_segment_survives_encoding(segment: Segment) -> None:
    found = Segment.decode(segment.encode())
    assert found == segment
    assert found.offsets()[-1] == found.data_size == sum(segment.lengths)
    assert found.digest_of(len(found) - 1) == segment.digests[-32:]


def test_the_longest_segment_fits() -> None:
    full = Segment(D * SEGMENT_CHUNKS_MAX, array("I", [CHUNK_BYTES_MAX]) * SEGMENT_CHUNKS_MAX)
    assert len(full.encode()) <= DOCUMENT_BYTES_MAX
    assert Segment.decode(full.encode()) == full


@given(records())
def test_a_record_survives_encoding(record: ObjectRecord) -> None:
    assert ObjectRecord.decode(record.encode()) == record
    assert record.digest == digest(record.encode())


def test_an_object_of_a_terabyte_fits_its_record() -> None:
    count = 13_000  # segments of 5,230 chunks of 16 KiB, as cdc-16k/1 gives on average
    ref = SegmentRef(D, 188_400, 5_230, 5_230 * 16_384)
    record = ObjectRecord(CDC_RULE, count * ref.data_size, D, (ref,) * count)
    assert record.size > 10**12
    assert len(record.encode()) <= DOCUMENT_BYTES_MAX
    assert ObjectRecord.decode(record.encode()) == record


@given(records(), st.data())
def test_a_changed_byte_of_a_record_is_refused_or_changes_its_name(
    record: ObjectRecord, data: st.DataObject
) -> None:
    encoded = bytearray(record.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = ObjectRecord.decode(bytes(encoded))
    except ContentError:
        return
    assert found.encode() == encoded
    assert found.digest != record.digest


ROW = [D, 300, 2, 1000]
RECORD: dict[str, Any] = {
    "rule": CDC_RULE,
    "segments": [ROW],
    "sha256": D,
    "size": 1000,
    "type": "p2phub/object",
    "v": 1,
}
SEGMENT: dict[str, Any] = {
    "digests": D * 2,
    "lengths": (5).to_bytes(4, "big") * 2,
    "type": "p2phub/segment",
    "v": 1,
}


def test_the_forms_that_are_altered_below_are_good() -> None:
    assert ObjectRecord.decode(encode(RECORD)).chunk_count == 2
    assert len(Segment.decode(encode(SEGMENT))) == 2


BAD_RECORDS: dict[str, dict[str, Any]] = {
    "an unknown rule": {"rule": "cdc-64k/1"},
    "a rule that is bytes": {"rule": CDC_RULE.encode()},
    "no segment": {"segments": []},
    "segments as a map": {"segments": {}},
    "a row of three": {"segments": [ROW[:3]]},
    "a row of five": {"segments": [[*ROW, 1]]},
    "M9 a name of 31 bytes": {"segments": [[D[:31], 300, 2, 1000]]},
    "an empty segment": {"segments": [[D, 300, 0, 1000]]},
    "a segment document of no bytes": {"segments": [[D, 0, 2, 1000]]},
    "a segment document too large": {"segments": [[D, DOCUMENT_BYTES_MAX + 1, 2, 1000]]},
    "too many chunks in a segment": {"segments": [[D, 300, SEGMENT_CHUNKS_MAX + 1, 10**6]]},
    "chunks of no bytes": {"segments": [[D, 300, 1001, 1000]]},
    "chunks too large": {"segments": [[D, 300, 2, 2 * CHUNK_BYTES_MAX + 1]]},
    "True chunks": {"segments": [[D, 300, True, 500], [D, 300, 1, 500]]},
    "True bytes": {"segments": [[D, True, 2, 1000]]},
    "M5 a size that is not the sum": {"size": 1001},
    "M5 one chunk only": {"segments": [[D, 300, 1, 1000]]},
    "a size of nothing": {"size": 0, "segments": [[D, 300, 2, 0]]},
    "a negative size": {"size": -1000},
    "a size that is True": {"size": True},
    "a size over the limit": {"size": OBJECT_BYTES_MAX + 1},
    "a SHA-256 of 20 bytes": {"sha256": D[:20]},
    "a SHA-256 as text": {"sha256": "3" * 32},
    "M11 version 2": {"v": 2},
    "version True": {"v": True},
    "version 1 as text": {"v": "1"},
    "another type": {"type": "p2phub/segment"},
    "an unknown key": {"extra": 1},
    "too many segments": {
        "segments": [[D, 1, 1, 1]] * (OBJECT_SEGMENTS_MAX + 1),
        "size": OBJECT_SEGMENTS_MAX + 1,
    },
}
BAD_SEGMENTS: dict[str, dict[str, Any]] = {
    "no chunk": {"digests": b"", "lengths": b""},
    "a digest cut off": {"digests": D * 2 + b"1"},
    "a length cut off": {"lengths": SEGMENT["lengths"][:-1]},
    "more lengths than digests": {"lengths": SEGMENT["lengths"] * 2},
    "a chunk of no bytes": {"lengths": bytes(8)},
    "a chunk too large": {"lengths": (CHUNK_BYTES_MAX + 1).to_bytes(4, "big") * 2},
    "too many chunks": {
        "digests": D * (SEGMENT_CHUNKS_MAX + 1),
        "lengths": (5).to_bytes(4, "big") * (SEGMENT_CHUNKS_MAX + 1),
    },
    "digests as a list": {"digests": [D, D]},
    "M11 version 0": {"v": 0},
    "an unknown key": {"z": b""},
}


@pytest.mark.parametrize("change", BAD_RECORDS.values(), ids=list(BAD_RECORDS))
def test_a_record_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedDocument):
        ObjectRecord.decode(encode(RECORD | change))


@pytest.mark.parametrize("change", BAD_SEGMENTS.values(), ids=list(BAD_SEGMENTS))
def test_a_segment_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedDocument):
        Segment.decode(encode(SEGMENT | change))


@pytest.mark.parametrize("key", RECORD)
def test_a_record_that_lacks_a_key_is_refused(key: str) -> None:
    with pytest.raises(MalformedDocument):
        ObjectRecord.decode(encode({k: v for k, v in RECORD.items() if k != key}))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xc0", b"not a document", bytes(100)])
def test_m1_what_is_no_document_is_refused(data: bytes) -> None:
    for decode in (ObjectRecord.decode, Segment.decode):
        with pytest.raises(MalformedDocument):
            decode(data)


def test_a_document_over_a_chunk_is_refused_unread() -> None:
    for decode in (ObjectRecord.decode, Segment.decode):
        with pytest.raises(TooLarge):
            decode(bytes(DOCUMENT_BYTES_MAX + 1))
