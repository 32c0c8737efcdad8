"""Canonical msgpack: one value, one encoding, so that a document's hash names its meaning.

The profile: maps with string keys in byte order, minimal integers, strings in UTF-8, byte strings,
booleans and lists. No floats, no nil, no extension types. What does not re-encode to the same bytes
is refused, which also refuses duplicate keys, long forms and trailing bytes.

Source: msgpack specification (2013 revision); the profile is SPEC.md section 3.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgpack

from p2phub.errors import MalformedDocument, TooLarge
from p2phub.proto.limits import DOCUMENT_DEPTH_MAX, DOCUMENT_VALUES_MAX

Value: TypeAlias = bool | int | str | bytes | list["Value"] | dict[str, "Value"]

INTEGER_MAX = (1 << 63) - 1


def encode(value: Value) -> bytes:
    """The canonical bytes of `value`.

    Raises TypeError on what the profile excludes: that is a bug of the caller.
    """
    packed: bytes = msgpack.packb(_ordered(value, DOCUMENT_DEPTH_MAX), use_bin_type=True)
    return packed


def decode(data: bytes | bytearray | memoryview, *, size_max: int) -> Value:
    """The value of a canonical document of at most `size_max` bytes.

    The size is checked before the parser sees a byte: a megabyte of empty maps would cost 73 MiB.
    Raises TooLarge, or MalformedDocument if `data` is not exactly what `encode` gives for some
    value.
    """
    if len(data) > size_max:
        raise TooLarge(f"a document of {len(data)} bytes exceeds {size_max} bytes", size=len(data))
    data = bytes(data)
    try:
        map_count = _check_shape(data)
        value: Any = msgpack.unpackb(data, raw=False, use_list=True, strict_map_key=True)
        if map_count == 1 and type(value) is dict:
            # As nearly every document: below its keys is nothing that could be out of order.
            canonical = msgpack.packb({key: value[key] for key in _keys(value)}, use_bin_type=True)
        else:
            canonical = encode(value)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedDocument(f"not canonical msgpack: {error}") from None
    if canonical != data:
        raise MalformedDocument("not canonical msgpack: re-encoding gives other bytes")
    return value  # type: ignore[no-any-return]


def _fixed_bytes(first: int) -> int:
    """Bytes of a value by its first byte, where that is all there is to know; 0: look closer."""
    if first < 0x80 or first >= 0xE0 or first in (0xC2, 0xC3):
        return 1
    if 0xA0 <= first < 0xC0:
        return 1 + (first & 0x1F)
    return 1 + (1 << (first & 3)) if 0xCC <= first < 0xCF or 0xD0 <= first < 0xD4 else 0


_FIXED_BYTES = [_fixed_bytes(first) for first in range(256)]
# Bytes of the count that follows the first byte: byte strings and texts, then lists and maps.
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_COUNTED = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}


def _check_shape(data: bytes) -> int:
    """Walk the values without making any; how many of them are maps.

    Raises ValueError if they nest deeper, or are more, than a document's can be, or are of a type
    outside the profile.

    msgpack reserves room for what every list claims to hold, on every level: 3 KiB could take 64
    MiB.
    """
    position, budget, map_count = 0, DOCUMENT_VALUES_MAX, 0
    left = 1  # values still to come in the list or map at hand
    above: list[int] = []  # the same of those that it lies in
    try:
        while True:
            while not left:
                if not above:
                    return map_count
                left = above.pop()
            left -= 1
            first = data[position]
            if size := _FIXED_BYTES[first]:
                position += size
            elif first in _SIZED:
                width = _SIZED[first]
                if width == 1:
                    position += 2 + data[position + 1]
                else:
                    position += 1 + width + _number(data, position + 1, width)
            elif first == 0xCF:
                if data[position + 1] >= 0x80:
                    raise ValueError("integer beyond 64 bits")
                position += 9
            else:
                if first < 0xA0:
                    count, position = first & 0x0F, position + 1
                elif first in _COUNTED:
                    count = _number(data, position + 1, _COUNTED[first])
                    position += 1 + _COUNTED[first]
                else:
                    raise ValueError("it holds a value of a type outside the profile")
                if first < 0x90 or first >= 0xDE:
                    map_count, count = map_count + 1, 2 * count
                above.append(left)
                left, budget = count, budget - count
                if budget < 0 or len(above) > DOCUMENT_DEPTH_MAX:
                    raise ValueError("it nests deeper or holds more values than any document")
    except IndexError:
        raise ValueError("it ends in the middle") from None


def _number(data: bytes, start: int, width: int) -> int:
    return int.from_bytes(data[start : start + width], "big")


def _ordered(value: Any, depth: int) -> Value:
    """`value` with every map in key order; TypeError on a type or size outside the profile.

    value: anything at all, since it is judged here.
    """
    kind = type(value)
    if kind is bytes or kind is bool:
        return value  # type: ignore[no-any-return]
    if kind is int:
        if not -INTEGER_MAX - 1 <= value <= INTEGER_MAX:
            raise TypeError("integer beyond 64 bits")
        return value  # type: ignore[no-any-return]
    if kind is str:
        value.encode("utf-8")  # a lone surrogate is a ValueError here
        return value  # type: ignore[no-any-return]
    if depth == 0:
        raise TypeError("nested too deeply")
    if kind is list:
        return [_ordered(item, depth - 1) for item in value]
    if kind is dict:
        return {key: _ordered(value[key], depth - 1) for key in _keys(value)}
    raise TypeError(f"{kind.__name__} is outside the profile")


def _keys(value: dict[Any, Any]) -> list[str]:
    """The keys of a map, in order."""
    if any(type(key) is not str for key in value):
        raise TypeError("map key is not a string")
    return sorted(value, key=lambda key: key.encode("utf-8"))
