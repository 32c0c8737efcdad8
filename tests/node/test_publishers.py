"""Signed metadata between nodes, with peers that lie, stall or ask what is none of theirs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2phub.digest import sha256
from p2phub.errors import StreamClosed
from p2phub.net.base import Stream
from p2phub.net.memory import MemoryHub, MemoryNetwork
from p2phub.node import publishers, resolving
from p2phub.node.api import Published
from p2phub.node.node import Node
from p2phub.proto import protocols
from p2phub.proto.codec import encode
from p2phub.proto.fetch import MetaWanted, parse_reply_header, reply_header
from p2phub.proto.frames import FrameReader, frame
from p2phub.proto.names import publisher_id_text
from tests.node.hostile_peers import node_of
from tests.node.real_nodes import publish_signed, write_model

Give = Callable[[Stream, MetaWanted], object]


@dataclass
class Scene:
    hub: MemoryHub
    owner: Node
    reader: Node
    published: Published
    old: dict[str, bytes]  # files of the state before the last


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """A publisher of two versions, and a node that connects to it when it wants to."""
    hub = MemoryHub()
    model = write_model(folder / "model", size=200_000)
    async with node_of(hub, "owner", folder / "owner") as owner:
        published = await publish_signed(owner, model, folder / "owner", version="1")
        follower = owner._publishers.follower(published.publisher_id)
        names = ["timestamp.json", "1.root.json", "1.snapshot.json", "1.tiny.json"]
        names += ["1.targets.json"]
        old = {name: data for name in names if (data := follower.metadata(name))}
        await publish_signed(owner, model, folder / "owner", version="2")
        async with node_of(hub, "reader", folder / "reader") as reader:
            yield Scene(hub, owner, reader, published, old)


@asynccontextmanager
async def metadata_peer(hub: MemoryHub, name: str, give: Give) -> AsyncIterator[MemoryNetwork]:
    network = hub.network(name)

    async def on_stream(stream: Stream) -> None:
        frames = FrameReader()
        while data := await stream.receive():
            for request in frames.feed(data):
                await give(stream, MetaWanted.decode(request))  # type: ignore[misc]

    network.serve(protocols.META, on_stream)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield network
        nursery.cancel_scope.cancel()


async def silent(stream: Stream, wanted: MetaWanted) -> None:
    await trio.sleep_forever()


async def empty(stream: Stream, wanted: MetaWanted) -> None:
    await stream.send(reply_header(None))


async def garbage(stream: Stream, wanted: MetaWanted) -> None:
    await stream.send(reply_header(9) + b'{"a": 1}\n')


async def too_much(stream: Stream, wanted: MetaWanted) -> None:
    await stream.send(b"\x7f\xff\xff\xff")


def giving(files: dict[str, bytes]) -> Give:
    async def give(stream: Stream, wanted: MetaWanted) -> None:
        data = files.get(wanted.file_name)
        await stream.send(reply_header(len(data) if data else None) + (data or b""))

    return give


@pytest.mark.parametrize("kind", ["silent", "empty", "garbage", "too much", "old"])
async def test_no_peer_keeps_a_follower_from_the_news(
    tmp_path: Path, mock_clock: MockClock, kind: str
) -> None:
    mock_clock.rate = 4.0
    async with scene(tmp_path) as stage:
        gives = {"silent": silent, "empty": empty, "garbage": garbage, "too much": too_much}
        give = gives.get(kind, giving(stage.old))
        async with metadata_peer(stage.hub, "mallory", give) as mallory:
            named = [*mallory.addresses(), *stage.owner._network.addresses()]
            with trio.fail_after(20):  # one window for the silent, not one for each file
                view, peers_count, _ = await stage.reader._resolver.refresh(
                    stage.published.publisher_id, named
                )
        assert view.names == ("tiny",)
        assert peers_count >= 1
        owner = stage.owner._publishers.follower(stage.published.publisher_id)
        assert view.timestamp_version == owner.known(time.time()).timestamp_version


@pytest.mark.parametrize("kind", ["garbage", "old", "false snapshot"])
async def test_quick_liars_do_not_keep_a_follower_from_a_slow_peer(
    tmp_path: Path, kind: str
) -> None:
    async with scene(tmp_path) as stage, AsyncExitStack() as peers:
        owner = stage.owner._publishers.follower(stage.published.publisher_id)
        version = owner.known(time.time()).timestamp_version
        roles = ("root", "snapshot", "targets", "tiny")
        names = [f"{number}.{role}.json" for number in range(1, version + 1) for role in roles]
        names.append("timestamp.json")
        new = {name: data for name in names if (data := owner.metadata(name))}
        false = {**new, f"{version}.snapshot.json": b"{}"}
        lie = {"garbage": garbage, "old": giving(stage.old), "false snapshot": giving(false)}[kind]

        async def slow(stream: Stream, wanted: MetaWanted) -> None:
            await trio.sleep(0.1)
            await giving(new)(stream, wanted)  # type: ignore[misc]

        named: list[str] = []
        for number in range(publishers.ANSWERS_ENOUGH):
            liar = await peers.enter_async_context(metadata_peer(stage.hub, f"liar {number}", lie))
            named += liar.addresses()
        honest = await peers.enter_async_context(metadata_peer(stage.hub, "honest", slow))
        named += honest.addresses()
        view, peers_count, _ = await stage.reader._resolver.refresh(
            stage.published.publisher_id, named
        )
        assert view.timestamp_version == version and peers_count >= 1


async def test_a_stranger_s_questions_make_no_publisher_known(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage, metadata_peer(stage.hub, "mallory", silent) as mallory:
        stream = await mallory.open(stage.owner._network.peer_id, protocols.META)
        for number in range(100):
            publisher_id = publisher_id_text(sha256(number.to_bytes(4, "big")))
            await stream.send(frame(MetaWanted(publisher_id, "timestamp.json").encode()))
            assert parse_reply_header(await stream.receive_exactly(4)) is None
        assert stage.owner._publishers.followed_ids() == [stage.published.publisher_id]
        await stream.send(frame(encode(["meta", "../../etc", "passwd"])))
        with pytest.raises(StreamClosed):
            await stream.receive_exactly(1)
        assert stage.owner._network.faults_count == 0


async def test_many_names_that_wait_for_peers_leave_threads_to_the_store(tmp_path: Path) -> None:
    async with (
        scene(tmp_path) as stage,
        metadata_peer(stage.hub, "mallory", silent) as mallory,
        trio.open_nursery() as nursery,
    ):
        for number in range(60):
            publisher_id = publisher_id_text(sha256(number.to_bytes(4, "big")))
            nursery.start_soon(stage.reader._resolver.refresh, publisher_id, mallory.addresses())
        await trio.sleep(0.3)
        with trio.fail_after(2):
            await stage.reader.status()
        nursery.cancel_scope.cancel()


async def test_two_followers_that_ask_each_other_at_once_both_learn(tmp_path: Path) -> None:
    """What a node is asked while it asks is answered at once, from what it held before."""
    async with scene(tmp_path) as stage, node_of(stage.hub, "b", tmp_path / "b") as other:
        publisher_id = stage.published.publisher_id
        named = stage.owner._network.addresses()
        nodes = (stage.reader, other)
        for node in nodes:
            await node._resolver.refresh(publisher_id, named)
        await stage.owner._network.disconnect(stage.reader._network.peer_id)
        await stage.owner._network.disconnect(other._network.peer_id)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for one, another in (nodes, nodes[::-1]):
                    nursery.start_soon(
                        one._resolver.refresh, publisher_id, another._network.addresses()
                    )


async def test_a_refresh_that_is_cancelled_leaves_the_follower_free(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage, metadata_peer(stage.hub, "mallory", silent) as mallory:
        publisher_id = stage.published.publisher_id
        for pause_s in (0.0, 0.01, 0.05, 0.2):
            with trio.move_on_after(pause_s) as cancelled:
                await stage.reader._resolver.refresh(publisher_id, mallory.addresses())
            assert cancelled.cancelled_caught
        await stage.reader._network.disconnect(mallory.peer_id)
        with trio.fail_after(10):
            view, _, _ = await stage.reader._resolver.refresh(
                publisher_id, stage.owner._network.addresses()
            )
        assert view.names == ("tiny",)


async def test_a_look_at_what_is_held_does_not_wait_for_a_publisher_that_is_gone(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    mock_clock.rate = 20.0
    hub = MemoryHub()
    model = write_model(tmp_path / "model", size=200_000)
    async with node_of(hub, "reader", tmp_path / "reader") as reader:
        refresh = reader._resolver.refresh
        async with node_of(hub, "owner", tmp_path / "owner") as owner:
            published = await publish_signed(owner, model, tmp_path / "owner", version="1")
            await refresh(published.publisher_id, owner._network.addresses())
        mock_clock.jump(resolving.RECENT_S)
        # The reader of a gateway gives up after 8 s; files that are all here must not need anybody.
        for longest_s in (resolving.LOOK_S + 1, 1.0):
            with trio.fail_after(longest_s):
                _, peers_count, warnings = await refresh(
                    published.publisher_id, (), recent_s=resolving.RECENT_S
                )
            assert peers_count == 0 and "could not be had" in warnings[0]
