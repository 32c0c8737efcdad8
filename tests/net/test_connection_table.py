"""Connections of one host: whatever they hold, they keep nobody else from his."""

from __future__ import annotations

from contextlib import suppress

import trio

from p2phub.errors import StreamClosed
from tests.net.nodes import (
    DEAF,
    ECHO,
    SYN,
    WINDOW,
    Attacker,
    address_of,
    ask_echo,
    attack,
    data_frame,
    deaf_victim,
    frame,
    identity,
    is_closed,
    nodes,
    opening,
    until,
)


async def test_connections_of_one_host_whose_streams_say_nothing_keep_nobody_out(
    nursery: trio.Nursery,
) -> None:
    victim, honest = await nodes(nursery, 2)
    victim._swarm.inbound_max = 6
    for number in range(6):
        attacker = await attack(nursery, victim, 9000 + number, source=f"127.0.0.{2 + number % 2}")
        await attacker.send(frame(WINDOW, SYN, 1), data_frame(1, opening(ECHO)))
        nursery.start_soon(is_closed, attacker)  # it answers, so that it is there
    table = victim._swarm.connections
    await until(lambda: sum(c.yamux.streams_count for c in table.live()) >= 6)
    await honest.connect(address_of(victim))
    assert await ask_echo(honest, victim) == b"are you there"
    assert len(victim.peers()) == 6


async def test_who_has_just_come_is_not_pushed_out_by_the_next(nursery: trio.Nursery) -> None:
    victim, honest = await nodes(nursery, 2)
    victim._swarm.inbound_max = 3
    for number in range(2):
        attacker = await attack(nursery, victim, 9000 + number, source="127.0.0.2")
        await attacker.send(frame(WINDOW, SYN, 1), data_frame(1, opening(ECHO)))
    await honest.connect(address_of(victim))
    await until(lambda: not honest._swarm.connections.live()[0].yamux.streams_count)
    assert await is_closed(await attack(nursery, victim, 9002, source="127.0.0.2"))
    [connection] = honest._swarm.connections.live()
    assert await ask_echo(honest, victim) == b"are you there"
    assert honest._swarm.connections.live() == [connection]


async def test_who_has_as_many_connections_as_others_displaces_none(nursery: trio.Nursery) -> None:
    [victim] = await nodes(nursery, 1)
    victim._swarm.inbound_max = 4
    for number in range(6):
        attacker = await attack(nursery, victim, 9000 + number, source=f"127.0.0.{2 + number % 2}")
        if number < 4:
            await attacker.send(frame(WINDOW, SYN, 1), data_frame(1, opening(ECHO)))
            await until(lambda: victim._swarm.connections.live()[-1].yamux.streams_count)
        else:
            assert await is_closed(attacker)
    assert {peer.peer for peer in victim.peers()} == {
        identity(9000 + number).peer_id for number in range(4)
    }


async def test_connections_of_one_host_that_fill_the_bound_cost_nobody_else_his(
    nursery: trio.Nursery,
) -> None:
    victim, honest = await deaf_victim(nursery)
    held = [await honest.open(victim.peer_id, DEAF) for _ in range(3)]
    for stream in held:
        await stream.send(bytes(120_000))
    closed = trio.Event()

    async def fill(attacker: Attacker) -> None:
        with suppress(StreamClosed):
            await attacker.send(
                frame(WINDOW, SYN, 1),
                data_frame(1, opening(DEAF)),
                *[data_frame(1, bytes(60_000))] * 4,
            )
            while True:
                await attacker.receive_frame()
        closed.set()

    for number in range(4):
        attacker = await attack(nursery, victim, 9000 + number, source="127.0.0.2")
        nursery.start_soon(fill, attacker)
    with trio.fail_after(5):
        await closed.wait()
    for stream in held:
        await stream.send(b"still open")
    assert await ask_echo(honest, victim) == b"are you there"
    nursery.cancel_scope.cancel()
