"""Where files and chunk lists are cut: `tensor-1m/1` as arithmetic, and the borders of segments.

`cdc-16k/1` needs the bytes and is done where they are read; here are only its constants' users. The
same tensor gives the same chunks in whichever shard, order or release it lies, as long as it has
64 KiB or more; smaller ones are joined with their neighbours and may change names when those do.

Source: SPEC.md section 4.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from p2phub.core.content.tensors import Borders
from p2phub.digest import DIGEST_BYTES
from p2phub.proto.content import Segment
from p2phub.proto.limits import (
    CHUNK_BYTES_MAX,
    SEGMENT_BORDER_MASK,
    SEGMENT_CHUNKS_MAX,
    SEGMENT_CHUNKS_MIN,
    SMALL_FILE_BYTES,
    TENSOR_JOIN_BYTES,
)


def is_one_chunk(file_size: int) -> bool:
    """Whether a file of this many bytes is a single chunk, whatever it holds."""
    return 0 < file_size <= SMALL_FILE_BYTES


def cut_tensors(borders: Borders) -> array[int]:
    """The lengths of a file's chunks under `tensor-1m/1`, in order, type code "I".

    borders: as `tensor_borders` gives them. The header is cut into pieces of 1 MiB, like a tensor.
    """
    lengths = array("I")
    _cut_piece(lengths, borders[0])
    joined = 0  # bytes of whole small tensors, not yet cut off
    for index in range(1, len(borders)):
        size = borders[index] - borders[index - 1]
        is_small = size < TENSOR_JOIN_BYTES
        if joined and not (is_small and joined + size <= CHUNK_BYTES_MAX):
            lengths.append(joined)
            joined = 0
        if is_small:
            joined += size
        else:
            _cut_piece(lengths, size)
    if joined:
        lengths.append(joined)
    return lengths


def _cut_piece(lengths: array[int], size: int) -> None:
    whole, tail = divmod(size, CHUNK_BYTES_MAX)
    lengths.extend([CHUNK_BYTES_MAX] * whole)
    if tail:
        lengths.append(tail)


def cut_segments(digests: bytes | bytearray, lengths: array[int]) -> Iterator[Segment]:
    """The pages of a chunk list, whose borders depend on the chunks near them only.

    So what is inserted in the middle of a file changes one or two pages, not all that follow.

    digests: 32 bytes per chunk. lengths: bytes per chunk, type code "I".
    """
    count = len(lengths)
    assert len(digests) == DIGEST_BYTES * count
    # Of the first four bytes of each digest, those that a border has zeros in.
    upper, lower = digests[2::DIGEST_BYTES], digests[3::DIGEST_BYTES]
    start = 0
    while start < count:
        limit = min(start + SEGMENT_CHUNKS_MAX, count)
        last = lower.find(0, min(start + SEGMENT_CHUNKS_MIN, count) - 1, limit - 1)
        while last >= 0 and upper[last] & _BORDER_UPPER:
            last = lower.find(0, last + 1, limit - 1)
        stop = limit if last < 0 else last + 1
        yield Segment(
            bytes(digests[start * DIGEST_BYTES : stop * DIGEST_BYTES]), lengths[start:stop]
        )
        start = stop


_BORDER_UPPER, _BORDER_LOWER = divmod(SEGMENT_BORDER_MASK, 256)
assert _BORDER_LOWER == 255 and _BORDER_UPPER < 256
