"""Ranges read while they are fetched, beside fetches of the same, and from disks that forget."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from p2phub.errors import NotHeld, P2phubError
from p2phub.net.memory import MemoryHub
from p2phub.node.node import Node
from p2phub.proto.messages import Run
from p2phub.proto.names import parse_reference
from p2phub.store.memory import MemoryStore
from p2phub.store.memory_spans import MemorySpanReader
from tests.node.hostile_peers import node_of
from tests.node.real_nodes import fetch, publish, same_files, write_model


async def read(node: Node, content_id: str, peers: tuple[str, ...], **bounds: int) -> bytes:
    reference = parse_reference(content_id)
    async with node.read(reference, "weights.bin", peers=peers, **bounds) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_a_fetch_and_readers_of_the_same_file_at_once_are_all_right(tmp_path: Path) -> None:
    hub = MemoryHub()
    model = write_model(tmp_path / "model", size=3_000_000)
    data = (model / "weights.bin").read_bytes()
    async with (
        node_of(hub, "a", tmp_path / "a", up_rate=6_000_000) as a,
        node_of(hub, "b", tmp_path / "b") as b,
    ):
        content_id = await publish(a, model)
        peers = tuple(a._network.addresses())
        got: list[tuple[bytes, bytes]] = []

        async def read_range(start: int, stop: int, pause_s: float) -> None:
            await trio.sleep(pause_s)
            got.append((await read(b, content_id, peers, start=start, stop=stop), data[start:stop]))

        with trio.fail_after(40):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_range, 0, 3_000_000, 0.0)
                nursery.start_soon(read_range, 1_000_000, 3_000_000, 0.1)
                nursery.start_soon(read_range, 100, 200, 0.3)
                for number in range(2):
                    nursery.start_soon(fetch_into, b, content_id, tmp_path / f"out{number}", peers)
        for one, other in got:
            assert one == other
        for number in range(2):
            assert same_files(model, tmp_path / f"out{number}")
        assert (await b.verify(parse_reference(content_id), lambda _: None)).faults == ()


async def fetch_into(node: Node, content_id: str, folder: Path, peers: tuple[str, ...]) -> None:
    await fetch(node, content_id, to=folder, peers=peers)


async def test_releases_that_share_a_file_are_fetched_at_once(tmp_path: Path) -> None:
    hub = MemoryHub()
    one = write_model(tmp_path / "one", size=3_000_000)
    other = write_model(tmp_path / "other", size=3_000_000)
    (other / "README.md").write_text("# Another one\n")
    async with (
        node_of(hub, "a", tmp_path / "a", up_rate=4_000_000) as a,
        node_of(hub, "b", tmp_path / "b") as b,
    ):
        ids = [await publish(a, folder) for folder in (one, other)]
        peers = tuple(a._network.addresses())
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for number, content_id in enumerate(ids):
                    nursery.start_soon(fetch_into, b, content_id, tmp_path / f"out{number}", peers)
        assert same_files(one, tmp_path / "out0")
        assert same_files(other, tmp_path / "out1")


async def test_a_reader_gets_what_is_here_while_the_rest_comes(tmp_path: Path) -> None:
    hub = MemoryHub()
    model = write_model(tmp_path / "model", size=2_000_000)
    async with (
        node_of(hub, "a", tmp_path / "a", up_rate=2_000_000) as a,
        node_of(hub, "b", tmp_path / "b") as b,
    ):
        reference = parse_reference(await publish(a, model))
        peers = tuple(a._network.addresses())
        with trio.fail_after(20):
            async with b.read(reference, "weights.bin", peers=peers) as chunks:
                pieces = [chunk async for chunk in chunks]
    assert b"".join(pieces) == (model / "weights.bin").read_bytes()
    assert len(pieces[0]) < 900_000


class ForgetfulStore(MemoryStore):
    """A disk that has lost whatever it is asked for."""

    def span_reader(self, runs: tuple[Run, ...]) -> MemorySpanReader:  # type: ignore[override]
        raise NotHeld("the disk has lost it")


async def test_a_reader_is_told_when_the_disk_loses_what_came(tmp_path: Path) -> None:
    hub = MemoryHub()
    model = write_model(tmp_path / "model", size=500_000)
    async with (
        node_of(hub, "a", tmp_path / "a") as a,
        node_of(hub, "b", tmp_path / "b", store=ForgetfulStore()) as b,
    ):
        content_id = await publish(a, model)
        with trio.fail_after(10), pytest.raises(P2phubError):
            await read(b, content_id, tuple(a._network.addresses()))


async def test_what_a_cancelled_fetch_got_is_durable(tmp_path: Path) -> None:
    hub = MemoryHub()
    model = write_model(tmp_path / "model", size=3_000_000)
    async with (
        node_of(hub, "a", tmp_path / "a", up_rate=2_000_000) as a,
        node_of(hub, "b", tmp_path / "b") as b,
    ):
        content_id = await publish(a, model)
        with trio.move_on_after(1.2):
            await fetch(b, content_id, to=tmp_path / "out", peers=tuple(a._network.addresses()))
        assert (await b.status()).received_bytes > 100_000
        assert not b._store.checkpoint_due(1e12)
        assert b._store.checkpoint() == []
