"""Documents from peers that are slow, silent, busy or liars; and serving those who do not read."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock

from p2phub.digest import Digest, digest, sha256
from p2phub.errors import CorruptChunk, NoProvider, StreamClosed
from p2phub.net.base import PeerId, Stream, parse_peer_address
from p2phub.net.memory import MemoryHub, MemoryNetwork
from p2phub.node.answering import SENDING_BYTES_MAX
from p2phub.node.documents import Documents, DocumentServer
from p2phub.node.search import Search
from p2phub.proto import protocols
from p2phub.proto.fetch import NOT_NOW, ChunksWanted, FileWanted, decode_chunk_request, reply_header
from p2phub.proto.frames import FrameReader, frame
from p2phub.proto.limits import CHUNK_BYTES_MAX, STREAMS_PER_PEER_MAX
from p2phub.store.memory import MemoryStore
from tests.net.nodes import (
    SYN,
    WINDOW,
    Attacker,
    address_of,
    attack,
    data_frame,
    node,
    opening,
)
from tests.net.nodes import frame as yamux_frame
from tests.node.hostile_peers import answer, named

Answer = Callable[[Stream, ChunksWanted | FileWanted], Awaitable[None]]


@pytest.fixture
def fast_clock(mock_clock: MockClock) -> MockClock:
    """Waits take a part of their time; threads, whose time is real, are not overtaken."""
    mock_clock.rate = 25.0
    return mock_clock


class World:
    """A node's document half, and peers that answer as a test likes."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.hub = MemoryHub()
        self.store = MemoryStore()
        self.network = self.hub.network("reader")
        self.documents = Documents(self.network, self.store)
        self.asked: dict[PeerId, int] = {}  # requests that came to each peer
        self._nursery = nursery

    async def start(self, *peers: MemoryNetwork) -> Search:
        """Run all, with a search that is told of the peers."""
        for network in (self.network, *peers):
            await self._nursery.start(network.run)
        named = [parse_peer_address(peer.addresses()[0]) for peer in peers]
        search = Search(self.network, keys=[], named=named)
        self._nursery.start_soon(search.run)
        return search

    def peer(self, name: str, give: Answer) -> MemoryNetwork:
        network = self.hub.network(name)

        async def on_stream(stream: Stream) -> None:
            frames = FrameReader()
            while data := await stream.receive():
                for request in frames.feed(data):
                    self.asked[network.peer_id] = self.asked.get(network.peer_id, 0) + 1
                    await give(stream, decode_chunk_request(request))

        network.serve(protocols.CHUNK, on_stream)
        return network


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        yield World(nursery)
        nursery.cancel_scope.cancel()


def honest(chunks: dict[Digest, bytes], pause_s: float = 0.0) -> Answer:
    async def give(stream: Stream, wanted: ChunksWanted | FileWanted) -> None:
        assert isinstance(wanted, ChunksWanted)
        for name in wanted.digests:
            await trio.sleep(pause_s)
            await stream.send(answer(chunks, name))

    return give


async def silent(stream: Stream, wanted: ChunksWanted | FileWanted) -> None:
    await trio.sleep_forever()


async def busy(stream: Stream, wanted: ChunksWanted | FileWanted) -> None:
    assert isinstance(wanted, ChunksWanted)
    await stream.send(reply_header(NOT_NOW) * len(wanted.digests))


async def lying(stream: Stream, wanted: ChunksWanted | FileWanted) -> None:
    count = len(wanted.digests) if isinstance(wanted, ChunksWanted) else 1
    await stream.send((reply_header(5) + b"wrong") * count)


async def endless(stream: Stream, wanted: ChunksWanted | FileWanted) -> None:
    await stream.send(reply_header(CHUNK_BYTES_MAX) + bytes(1000))
    await trio.sleep_forever()


async def claiming(stream: Stream, wanted: ChunksWanted | FileWanted) -> None:
    """More than a chunk may have."""
    await stream.send(b"\x7f\xff\xff\xff" + bytes(100))


async def breaking(stream: Stream, wanted: ChunksWanted | FileWanted) -> None:
    raise StreamClosed("away")


CHUNKS = named(*(random.Random(number).randbytes(1000) for number in range(12)))


async def test_slow_and_steady_answers_are_progress(fast_clock: MockClock) -> None:
    async with world() as w:
        search = await w.start(w.peer("slow", honest(CHUNKS, pause_s=5.0)))
        await w.documents.hold(list(CHUNKS), search, "twelve documents")
        assert all(w.store.has(name) for name in CHUNKS)


@pytest.mark.parametrize("give", [silent, busy, lying, endless, claiming, breaking])
async def test_one_peer_that_gives_nothing_does_not_hold_up_the_others(
    fast_clock: MockClock, give: Answer
) -> None:
    async with world() as w:
        search = await w.start(w.peer("mallory", give), w.peer("honest", honest(CHUNKS)))
        started_s = trio.current_time()
        await w.documents.hold(list(CHUNKS), search, "twelve documents")
        assert trio.current_time() - started_s < 15.0


@pytest.mark.parametrize("give", [silent, busy, lying, endless, claiming, breaking])
async def test_a_peer_that_gives_nothing_is_the_end_in_time_and_is_asked_seldom(
    fast_clock: MockClock, give: Answer
) -> None:
    async with world() as w:
        mallory = w.peer("mallory", give)
        search = await w.start(mallory)
        with trio.fail_after(60), pytest.raises(NoProvider):
            await w.documents.hold(list(CHUNKS), search, "twelve documents")
        assert w.asked.get(mallory.peer_id, 0) < 20


async def test_a_file_is_found_beside_peers_that_are_silent(fast_clock: MockClock) -> None:
    data = b"a file of one chunk"

    async def give(stream: Stream, wanted: ChunksWanted | FileWanted) -> None:
        assert wanted == FileWanted(sha256(data))
        await stream.send(reply_header(len(data)) + data)

    async with world() as w:
        silent_ones = [w.peer(f"silent {number}", silent) for number in range(5)]
        search = await w.start(*silent_ones, w.peer("liar", lying), w.peer("honest", give))
        with trio.fail_after(10):
            assert await w.documents.find_file(sha256(data), search) == digest(data)


async def test_who_reads_no_answers_holds_no_one_up_and_is_let_go(fast_clock: MockClock) -> None:
    chunk = bytes(CHUNK_BYTES_MAX)
    async with world() as w:
        [name] = w.store.put([chunk])
        server = DocumentServer(w.network, w.store)
        greedy = w.peer("greedy", silent)
        reader = w.peer("another", silent)
        await w.start(greedy, reader)
        streams = [await greedy.open(w.network.peer_id, protocols.CHUNK) for _ in range(16)]
        for stream in streams:
            await stream.send(frame(ChunksWanted((name,) * 256).encode()))
        other = Documents(reader, MemoryStore())
        with trio.fail_after(35):  # before any of the others is let go
            assert await other.fetch_batch(w.network.peer_id, [name]) == {name: chunk}
        with trio.fail_after(120):
            while w.network._serving[greedy.peer_id, protocols.CHUNK]:
                await trio.sleep(1)
        assert server.sent_bytes == len(chunk)
        assert w.network.faults_count == 0


async def test_a_host_that_reads_no_answers_leaves_others_theirs(nursery: trio.Nursery) -> None:
    chunk = bytes(CHUNK_BYTES_MAX)
    victim, honest, store = node(1), node(2), MemoryStore()
    [name] = store.put([chunk])
    server = DocumentServer(victim, store)
    for network in (victim, honest):
        await nursery.start(network.run)
    await honest.connect(address_of(victim))
    wanted = opening(protocols.CHUNK) + frame(ChunksWanted((name,)).encode())

    async def grant_nothing(attacker: Attacker) -> None:
        with suppress(StreamClosed):
            while True:
                await attacker.receive_frame()

    for number in range(4):
        attacker = await attack(nursery, victim, 9000 + number, source="127.0.0.2")
        nursery.start_soon(grant_nothing, attacker)
        for index in range(1, 2 * STREAMS_PER_PEER_MAX, 2):
            await attacker.send(yamux_frame(WINDOW, SYN, index), data_frame(index, wanted))
    with trio.fail_after(10):
        while server._answers._sending_bytes + len(chunk) <= SENDING_BYTES_MAX:
            await trio.sleep(0.01)
        got = await Documents(honest, MemoryStore()).fetch_batch(victim.peer_id, [name])
    assert got == {name: chunk}
    assert server._answers._sending_bytes <= SENDING_BYTES_MAX
    nursery.cancel_scope.cancel()


async def test_a_chunk_that_the_disk_lost_is_said_not_to_be_held(fast_clock: MockClock) -> None:
    class LossyStore(MemoryStore):
        def get(self, digest: Digest) -> bytes:
            raise CorruptChunk("it is not as it was written")

    async with world() as w:
        DocumentServer(w.network, LossyStore())
        peer = w.peer("reader two", silent)
        await w.start(peer)
        got = await Documents(peer, MemoryStore()).fetch_batch(w.network.peer_id, list(CHUNKS))
        assert got == dict.fromkeys(CHUNKS)
