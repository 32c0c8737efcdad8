"""Joining a network that may not be there yet, under a virtual clock."""

from __future__ import annotations

import random

import trio
from trio.testing import MockClock

from p2phub.errors import PeerUnreachable
from p2phub.net.base import PeerAddress, parse_peer_address
from p2phub.net.bootstrap import BACKOFF_MAX_S, PEERS_ENOUGH, Backoff, stay_joined
from p2phub.net.memory import MemoryHub, MemoryNetwork
from tests.net.nodes import identity

PEER = identity(1).peer_id


def address_of(network: MemoryNetwork) -> PeerAddress:
    return parse_peer_address(network.addresses()[0])


async def test_a_node_started_offline_joins_hours_later(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hub = MemoryHub()
    one, bootstrap = hub.network("one"), hub.network("bootstrap")
    await nursery.start(one.run)
    nursery.start_soon(stay_joined, one, lambda: [address_of(bootstrap)], random.Random(1))
    await trio.sleep(6 * 3600)
    assert one.peers() == []
    await nursery.start(bootstrap.run)
    await trio.sleep(BACKOFF_MAX_S * 1.25 + 15)
    assert [status.peer for status in one.peers()] == [bootstrap.peer_id]
    assert one.routing().refreshed_s is not None


async def test_a_lost_bootstrap_node_is_dialled_again_and_others_meanwhile(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hub = MemoryHub(latency_s=0.05)
    one, first, second = (hub.network(name) for name in ("one", "first", "second"))
    for network in (one, first, second):
        await nursery.start(network.run)
    addresses = [address_of(first), address_of(second)]
    nursery.start_soon(stay_joined, one, lambda: addresses, random.Random(1))
    await trio.sleep(1)
    assert {status.peer for status in one.peers()} == {first.peer_id, second.peer_id}
    hub.cut(one.peer_id, first.peer_id)
    await trio.sleep(60)
    assert {status.peer for status in one.peers()} == {second.peer_id}
    hub.heal(one.peer_id, first.peer_id)
    await trio.sleep(BACKOFF_MAX_S * 1.25 + 15)
    assert {status.peer for status in one.peers()} == {first.peer_id, second.peer_id}


async def test_with_peers_enough_nobody_is_dialled(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hub = MemoryHub()
    networks = [hub.network(str(number)) for number in range(PEERS_ENOUGH + 3)]
    for network in networks:
        await nursery.start(network.run)
    for network in networks[1 : PEERS_ENOUGH + 1]:
        await networks[0].connect(address_of(network))
    addresses = [address_of(network) for network in networks[PEERS_ENOUGH + 1 :]]
    nursery.start_soon(stay_joined, networks[0], lambda: addresses, random.Random(1))
    await trio.sleep(3600)
    assert len(networks[0].peers()) == PEERS_ENOUGH


async def test_our_own_address_in_the_list_does_no_harm(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hub = MemoryHub()
    one = hub.network("one")
    await nursery.start(one.run)
    nursery.start_soon(stay_joined, one, lambda: [address_of(one)], random.Random(1))
    await trio.sleep(3600)
    assert one.peers() == []


def test_pauses_double_up_to_a_bound_and_a_success_forgets_them() -> None:
    backoff = Backoff(random.Random(3))
    now = 0.0
    pauses = []
    for _ in range(30):
        backoff.on_failure(PEER, now)
        pauses.append(backoff.next_due(now))
        assert not backoff.is_due(PEER, now)
        now += pauses[-1]
        assert backoff.is_due(PEER, now)
    assert pauses[0] < 1.5
    assert BACKOFF_MAX_S * 0.7 < pauses[-1] <= BACKOFF_MAX_S * 1.25
    backoff.on_success(PEER)
    assert backoff.is_due(PEER, now)


def test_peers_that_left_the_list_are_forgotten() -> None:
    backoff = Backoff(random.Random(3))
    backoff.on_failure(PEER, 0.0)
    backoff.keep([])
    assert backoff.is_due(PEER, 0.0)


async def test_links_in_memory_take_their_time_and_can_be_cut(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hub = MemoryHub(latency_s=0.1)
    one, other = hub.network("one"), hub.network("other")

    async def echo(stream: object) -> None:
        await stream.send(await stream.receive())  # type: ignore[attr-defined]

    other.serve("/test/1", echo)
    for network in (one, other):
        await nursery.start(network.run)
    begun_s = trio.current_time()
    await one.connect(address_of(other))
    stream = await one.open(other.peer_id, "/test/1")
    await stream.send(b"x")
    assert await stream.receive() == b"x"
    assert 0.55 < trio.current_time() - begun_s < 0.65
    hub.cut(one.peer_id, other.peer_id)
    assert one.peers() == other.peers() == []
    try:
        await one.connect(address_of(other))
        raise AssertionError("a cut link was crossed")
    except PeerUnreachable:
        pass
