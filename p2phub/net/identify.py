"""libp2p's identify: peers tell each other where they listen and what they speak.

Source: https://github.com/libp2p/specs/blob/master/identify/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError
from libp2p.identity.identify.pb.identify_pb2 import Identify

from p2phub.errors import ProtocolViolation
from p2phub.net.addresses import (
    Endpoint,
    decode_addresses,
    encode_address,
    encode_varint,
    endpoint_from_text,
)
from p2phub.net.base import Stream
from p2phub.proto.limits import ADDRESSES_PER_PEER_MAX, IDENTIFY_BYTES_MAX

PROTOCOL = "/ipfs/id/1.0.0"
_VERSION = "p2phub/1"
_PROTOCOLS_MAX = 128


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a peer says of itself. Its addresses are hints; its key was proven elsewhere."""

    addresses: tuple[str, ...]
    protocols: frozenset[str]


async def introduce(
    stream: Stream,
    agent: str,
    public_key: bytes,
    addresses: tuple[str, ...],
    protocols: list[str],
    remote: Endpoint,
) -> None:
    """Answer a peer that asks who we are."""
    message = Identify(
        protocol_version=_VERSION,
        agent_version=agent,
        public_key=public_key,
        listen_addrs=[encode_address(address) for address in addresses],
        observed_addr=encode_address(str(remote)),
        protocols=protocols,
    ).SerializeToString()
    await stream.send(encode_varint(len(message)) + message)


async def receive_introduction(
    stream: Stream, remote: Endpoint, *, is_outbound: bool
) -> Introduction:
    """Read what a peer says of itself. Raises ProtocolViolation, StreamClosed.

    remote: where the connection goes; an address at which we reached the peer is its best, and the
    IP from which it came is joined to its ports, since behind a port mapping it knows only its
    inner address.
    """
    data = b""
    while part := await stream.receive(IDENTIFY_BYTES_MAX):
        data += part
        if len(data) > IDENTIFY_BYTES_MAX:
            raise ProtocolViolation("a peer introduces itself at too great a length")
    message = Identify()
    try:
        message.ParseFromString(_without_length(data))
    except DecodeError as error:
        raise ProtocolViolation("a peer's introduction cannot be read") from error
    said = decode_addresses(message.listen_addrs)
    if is_outbound:
        first = [str(remote)]
    else:
        ports = dict.fromkeys(endpoint_from_text(address).port for address in said)
        first = [str(Endpoint(remote.kind, remote.host, port)) for port in list(ports)[:2]]
    addresses = tuple(dict.fromkeys([*first, *said]))[:ADDRESSES_PER_PEER_MAX]
    return Introduction(
        addresses if said or is_outbound else (), frozenset(message.protocols[:_PROTOCOLS_MAX])
    )


def _without_length(data: bytes) -> bytes:
    """The message after its length; older peers send it bare."""
    length = shift = 0
    for index, byte in enumerate(data[:3]):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return data[index + 1 :] if length == len(data) - index - 1 else data
    return data
