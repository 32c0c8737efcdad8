"""Peers that a download is made from, and that misbehave: it ends right, or with a clear error."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2phub.digest import Digest, digest
from p2phub.errors import P2phubError, StoreFull, TransferStalled
from p2phub.net.base import parse_peer_address
from p2phub.net.lane_channel import LaneChannel
from p2phub.net.lane_listener import LaneListener
from p2phub.net.memory import MemoryHub, MemoryNetwork
from p2phub.node.api import Fetched, FetchRequest
from p2phub.node.downloads import SESSIONS_MAX, STALL_TIMEOUT_S
from p2phub.node.node import Node
from p2phub.node.sessions import Session
from p2phub.proto.content import ObjectRecord
from p2phub.proto.content_id import parse_content_id
from p2phub.proto.manifest import FilePage, Manifest
from p2phub.proto.messages import (
    REJECT_BUSY,
    REJECT_CHOKED,
    Ask,
    Bye,
    Cancel,
    Choke,
    Have,
    HaveDelta,
    Hello,
    Join,
    LaneRefused,
    LaneTicket,
    LaneWanted,
    Message,
    Offer,
    Peers,
    Reject,
    Request,
    Run,
    Unchoke,
)
from p2phub.proto.names import parse_reference
from p2phub.store.memory import MemoryStore
from p2phub.store.memory_holdings import MemoryHoldings
from p2phub.store.pages import Page
from tests.node.hostile_peers import Script, claim_all, node_of, peer_of
from tests.node.real_nodes import ignore, publish, same_files, write_model

PAGE = digest(b"a page of nothing")


@dataclass
class Release:
    """What an honest node published: how to name it, and its documents for others to serve."""

    content_id: str
    documents: dict[Digest, bytes]
    segment: Digest  # of the large file
    folder: Path


@asynccontextmanager
async def scene(
    folder: Path, *, size: int = 3_000_000, up_rate: int = 0
) -> AsyncIterator[tuple[MemoryHub, Release]]:
    """A hub, and a release with its publisher."""
    hub = MemoryHub()
    model = write_model(folder / "model", size=size)
    async with node_of(hub, "publisher", folder / "publisher", up_rate=up_rate) as publisher:
        content_id = await publish(publisher, model)
        get = publisher._store.get
        manifest = parse_content_id(content_id)
        root = Manifest.decode(get(manifest))
        page = FilePage.decode(get(root.pages[0].digest))
        names = [manifest, root.pages[0].digest]
        for file in page.files:
            if file.has_record:
                record = ObjectRecord.decode(get(file.object))
                names += [file.object, *(segment.digest for segment in record.segments)]
                if file.path == "weights.bin":
                    segment = record.segments[0].digest
        documents = {name: get(name) for name in names}
        yield hub, Release(content_id, documents, segment, model)


async def fetch_from(
    node: Node, release: Release, *peers: MemoryNetwork, to: Path | None = None
) -> Fetched:
    addresses = tuple(address for peer in peers for address in peer.addresses())
    request = FetchRequest(
        reference=parse_reference(release.content_id),
        destination=to,
        peers=addresses,
        room_wait_s=0,
    )
    return await node.fetch(request, ignore)


def publisher_of(hub: MemoryHub) -> MemoryNetwork:
    return next(iter(hub.networks.values()))


async def obey(session: Session) -> None:
    """Claim to hold whatever is asked about, give a slot, and read on."""
    while (message := await session.receive()) is not None:
        if isinstance(message, Ask):
            await claim_all(session, message.pages)


def saying(*messages: Message, times: int = 1) -> Script:
    """A peer that says all this at once, and reads on."""

    async def script(session: Session) -> None:
        for _ in range(times):
            await session.send(*messages)
        await obey(session)

    return script


def rejecting(code: int) -> Script:
    async def script(session: Session) -> None:
        await session.send(Unchoke())
        while (message := await session.receive()) is not None:
            match message:
                case Ask(pages):
                    await claim_all(session, pages)
                case Request(id, _):
                    await session.send(Reject(id, code), Unchoke())

    return script


async def flipping(session: Session) -> None:
    """Choke and unchoke for ever, and read nothing."""
    await session.send(*(Have(page, b"\xff" * 2048) for page in [PAGE]))
    while True:
        await session.send(*([Choke(), Unchoke()] * 200))


SCRIPTS: dict[str, Script] = {
    "a thousand refusals of a lane": saying(*[LaneRefused()] * 1000),
    "a thousand tickets": saying(*[LaneTicket(bytes(32), bytes(32), 9)] * 1000),
    "a ticket without a port": saying(LaneTicket(bytes(32), bytes(32), 0)),
    "have-bits of pages nobody asked about": saying(*[Have(PAGE, b"\xff" * 2048)] * 100),
    "entries beyond every page": saying(HaveDelta(PAGE, tuple(range(8192))), Unchoke()),
    "refusals of what was not asked": saying(*[Reject(id, 1) for id in range(500)]),
    "offers of what is not there": saying(*[Offer(Run(PAGE, 0, 16384))] * 500, Unchoke()),
    "a question without end": saying(*[Ask((PAGE,) * 512)] * 3000),
    "peers that are none": saying(Peers(PAGE, (("12D3KooW", ("/ip4/1.2.3.4/tcp/1",)),))),
    "chokes": saying(*[Choke()] * 1000),
    "a goodbye": saying(Bye(1)),
    "a second greeting": saying(Hello("x", 1)),
    "a join": saying(Join(PAGE)),
    "a cancel": saying(Cancel(1)),
    "slots, and always busy": rejecting(REJECT_BUSY),
    "slots, and always choked": rejecting(REJECT_CHOKED),
    "slots, and another reason": rejecting(255),
    "slots given and taken, nothing read": flipping,
}


async def test_a_misbehaving_peer_costs_a_fetch_little(tmp_path: Path) -> None:
    async with (
        scene(tmp_path, size=300_000) as (hub, release),
        node_of(hub, "reader", tmp_path / "reader") as reader,
    ):
        for name, script in SCRIPTS.items():
            async with (
                peer_of(hub, name, session=script, chunks=release.documents) as mallory,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(fetch_ends, reader, release, mallory)
                await trio.sleep(0.2)
                assert tasks_count() < 100, name
                assert len(os.listdir("/proc/self/task")) < 80, name
                assert len(os.listdir("/proc/self/fd")) < 200, name
                nursery.cancel_scope.cancel()
            await reader._network.disconnect(mallory.peer_id)
        assert reader._network.faults_count == 0


async def fetch_ends(node: Node, release: Release, *peers: MemoryNetwork) -> None:
    with pytest.raises(P2phubError):
        await fetch_from(node, release, *peers)


def tasks_count() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def test_a_fetch_among_all_of_them_is_whole(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        hub, release = await stack.enter_async_context(
            scene(tmp_path, size=1_500_000, up_rate=700_000)
        )
        reader = await stack.enter_async_context(node_of(hub, "reader", tmp_path / "reader"))
        peers = [
            await stack.enter_async_context(
                peer_of(hub, name, session=script, chunks=release.documents)
            )
            for name, script in SCRIPTS.items()
        ]
        with trio.fail_after(30):
            await fetch_from(reader, release, *peers, publisher_of(hub), to=tmp_path / "out")
        assert same_files(release.folder, tmp_path / "out")
        assert reader._network.faults_count == 0


@asynccontextmanager
async def lane_giver(
    hub: MemoryHub, release: Release, then: Script
) -> AsyncIterator[MemoryNetwork]:
    """A peer that claims to hold all, opens a real lane, never sends a byte on it, and goes on as
    `then` says.
    """
    listener = LaneListener("127.0.0.1", 0)
    lanes: list[LaneChannel] = []

    async def script(session: Session) -> None:
        asked = False
        while not (asked and lanes):
            message = await session.receive()
            match message:
                case Ask(pages):
                    asked = True
                    await claim_all(session, pages)
                case LaneWanted():
                    secret = listener.issue_ticket("127.0.0.1", lanes.append)
                    await session.send(LaneTicket(secret, listener.fingerprint, listener.port))
                case None:
                    return
            await trio.sleep(0.05)
        await then(session)

    async with (
        trio.open_nursery() as nursery,
        peer_of(hub, "giver", session=script, chunks=release.documents) as network,
    ):
        await nursery.start(listener.run)
        yield network
        nursery.cancel_scope.cancel()
    for lane in lanes:
        lane.close()


async def mute(session: Session) -> None:
    """Accept a session, read on, and say nothing."""
    while await session.receive() is not None:
        pass


@pytest.mark.parametrize("script", [mute, obey], ids=["mute", "all claims"])
async def test_strangers_who_only_take_up_sessions_make_room_for_who_gives(
    tmp_path: Path, mock_clock: MockClock, script: Script
) -> None:
    async with AsyncExitStack() as stack:
        hub, release = await stack.enter_async_context(scene(tmp_path, size=300_000))
        reader = await stack.enter_async_context(node_of(hub, "reader", tmp_path / "reader"))
        strangers = [
            await stack.enter_async_context(
                peer_of(hub, f"stranger {number}", session=script, chunks=release.documents)
            )
            for number in range(SESSIONS_MAX + 5)
        ]
        await reader._network.disconnect(publisher_of(hub).peer_id)
        for stranger in strangers:
            await reader._network.connect(parse_peer_address(stranger.addresses()[0]))
        mock_clock.rate = 20.0
        with trio.fail_after(STALL_TIMEOUT_S):
            await fetch_from(reader, release, publisher_of(hub), to=tmp_path / "out")
        mock_clock.rate = 1.0
        assert same_files(release.folder, tmp_path / "out")


async def test_slots_that_flip_with_nothing_read_end_that_session(tmp_path: Path) -> None:
    async with (
        scene(tmp_path, size=1_000_000, up_rate=700_000) as (hub, release),
        node_of(hub, "reader", tmp_path / "reader") as reader,
        lane_giver(hub, release, flipping) as giver,
    ):
        with trio.fail_after(30):
            await fetch_from(reader, release, giver, publisher_of(hub), to=tmp_path / "out")
        assert same_files(release.folder, tmp_path / "out")


async def test_a_lane_on_which_nothing_comes_ends_in_a_clear_error(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with (
        scene(tmp_path) as (hub, release),
        node_of(hub, "reader", tmp_path / "reader") as reader,
        lane_giver(hub, release, obey) as giver,
    ):
        await reader._network.disconnect(publisher_of(hub).peer_id)
        mock_clock.rate = 40.0
        with trio.fail_after(300), pytest.raises(TransferStalled):
            await fetch_from(reader, release, giver)
        mock_clock.rate = 1.0
        with trio.fail_after(20):
            await fetch_from(reader, release, publisher_of(hub), to=tmp_path / "out")
        assert same_files(release.folder, tmp_path / "out")


class FullHoldings(MemoryHoldings):
    """A disk that fills up in the middle of a download."""

    free_bytes = 1_000_000

    def write(self, page: Page, index: int, data: memoryview) -> None:
        self.free_bytes -= len(data)
        if self.free_bytes < 0:
            raise StoreFull("no space left on device")
        super().write(page, index, data)


async def test_a_disk_that_fills_up_ends_the_fetch_and_not_the_node(tmp_path: Path) -> None:
    disk = FullHoldings()
    async with (
        scene(tmp_path) as (hub, release),
        node_of(hub, "reader", tmp_path / "reader", store=MemoryStore(disk)) as reader,
    ):
        with trio.fail_after(20), pytest.raises(StoreFull):
            await fetch_from(reader, release, publisher_of(hub), to=tmp_path / "out")
        disk.free_bytes = 1 << 40
        with trio.fail_after(20):
            fetched = await fetch_from(reader, release, publisher_of(hub), to=tmp_path / "out")
        assert same_files(release.folder, tmp_path / "out")
        assert fetched.bytes_fetched < 3_000_000  # what came before the disk was full is kept
