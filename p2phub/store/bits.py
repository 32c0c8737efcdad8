"""Have-bits of a page: bit i is bit 7 - i % 8 of byte i // 8; unused bits are 0.

Source: SPEC.md, message `have`; the order of BitTorrent's bitfield.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import compress

_BIT = tuple(0x80 >> i for i in range(8))
_UNSET = tuple(bytes(not byte & bit for bit in _BIT) for byte in range(256))  # by byte


def size(count: int) -> int:
    """Bytes that `count` bits need."""
    return (count + 7) // 8


def full(count: int) -> bytearray:
    """`count` bits, all set."""
    bits = bytearray(b"\xff" * size(count))
    if count % 8:
        bits[-1] = 0xFF00 >> (count % 8) & 0xFF
    return bits


def of(indexes: Iterable[int], count: int) -> bytearray:
    """`count` bits, set at `indexes`."""
    bits = bytearray(size(count))
    for index in indexes:
        bits[index >> 3] |= _BIT[index & 7]
    return bits


def get(bits: bytes | bytearray, index: int) -> bool:
    return bool(bits[index >> 3] & _BIT[index & 7])


def put(bits: bytearray, index: int) -> None:
    bits[index >> 3] |= _BIT[index & 7]


def clear(bits: bytearray, index: int) -> None:
    bits[index >> 3] &= ~_BIT[index & 7] & 0xFF


def union(some: bytes | bytearray, others: bytes | bytearray) -> bytearray:
    """Bits set in either; both of one size."""
    number = int.from_bytes(some, "big") | int.from_bytes(others, "big")
    return bytearray(number.to_bytes(len(some), "big"))


def count(bits: bytes | bytearray) -> int:
    """How many are set."""
    return int.from_bytes(bits, "big").bit_count()


def unset(bits: bytes | bytearray, total: int) -> array[int]:
    """Indexes below `total` whose bit is 0, rising, type code "I"."""
    return array("I", compress(range(total), b"".join([_UNSET[byte] for byte in bits])))


def all_set(bits: bytes | bytearray, start: int, stop: int) -> bool:
    """Whether every bit of [start, stop) is 1."""
    while start < stop:
        if not start & 7 and stop - start >= 8:
            end = start + (stop - start & ~7)
            if bits[start >> 3 : end >> 3].count(0xFF) != end - start >> 3:
                return False
            start = end
        else:
            if not bits[start >> 3] & _BIT[start & 7]:
                return False
            start += 1
    return True
