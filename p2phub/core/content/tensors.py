"""Where the tensors lie in a safetensors or GGUF file, read from its header alone.

`tensor_borders` is given the file's first bytes and either answers or says how many it needs. It
reads only what tells where tensors begin, with bounds on time and memory, since the usual parsers
have none (49 bytes hang the `gguf` package; a megabyte takes 691 MB there). Any oddity answers
None: the file is then cut as plain bytes, which is never wrong, only less well shared.

Source: SPEC.md section 4; safetensors format; GGUF specification, versions 2 and 3.
"""

from __future__ import annotations

import json
import struct
from array import array
from typing import Any, NoReturn, TypeAlias

from p2phub.proto.limits import (
    GGUF_ALIGNMENT_MAX,
    GGUF_VALUES_MAX,
    HEADER_BYTES_MAX,
    JSON_HEADER_BYTES_MAX,
    OBJECT_BYTES_MAX,
    TENSORS_MAX,
)

# Offsets in the file, type code "Q", strictly rising: the end of the header, then the end of each
# tensor with the padding behind it; the last is the file's size.
Borders: TypeAlias = "array[int]"

FIRST_BYTES = 4096  # what to read before asking: covers most small headers
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


def tensor_borders(start: bytes, file_size: int) -> Borders | int | None:
    """The borders of the tensors; or how many of the file's first bytes are needed; or None.

    start: the file's first bytes, all of them if it has fewer than were asked for. A number that is
    returned is greater than len(start) and at most HEADER_BYTES_MAX. None: not a file of either
    format, or one whose header is odd, too large or false.
    """
    if not 24 <= file_size <= OBJECT_BYTES_MAX:
        return None
    if len(start) < 24:
        return 24
    try:
        if start[:4] == b"GGUF":
            return _gguf_borders(start, file_size)
        return _safetensors_borders(start, file_size)
    except _MoreNeeded as more:
        needed = min(max(more.size, 2 * len(start)), file_size, HEADER_BYTES_MAX)
        return needed if more.size <= needed and needed > len(start) else None
    except _Odd:
        return None


class _Odd(Exception):
    """The header is not one that we cut by."""


class _MoreNeeded(Exception):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size  # bytes from the file's start


# ---- safetensors: u64 length, a JSON object, then nothing but tensors ---------------------------


def _safetensors_borders(start: bytes, file_size: int) -> Borders:
    (length,) = _U64.unpack_from(start)
    data_start = 8 + length
    if data_start > min(file_size, JSON_HEADER_BYTES_MAX) or start[8:9] != b"{":
        raise _Odd
    if data_start > len(start):
        raise _MoreNeeded(data_start)
    text = start[8:data_start]
    # Parsing is bounded by three brackets per tensor and a bounded number of values.
    objects = text.count(b"{")
    if (
        objects > TENSORS_MAX + 2
        or text.count(b"[") > 2 * objects
        or text.count(b",") > 16 * objects + 4096
    ):
        raise _Odd
    try:
        pairs = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
    except (ValueError, RecursionError):
        raise _Odd from None
    pairs.pop("__metadata__", None)
    extents = sorted(filter(None, (_extent(entry) for entry in pairs.values())))
    borders = array("Q", [data_start])
    for begin, end in extents:
        if data_start + begin != borders[-1]:
            raise _Odd  # an overlap or a hole: the format has neither
        borders.append(data_start + end)
    if borders[-1] != file_size:
        raise _Odd
    return borders


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    if isinstance(found.get("data_offsets"), list):
        return {"data_offsets": found["data_offsets"]}  # the rest of the entry is let go at once
    return found


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"not a whole number: {number}")


def _extent(entry: object) -> tuple[int, int] | None:
    """Begin and end of one tensor in the data; None for one without bytes."""
    match entry:
        case {"data_offsets": [begin, end]} if (
            type(begin) is int and type(end) is int and 0 <= begin <= end
        ):
            if end > OBJECT_BYTES_MAX:
                raise _Odd
            return (begin, end) if begin < end else None
    raise _Odd


# ---- GGUF: key-value pairs, tensor descriptions, aligned tensors --------------------------------

_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_ALIGNMENT_KEY = b"general.alignment"
_ALIGNMENT_DEFAULT = 32
_DIMENSIONS_MAX = 8  # ggml has 4


class _Reader:
    """A position in a header's bytes. What lies beyond them raises _MoreNeeded."""

    __slots__ = ("_data", "_values_left", "position")

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position
        self._values_left = GGUF_VALUES_MAX

    def skip(self, size: int) -> None:
        self.position += size
        if self.position > HEADER_BYTES_MAX:
            raise _Odd
        if self.position > len(self._data):
            raise _MoreNeeded(self.position)

    def u32(self) -> int:
        self.skip(4)
        return int(_U32.unpack_from(self._data, self.position - 4)[0])

    def u64(self) -> int:
        self.skip(8)
        return int(_U64.unpack_from(self._data, self.position - 8)[0])

    def string(self) -> bytes:
        size = self.u64()
        self.skip(size)
        return self._data[self.position - size : self.position]

    def count(self, values: int) -> int:
        """`values`, which are about to be walked one by one.

        Raises _Odd over GGUF_VALUES_MAX in all.
        """
        self._values_left -= values
        if self._values_left < 0:
            raise _Odd
        return values

    def skip_strings(self, count: int) -> None:
        data, position, end = self._data, self.position, len(self._data)
        unpack = _U64.unpack_from
        for _ in range(self.count(count)):
            if position + 8 > end:
                break
            position += 8 + unpack(data, position)[0]
        else:
            self.position = position
            self.skip(0)
            return
        self.position = position
        self.skip(8)


def _gguf_borders(start: bytes, file_size: int) -> Borders:
    reader = _Reader(start, 4)
    version = reader.u32()
    tensors, pairs = reader.u64(), reader.u64()
    if version not in (2, 3) or not 0 < tensors <= TENSORS_MAX:
        raise _Odd
    alignment = None
    for _ in range(reader.count(pairs)):
        key, kind = reader.string(), reader.u32()
        if key == _ALIGNMENT_KEY:
            if kind != _UINT32 or alignment is not None:
                raise _Odd
            alignment = reader.u32()
            if alignment % 8 or not 0 < alignment <= GGUF_ALIGNMENT_MAX:
                raise _Odd
        else:
            _skip_value(reader, kind)
    alignment = alignment or _ALIGNMENT_DEFAULT
    offsets = array("Q")
    for _ in range(reader.count(tensors)):
        reader.skip(reader.u64())  # the name
        dimensions = reader.u32()
        if dimensions > _DIMENSIONS_MAX:
            raise _Odd
        reader.skip(8 * dimensions + 4)  # the shape and the type
        offsets.append(reader.u64())
    data_start = reader.position + -reader.position % alignment
    borders = array("Q", [data_start])
    first, *others = sorted(offsets)
    for offset in others:
        # A tensor ends where the next begins: its padding is its own, no table of types is needed.
        if offset % alignment or data_start + offset <= borders[-1] or offset > file_size:
            raise _Odd
        borders.append(data_start + offset)
    if first != 0 or borders[-1] >= file_size:
        raise _Odd
    borders.append(file_size)
    return borders


def _skip_value(reader: _Reader, kind: int) -> None:
    if kind == _STRING:
        reader.skip(reader.u64())
    elif kind == _ARRAY:
        item, count = reader.u32(), reader.u64()
        if item == _STRING:
            reader.skip_strings(count)
        elif item in _SCALAR_BYTES:
            reader.skip(count * _SCALAR_BYTES[item])
        else:
            raise _Odd  # lists of lists: in no real file, and a way to nest without end
    elif kind in _SCALAR_BYTES:
        reader.skip(_SCALAR_BYTES[kind])
    else:
        raise _Odd
