"""Addresses as people type them and as peers send them."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from p2phub.errors import UsageError
from p2phub.net.addresses import (
    decode_address,
    decode_addresses,
    decode_peer_id,
    encode_address,
    encode_peer_id,
    encode_varint,
    endpoint_from_socket,
    expand_wildcard,
    gives_way,
    listen_endpoint,
    network_of,
)
from p2phub.net.base import parse_address, parse_peer_address
from p2phub.proto.limits import ADDRESSES_PER_PEER_MAX
from tests.net.nodes import identity

PEER = identity(1).peer_id

ports = st.integers(0, 65_535)
hosts = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: f"/ip4/{ip}"),
    st.ip_addresses(v=6).map(lambda ip: f"/ip6/{ip}"),
    st.from_regex(r"\A[a-z][a-z0-9]{0,20}(\.[a-z]{2,10}){0,3}\Z").map(lambda name: f"/dns4/{name}"),
)


@given(host=hosts, port=ports)
def test_an_address_survives_the_wire_as_libp2p_writes_it(host: str, port: int) -> None:
    address = parse_address(f"{host}/tcp/{port}")
    assert encode_address(address) == Multiaddr(address).to_bytes()
    assert decode_address(encode_address(address)) == address
    with_peer = Multiaddr(f"{address}/p2p/{PEER}").to_bytes()
    assert decode_address(with_peer) == address


@given(st.binary(max_size=300))
def test_any_bytes_are_an_address_or_none(data: bytes) -> None:
    found = decode_address(data)
    if found is not None:
        assert data.startswith(encode_address(found)) or "dns" in found


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/1.2.3.4/udp/4001/quic-v1",
        "/ip4/1.2.3.4/tcp/80/ws",
        "/unix/a",
        "/ip4/1.2.3.4/tcp/443/wss",
    ],
)
def test_other_transports_are_passed_over(address: str) -> None:
    assert decode_address(Multiaddr(address).to_bytes()) is None


def test_a_list_of_addresses_is_bounded_and_holds_only_what_can_be_dialled() -> None:
    wire = [encode_address(f"/ip4/10.0.0.1/tcp/{port}") for port in range(1, 100)]
    assert len(decode_addresses(wire)) == ADDRESSES_PER_PEER_MAX
    undialable = ["/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001", "/ip4/10.0.0.1/tcp/0"]
    assert decode_addresses([encode_address(address) for address in undialable]) == ()
    assert decode_addresses([b""] * 1000 + wire) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}/p2p-circuit",
        f"/ip4/127.0.0.1/udp/4001/p2p/{PEER}",
        f"/ip4/256.0.0.1/tcp/4001/p2p/{PEER}",
        f"/ip4/::1/tcp/4001/p2p/{PEER}",
        f"/ip4/127.0.0.1/tcp/65536/p2p/{PEER}",
        f"/ip4/127.0.0.1/tcp/-1/p2p/{PEER}",
        f"/ip4/127.0.0.1/tcp/٤/p2p/{PEER}",
        f"/dns4/bad_-.example-/tcp/1/p2p/{PEER}",
        f"/dns4//tcp/1/p2p/{PEER}",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001/p2p/",
        "/ip4/127.0.0.1/tcp/4001/p2p/0OIl" + "1" * 44,
        "/ip4/127.0.0.1/tcp/4001/p2p/" + "Q" * 10_000,
    ],
)
def test_what_is_no_peers_address_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(UsageError):
        parse_peer_address(text)


def test_a_peers_address_is_read_in_its_normal_form() -> None:
    found = parse_peer_address(f"/ip6/2001:0db8::0001/tcp/04001/p2p/{PEER}")
    assert found.addresses == ("/ip6/2001:db8::1/tcp/4001",)
    assert found.texts() == [f"/ip6/2001:db8::1/tcp/4001/p2p/{PEER}"]
    named = parse_peer_address(f"/dns/Seed.Example./tcp/4001/p2p/{PEER}")
    assert named.addresses == ("/dns/seed.example/tcp/4001",)


def test_peer_ids_survive_the_wire_and_others_are_none() -> None:
    assert decode_peer_id(encode_peer_id(PEER)) == PEER
    for data in (b"", b"\x00\x24", bytes(38), b"\x12\x20" + bytes(31), bytes(1000)):
        assert decode_peer_id(data) is None


def test_sockets_addresses_of_both_families_are_read() -> None:
    assert str(endpoint_from_socket(("192.0.2.1", 5))) == "/ip4/192.0.2.1/tcp/5"
    assert str(endpoint_from_socket(("::1", 5, 0, 0))) == "/ip6/::1/tcp/5"
    assert str(endpoint_from_socket(("fe80::1%eth0", 5, 0, 3))) == "/ip6/fe80::1/tcp/5"
    assert str(endpoint_from_socket(("::ffff:192.0.2.1", 5, 0, 0))) == "/ip4/192.0.2.1/tcp/5"


def test_a_wildcard_becomes_addresses_of_this_machine_and_others_stay() -> None:
    for found in expand_wildcard(listen_endpoint("/ip4/0.0.0.0/tcp/4001")):
        assert found.port == 4001 and not ipaddress.ip_address(found.host).is_unspecified
    fixed = listen_endpoint("/ip4/192.0.2.1/tcp/4001")
    assert expand_wildcard(fixed) == [fixed]


def test_addresses_of_one_64_are_one_network() -> None:
    one, other = "2001:db8:1:2::1", "2001:db8:1:2:ffff::9"
    assert network_of(one) == network_of(other) != network_of("2001:db8:1:3::1")
    assert network_of("192.0.2.1") != network_of("192.0.2.2")
    assert network_of("::1") == "::1"


def test_the_network_with_most_places_gives_way_to_who_has_two_fewer() -> None:
    hosts = ["2001:db8::1", "2001:db8::2", "192.0.2.1", "2001:db8::3", "192.0.2.2"]
    assert gives_way(hosts, "192.0.2.1") == gives_way(hosts, "192.0.2.3") == "2001:db8::/64"
    assert gives_way(hosts, "2001:db8::4") is None
    assert gives_way(hosts[2:], "192.0.2.3") is None


@given(st.integers(0, 1 << 40))
def test_varints_are_those_of_protobuf(number: int) -> None:
    data = encode_varint(number)
    assert sum((byte & 0x7F) << 7 * index for index, byte in enumerate(data)) == number
    assert [byte >= 0x80 for byte in data] == [True] * (len(data) - 1) + [False]
