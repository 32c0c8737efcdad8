"""Multiaddrs as p2phub uses them: TCP only, text inside, bytes on the wire, wildcards expanded to
real interfaces.

Source: https://github.com/multiformats/multiaddr, table of codes in multicodec.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import base58
import ifaddr

from p2phub.core.discovery.subnets import crowding
from p2phub.errors import BadSetting, UsageError
from p2phub.net.base import PeerId, parse_address
from p2phub.proto.limits import ADDRESS_BYTES_MAX, ADDRESSES_PER_PEER_MAX

_REMEMBERED = 8192  # the same few peers are named in every answer
_TCP = b"\x06"
_IP4, _IP6 = 0x04, 0x29
_NAMES = {0x35: "dns", 0x36: "dns4", 0x37: "dns6"}
_CODES = {name: code for code, name in _NAMES.items()}
_PEER_ID_BYTES = range(34, 43)  # a SHA-256 multihash to an inlined Ed25519 key


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a TCP connection goes, or comes in."""

    kind: str  # ip4, ip6, dns, dns4 or dns6
    host: str
    port: int

    def __str__(self) -> str:
        return f"/{self.kind}/{self.host}/tcp/{self.port}"


def endpoint_from_text(address: str) -> Endpoint:
    """Take a multiaddr without /p2p apart. Raises UsageError."""
    _, kind, host, _, port = parse_address(address).split("/")
    return Endpoint(kind, host, int(port))


def endpoint_from_socket(name: tuple[object, ...]) -> Endpoint:
    """The multiaddr of what getpeername and getsockname return; IPv6 comes as four fields."""
    host, port = str(name[0]), int(str(name[1]))
    ip = ipaddress.ip_address(host.partition("%")[0])  # a scope id means nothing on another machine
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return Endpoint("ip4" if ip.version == 4 else "ip6", str(ip), port)


@lru_cache(_REMEMBERED)
def encode_address(address: str) -> bytes:
    """The wire form of a multiaddr without /p2p."""
    endpoint = endpoint_from_text(address)
    if endpoint.kind == "ip4":
        head = bytes((_IP4,)) + ipaddress.IPv4Address(endpoint.host).packed
    elif endpoint.kind == "ip6":
        head = bytes((_IP6,)) + ipaddress.IPv6Address(endpoint.host).packed
    else:
        name = endpoint.host.encode("ascii")
        head = bytes((_CODES[endpoint.kind],)) + encode_varint(len(name)) + name
    return head + _TCP + endpoint.port.to_bytes(2, "big")


@lru_cache(_REMEMBERED)
def decode_address(data: bytes) -> str | None:
    """The text of a wire multiaddr, without a /p2p at its end; None for what we cannot dial."""
    if not 2 < len(data) <= ADDRESS_BYTES_MAX:
        return None
    code = data[0]
    if code == _IP4 and len(data) > 5:
        host, rest = str(ipaddress.IPv4Address(data[1:5])), data[5:]
    elif code == _IP6 and len(data) > 17:
        host, rest = str(ipaddress.IPv6Address(data[1:17])), data[17:]
    elif code in _NAMES and data[1] < 0x80:  # names of 128 bytes and more are not worth a dial
        host, rest = data[2 : 2 + data[1]].decode("ascii", "replace"), data[2 + data[1] :]
    else:
        return None
    # What may follow is our peer's own id (code 0x01a5 as a varint); anything else is another
    # transport.
    if len(rest) < 3 or rest[:1] != _TCP or rest[3:5] not in (b"", b"\xa5\x03"):
        return None
    kind = "ip4" if code == _IP4 else "ip6" if code == _IP6 else _NAMES[code]
    try:
        return parse_address(f"/{kind}/{host}/tcp/{int.from_bytes(rest[1:3], 'big')}")
    except UsageError:
        return None


def decode_addresses(items: Iterable[bytes]) -> tuple[str, ...]:
    """At most ADDRESSES_PER_PEER_MAX dialable addresses out of a stranger's list, each once."""
    found: dict[str, None] = {}
    for index, item in enumerate(items):
        if index >= 4 * ADDRESSES_PER_PEER_MAX or len(found) >= ADDRESSES_PER_PEER_MAX:
            break
        address = decode_address(item)
        if address is not None and is_dialable(address):
            found[address] = None
    return tuple(found)


def is_dialable(address: str) -> bool:
    """Not a wildcard, not port 0, not multicast: somewhere a connection can go."""
    endpoint = endpoint_from_text(address)
    if endpoint.port == 0:
        return False
    if endpoint.kind not in ("ip4", "ip6"):
        return True
    ip = ipaddress.ip_address(endpoint.host)
    return not (ip.is_unspecified or ip.is_multicast)


def is_own_machine(host: str | None) -> bool:
    """Whether an IP text is this machine's loopback."""
    return host is not None and ipaddress.ip_address(host).is_loopback


@lru_cache(_REMEMBERED)
def network_of(host: str) -> str:
    """Whose an IP text is, as far as limits go: who has one address of IPv6 has its whole /64."""
    ip = ipaddress.ip_address(host)
    if ip.version == 4 or ip.is_loopback:
        return host
    return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))


def gives_way(hosts: Iterable[str], newcomer: str) -> str | None:
    """Of those who hold all places there are, the network with most of them, if it is to give one
    to a host that came later; None where that would have as many then.
    """
    return crowding(map(network_of, hosts), network_of(newcomer))


@lru_cache(_REMEMBERED)
def encode_peer_id(peer: PeerId) -> bytes:
    return base58.b58decode(peer)


@lru_cache(_REMEMBERED)
def decode_peer_id(data: bytes) -> PeerId | None:
    """The text of a wire peer id; None if the bytes cannot be one."""
    if len(data) not in _PEER_ID_BYTES or data[:2] not in (b"\x00\x24", b"\x12\x20"):
        return None
    return PeerId(base58.b58encode(data).decode("ascii"))


def encode_varint(number: int) -> bytes:
    """Unsigned LEB128, as multiformats and protobuf write it."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def expand_wildcard(endpoint: Endpoint) -> list[Endpoint]:
    """What others may dial when we listen on `endpoint`: itself, or each interface's address for
    0.0.0.0 and ::.

    Loopback is named only where the machine has nothing else, link-local addresses never: they mean
    another machine elsewhere.
    """
    if not ipaddress.ip_address(endpoint.host).is_unspecified:
        return [endpoint]
    version = 4 if endpoint.kind == "ip4" else 6
    hosts = [ip for ip in _interface_addresses() if ip.version == version and not ip.is_link_local]
    outward = [ip for ip in hosts if not ip.is_loopback] or hosts
    return [
        Endpoint(endpoint.kind, str(ip), endpoint.port) for ip in outward[:ADDRESSES_PER_PEER_MAX]
    ]


def listen_endpoint(address: str) -> Endpoint:
    """Read a listening address from the settings. Raises BadSetting."""
    try:
        endpoint = endpoint_from_text(address)
    except UsageError as error:
        raise BadSetting(str(error), setting="listen", value=address) from None
    if endpoint.kind not in ("ip4", "ip6"):
        raise BadSetting(
            f"{address!r}: listen on an IP address, as in /ip4/0.0.0.0/tcp/4001",
            setting="listen",
            value=address,
        )
    return endpoint


def _interface_addresses() -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    found = []
    for adapter in ifaddr.get_adapters():
        for item in adapter.ips:
            text = item.ip if isinstance(item.ip, str) else item.ip[0]
            found.append(ipaddress.ip_address(text.partition("%")[0]))
    return found
