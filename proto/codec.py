"""Canonical msgpack: one value, one encoding, so that a document's hash names its meaning.

The profile: maps with string keys in byte order, minimal integers, strings in UTF-8, byte strings, booleans and lists. No
floats, no nil, no extension types. What does not re-encode to the same bytes is refused, which also refuses
duplicate keys, long forms and trailing bytes.

Source: msgpack specification (2013 revision); the profile is SPEC.md section 3.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgpack

from p2phub.errors import MalformedDocument, TooLarge
from p2phub.proto.limits import DOCUMENT_DEPTH_MAX

Value: TypeAlias = bool | int | str | bytes | list["Value"] | dict[str, "Value"]

INTEGER_MAX = (1 << 63) - 1


def encode(value: Value) -> bytes:
    """The canonical bytes of `value`. Raises TypeError on what the profile excludes: that is a bug of the caller."""
    packed: bytes = msgpack.packb(_ordered(value, DOCUMENT_DEPTH_MAX), use_bin_type=True)
    return packed


def decode(data: bytes | bytearray | memoryview, *, size_max: int) -> Value:
    """The value of a canonical document of at most `size_max` bytes.

    The size is checked before the parser sees a byte: a megabyte of empty maps would cost 73 MiB.
    Raises TooLarge, or MalformedDocument if `data` is not exactly what `encode` gives for some value.
    """
    if len(data) > size_max:
        raise TooLarge(f"a document of {len(data)} bytes exceeds {size_max} bytes", size=len(data))
    data = bytes(data)
    if data[:1] and _could_be_bomb(data):
        raise MalformedDocument("a document nests or repeats more than its bytes can justify")
    try:
        value: Any = msgpack.unpackb(
            data, raw=False, use_list=True, strict_map_key=True, max_ext_len=0, max_buffer_size=size_max
        )
        canonical = encode(value)
    except (ValueError, TypeError, RecursionError, UnicodeError, msgpack.UnpackException) as error:
        raise MalformedDocument(f"not canonical msgpack: {error}") from None
    if canonical != data:
        raise MalformedDocument("not canonical msgpack: re-encoding gives other bytes")
    return value  # type: ignore[no-any-return]


def _could_be_bomb(data: bytes) -> bool:
    # An empty map or list is one byte on the wire and 64 in memory. No document of ours holds a thousand of them.
    return data.count(b"\x80") > len(data) // 2 + 16 or data.count(b"\x90") > len(data) // 2 + 16


def _ordered(value: Value, depth: int) -> Value:
    """`value` with every map in key order; TypeError on a type or size outside the profile."""
    kind = type(value)
    if kind is bytes or kind is bool:
        return value
    if kind is int:
        if not -INTEGER_MAX - 1 <= value <= INTEGER_MAX:  # type: ignore[operator]
            raise TypeError("integer beyond 64 bits")
        return value
    if kind is str:
        value.encode("utf-8")  # type: ignore[union-attr]  # a lone surrogate is a ValueError here
        return value
    if depth == 0:
        raise TypeError("nested too deeply")
    if kind is list:
        return [_ordered(item, depth - 1) for item in value]  # type: ignore[union-attr]
    if kind is dict:
        if any(type(key) is not str for key in value):  # type: ignore[union-attr]
            raise TypeError("map key is not a string")
        ordered = sorted(value.items(), key=lambda item: item[0].encode("utf-8"))  # type: ignore[union-attr]
        return {key: _ordered(item, depth - 1) for key, item in ordered}
    raise TypeError(f"{kind.__name__} is outside the profile")
