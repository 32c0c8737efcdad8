"""Sets of small numbers as Python integers: bit i of the integer is member i.

Whole sets are joined and cut in one operation of C speed, which is what keeps rarity and picking
cheap: ten thousand spans are 1.25 KiB. On the wire the order is another one: entry i is bit i % 8
of byte i // 8 *from the high end*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def from_wire(bits: bytes) -> int:
    """The set that a have page says."""
    return int.from_bytes(bits.translate(_MIRROR), "little")


def to_wire(members: int, entry_count: int) -> bytes:
    """The bytes of a have page of `entry_count` entries. `members` must lie below `entry_count`."""
    return members.to_bytes((entry_count + 7) // 8, "little").translate(_MIRROR)


def from_members(members: Iterable[int]) -> int:
    """The set of some numbers."""
    members = list(members)
    if len(members) < 8:
        found = 0
        for member in members:
            found |= 1 << member
        return found
    packed = bytearray(max(members) // 8 + 1)
    for member in members:
        packed[member >> 3] |= 1 << (member & 7)
    return int.from_bytes(packed, "little")


def interval(start: int, stop: int) -> int:
    """The set of start, …, stop - 1; empty if stop <= start."""
    return ((1 << (stop - start)) - 1) << start if start < stop else 0


def lowest(members: int) -> int:
    """The smallest member. The set must not be empty."""
    return (members & -members).bit_length() - 1


def iterate(members: int) -> Iterator[int]:
    """All members, ascending.

    Costs the size of the set's largest member once, then each member alone.
    """
    for position, byte in enumerate(members.to_bytes((members.bit_length() + 7) // 8, "little")):
        while byte:
            low = byte & -byte
            yield 8 * position + low.bit_length() - 1
            byte ^= low


def runs(members: int) -> Iterator[tuple[int, int]]:
    """Maximal intervals [start, stop) of the set, ascending."""
    base = 0
    while members:
        skip = lowest(members)
        members >>= skip
        length = lowest(~members)
        yield base + skip, base + skip + length
        members >>= length
        base += skip + length


def nth(members: int, number: int) -> int:
    """Member `number` (from 0) in ascending order; 0 <= number < members.bit_count()."""
    base = 0
    width = members.bit_length()
    while width > 32:
        half = width >> 1
        low = members & ((1 << half) - 1)
        count = low.bit_count()
        if number < count:
            members = low
            width = half
        else:
            number -= count
            members >>= half
            base += half
            width -= half
    for _ in range(number):
        members &= members - 1
    return base + lowest(members)
