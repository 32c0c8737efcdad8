"""More peers than channels: who has a slot gets a channel, that of somebody who does not use it.
More sessions than places: who has most gives way. Who joins is told of the others.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import trio

from p2phub.net.libp2p import Libp2pNetwork
from p2phub.net.memory import MemoryHub
from p2phub.node import sources
from p2phub.node.node import Node
from p2phub.proto import protocols
from p2phub.proto.content_id import parse_content_id
from p2phub.proto.frames import frame as frame_of
from p2phub.proto.messages import Hello, Join, LaneWanted, Peers, encode_message
from p2phub.proto.names import parse_reference
from tests.net.nodes import SYN, WINDOW, attack, data_frame, frame, opening
from tests.node.hostile_peers import node_of, peer_of, receive_until, session_with
from tests.node.real_nodes import address, fetch, node, publish, same_files, write_model


async def read_some(peer: Node, content_id: str, peers: tuple[str, ...]) -> None:
    """A range, after which the session and the lane rest for a while."""
    async with peer.read(parse_reference(content_id), "weights.bin", 0, 10, peers) as chunks:
        assert len(b"".join([chunk async for chunk in chunks])) == 10


async def test_a_peer_with_a_slot_gets_the_channel_of_one_that_rests(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with (
        node(tmp_path / "seed", lanes=1) as seed,
        node(tmp_path / "reader") as reader,
        node(tmp_path / "other") as other,
    ):
        content_id, peers = await publish(seed, model), (await address(seed),)
        await read_some(reader, content_id, peers)
        (first,) = seed._channels._open
        with trio.fail_after(sources.IDLE_S - 5.0):
            await fetch(other, content_id, peers=peers)
            assert first.is_closing
            # It comes back: then the other's, which has all it wanted, goes.
            await read_some(reader, content_id, peers)
            assert sum(not channel.is_closing for channel in seed._channels._open) <= 1


async def test_tickets_that_one_host_does_not_use_keep_nobody_from_a_fetch(tmp_path: Path) -> None:
    async with (
        node(tmp_path / "seed", lanes=4) as seed,
        node(tmp_path / "honest") as honest,
        trio.open_nursery() as nursery,
    ):
        content_id = await publish(seed, write_model(tmp_path / "model"))
        assert isinstance(seed._network, Libp2pNetwork)
        attacker = await attack(nursery, seed._network, source="127.0.0.2")
        hello, wanted = (frame_of(encode_message(m)) for m in (Hello("x", 1), LaneWanted()))
        channels = seed._channels
        with trio.fail_after(5):
            for index in (1, 3, 5, 7):
                greeting = data_frame(index, opening(protocols.SWARM) + hello)
                await attacker.send(frame(WINDOW, SYN, index), greeting)
            while len(seed._serving.machine.unchoked) < 4:
                await trio.sleep(0.01)
            await attacker.send(*(data_frame(index, wanted) for index in (1, 3, 5, 7)))
            while channels.has_room_to_send(is_served=True):
                await trio.sleep(0.01)
        with trio.fail_after(10):
            await fetch(honest, content_id, to=tmp_path / "out", peers=(await address(seed),))
        assert same_files(tmp_path / "model", tmp_path / "out")
        nursery.cancel_scope.cancel()


async def test_sessions_of_one_host_that_say_nothing_keep_nobody_from_a_fetch(
    tmp_path: Path,
) -> None:
    async with (
        node(tmp_path / "seed") as seed,
        node(tmp_path / "honest") as honest,
        trio.open_nursery() as nursery,
    ):
        content_id = await publish(seed, write_model(tmp_path / "model"))
        seed._serving.sessions_max = 4
        assert isinstance(seed._network, Libp2pNetwork)
        attacker = await attack(nursery, seed._network, source="127.0.0.2")
        hello = frame_of(encode_message(Hello("x", 1)))
        for index in range(1, 9, 2):
            await attacker.send(
                frame(WINDOW, SYN, index), data_frame(index, opening(protocols.SWARM) + hello)
            )
        with trio.fail_after(5):
            while seed._serving.sessions_count < 4:
                await trio.sleep(0.01)
        with trio.fail_after(10):
            await fetch(honest, content_id, to=tmp_path / "out", peers=(await address(seed),))
        assert same_files(tmp_path / "model", tmp_path / "out")
        nursery.cancel_scope.cancel()


async def test_a_crowd_that_joins_at_once_is_introduced_in_one_message(tmp_path: Path) -> None:
    hub = MemoryHub()
    async with node_of(hub, "seed", tmp_path / "seed") as seed, AsyncExitStack() as stack:
        manifest = parse_content_id(await publish(seed, write_model(tmp_path / "model")))
        crowd = [
            await stack.enter_async_context(peer_of(hub, f"peer {number}", chunks=None))
            for number in range(6)
        ]
        first, *others = [await session_with(peer, seed) for peer in crowd]
        await first.send(Join(manifest))
        for session in others:
            await session.send(Join(manifest))
        with trio.fail_after(5):
            told = await receive_until(first, Peers)
        assert {peer for peer, _ in told.peers} == {str(peer.peer_id) for peer in crowd[1:]}
