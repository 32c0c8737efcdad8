"""Peers in the same local network find each other; what a stranger says there is read with care."""

from __future__ import annotations

import gc

import pytest
import trio
from zeroconf import ServiceStateChange

from p2phub.net.base import Network, PeerAddress
from p2phub.net.mdns import SERVICE_TYPE, find_local_peers, peer_address_of
from p2phub.net.mdns import _Voice as Voice
from tests.net.nodes import address_of, identity, nodes

PEER = identity(1).peer_id


async def test_two_nodes_on_one_network_find_each_other(nursery: trio.Nursery) -> None:
    one, other = await nodes(nursery, 2)
    heard: dict[str, PeerAddress] = {}
    both = trio.Event()

    def on_found(address: PeerAddress) -> None:
        if address.peer in (one.peer_id, other.peer_id):  # or another node of this machine
            heard[address.peer] = address
        if len(heard) == 2:
            both.set()

    async with trio.open_nursery() as search:
        for network in (one, other):

            async def find(network: Network = network) -> None:
                await find_local_peers(network, on_found, interfaces=["127.0.0.1"])

            search.start_soon(find)
        with trio.fail_after(10):
            await both.wait()
        search.cancel_scope.cancel()
    assert heard == {one.peer_id: address_of(one), other.peer_id: address_of(other)}


# zeroconf leaves the socket that it could not use to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_where_there_is_no_such_interface_nothing_fails(nursery: trio.Nursery) -> None:
    (one,) = await nodes(nursery, 1)
    with trio.move_on_after(0.5):
        await find_local_peers(one, lambda address: None, interfaces=["192.0.2.1"])
    gc.collect()


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"id": PEER},
        {"id": None, "a0": "/ip4/127.0.0.1/tcp/1"},
        {"id": "not a peer", "a0": "/ip4/127.0.0.1/tcp/1"},
        {"id": PEER, "a0": "/ip4/127.0.0.1/udp/1/quic"},
        {"id": PEER, "a1": "/ip4/127.0.0.1/tcp/1"},
    ],
)
def test_a_record_that_is_no_peers_is_passed_over(properties: dict[str, str | None]) -> None:
    assert peer_address_of(properties) is None


def test_the_addresses_of_a_record_are_bounded_and_bad_ones_left_out() -> None:
    properties: dict[str, str | None] = {"id": PEER, "a0": "nonsense"}
    properties |= {f"a{index}": f"/ip4/127.0.0.1/tcp/{index}" for index in range(1, 40)}
    found = peer_address_of(properties)
    assert found is not None
    assert found.addresses == tuple(f"/ip4/127.0.0.1/tcp/{index}" for index in range(1, 16))


def test_what_fails_about_one_name_does_not_make_us_deaf() -> None:
    """zeroconf's thread ends with whatever leaves the handler."""
    heard: list[PeerAddress] = []

    def on_found(address: PeerAddress) -> None:
        if address.peer == PEER:  # or another node of this machine
            heard.append(address)

    voice = Voice(PEER, [f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}"], ["127.0.0.1"], on_found)
    ours, added = voice._zeroconf, ServiceStateChange.Added
    voice._on_change(ours, SERVICE_TYPE, "of no type.local.", added)
    voice.close()
    voice._on_change(ours, SERVICE_TYPE, f"{PEER}.{SERVICE_TYPE}", added)
    assert heard == []
