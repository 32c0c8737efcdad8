"""Peers that open sessions to a node and misbehave: the node serves the others, and stays small."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from p2phub.digest import digest
from p2phub.errors import StreamClosed
from p2phub.net.base import Stream
from p2phub.net.lane_channel import LaneChannel
from p2phub.net.lane_listener import LaneListener, connect_lane
from p2phub.net.memory import MemoryHub, MemoryNetwork
from p2phub.node.node import Node
from p2phub.node.sessions import Session
from p2phub.node.trees import held_tree, page_lengths
from p2phub.node.watching import PAGES_WATCHED_MAX
from p2phub.proto import protocols
from p2phub.proto.content import ObjectRecord
from p2phub.proto.content_id import parse_content_id
from p2phub.proto.frames import HEADER_BYTES, PayloadHeader
from p2phub.proto.limits import LANE_SPANS_MAX, LANE_TICKETS_MAX
from p2phub.proto.manifest import FilePage, Manifest
from p2phub.proto.messages import (
    Ask,
    Bye,
    Cancel,
    Choke,
    Have,
    Hello,
    Join,
    LaneRefused,
    LaneTicket,
    LaneWanted,
    Message,
    Offer,
    Reject,
    Request,
    Run,
    Unchoke,
)
from tests.node.hostile_peers import node_of, peer_of, receive_until, session_with
from tests.node.real_nodes import publish, write_model

PAGE = digest(b"a page that nobody holds")


@dataclass
class Scene:
    hub: MemoryHub
    victim: Node
    mallory: MemoryNetwork
    manifest: bytes  # digest of a release that the victim holds

    @property
    def faults_count(self) -> int:
        return self.victim._network.faults_count


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """A node that holds a release, and a peer that is connected to it."""
    hub = MemoryHub()
    model = write_model(folder / "model")
    async with node_of(hub, "victim", folder / "victim") as victim:
        manifest = parse_content_id(await publish(victim, model))
        async with peer_of(hub, "mallory", chunks=None) as mallory:
            yield Scene(hub, victim, mallory, manifest)


async def is_serving(stage: Scene) -> bool:
    """Whether an honest peer still gets answers."""
    async with peer_of(stage.hub, f"honest {trio.current_time()}", chunks=None) as honest:
        with trio.move_on_after(5):
            session = await session_with(honest, stage.victim)
            await session.send(Ask((stage.manifest,)))
            have = await receive_until(session, Have)
            return isinstance(have, Have) and bool(have.bits)
    return False


WRONG = {
    "no greeting": [Join(PAGE)],
    "only an uploader chokes": [Hello("x", 1), Choke()],
    "only an uploader unchokes": [Hello("x", 1), Unchoke()],
    "only an uploader rejects": [Hello("x", 1), Reject(1, 1)],
    "only an uploader offers": [Hello("x", 1), Offer(Run(PAGE, 0, 1))],
    "only an uploader refuses lanes": [Hello("x", 1), LaneRefused()],
    "a second greeting": [Hello("x", 1), Hello("x", 1)],
    "a goodbye at once": [Hello("x", 1), Bye(1)],
    "a goodbye in the middle": [Hello("x", 1), Join(PAGE), LaneWanted(), Ask((PAGE,)), Bye(255)],
}


@pytest.mark.parametrize("messages", WRONG.values(), ids=WRONG)
async def test_a_session_out_of_turn_ends_that_session_alone(
    tmp_path: Path, messages: list[Message]
) -> None:
    async with scene(tmp_path) as stage:
        stream = await stage.mallory.open(stage.victim._network.peer_id, protocols.SWARM)
        session = Session(stream)
        with pytest.raises(StreamClosed):
            await session.send(*messages)
            with trio.fail_after(5):
                while await session.receive() is not None:
                    pass
            raise StreamClosed("closed in order")
        assert await is_serving(stage)
        assert stage.faults_count == 0


async def test_requests_for_what_is_not_there_are_refused(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        session = await session_with(stage.mallory, stage.victim)
        root = Manifest.decode(stage.victim._store.get(stage.manifest))
        files = root.pages[0].digest
        wrong = [
            (Run(PAGE, 0, 1),),
            (Run(files, 0, 8192),),
            (Run(files, 8000, 8001),),
            (Run(stage.manifest, 5, 6),),
            (Run(files, 0, 1),) * 256,
        ]
        for id, runs in enumerate(wrong):
            await session.send(Request(id, runs))
            with trio.fail_after(5):
                reject = await receive_until(session, Reject)
            assert isinstance(reject, Reject)
            assert reject.id == id
        assert await is_serving(stage)
        assert stage.faults_count == 0


async def ticket_of(session: Session) -> LaneTicket:
    await session.send(LaneWanted())
    with trio.fail_after(5):
        offer = await receive_until(session, LaneTicket)
    assert isinstance(offer, LaneTicket)
    return offer


async def span_stream(stage: Scene, session: Session) -> Stream:
    """A byte channel from the victim over a stream."""
    ticket = await ticket_of(session)
    stream = await stage.mallory.open(stage.victim._network.peer_id, protocols.SPAN)
    await stream.send(ticket.ticket)
    return stream


async def test_an_empty_file_among_the_chunks_asked_for_ends_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        root = Manifest.decode(stage.victim._store.get(stage.manifest))
        name = root.pages[0].digest
        page = FilePage.decode(stage.victim._store.get(name))
        [empty] = [index for index, file in enumerate(page.files) if not file.size]
        [readme] = [index for index, file in enumerate(page.files) if file.path == "README.md"]
        session = await session_with(stage.mallory, stage.victim)
        stream = await span_stream(stage, session)
        await session.send(Request(1, (Run(name, empty, empty + 1),)))
        with trio.fail_after(5):
            reject = await receive_until(session, Reject)
        assert isinstance(reject, Reject)
        assert reject.id == 1
        await session.send(Request(2, (Run(name, readme, readme + 1),)))
        with trio.fail_after(5):
            header = await stream.receive_exactly(HEADER_BYTES)
        assert PayloadHeader.decode(header).request_id == 2
        assert stage.faults_count == 0


async def test_one_session_holds_one_ticket_however_often_it_asks(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        session = await session_with(stage.mallory, stage.victim)
        tickets = [await ticket_of(session) for _ in range(2 * LANE_TICKETS_MAX)]
        channels = stage.victim._channels
        assert channels._listener is not None
        assert len(channels._listener._tickets) == 1
        assert len(channels._stream_tickets) == 1
        # The last ticket is the one that holds.
        for ticket, is_good in ((tickets[0], False), (tickets[-1], True), (tickets[-1], False)):
            stream = await stage.mallory.open(stage.victim._network.peer_id, protocols.SPAN)
            await stream.send(ticket.ticket)
            with trio.move_on_after(0.2) as waiting:
                with pytest.raises(StreamClosed):
                    await stream.receive_exactly(1)
            assert waiting.cancelled_caught == is_good


async def test_a_session_that_ended_leaves_no_ticket_and_no_lane(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        channels = stage.victim._channels
        for _ in range(20):
            session = await session_with(stage.mallory, stage.victim)
            ticket = await ticket_of(session)
            await session.reset()
            while stage.victim._serving.sessions_count:
                await trio.sleep(0)
            stream = await stage.mallory.open(stage.victim._network.peer_id, protocols.SPAN)
            with pytest.raises(StreamClosed):
                await stream.send(ticket.ticket)
                await stream.receive_exactly(1)
        assert channels._listener is not None
        assert not channels._listener._tickets
        assert not channels._stream_tickets
        assert channels.open_count == 0


async def test_tickets_that_a_peer_throws_at_us_open_one_socket_at_a_time(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        listening = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listening[0].socket.getsockname()[1]
        session = await session_with(stage.mallory, stage.victim)
        ticket = LaneTicket(bytes(32), bytes(32), port)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(200):
            await session.send(ticket)
        await session.send(Ask((PAGE,)))
        await receive_until(session, Have)
        assert len(os.listdir("/proc/self/fd")) - before < 10
        await listening[0].aclose()
        assert await is_serving(stage)
        assert stage.faults_count == 0


async def test_of_two_channels_opened_at_once_one_is_refused_and_one_serves(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage, trio.open_nursery() as nursery:
        listener = LaneListener("127.0.0.1", 0)
        await nursery.start(listener.run)
        session = await session_with(stage.mallory, stage.victim)
        with trio.fail_after(5):
            await receive_until(session, Unchoke)
        ticket = await ticket_of(session)
        arrived, dialled = trio.open_memory_channel[LaneChannel](1)
        secret = listener.issue_ticket("127.0.0.1", arrived.send_nowait)
        await session.send(LaneTicket(secret, listener.fingerprint, listener.port))
        with trio.fail_after(5):
            ours = await connect_lane("127.0.0.1", ticket.port, ticket.ticket, ticket.fingerprint)
            channels = [ours, await dialled.receive()]
            while stage.victim._channels.open_count != 1:
                await trio.sleep(0.01)

        tree = held_tree(stage.victim._store, stage.manifest)
        file = max(tree.files, key=lambda file: file.size)
        page, lengths = next(iter(page_lengths(stage.victim._store, tree, [file])))
        await session.send(Request(7, (Run(page, 0, 1),)))
        frames = []

        async def receive(channel: LaneChannel) -> None:
            with contextlib.suppress(StreamClosed):
                frames.append(await channel.receive_first(HEADER_BYTES + lengths[0]))
            channel.close()

        with trio.fail_after(5):
            async with trio.open_nursery() as receiving:
                for channel in channels:
                    receiving.start_soon(receive, channel)
        [frame] = frames
        assert PayloadHeader.decode(frame[:HEADER_BYTES]) == PayloadHeader(7, 0, lengths[0])
        nursery.cancel_scope.cancel()


async def test_a_thousand_sessions_opened_and_left_leave_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        serving = stage.victim._serving
        for number in range(1000):
            stream = await stage.mallory.open(stage.victim._network.peer_id, protocols.SWARM)
            if number % 3:
                session = Session(stream)
                await session.send(Hello("x", 1), Join(PAGE), Ask((PAGE,)))
            await stream.reset()
        with trio.fail_after(10):
            while serving.sessions_count:
                await trio.sleep(0.01)
        assert not serving.watches.by_page
        assert not serving.machine._peers
        assert await is_serving(stage)
        assert stage.faults_count == 0


async def test_who_joins_a_swarm_again_and_again_does_not_end_others_sessions(
    tmp_path: Path,
) -> None:
    async with (
        scene(tmp_path) as stage,
        peer_of(stage.hub, "honest", chunks=None) as honest,
    ):
        theirs = await session_with(honest, stage.victim)
        await theirs.send(Join(stage.manifest), Ask((stage.manifest,)))
        await receive_until(theirs, Have)
        session = await session_with(stage.mallory, stage.victim)
        for _ in range(30):
            await session.send(*[Join(stage.manifest)] * 100)
        await trio.sleep(0.1)
        await theirs.send(Ask((stage.manifest,)))
        with trio.fail_after(5):
            await receive_until(theirs, Have)


async def test_swarms_without_end_do_not_slow_the_node_down(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage, peer_of(stage.hub, "eve", chunks=None) as eve:
        for peer in (stage.mallory, eve):
            for first in range(0, 8 * 1024, 1024):
                session = await session_with(peer, stage.victim)
                names = [number.to_bytes(32, "big") for number in range(first, first + 1024)]
                for start in range(0, 1024, 128):
                    await session.send(*map(Join, names[start : start + 128]))
        with trio.fail_after(3):
            assert await is_serving(stage)


async def test_pages_without_end_are_watched_within_a_bound(tmp_path: Path) -> None:
    """Whoever asks about ever new pages is answered, and the oldest are watched no more."""
    async with scene(tmp_path) as stage:
        session = await session_with(stage.mallory, stage.victim)
        count = PAGES_WATCHED_MAX + 1024
        pages = [number.to_bytes(32, "big") for number in range(count)]

        async def ask() -> None:
            for start in range(0, count, 512):
                await session.send(Ask(tuple(pages[start : start + 512])))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            for page in pages:
                have = await receive_until(session, Have)
                assert have == Have(page, b"")
        assert len(stage.victim._serving.watches.by_page) <= PAGES_WATCHED_MAX
        assert set(stage.victim._serving.watches.by_page) >= set(pages[-100:])


async def test_requests_and_cancels_without_end_are_bounded(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        root = Manifest.decode(stage.victim._store.get(stage.manifest))
        name = root.pages[0].digest
        page = FilePage.decode(stage.victim._store.get(name))
        [readme] = [index for index, file in enumerate(page.files) if file.path == "README.md"]
        [weights] = [file for file in page.files if file.path == "weights.bin"]
        record = ObjectRecord.decode(stage.victim._store.get(weights.object))
        session = await session_with(stage.mallory, stage.victim)
        stream = await span_stream(stage, session)
        # It never reads the channel: the first span fills its window, the others wait.
        await session.send(Request(0, (Run(record.segments[0].digest, 0, 60),)))

        async def read() -> None:
            while await session.receive() is not None:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for first in range(1, 1000, 50):
                ids = range(first, first + 50)
                run = Run(name, readme, readme + 1)
                await session.send(*(Request(id, (run,)) for id in ids))
                await trio.sleep(0.05)  # until they are with the channel
                await session.send(*(Cancel(id) for id in ids))
            nursery.cancel_scope.cancel()
        [channel] = stage.victim._channels._open
        assert 0 < len(channel._spans) <= LANE_SPANS_MAX  # type: ignore[attr-defined]
        [served] = stage.victim._serving._sessions.values()
        assert len(served._readers) <= 64
        await stream.reset()
        assert await is_serving(stage)
        assert stage.faults_count == 0


async def test_a_peer_that_reads_nothing_is_let_go(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        session = await session_with(stage.mallory, stage.victim)
        pages = tuple(number.to_bytes(32, "big") for number in range(512))
        with trio.move_on_after(1):
            while True:  # until our own window is full: the answers are never read
                await session.send(Ask(pages))
        assert await is_serving(stage)
        await session.reset()
        with trio.fail_after(5):
            while stage.victim._serving.sessions_count:
                await trio.sleep(0.01)
        assert stage.faults_count == 0
