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
        _check_shape(data)
        value: Any = msgpack.unpackb(data, raw=False, use_list=True, strict_map_key=True)
        canonical = encode(value)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedDocument(f"not canonical msgpack: {error}") from None
    if canonical != data:
        raise MalformedDocument("not canonical msgpack: re-encoding gives other bytes")
    return value  # type: ignore[no-any-return]


# Bytes of a value by its first byte, where that is all there is to know.
_FIXED_BYTES = {0xC2: 1, 0xC3: 1} | {0xCC + i: 1 + (1 << i) for i in range(4)}
_FIXED_BYTES |= {0xD0 + i: 1 + (1 << i) for i in range(4)}
# Bytes of the count that follows the first byte: byte strings and texts, then lists and maps.
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_COUNTED = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}


def _check_shape(data: bytes) -> None:
    """Walk the values without making any.

    Raises ValueError if they nest deeper, or are more, than a document's can be.

    msgpack reserves room for what every list claims to hold, on every level: 3 KiB could take 64
    MiB.
    """
    position, budget = 0, DOCUMENT_VALUES_MAX
    left = [1]  # values still to come, per open list or map
    while left:
        if left[-1] == 0:
            left.pop()
            continue
        left[-1] -= 1
        if position >= len(data):
            raise ValueError("it ends in the middle")
        first = data[position]
        position += 1
        if first < 0x80 or first >= 0xE0:
            continue
        if 0xA0 <= first < 0xC0:
            position += first & 0x1F
        elif first < 0xA0:
            count = (first & 0x0F) * (2 if first < 0x90 else 1)
            left.append(count)
            budget -= count
        elif first in _FIXED_BYTES:
            position += _FIXED_BYTES[first] - 1
        elif first in _SIZED:
            width = _SIZED[first]
            position += width + int.from_bytes(data[position : position + width], "big")
        elif first in _COUNTED:
            width = _COUNTED[first]
            count = int.from_bytes(data[position : position + width], "big")
            count *= 1 if first < 0xDE else 2
            position += width
            left.append(count)
            budget -= count
        else:
            raise ValueError("it holds a value of a type outside the profile")
        if budget < 0 or len(left) > DOCUMENT_DEPTH_MAX + 1:
            raise ValueError("it nests deeper or holds more values than any document")


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
        if any(type(key) is not str for key in value):
            raise TypeError("map key is not a string")
        keys = sorted(value, key=lambda key: key.encode("utf-8"))
        return {key: _ordered(value[key], depth - 1) for key in keys}
    raise TypeError(f"{kind.__name__} is outside the profile")
