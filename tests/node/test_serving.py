"""More peers than channels: who has a slot gets a channel, that of somebody who does not use it."""

from __future__ import annotations

from pathlib import Path

import trio

from p2phub.node import sources
from p2phub.node.node import Node
from p2phub.proto.names import parse_reference
from tests.node.real_nodes import address, fetch, node, publish, write_model


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
