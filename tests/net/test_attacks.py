"""Attacks and accidents against a running node: what each costs, and that others are served."""

from __future__ import annotations

import os
import random
import resource

import pytest
import trio
from trio.testing import MockClock

from p2phub.errors import PeerUnreachable, ProtocolRefused, StreamClosed
from p2phub.net.base import PeerAddress, Stream
from p2phub.net.libp2p import Libp2pNetwork
from p2phub.net.multistream import propose
from p2phub.proto.limits import STREAM_WINDOW_BYTES, STREAMS_INBOUND_MAX, STREAMS_REFUSED_MAX
from tests.net.nodes import (
    DATA,
    DEAF,
    ECHO,
    GO_AWAY,
    RST,
    SYN,
    WINDOW,
    address_of,
    ask_echo,
    attack,
    data_frame,
    deaf_victim,
    dial,
    frame,
    identity,
    is_closed,
    node,
    nodes,
    opening,
)

BULK = "/test/bulk/1"
PIECE = bytes(1 << 18)


async def pour(stream: Stream) -> None:
    """Upload without an end."""
    while True:
        await stream.send(PIECE)


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


# -- two uploads and many small streams ----------------------------------------------------------


async def upload_both_ways(nursery: trio.Nursery, duration_s: float) -> None:
    """Two nodes pour into each other while 20 small streams at a time open, ask and close."""
    one, other = node(1), node(2)
    for network in (one, other):
        network.serve(BULK, pour)
        await nursery.start(network.run)
    await one.connect(address_of(other))
    received = {one.peer_id: 0, other.peer_id: 0}
    slowest_s = 0.0
    asked = 0

    async def download(asker: Libp2pNetwork, asked_node: Libp2pNetwork) -> None:
        stream = await asker.open(asked_node.peer_id, BULK)
        while True:
            received[asker.peer_id] += len(await stream.receive(1 << 20))

    async def ask_small(asker: Libp2pNetwork, asked_node: Libp2pNetwork) -> None:
        nonlocal slowest_s, asked
        while True:
            begun_s = trio.current_time()
            assert await ask_echo(asker, asked_node, b"x" * 1000) == b"x" * 1000
            slowest_s = max(slowest_s, trio.current_time() - begun_s)
            asked += 1

    with trio.move_on_after(duration_s):
        async with trio.open_nursery() as tasks:
            for asker, asked_node in ((one, other), (other, one)):
                for _ in range(4):
                    tasks.start_soon(download, asker, asked_node)
                for _ in range(10):
                    tasks.start_soon(ask_small, asker, asked_node)
    assert slowest_s < 2.0
    assert asked > 20 * duration_s
    assert min(received.values()) > 5_000_000 * duration_s


async def test_two_nodes_upload_to_each_other_while_small_streams_come_and_go(
    nursery: trio.Nursery,
) -> None:
    await upload_both_ways(nursery, 3.0)


@pytest.mark.long
async def test_two_nodes_upload_to_each_other_for_a_minute(nursery: trio.Nursery) -> None:
    await upload_both_ways(nursery, 60.0)


async def test_a_cancelled_upload_leaves_the_connection_whole(nursery: trio.Nursery) -> None:
    one, other = await nodes(nursery, 2)
    await one.connect(address_of(other))
    for _ in range(20):
        stream = await one.open(other.peer_id, ECHO)
        with trio.move_on_after(0.01):
            await stream.send(bytes(50_000_000))
        await stream.reset()
    assert await ask_echo(one, other) == b"are you there"
    assert len(one.peers()) == len(other.peers()) == 1


async def test_a_reader_may_pause_longer_than_any_writers_patience(
    mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    mock_clock.rate = 20.0
    one, other = node(1), node(2)
    received = 0

    async def pause(stream: Stream) -> None:
        nonlocal received
        await trio.sleep(30)
        while data := await stream.receive():
            received += len(data)
        await stream.send(b"all")

    other.serve("/test/pause/1", pause)
    for network in (one, other):
        await nursery.start(network.run)
    await one.connect(address_of(other))
    stream = await one.open(other.peer_id, "/test/pause/1")
    await stream.send(bytes(3_000_000))
    await stream.close()
    assert await stream.receive_exactly(3) == b"all"
    assert received == 3_000_000


# -- connections --------------------------------------------------------------------------------


async def test_the_401st_connection_is_served_like_the_first(nursery: trio.Nursery) -> None:
    victim, honest = await nodes(nursery, 2)
    for _ in range(400):
        await honest.connect(address_of(victim))
        await honest.disconnect(victim.peer_id)
    await honest.connect(address_of(victim))
    assert await ask_echo(honest, victim) == b"are you there"


@pytest.mark.parametrize("protocol", ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0", "/echo/1"])
async def test_only_noise_secures_a_connection(nursery: trio.Nursery, protocol: str) -> None:
    (victim,) = await nodes(nursery, 1)
    wire = await dial(nursery, victim)
    with pytest.raises(ProtocolRefused):
        await propose(wire, protocol)
    wire.close_now()


async def test_a_peer_that_is_not_who_was_dialled_is_refused(nursery: trio.Nursery) -> None:
    one, other, third = await nodes(nursery, 3)
    mistaken = PeerAddress(third.peer_id, address_of(other).addresses)
    with pytest.raises(PeerUnreachable, match="another peer answers"):
        await one.connect(mistaken)
    assert one.peers() == []


async def test_half_open_connections_keep_nobody_out(nursery: trio.Nursery) -> None:
    victim, honest = await nodes(nursery, 2)
    for _ in range(300):
        await dial(nursery, victim)
    with trio.fail_after(5):
        await honest.connect(address_of(victim))
    assert await ask_echo(honest, victim) == b"are you there"


async def test_nonsense_instead_of_a_handshake_is_dropped(nursery: trio.Nursery) -> None:
    victim, honest = await nodes(nursery, 2)
    rng = random.Random(7)
    noise = b"\x13/multistream/1.0.0\n\x07/noise\n"
    for head in (b"", noise, noise + b"\x00\x20", b"\xff\xff", b"\x13/multistream/1.0.0\n"):
        wire = await dial(nursery, victim)
        await wire.send(head + rng.randbytes(70_000))
        with trio.fail_after(5), pytest.raises(StreamClosed):
            await wire.fill(1_000_000)
        wire.close_now()
    await honest.connect(address_of(victim))
    assert victim.faults_count == 0


async def test_a_peer_that_returns_replaces_its_oldest_connection(nursery: trio.Nursery) -> None:
    victim, honest = await nodes(nursery, 2)
    ghosts = [await attack(nursery, victim, number=500) for _ in range(3)]
    assert await is_closed(ghosts[0])
    await honest.connect(address_of(victim))
    assert len(victim.peers()) == 3


async def test_a_peer_that_vanished_without_a_word_is_given_up_and_dialled_anew(
    mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    mock_clock.rate = 20.0
    (one,) = await nodes(nursery, 1)
    vanished = await attack(nursery, one)
    await vanished.receive_frame()  # the victim asks who we are: it has taken us in
    assert [status.peer for status in one.peers()] == [identity(9000).peer_id]
    with pytest.raises(PeerUnreachable):
        await one.open(identity(9000).peer_id, ECHO, timeout_s=5)
    assert one.peers() == []
    assert await is_closed(vanished)


async def test_every_address_of_a_peer_is_tried_at_once(nursery: trio.Nursery) -> None:
    one, other = await nodes(nursery, 2)
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = silent[0].socket.getsockname()[1]
    bad = [f"/ip4/127.0.0.1/tcp/{port}", "/ip4/127.0.0.1/tcp/1", "/dns4/no.such.name.invalid/tcp/1"]
    good = address_of(other).addresses[0]
    with trio.fail_after(4):
        await one.connect(PeerAddress(other.peer_id, (*bad, good)))
    assert [status.address for status in one.peers()] == [good]
    await one.disconnect(other.peer_id)
    with trio.fail_after(1):
        await one.connect(address_of(other))
    await silent[0].aclose()


async def test_two_nodes_that_dial_each_other_at_once_can_both_talk(nursery: trio.Nursery) -> None:
    for first in range(1, 20, 2):
        one, other = await nodes(nursery, 2, first=first)
        async with trio.open_nursery() as dials:
            dials.start_soon(one.connect, address_of(other))
            dials.start_soon(other.connect, address_of(one))
        assert await ask_echo(one, other) == await ask_echo(other, one) == b"are you there"


# -- streams and frames ------------------------------------------------------------------------


async def test_a_peer_that_ignores_its_credit_loses_its_connection(nursery: trio.Nursery) -> None:
    victim, honest = await nodes(nursery, 2)
    attacker = await attack(nursery, victim)
    before = resident_bytes()
    await attacker.send(frame(WINDOW, SYN, 1), data_frame(1, opening(ECHO)))
    with trio.fail_after(10), pytest.raises(StreamClosed):
        # The echo waits for credit that never comes, so nothing of this is read for long.
        while True:
            await attacker.send(data_frame(1, bytes(60_000)))
    assert resident_bytes() - before < 32 << 20
    await honest.connect(address_of(victim))
    assert await ask_echo(honest, victim) == b"are you there"


async def test_when_unread_bytes_fill_the_bound_the_peer_with_most_of_them_goes(
    nursery: trio.Nursery,
) -> None:
    victim, honest = await deaf_victim(nursery)
    held = await honest.open(victim.peer_id, DEAF)
    await held.send(bytes(100_000))
    attacker = await attack(nursery, victim)
    # Each stream keeps to its own credit.
    with trio.fail_after(10), pytest.raises(StreamClosed):
        for index in range(1, 1000, 2):
            await attacker.send(
                frame(WINDOW, SYN, index), data_frame(index, opening(DEAF))
            )
            for _ in range(3):
                await attacker.send(data_frame(index, bytes(60_000)))
    await held.send(b"still open")
    assert await ask_echo(honest, victim) == b"are you there"


async def test_many_tiny_frames_cost_little_more_than_their_bytes(nursery: trio.Nursery) -> None:
    (victim,) = await nodes(nursery, 1)
    attacker = await attack(nursery, victim)
    await attacker.send(frame(WINDOW, SYN, 1), data_frame(1, opening(ECHO)))
    before = resident_bytes()
    tiny = data_frame(1, b"x")
    for _ in range(50):
        await attacker.send(tiny * 4000)
    await attacker.send(frame(2, SYN, 0, 7))
    with trio.fail_after(5):
        while True:
            kind, _, _, value, _ = await attacker.receive_frame()
            if (kind, value) == (2, 7):
                break
    assert resident_bytes() - before < 16 << 20
    attacker.channel.close_now()


async def test_a_frame_that_claims_4_gib_is_refused_before_it_is_read(
    nursery: trio.Nursery,
) -> None:
    (victim,) = await nodes(nursery, 1)
    for index in (1, 99):  # an open stream, and none
        attacker = await attack(nursery, victim)
        await attacker.send(
            frame(WINDOW, SYN, 1),
            data_frame(1, opening(ECHO)),
            frame(DATA, 0, index, 0xFFFFFFFF),
        )
        assert await is_closed(attacker)


async def test_streams_are_bounded_and_a_flood_of_them_ends_the_connection(
    nursery: trio.Nursery,
) -> None:
    victim, honest = await nodes(nursery, 2)
    attacker = await attack(nursery, victim)
    await attacker.send(*(frame(WINDOW, SYN, 2 * n + 1) for n in range(STREAMS_INBOUND_MAX + 10)))
    resets = 0
    with trio.fail_after(5):
        while resets < 10:
            kind, flags, *_ = await attacker.receive_frame()
            resets += kind == WINDOW and bool(flags & RST)
    first = 2 * STREAMS_INBOUND_MAX + 101
    await attacker.send(
        *(frame(WINDOW, SYN, first + 2 * n) for n in range(STREAMS_REFUSED_MAX + 10))
    )
    assert await is_closed(attacker)
    await honest.connect(address_of(victim))
    assert await ask_echo(honest, victim) == b"are you there"


async def test_a_peer_that_makes_us_answer_and_never_reads_is_cut_off(
    nursery: trio.Nursery,
) -> None:
    victim, honest = await nodes(nursery, 2)
    attacker = await attack(nursery, victim)
    before = resident_bytes()
    pings = frame(2, SYN, 0, 1) * 5000
    with trio.fail_after(20), pytest.raises(StreamClosed):
        while True:
            await attacker.send(pings)
    assert resident_bytes() - before < 32 << 20
    await honest.connect(address_of(victim))


@pytest.mark.parametrize(
    "frames",
    [
        [frame(WINDOW, SYN, 2)],  # an index that is the victim's to give
        [frame(WINDOW, SYN, 0)],
        [frame(WINDOW, SYN, 1), frame(WINDOW, SYN, 1)],
        [frame(7, 0, 0)],
        [b"\x01" + frame(WINDOW, SYN, 1)[1:]],
        [frame(WINDOW, SYN, 1, 0xFFFFFFFF), frame(WINDOW, 0, 1, 0xFFFFFFFF)],
        [frame(WINDOW, SYN | 4, 1), data_frame(1, b"after the end")],
        [frame(WINDOW, SYN, 1), data_frame(1, bytes(STREAM_WINDOW_BYTES + 1))[:100]],
    ],
)
async def test_frames_that_break_the_rules_end_the_connection(
    nursery: trio.Nursery, frames: list[bytes]
) -> None:
    victim, honest = await nodes(nursery, 2)
    attacker = await attack(nursery, victim)
    await attacker.send(*frames)
    assert await is_closed(attacker)
    await honest.connect(address_of(victim))
    assert victim.faults_count == 0


async def test_random_frames_never_reach_our_own_faults(nursery: trio.Nursery) -> None:
    victim, honest = await nodes(nursery, 2)
    for seed in range(60):
        rng = random.Random(seed)
        attacker = await attack(nursery, victim, number=1000 + seed)
        try:
            for _ in range(rng.randint(1, 30)):
                payload = rng.randbytes(rng.choice((0, 1, 11, 300)))
                await attacker.send(
                    frame(
                        rng.randint(0, 4),
                        rng.randint(0, 15),
                        rng.choice((0, 1, 1, 2, 3, 5)),
                        rng.choice((0, 1, len(payload), 0xFFFFFFFF)),
                        rng.choice((b"", payload, opening(ECHO))),
                    )
                )
        except StreamClosed:
            pass
        attacker.channel.close_now()
    await honest.connect(address_of(victim))
    assert await ask_echo(honest, victim) == b"are you there"
    assert victim.faults_count == 0, "seeds 0 to 59"


async def test_a_tampered_message_ends_the_connection(nursery: trio.Nursery) -> None:
    victim, honest = await nodes(nursery, 2)
    attacker = await attack(nursery, victim)
    await attacker.channel._wire.send(b"\x00\x30" + os.urandom(48))
    assert await is_closed(attacker)
    await honest.connect(address_of(victim))


async def test_a_goodbye_ends_the_connection(nursery: trio.Nursery) -> None:
    (victim,) = await nodes(nursery, 1)
    attacker = await attack(nursery, victim)
    await attacker.send(frame(GO_AWAY, 0, 0, 0))
    assert await is_closed(attacker)
    assert victim.peers() == []
