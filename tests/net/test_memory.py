"""The network in memory: its links take their time, and can be cut."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from p2phub.errors import PeerUnreachable
from p2phub.net.base import Stream, parse_peer_address
from p2phub.net.memory import MemoryHub


async def test_links_in_memory_take_their_time_and_can_be_cut(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hub = MemoryHub(latency_s=0.1)
    one, other = hub.network("one"), hub.network("other")

    async def echo(stream: Stream) -> None:
        await stream.send(await stream.receive())

    other.serve("/test/1", echo)
    for network in (one, other):
        await nursery.start(network.run)
    address = parse_peer_address(other.addresses()[0])
    begun_s = trio.current_time()
    await one.connect(address)
    stream = await one.open(other.peer_id, "/test/1")
    await stream.send(b"x")
    assert await stream.receive() == b"x"
    assert 0.55 < trio.current_time() - begun_s < 0.65
    hub.cut(one.peer_id, other.peer_id)
    assert one.peers() == other.peers() == []
    with pytest.raises(PeerUnreachable):
        await one.connect(address)
