"""multistream-select 1.0: agree on a protocol's name at the start of a connection or stream.

Ours is bounded and takes one round trip: the opener sends its header and its proposal together.
Source: https://github.com/multiformats/multistream-select.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Protocol

from p2phub.errors import ProtocolRefused, ProtocolViolation
from p2phub.net.addresses import encode_varint
from p2phub.proto.limits import PROTOCOLS_OFFERED_MAX

_HEADER = "/multistream/1.0.0"
_NOT_AVAILABLE = "na"
_LINE_BYTES_MAX = 256  # the longest protocol name we would answer to, with its newline


class ByteStream(Protocol):
    """What is negotiated over."""

    async def send(self, data: bytes, /) -> None: ...

    async def receive_exactly(self, count: int, /) -> bytes: ...


async def propose(stream: ByteStream, protocol: str) -> None:
    """Ask the other end to speak `protocol`.

    Raises ProtocolRefused, ProtocolViolation, StreamClosed.
    """
    await stream.send(_line(_HEADER) + _line(protocol))
    header = await _receive_line(stream)
    if header != _HEADER:
        raise ProtocolViolation(f"a peer began with {header!r} instead of {_HEADER}")
    answer = await _receive_line(stream)
    if answer == _NOT_AVAILABLE:
        raise ProtocolRefused(f"the peer does not speak {protocol}", protocol=protocol)
    if answer != protocol:
        raise ProtocolViolation(f"a peer answered {answer!r} when asked for {protocol}")


async def answer(stream: ByteStream, protocols: Container[str]) -> str:
    """Wait for the other end's proposal of something we speak.

    Raises ProtocolViolation, StreamClosed.
    """
    await stream.send(_line(_HEADER))
    header = await _receive_line(stream)
    if header != _HEADER:
        raise ProtocolViolation(f"a peer began with {header!r} instead of {_HEADER}")
    for _ in range(PROTOCOLS_OFFERED_MAX):
        proposal = await _receive_line(stream)
        if proposal in protocols:
            await stream.send(_line(proposal))
            return proposal
        await stream.send(_line(_NOT_AVAILABLE))
    raise ProtocolViolation(
        f"a peer proposed {PROTOCOLS_OFFERED_MAX} protocols, none of which we speak"
    )


def _line(text: str) -> bytes:
    data = text.encode("ascii") + b"\n"
    return encode_varint(len(data)) + data


async def _receive_line(stream: ByteStream) -> str:
    length = (await stream.receive_exactly(1))[0]
    if length >= 0x80:
        length = length & 0x7F | (await stream.receive_exactly(1))[0] << 7
    if not 0 < length <= _LINE_BYTES_MAX:
        raise ProtocolViolation(f"a peer sent a protocol name of {length} bytes")
    data = await stream.receive_exactly(length)
    if data[-1:] != b"\n" or not data.isascii():
        raise ProtocolViolation("a peer sent a protocol name that is none")
    return data[:-1].decode("ascii")
