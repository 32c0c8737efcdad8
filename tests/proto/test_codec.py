"""One value, one encoding: whatever else could mean the same is refused."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.errors import ContentError, MalformedDocument, TooLarge
from p2phub.proto.codec import Value, decode, encode
from p2phub.proto.limits import DOCUMENT_DEPTH_MAX, DOCUMENT_VALUES_MAX, MIB

integers = st.integers(-(1 << 63), (1 << 63) - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
scalars = st.booleans() | integers | texts | st.binary(max_size=300)
values: st.SearchStrategy[Value] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


def depth(value: Value) -> int:
    match value:
        case list():
            return 1 + max(map(depth, value), default=0)
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
    return 0


shallow = values.filter(lambda value: depth(value) <= DOCUMENT_DEPTH_MAX)


def same(left: Value, right: Value) -> bool:
    """Equality that tells True from 1."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return left == right


@given(shallow)
def test_what_was_encoded_decodes_to_the_same_value(value: Value) -> None:
    assert same(decode(encode(value), size_max=MIB), value)


@given(st.dictionaries(texts, scalars, max_size=8), st.randoms(use_true_random=False))
def test_the_order_in_which_a_map_was_built_does_not_show(
    value: dict[str, Value], rng: Any
) -> None:
    keys = list(value)
    rng.shuffle(keys)
    assert encode({key: value[key] for key in keys}) == encode(value)


@given(shallow, st.data())
def test_a_changed_byte_is_refused_or_means_another_value(
    value: Value, data: st.DataObject
) -> None:
    encoded = bytearray(encode(value))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        found = decode(bytes(encoded), size_max=MIB)
    except ContentError:
        return
    assert encode(found) == encoded
    assert not same(found, value)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_are_canonical(data: bytes) -> None:
    try:
        value = decode(data, size_max=MIB)
    except ContentError:
        return
    assert encode(value) == data


@given(shallow)
def test_a_document_cut_short_or_lengthened_is_refused(value: Value) -> None:
    encoded = encode(value)
    for wrong in (encoded[:-1], encoded + b"\x00", encoded + encoded):
        with pytest.raises(MalformedDocument):
            decode(wrong, size_max=MIB)


HOSTILE = {
    "nothing": b"",
    "W7 a list that claims 2^32-1": b"\xdd\xff\xff\xff\xff",
    "a map that claims 2^32-1": b"\xdf\xff\xff\xff\xff",
    "a text that claims 2^32-1": b"\xdb\xff\xff\xff\xffabc",
    "bytes that claim 2^32-1": b"\xc6\xff\xff\xff\xffabc",
    "W10 a duplicate key": b"\x82\xa2op\xa3get\xa2op\xa3put",
    "keys out of order": b"\x82\xa1b\x01\xa1a\x01",
    "keys out of order in a list": b"\x91\x82\xa1b\x01\xa1a\x01",
    "keys out of order in a map": b"\x81\xa1x\x82\xa1b\x01\xa1a\x01",
    "W11 a key of bytes": b"\x81\xc4\x01a\x01",
    "a key that is a number": b"\x81\x01\x01",
    "a key that is a list": b"\x81\x90\x01",
    "W12 a float": msgpack.packb(1.0),
    "a float of 32 bits": msgpack.packb(1.5, use_single_float=True),
    "W13 not a number": msgpack.packb(float("nan")),
    "nil": b"\xc0",
    "nil in a list": b"\x91\xc0",
    "W18 the reserved byte": b"\xc1",
    "W19 a bad timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "an extension of no bytes": b"\xc7\x00\x05",
    "an extension of one byte": b"\xd4\x05\x00",
    "W29 a text that is not UTF-8": b"\xa2\xff\xfe",
    "W29 a lone surrogate": b"\xa3\xed\xa0\x80",
    "a number longer than it need be": b"\xcd\x00\x01",
    "a signed form of a positive number": b"\xd0\x01",
    "a text longer than it need be": b"\xd9\x01a",
    "bytes longer than they need be": b"\xc5\x00\x01a",
    "a list longer than it need be": b"\xdc\x00\x01\x01",
    "a map longer than it need be": b"\xde\x00\x01\xa1a\x01",
    "a number of 2^63": b"\xcf\x80\x00\x00\x00\x00\x00\x00\x00",
    "a number of 2^63 in a map": b"\x81\xa1a\xcf\x80\x00\x00\x00\x00\x00\x00\x00",
    "M14 a trailing byte": b"\x90\x00",
    "one level too deep": b"\x91" * (DOCUMENT_DEPTH_MAX + 1) + b"\x01",
    "one level too deep in a map": b"\x81\xa1a" + b"\x91" * DOCUMENT_DEPTH_MAX + b"\x01",
    "100,000 levels of lists": b"\x91" * 100_000,
    "100,000 levels of maps": b"\x81\xa1a" * 100_000,
    "nested lists that claim 16,384 each": b"\xdc\x40\x00" * 20_000,
    "1 MB of empty maps": b"\xdd\x00\x0f\xff\xfb" + b"\x80" * (MIB - 5),
    "1 MB of empty lists": b"\xdd\x00\x0f\xff\xfb" + b"\x90" * (MIB - 5),
    "1 MB of empty maps in lists": b"\xdc\x40\x00" + (b"\xdc\x00\x3d" + b"\x80" * 61) * 16_384,
    "1 MB of short texts": b"\xdd\x00\x05\x55\x53" + b"\xa2ab" * 349_523,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_encodings_are_refused_within_little_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MalformedDocument):
            decode(data, size_max=2 * MIB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * MIB


def test_the_most_values_a_document_may_hold_cost_bounded_memory() -> None:
    data = encode([[b"ab"] * 1022] * (DOCUMENT_VALUES_MAX // 1024))
    tracemalloc.start()
    try:
        decode(data, size_max=MIB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB


def test_size_is_judged_before_a_byte_is_parsed() -> None:
    with pytest.raises(TooLarge):
        decode(b"\xc1" * 101, size_max=100)


@pytest.mark.parametrize(
    "value", [None, 1.0, (1,), {1: 2}, {b"a": 1}, 1 << 63, -(1 << 63) - 1, "\ud800", object()]
)
def test_a_value_outside_the_profile_is_a_bug_of_the_caller(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode(value)


def test_the_deepest_value_that_encodes_also_decodes() -> None:
    value: Value = 1
    for _ in range(DOCUMENT_DEPTH_MAX):
        value = [value]
    assert decode(encode(value), size_max=MIB) == value
    with pytest.raises(TypeError):
        encode([value])
