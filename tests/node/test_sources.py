"""Readers who come back: one session serves their ranges, and ends when nobody reads."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from p2phub.errors import NoSuchFile
from p2phub.node import sources
from p2phub.node.node import Node
from p2phub.proto.names import parse_reference
from p2phub.store.base import ObjectState
from tests.node.real_nodes import address, node, publish, write_model

SIZE = 3_000_000


async def read(
    reader: Node, content_id: str, start: int, stop: int, peers: tuple[str, ...]
) -> bytes:
    got = bytearray()
    reference = parse_reference(content_id)
    async with reader.read(reference, "weights.bin", start, stop, peers) as chunks:
        async for chunk in chunks:
            got += chunk
    return bytes(got)


async def test_ranges_read_one_after_another_come_over_one_session(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", size=SIZE)
    data = (model / "weights.bin").read_bytes()
    rng = random.Random(5)
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id, peers = await publish(a, model), (await address(a),)
        for _ in range(8):
            start = rng.randrange(SIZE - 50_000)
            assert (
                await read(b, content_id, start, start + 50_000, peers)
                == (data[start : start + 50_000])
            )
        assert next(a._serving._numbers) == 1  # sessions that were opened
        assert a._serving.sessions_count == 1


async def test_only_the_chunks_of_the_ranges_are_fetched(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", size=SIZE)
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id, peers = await publish(a, model), (await address(a),)
        for start in (1_000_000, 1_000_100, 2_000_000):
            await read(b, content_id, start, start + 1000, peers)
        assert a._serving.sent.total <= 4 * 65_536  # two ranges of at most two chunks each


async def test_readers_at_once_have_a_session_each(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", size=SIZE)
    data = (model / "weights.bin").read_bytes()
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id, peers = await publish(a, model), (await address(a),)

        async def one(start: int) -> None:
            got = await read(b, content_id, start, start + 200_000, peers)
            assert got == data[start : start + 200_000]

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for start in range(0, SIZE - 200_000, 500_000):
                    nursery.start_soon(one, start)
        assert len(b._sources._idle) <= sources.IDLE_MAX


async def test_a_file_read_to_its_last_chunk_is_complete(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", size=SIZE)
    data = (model / "weights.bin").read_bytes()
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id, peers = await publish(a, model), (await address(a),)
        for start in range(0, SIZE, 1_000_000):
            await read(b, content_id, start, start + 1_000_000, peers)
        [status] = b._store.objects(size_min=SIZE)
        assert status.state is ObjectState.COMPLETE
        assert await read(b, content_id, 0, SIZE, ()) == data


async def test_what_is_here_is_read_without_asking_anybody(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", size=SIZE)
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id, peers = await publish(a, model), (await address(b),)
        assert len(await read(a, content_id, 0, SIZE, peers)) == SIZE
        assert b._serving.sessions_count == 0


async def test_a_reader_who_leaves_early_leaves_nothing_behind(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", size=SIZE)
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id, peers = await publish(a, model), (await address(a),)
        with pytest.raises(NoSuchFile):
            async with b.read(parse_reference(content_id), "no such", 0, 1, peers):
                pass
        async with b.read(parse_reference(content_id), "weights.bin", 0, SIZE, peers) as chunks:
            async for _ in chunks:
                break
        assert all(source.is_at_rest for source in b._sources._idle)
        assert await read(b, content_id, 0, 1000, peers)


async def test_a_source_ends_after_its_time_without_a_reader(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", size=SIZE)
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id, peers = await publish(a, model), (await address(a),)
        await read(b, content_id, 0, 1000, peers)
        [source] = b._sources._idle
        assert source.life.deadline <= trio.current_time() + sources.IDLE_S
        source.life.deadline = trio.current_time()  # as if that time had passed
        assert await read(b, content_id, 1_000_000, 1_001_000, peers)
        assert source not in b._sources._idle
        with trio.fail_after(5):
            while a._serving.sessions_count > 1:
                await trio.lowlevel.checkpoint()
