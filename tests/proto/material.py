"""Test content described by a short recipe, so that vectors need no big files.

A recipe is a list of parts, joined: ["hex", "00ff"], ["zeros", 5], ["text", "abc"],
["repeat", "00ff", 3] and ["random", "seed", 100]: the first 100 bytes of SHA-256("seed" + counter)
for counter = 0, 1, … as 8 bytes, big endian.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from p2phub.digest import sha256

Recipe = list[list[Any]]


def material(recipe: Recipe) -> bytes:
    return b"".join(map(_part, recipe))


def _part(part: list[Any]) -> bytes:
    match part:
        case ["hex", digits]:
            return bytes.fromhex(digits)
        case ["zeros", count]:
            return bytes(count)
        case ["text", text]:
            return str(text).encode("utf-8")
        case ["repeat", digits, times]:
            return bytes.fromhex(digits) * int(times)
        case ["random", seed, size]:
            return random_bytes(seed, size)
    raise ValueError(part)


def random_bytes(seed: str, size: int) -> bytes:
    blocks = range(-(-size // 32))
    return b"".join(sha256(seed.encode() + i.to_bytes(8, "big")) for i in blocks)[:size]


# ---- files with tensors -------------------------------------------------------------------------


def safetensors_header(sizes: dict[str, int], **metadata: str) -> bytes:
    """The length and the JSON of a safetensors file with tensors of bytes, in this order."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, size in sizes.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [offset, offset + size]}
        offset += size
    return raw_safetensors_header(json.dumps(header, separators=(",", ":")).encode())


def raw_safetensors_header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def gguf_text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def gguf_header(
    offsets: list[int],
    pairs: tuple[bytes, ...] = (),
    *,
    version: int = 3,
    tensor_count: int | None = None,
    pair_count: int | None = None,
    alignment: int = 32,
    dimensions: int = 1,
) -> bytes:
    """A GGUF header with one tensor per offset, padded to `alignment`. Pairs are ready encoded."""
    tensors = len(offsets) if tensor_count is None else tensor_count
    count = len(pairs) if pair_count is None else pair_count
    data = b"GGUF" + struct.pack("<IQQ", version, tensors, count) + b"".join(pairs)
    for number, offset in enumerate(offsets):
        data += gguf_text(b"blk.%d.weight" % number) + struct.pack("<I", dimensions)
        data += struct.pack("<Q", 64) * dimensions + struct.pack("<IQ", 0, offset)
    return data + bytes(-len(data) % (alignment or 1))


def gguf_alignment(alignment: int) -> bytes:
    return gguf_text(b"general.alignment") + struct.pack("<II", 4, alignment)
