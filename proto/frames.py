"""Framing: session frames with a length in front, and the 12-byte header of a byte channel.

A `FrameReader` is fed bytes as they come and gives whole frames; it never holds more than one frame
and refuses a length over the limit before it buffers any of it.

Source: SPEC.md sections 7 and 8.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from p2phub.errors import ProtocolViolation
from p2phub.proto.limits import FRAME_BYTES_MAX, PAYLOAD_BYTES_MAX, SPAN_CHUNKS_MAX

_LENGTH = struct.Struct(">I")


def frame(payload: bytes, size_max: int = FRAME_BYTES_MAX) -> bytes:
    """`payload` with its length in front (4 bytes, big endian)."""
    assert 0 < len(payload) <= size_max
    return _LENGTH.pack(len(payload)) + payload


class FrameReader:
    """Whole frames out of bytes that arrive in any pieces."""

    def __init__(self, size_max: int = FRAME_BYTES_MAX) -> None:
        self._size_max = size_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes.

        Raises ProtocolViolation on a length of 0 or over the limit.
        """
        self._buffer += data
        frames: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= 4:
            (size,) = _LENGTH.unpack_from(self._buffer, start)
            if not 0 < size <= self._size_max:
                raise ProtocolViolation(
                    f"a frame claims {size} bytes; at most {self._size_max} are allowed"
                )
            if len(self._buffer) - start - 4 < size:
                break
            frames.append(bytes(self._buffer[start + 4 : start + 4 + size]))
            start += 4 + size
        del self._buffer[:start]
        return frames

    @property
    def is_empty(self) -> bool:
        """Whether no part of a frame waits for its rest."""
        return not self._buffer


# ---- byte channels: lanes and span streams ------------------------------------------------------

_HEADER = struct.Struct(">III")
HEADER_BYTES = _HEADER.size
NOT_HELD = 0xFFFFFFFF  # in the place of a length: not held, and no more of this span comes


@dataclass(frozen=True, slots=True)
class PayloadHeader:
    """What precedes the bytes of one or more whole, consecutive chunks of a span."""

    request_id: int  # as the requester numbered it on the session
    first_chunk: int  # number of the first chunk within the span
    length: int  # bytes that follow, or NOT_HELD

    def encode(self) -> bytes:
        return _HEADER.pack(self.request_id, self.first_chunk, self.length)

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> PayloadHeader:
        """Raises ProtocolViolation if no channel may carry this length, or a span has no such
        chunk.
        """
        header = cls(*_HEADER.unpack(data))
        if header.length != NOT_HELD and not 0 < header.length <= PAYLOAD_BYTES_MAX:
            raise ProtocolViolation(f"a byte channel's frame claims {header.length} bytes")
        if header.first_chunk >= SPAN_CHUNKS_MAX:
            raise ProtocolViolation(f"a byte channel's frame begins at chunk {header.first_chunk}")
        return header
