"""Header parsers that answer at once, whatever they are given: borders, a size to read, or None."""

from __future__ import annotations

import struct
import time
import tracemalloc
from array import array
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.core.content.tensors import tensor_borders
from p2phub.proto.limits import HEADER_BYTES_MAX, JSON_HEADER_BYTES_MAX, MIB, TENSORS_MAX
from tests.proto.material import (
    gguf_alignment,
    gguf_header,
    gguf_text,
    raw_safetensors_header,
    safetensors_header,
)


def borders_of(data: bytes, file_size: int | None = None) -> list[int] | None:
    """As a reader of the file would ask: a little first, then what is asked for."""
    size = len(data) if file_size is None else file_size
    start = data[:24]
    while isinstance(found := tensor_borders(start, size), int):
        assert len(start) < found <= min(size, HEADER_BYTES_MAX)
        if found > len(data):
            return None  # the file is claimed longer than these bytes: nothing more to give
        start = data[:found]
    return None if found is None else list(found)


def test_tensors_of_safetensors_begin_where_the_header_says() -> None:
    header = safetensors_header({"a": 10, "b": 0, "c": 30}, format="pt")
    start = len(header)
    assert borders_of(header + bytes(40)) == [start, start + 10, start + 40]


def test_the_order_in_the_header_does_not_matter() -> None:
    text = b'{"b":{"dtype":"U8","shape":[3],"data_offsets":[7,10]},"a":{"data_offsets":[0,7]}}'
    header = raw_safetensors_header(text)
    assert borders_of(header + bytes(10)) == [len(header), len(header) + 7, len(header) + 10]


def test_a_header_without_tensors_is_a_file_of_header_alone() -> None:
    header = raw_safetensors_header(b"{" + b" " * 20 + b"}")
    assert borders_of(header) == [len(header)]


def test_tensors_of_gguf_run_to_the_next_one() -> None:
    name = gguf_text(b"general.name") + struct.pack("<I", 8) + gguf_text(b"x")
    header = gguf_header([0, 64, 32], (name,))
    start = len(header)
    expected = [start, start + 32, start + 64, start + 71]
    assert borders_of(header + bytes(71)) == expected


def test_a_gguf_aligned_otherwise_is_read() -> None:
    header = gguf_header([0, 4096], (gguf_alignment(4096),), alignment=4096)
    assert len(header) % 4096 == 0
    assert borders_of(header + bytes(5000)) == [len(header), len(header) + 4096, len(header) + 5000]


def st_header(text: str) -> bytes:
    return raw_safetensors_header(text.encode())


def one(offsets: str) -> bytes:
    return st_header(f'{{"a":{{"dtype":"U8","shape":[8],"data_offsets":{offsets}}}}}')


ODD: dict[str, bytes] = {
    "G1 n of 2^64-1": b"\xff" * 8 + b"{}" + bytes(20),
    "G1 n of 2^63": struct.pack("<Q", 1 << 63) + b"{}" + bytes(20),
    "G1 n over the file": struct.pack("<Q", 50) + b"{}" + bytes(20),
    "G1 nothing": b"",
    "G1 seven bytes": b"1234567",
    "a header of 23 bytes": st_header("{" + " " * 13 + "}"),
    "G2 overlap": st_header('{"a":{"data_offsets":[0,8]},"b":{"data_offsets":[4,12]}}') + bytes(12),
    "G2 hole": st_header('{"a":{"data_offsets":[0,8]},"b":{"data_offsets":[9,12]}}') + bytes(12),
    "G2 data behind": one("[0,8]") + bytes(9),
    "G2 data lacking": one("[0,8]") + bytes(7),
    "G2 begin after end": one("[8,0]") + bytes(8),
    "G2 negative": one("[-8,0]") + bytes(8),
    "G2 beyond 2^64": one(f"[0,{1 << 70}]") + bytes(8),
    "offsets as floats": one("[0.0,8.0]") + bytes(8),
    "offsets as texts": one('["0","8"]') + bytes(8),
    "offsets as booleans": one("[false,true]") + bytes(1),
    "three offsets": one("[0,4,8]") + bytes(8),
    "no offsets": st_header('{"a":{"dtype":"U8","shape":[8]},   "b":{}}') + bytes(8),
    "G3 a name twice": st_header('{"a":{"data_offsets":[0,8]},"a":{"data_offsets":[0,8]}}')
    + bytes(8),
    "G4 blanks in front": st_header('   {"a":{"data_offsets":[0,8]}}') + bytes(8),
    "a list": st_header("[" + "1," * 20 + "1]") + bytes(8),
    "not JSON": st_header("{" * 30) + bytes(8),
    "not UTF-8": raw_safetensors_header(b'{"\xff":{"data_offsets":[0,8]}       }') + bytes(8),
    "NaN": one("[NaN,8]") + bytes(8),
    "G5 100,000 levels of lists": st_header('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
    "G5 100,000 levels of objects": st_header('{"a":' * 100_000 + "1" + "}" * 100_000),
    "a number of a million digits": one("[0," + "9" * 1_000_000 + "]") + bytes(8),
    "G6 a zip": b"PK\x03\x04" + bytes(100),
    "G7 a pickle": b"\x80\x02}q\x00." + bytes(100),
    "text": b"All models are wrong, but some are useful.",
    "G9 2^63 pairs": gguf_header([0], pair_count=1 << 63) + bytes(32),
    "G9 2^63 tensors": gguf_header([0], tensor_count=1 << 63) + bytes(32),
    "no tensor": gguf_header([]) + bytes(32),
    "G9 a key of 2^63 bytes": gguf_header([0], (struct.pack("<Q", 1 << 63),)) + bytes(32),
    "G11 lists of lists": gguf_header(
        [0], (gguf_text(b"k") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 9, 1) * 10_000,)
    ),
    "G12 alignment 0": gguf_header([0], (gguf_alignment(0),)) + bytes(32),
    "G12 alignment 3": gguf_header([0], (gguf_alignment(3),)) + bytes(32),
    "G12 alignment 2^31": gguf_header([0], (gguf_alignment(1 << 31),)) + bytes(32),
    "G12 alignment twice": gguf_header([0], (gguf_alignment(32),) * 2) + bytes(32),
    "G12 an offset beyond the file": gguf_header([0, 1 << 40]) + bytes(64),
    "G12 an offset of 2^64-1": gguf_header([0, (1 << 64) - 1]) + bytes(64),
    "G12 an offset not aligned": gguf_header([0, 33]) + bytes(64),
    "G12 two at one place": gguf_header([0, 32, 32]) + bytes(64),
    "G12 no tensor at the start": gguf_header([32, 64]) + bytes(96),
    "G12 2^31 dimensions": gguf_header([0]).replace(
        struct.pack("<IQ", 1, 64), struct.pack("<IQ", 1 << 31, 64)
    )
    + bytes(32),
    "G12 no data": gguf_header([0]),
    "an unknown type": gguf_header([0], (gguf_text(b"k") + struct.pack("<I", 99),)) + bytes(32),
    "a list of 2^63 numbers": gguf_header(
        [0], (gguf_text(b"k") + struct.pack("<IIQ", 9, 0, 1 << 63),)
    )
    + bytes(32),
    "a list of 2^63 texts": gguf_header(
        [0], (gguf_text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 63),)
    )
    + bytes(32),
    "GGUF version 1": gguf_header([0], version=1) + bytes(32),
    "GGUF, big endian": b"GGUF" + struct.pack(">IQQ", 3, 1, 0) + bytes(64),
    "GGUF and 20 bytes": b"GGUF" + bytes(20),
}


@pytest.mark.parametrize("data", ODD.values(), ids=list(ODD))
def test_an_odd_header_is_cut_as_plain_bytes(data: bytes) -> None:
    assert borders_of(data) is None


@pytest.mark.parametrize("data", ODD.values(), ids=list(ODD))
def test_an_odd_header_of_a_huge_file_is_answered_too(data: bytes) -> None:
    borders_of(data + bytes(1000), file_size=1 << 43)


BOMBS: dict[str, Callable[[], bytes]] = {
    "16 MiB of empty lists": lambda: st_header('{"a":[' + "[]," * (5 * MIB) + "1]}"),
    "16 MiB of short texts": lambda: st_header('{"a":[' + '"ab",' * (3 * MIB) + "1]}"),
    "16 MiB of short objects": lambda: st_header('{"a":[' + "{}," * (5 * MIB) + "1]}"),
    "too many tensors": lambda: safetensors_header({str(i): 1 for i in range(TENSORS_MAX + 3)}),
    "32 MiB of empty texts": lambda: gguf_header(
        [0], (gguf_text(b"k") + struct.pack("<IIQ", 9, 8, 4 * MIB) + bytes(32 * MIB),)
    ),
    "G13 1 MB of bytes": lambda: gguf_header(
        [0], (gguf_text(b"k") + struct.pack("<IIQ", 9, 0, MIB) + bytes(MIB),)
    ),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=list(BOMBS))
def test_a_bomb_is_answered_within_a_second_and_little_memory(bomb: Callable[[], bytes]) -> None:
    data = bomb() + bytes(64)
    before = time.process_time()
    borders_of(data)
    assert time.process_time() - before < 2.0  # half of that on a quiet machine
    tracemalloc.start()
    try:
        borders_of(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(data) * 3 + 8 * MIB  # what was given, decoded, and a little


def test_a_json_header_over_its_limit_is_not_even_asked_for() -> None:
    start = struct.pack("<Q", JSON_HEADER_BYTES_MAX) + b"{" + bytes(15)
    assert tensor_borders(start, 1 << 40) is None


@given(st.binary(max_size=300))
def test_random_bytes_never_raise(data: bytes) -> None:
    borders_of(data)
    borders_of(b"GGUF\x03\x00\x00\x00" + data)
    borders_of(raw_safetensors_header(b"{" + data) + bytes(20))


@given(st.data())
def test_a_changed_byte_never_raises_and_keeps_borders_within_the_file(data: st.DataObject) -> None:
    pair = gguf_text(b"general.name") + struct.pack("<I", 8) + gguf_text(b"x")
    good = data.draw(
        st.sampled_from(
            [
                safetensors_header({"a": 10, "b": 30}) + bytes(40),
                gguf_header([0, 64], (gguf_alignment(64), pair), alignment=64) + bytes(100),
            ]
        )
    )
    changed = bytearray(good)
    changed[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    found = borders_of(bytes(changed))
    if found is not None:
        assert found == sorted(set(found))
        assert 0 < found[0] <= found[-1] == len(good)


def test_borders_are_an_array_of_numbers_of_64_bits() -> None:
    header = safetensors_header({"a": 10})
    found = tensor_borders(header, len(header) + 10)
    assert isinstance(found, array)
    assert found.typecode == "Q"
