"""A search among peers that are dead, lie or hint at crowds that are not there, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import base58
import pytest
import trio
from trio.testing import MockClock

from p2phub.digest import sha256
from p2phub.net.base import PeerAddress, PeerId, parse_peer_address
from p2phub.net.memory import MemoryHub, MemoryNetwork
from p2phub.node.search import CANDIDATES_MAX, FED_S, HINTS_MAX, Search

KEY = sha256(b"what is searched")


@asynccontextmanager
async def networks(hub: MemoryHub, *names: str) -> AsyncIterator[list[MemoryNetwork]]:
    found = [hub.network(name) for name in names]
    async with trio.open_nursery() as nursery:
        for network in found:
            await nursery.start(network.run)
        yield found
        nursery.cancel_scope.cancel()


def nobody(number: int) -> PeerAddress:
    """A peer that does not exist."""
    raw = bytes.fromhex("002408011220") + sha256(number.to_bytes(4, "big"))
    return PeerAddress(PeerId(base58.b58encode(raw).decode()), ("/ip4/192.0.2.1/tcp/1",))


def address_of(network: MemoryNetwork) -> PeerAddress:
    return parse_peer_address(network.addresses()[0])


async def test_hints_of_peers_that_are_not_there_hide_nobody(autojump_clock: MockClock) -> None:
    async with networks(MemoryHub(latency_s=2.0), "me", "server", "provider") as all_three:
        me, server, provider = all_three
        await me.connect(address_of(server))
        await provider.connect(address_of(server))
        search = Search(me, keys=[KEY])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(search.run)
            for number in range(3000):
                nursery.start_soon(search.offer, nobody(number))
            await trio.sleep(1)
            assert len(nursery.child_tasks) <= HINTS_MAX + 1
            assert await provider.announce(KEY) > 0
            with trio.fail_after(60):
                while provider.peer_id not in search.found:
                    await search.wait_more(len(search.found))
            nursery.cancel_scope.cancel()


async def test_a_hint_of_a_peer_that_lives_is_found(autojump_clock: MockClock) -> None:
    async with networks(MemoryHub(latency_s=0.1), "me", "other") as (me, other):
        search = Search(me, keys=[])
        await search.offer(address_of(other))
        assert search.found == [other.peer_id]
        search.exclude(other.peer_id)
        await search.offer(address_of(other))
        search.add_connected()
        assert search.found == []


async def test_a_named_peer_that_comes_late_is_found_in_a_later_round(
    autojump_clock: MockClock,
) -> None:
    hub = MemoryHub(latency_s=0.1)
    late = hub.network("late")
    async with networks(hub, "me") as [me], trio.open_nursery() as nursery:
        search = Search(me, keys=[KEY], named=[address_of(late)])
        nursery.start_soon(search.run)
        await search.wait_round()
        assert search.found == []
        assert "could not be reached" in str(search.report("it"))
        await nursery.start(late.run)
        with trio.fail_after(60):
            await search.wait_more(0)
        while not search.found:
            await search.wait_more(0)
        assert search.found == [late.peer_id]
        nursery.cancel_scope.cancel()


async def test_never_more_candidates_than_the_bound(autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    names = [f"peer {number}" for number in range(CANDIDATES_MAX + 50)]
    async with networks(hub, "me", *names) as [me, *others]:
        for other in others:
            await me.connect(address_of(other))
        search = Search(me, keys=[])
        search.add_connected()
        assert len(search.found) == CANDIDATES_MAX


async def test_while_verified_chunks_come_in_nobody_is_asked_again_at_once(
    autojump_clock: MockClock,
) -> None:
    async with networks(MemoryHub(latency_s=0.1), "me", "other") as (me, other):
        await me.connect(address_of(other))
        search = Search(me, keys=[KEY, sha256(KEY)])
        fed_until_s = trio.current_time() + 20.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(search.run)
            while trio.current_time() < fed_until_s:
                search.on_fed()
                await trio.sleep(0.5)
            assert search.rounds_count == 1
            with trio.fail_after(FED_S + 1.0):
                await search.wait_round()
            nursery.cancel_scope.cancel()


async def test_a_search_that_is_fed_for_long_still_looks_around_now_and_then(
    autojump_clock: MockClock,
) -> None:
    async with networks(MemoryHub(latency_s=0.1), "me") as [me], trio.open_nursery() as nursery:
        search = Search(me, keys=[KEY])
        nursery.start_soon(search.run)
        for _ in range(400):
            search.on_fed()
            await trio.sleep(0.5)
        assert 4 <= search.rounds_count <= 8
        nursery.cancel_scope.cancel()


async def test_what_a_search_says_counts_in_words(autojump_clock: MockClock) -> None:
    async with networks(MemoryHub(latency_s=0.1), "me", "other") as (me, other):
        await me.connect(address_of(other))
        async with trio.open_nursery() as nursery:
            search = Search(me, keys=[KEY])
            nursery.start_soon(search.run)
            await search.wait_round()
            assert "asked 1 peer and " in str(search.report("it"))
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("dead_count", [0, 20])
async def test_a_search_without_anybody_goes_on_and_says_so(
    autojump_clock: MockClock, dead_count: int
) -> None:
    async with networks(MemoryHub(latency_s=0.5), "me") as [me], trio.open_nursery() as nursery:
        search = Search(me, keys=[KEY], named=[nobody(number) for number in range(dead_count)])
        nursery.start_soon(search.run)
        for _ in range(6):
            await search.wait_round()
        error = search.report("it")
        assert error.facts["peers_asked"] == []
        assert ("could not reach" in str(error)) == bool(dead_count)
        assert "this node knows no other" in str(error)
        nursery.cancel_scope.cancel()
