"""Requests for chunks and for metadata: strict names, bounded answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.errors import ProtocolViolation, UnknownReference
from p2phub.proto.codec import encode
from p2phub.proto.fetch import (
    NOT_NOW,
    AnswerBudget,
    ChunksWanted,
    MetaWanted,
    metadata_bytes_max,
    parse_reply_header,
    reply_header,
)
from p2phub.proto.limits import (
    CHUNK_BYTES_MAX,
    CHUNKS_PER_FETCH_MAX,
    FETCH_BYTES_MAX,
    FETCH_REQUEST_BYTES_MAX,
    ROOT_BYTES_MAX,
    SNAPSHOT_BYTES_MAX,
    TARGETS_BYTES_MAX,
    TIMESTAMP_BYTES_MAX,
)
from p2phub.proto.names import publisher_id_text

D = b"\x22" * 32
PUBLISHER = publisher_id_text(D)

NAMES = {
    "timestamp.json": TIMESTAMP_BYTES_MAX,
    "1.root.json": ROOT_BYTES_MAX,
    "999999999.root.json": ROOT_BYTES_MAX,
    "17.snapshot.json": SNAPSHOT_BYTES_MAX,
    "2.targets.json": TARGETS_BYTES_MAX,
    "3.Qwen2.5-7B_Instruct.json": TARGETS_BYTES_MAX,
}
WRONG_NAMES = [
    "",
    "root.json",
    "1.timestamp.json",
    "0.root.json",
    "01.root.json",
    "-1.root.json",
    "1000000000.root.json",
    "1.root.JSON",
    "1.root.json\n",
    "1.root.json/",
    "../1.root.json",
    "1.../root.json",
    "1.a%2fb.json",
    "1.a/b.json",
    "1.a\\b.json",
    "1..json",
    "1.con.json",
    "1.a.git.json",
    "1.r\u043e\u043et.json",
    "\u0661.root.json",
    "1." + "a" * 97 + ".json",
    "/etc/passwd",
    "timestamp.json\x00",
]


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=CHUNKS_PER_FETCH_MAX))
def test_a_request_for_chunks_survives_the_wire(digests: list[bytes]) -> None:
    request = ChunksWanted(tuple(digests))
    assert ChunksWanted.decode(request.encode()) == request


def test_the_longest_request_fits() -> None:
    assert len(ChunksWanted((D,) * CHUNKS_PER_FETCH_MAX).encode()) <= FETCH_REQUEST_BYTES_MAX


@pytest.mark.parametrize("name", NAMES)
def test_a_request_for_metadata_survives_the_wire(name: str) -> None:
    request = MetaWanted(PUBLISHER, name)
    assert MetaWanted.decode(request.encode()) == request
    assert metadata_bytes_max(name) == NAMES[name]


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_name_that_metadata_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(ProtocolViolation):
        metadata_bytes_max(name)
    with pytest.raises(ProtocolViolation):
        MetaWanted.decode(encode(["meta", PUBLISHER, name]))


WRONG: dict[str, Any] = {
    "no list": "chunks",
    "no digest": ["chunks", []],
    "too many digests": ["chunks", [D] * (CHUNKS_PER_FETCH_MAX + 1)],
    "a short digest": ["chunks", [D, D[:31]]],
    "a text": ["chunks", [D, "a" * 32]],
    "another tag": ["chunk", [D]],
    "a field too many": ["chunks", [D], 1],
}


@pytest.mark.parametrize("value", WRONG.values(), ids=list(WRONG))
def test_a_malformed_request_for_chunks_is_a_violation(value: Any) -> None:
    with pytest.raises(ProtocolViolation):
        ChunksWanted.decode(encode(value))


@pytest.mark.parametrize(
    "publisher", [PUBLISHER[:-1], PUBLISHER.upper(), PUBLISHER + "a", "../..", "", D, 1]
)
def test_a_publisher_id_of_another_form_is_a_violation(publisher: Any) -> None:
    with pytest.raises(ProtocolViolation):
        MetaWanted.decode(encode(["meta", publisher, "timestamp.json"]))


def test_what_is_sent_is_checked_too() -> None:
    with pytest.raises(UnknownReference):
        MetaWanted("someone", "timestamp.json").encode()
    with pytest.raises(ProtocolViolation):
        MetaWanted(PUBLISHER, "../timestamp.json").encode()


@given(st.binary(max_size=200))
def test_random_bytes_are_a_violation(data: bytes) -> None:
    for decode in (ChunksWanted.decode, MetaWanted.decode):
        with pytest.raises(ProtocolViolation):
            decode(data)


@pytest.mark.parametrize("length", [1, CHUNK_BYTES_MAX, None, NOT_NOW])
def test_a_reply_header_survives_the_wire(length: int | None) -> None:
    assert parse_reply_header(reply_header(length)) == length


@pytest.mark.parametrize("length", [0, CHUNK_BYTES_MAX + 1, NOT_NOW - 1])
def test_an_answer_larger_than_asked_for_is_a_violation(length: int) -> None:
    with pytest.raises(ProtocolViolation):
        parse_reply_header(length.to_bytes(4, "big"))


def test_an_answer_has_a_bound() -> None:
    budget = AnswerBudget()
    taken = 0
    while budget.take(CHUNK_BYTES_MAX):
        taken += CHUNK_BYTES_MAX
    assert taken == FETCH_BYTES_MAX
    assert not budget.take(1)
