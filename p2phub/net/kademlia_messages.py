"""Messages of libp2p's Kademlia: made, read within bounds, sent and received after their length.

Source: https://github.com/libp2p/specs/blob/master/kad-dht/README.md, "RPC messages".
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError
from libp2p.kad_dht.pb.kademlia_pb2 import Message

from p2phub.errors import ProtocolViolation, StreamClosed
from p2phub.net.addresses import (
    decode_addresses,
    decode_peer_id,
    encode_address,
    encode_peer_id,
    encode_varint,
)
from p2phub.net.base import PeerId, Stream
from p2phub.net.connection import PeerStream
from p2phub.proto.limits import DHT_MESSAGE_BYTES_MAX, DHT_PEERS_PER_MESSAGE_MAX


def message_of(kind: Message.MessageType, key: bytes) -> Message:
    message = Message()
    message.type = kind
    message.key = key
    return message


def add_peers(field: Any, peers: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    for peer, addresses in peers:
        entry = field.add()
        entry.id = encode_peer_id(PeerId(peer))
        entry.addrs.extend(encode_address(address) for address in addresses)


def read_peers(field: Iterable[Message.Peer]) -> Iterable[tuple[PeerId, tuple[str, ...]]]:
    """The peers of a message that have an id and an address we can dial; beyond the bound nothing
    is read.
    """
    for entry in islice(field, DHT_PEERS_PER_MESSAGE_MAX):
        peer = decode_peer_id(entry.id)
        addresses = decode_addresses(entry.addrs)
        if peer is not None and addresses:
            yield peer, addresses


async def send_message(stream: Stream | PeerStream, message: Message) -> None:
    data = message.SerializeToString()
    await stream.send(encode_varint(len(data)) + data)


async def receive_message(stream: Stream | PeerStream) -> Message | None:
    """One message; None at the end of the stream. Raises ProtocolViolation, StreamClosed."""
    length = shift = 0
    while True:
        byte = await stream.receive(1)
        if not byte:
            if shift:
                raise StreamClosed("the stream ended inside a message")
            return None
        length |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            break
        if shift > 21:
            raise ProtocolViolation("the length of a message has no end")
    if length > DHT_MESSAGE_BYTES_MAX:
        raise ProtocolViolation(f"a message of {length} bytes")
    message = Message()
    try:
        message.ParseFromString(await stream.receive_exactly(length) if length else b"")
    except DecodeError as error:
        raise ProtocolViolation("a message that cannot be read") from error
    return message
