"""One session's messages: how much may be said in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from p2phub.errors import ProtocolViolation
from p2phub.net.base import Stream
from p2phub.net.memory import MemoryHub
from p2phub.node.sessions import MESSAGES_MAX, MESSAGES_PER_S, Session
from p2phub.proto import protocols
from p2phub.proto.messages import Choke
from tests.net.nodes import Turns


@asynccontextmanager
async def ends_of_a_session() -> AsyncIterator[tuple[Session, Session]]:
    hub = MemoryHub()
    one, other = hub.network("one"), hub.network("other")
    send, accepted = trio.open_memory_channel[Stream](1)

    async def keep(stream: Stream) -> None:
        await send.send(stream)
        await trio.sleep_forever()

    other.serve(protocols.SWARM, keep)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        await nursery.start(other.run)
        stream = await one.open(other.peer_id, protocols.SWARM)
        yield Session(stream), Session(await accepted.receive())
        nursery.cancel_scope.cancel()


async def test_who_says_more_than_anybody_needs_to_is_in_violation() -> None:
    async with ends_of_a_session() as (session, talker), trio.open_nursery() as nursery:
        nursery.start_soon(talker.send, *[Choke()] * (MESSAGES_MAX + 1000))
        heard = 0
        with pytest.raises(ProtocolViolation):
            while True:
                await session.receive()
                heard += 1
        assert MESSAGES_MAX <= heard < MESSAGES_MAX + 1000
        nursery.cancel_scope.cancel()


async def test_who_says_much_at_once_leaves_others_their_turns() -> None:
    async with ends_of_a_session() as (session, talker), trio.open_nursery() as nursery:
        turns = Turns()
        await talker.send(*[Choke()] * 1000)
        assert await session.receive() == Choke()
        nursery.start_soon(turns.take)
        for _ in range(999):
            assert await session.receive() == Choke()
        assert turns.count > 900
        nursery.cancel_scope.cancel()


async def test_who_says_much_over_a_long_time_is_heard(mock_clock: MockClock) -> None:
    async with ends_of_a_session() as (session, talker):
        for _ in range(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talker.send, *[Choke()] * MESSAGES_MAX)
                for _ in range(MESSAGES_MAX):
                    assert await session.receive() == Choke()
            mock_clock.jump(MESSAGES_MAX / MESSAGES_PER_S)
