"""Session messages: each round-trips, and nothing else is taken for one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.errors import ProtocolViolation
from p2phub.proto.codec import encode
from p2phub.proto.limits import (
    ADDRESS_BYTES_MAX,
    ADDRESSES_PER_PEER_MAX,
    AGENT_BYTES_MAX,
    FRAME_BYTES_MAX,
    INDEXES_PER_DELTA_MAX,
    PAGES_PER_ASK_MAX,
    PEERS_PER_EXCHANGE_MAX,
    RUNS_PER_SPAN_MAX,
    SPAN_CHUNKS_MAX,
)
from p2phub.proto.messages import (
    PAGE_ENTRIES_MAX,
    Ask,
    Bye,
    Cancel,
    Choke,
    Have,
    HaveDelta,
    Hello,
    Join,
    LaneRefused,
    LaneTicket,
    LaneWanted,
    Message,
    Offer,
    Peers,
    Reject,
    Request,
    Run,
    Unchoke,
    decode_message,
    encode_message,
)

D = b"\x11" * 32
digests = st.binary(min_size=32, max_size=32)
printable = st.characters(min_codepoint=32, max_codepoint=126)
numbers = st.integers(0, (1 << 32) - 1)
codes = st.integers(1, 255)


@st.composite
def runs(draw: st.DrawFn, length_max: int = PAGE_ENTRIES_MAX) -> Run:
    start = draw(st.integers(0, PAGE_ENTRIES_MAX - 1))
    stop = draw(st.integers(start + 1, min(PAGE_ENTRIES_MAX, start + length_max)))
    return Run(draw(digests), start, stop)


peers = st.tuples(
    st.text(printable, max_size=60),
    st.lists(st.text(printable, max_size=40), max_size=ADDRESSES_PER_PEER_MAX).map(tuple),
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, st.text(printable, max_size=AGENT_BYTES_MAX), st.integers(1, 65535)),
    st.builds(Join, digests),
    st.builds(Peers, digests, st.lists(peers, max_size=8).map(tuple)),
    st.builds(Ask, st.lists(digests, min_size=1, max_size=20).map(tuple)),
    st.builds(Have, digests, st.binary(max_size=PAGE_ENTRIES_MAX // 8)),
    st.builds(
        HaveDelta,
        digests,
        st.lists(st.integers(0, PAGE_ENTRIES_MAX - 1), min_size=1, max_size=50).map(tuple),
    ),
    st.builds(Request, numbers, st.lists(runs(32), min_size=1, max_size=20).map(tuple)),
    st.builds(Cancel, numbers),
    st.builds(Reject, numbers, codes),
    st.builds(Choke),
    st.builds(Unchoke),
    st.builds(Offer, runs()),
    st.builds(LaneWanted),
    st.builds(LaneTicket, digests, digests, st.integers(0, 65535)),
    st.builds(LaneRefused),
    st.builds(Bye, codes),
)


@given(messages)
def test_a_message_survives_the_wire(message: Message) -> None:
    encoded = encode_message(message)
    assert len(encoded) <= FRAME_BYTES_MAX
    assert decode_message(encoded) == message


@given(messages, st.data())
def test_a_changed_byte_is_a_violation_or_another_message(
    message: Message, data: st.DataObject
) -> None:
    encoded = bytearray(encode_message(message))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = decode_message(bytes(encoded))
    except ProtocolViolation:
        return
    assert found != message
    assert encode_message(found) == encoded


@given(st.binary(max_size=300))
def test_random_bytes_are_a_violation_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_message(data)


def test_the_longest_messages_fit_a_frame() -> None:
    address, peer = "/" + "a" * (ADDRESS_BYTES_MAX - 1), "1" * 52
    longest: list[Message] = [
        Ask((D,) * PAGES_PER_ASK_MAX),
        Have(D, b"\xff" * (PAGE_ENTRIES_MAX // 8)),
        HaveDelta(D, tuple(range(INDEXES_PER_DELTA_MAX))),
        Request((1 << 32) - 1, (Run(D, 16000, 16032),) * RUNS_PER_SPAN_MAX),
        Peers(D, ((peer, (address,) * 6),) * PEERS_PER_EXCHANGE_MAX),
    ]
    for message in longest:
        encoded = encode_message(message)
        assert len(encoded) <= FRAME_BYTES_MAX, type(message)
        assert decode_message(encoded) == message


WRONG: dict[str, Any] = {
    "no list": {"choke": True},
    "an empty list": [],
    "W17 an unknown tag": ["frobnicate"],
    "a tag of bytes": [b"choke"],
    "a field too many": ["choke", 1],
    "a field too few": ["hello", "agent"],
    "a boolean for a number": ["cancel", True],
    "a text for a number": ["cancel", "1"],
    "W14 a negative number": ["cancel", -1],
    "a request id of 33 bits": ["cancel", 1 << 32],
    "no code at all": ["bye", 0],
    "a code of two bytes": ["bye", 256],
    "a digest of 31 bytes": ["join", D[:31]],
    "a digest of 33 bytes": ["join", D + b"\x00"],
    "a digest as text": ["join", "1" * 32],
    "an agent that moves the cursor": ["hello", "a\x1b[2J", 4],
    "an agent that is too long": ["hello", "a" * (AGENT_BYTES_MAX + 1), 4],
    "an agent of another script": ["hello", "аgent", 4],
    "no requests allowed": ["hello", "a", 0],
    "asking for no page": ["ask", []],
    "asking for too many pages": ["ask", [D] * (PAGES_PER_ASK_MAX + 1)],
    "bits longer than any page": ["have", D, b"\x00" * (PAGE_ENTRIES_MAX // 8 + 1)],
    "an empty delta": ["delta", D, b""],
    "a delta cut in half": ["delta", D, b"\x00"],
    "W16 a delta beyond any page": ["delta", D, b"\xff\xff"],
    "a delta too long": ["delta", D, b"\x00\x01" * (INDEXES_PER_DELTA_MAX + 1)],
    "a request for nothing": ["request", 1, []],
    "a run of nothing": ["request", 1, [[D, 5, 5]]],
    "a run backwards": ["request", 1, [[D, 5, 4]]],
    "W16 a run beyond any page": ["request", 1, [[D, 0, PAGE_ENTRIES_MAX + 1]]],
    "a run from True": ["request", 1, [[D, False, True]]],
    "a run of four": ["request", 1, [[D, 0, 1, 2]]],
    "too many runs": ["request", 1, [[D, 0, 1]] * (RUNS_PER_SPAN_MAX + 1)],
    "too many chunks": ["request", 1, [[D, 0, SPAN_CHUNKS_MAX], [D, 0, 1]]],
    "an offer of nothing": ["offer", D, 1, 1],
    "too many peers": ["peers", D, [["p", []]] * (PEERS_PER_EXCHANGE_MAX + 1)],
    "W30 a peer of 1,000 addresses": ["peers", D, [["p", ["/ip4/1.2.3.4/tcp/1"] * 1000]]],
    "a long address": ["peers", D, [["p", ["a" * (ADDRESS_BYTES_MAX + 1)]]]],
    "an address with a line break": ["peers", D, [["p", ["/ip4\n"]]]],
    "a peer without addresses": ["peers", D, [["p"]]],
    "a short ticket": ["ticket", D[:16], D, 1],
    "a port of 17 bits": ["ticket", D, D, 65536],
    "a port that is True": ["ticket", D, D, True],
}


@pytest.mark.parametrize("value", WRONG.values(), ids=list(WRONG))
def test_a_malformed_message_is_a_violation(value: Any) -> None:
    with pytest.raises(ProtocolViolation):
        decode_message(encode(value))


def test_a_message_over_a_frame_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        decode_message(encode(["have", D, b"\x00" * FRAME_BYTES_MAX]))
