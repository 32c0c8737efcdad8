"""What a disk damaged or lost is set aside, served to nobody, and fetched again from peers."""

from __future__ import annotations

import shutil
from pathlib import Path

import trio

from p2phub.digest import Digest
from p2phub.node.api import Progress
from p2phub.node.node import Node
from p2phub.node.upkeep_api import CheckReport
from p2phub.paths import Home
from p2phub.proto.content_id import parse_content_id
from p2phub.proto.names import parse_reference
from p2phub.store.base import ObjectState
from tests.node.real_nodes import (
    address,
    fetch,
    node,
    publish,
    publish_signed,
    same_files,
    write_model,
)
from tests.store.test_scrubbing import rot


def ignore(progress: Progress) -> None:
    pass


async def check(running: Node, *, repair: bool = True) -> CheckReport:
    return await running.repairing.check(repair, ignore)


async def object_named(running: Node, content_id: str, path: str) -> Digest:
    view = await running.show(parse_reference(content_id))
    return next(file.object for file in view.files if file.path == path)


async def is_whole(running: Node, content_id: str) -> bool:
    verified = await running.verify(parse_reference(content_id), ignore)
    return not verified.missing_bytes and not verified.faults


async def test_a_rotten_chunk_is_served_to_nobody_and_fetched_again(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        published = await publish_signed(a, model, tmp_path / "a")
        fetched = await fetch(b, published.reference, peers=(await address(a),))
        weights = await object_named(b, published.content_id, "weights.bin")
        rot(Home(tmp_path / "b").store / "data" / weights.hex()[:2] / weights.hex(), 1_000_000)
        assert (await b.upkeep.scrub(ignore)).damaged_count == 1
        assert not await is_whole(b, published.content_id)
        status = b._store.status(weights)
        assert status is not None
        assert (status.state, b._store.damaged()) == (ObjectState.PARTIAL, [weights])
        # A third node gets nothing of it from b, and all of it from a.
        async with node(tmp_path / "c") as c:
            await c.connect(await address(b))
            await c.connect(await address(a))
            other = await fetch(c, published.content_id)
            assert same_files(model, other.path)
            assert not any(peer.fault for peer in other.peers)
        (mended,) = await b.repairing.mend_damaged()
        assert mended.failure == ""
        assert mended.files == ("weights.bin",)
        assert 0 < mended.fetched_bytes < 100_000
        assert b._store.damaged() == []
        assert await is_whole(b, published.content_id)
        # Also the tree that people read, which shared the rotten blocks.
        assert same_files(model, fetched.path)
        assert (await check(b)).is_right
        assert await b.repairing.mend_damaged() == ()


async def test_a_check_finds_all_that_is_lost_and_a_repair_brings_it_back(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)
        fetched = await fetch(b, content_id, peers=(await address(a),))
        store = Home(tmp_path / "b").store
        weights = await object_named(b, content_id, "weights.bin")
        (store / "data" / weights.hex()[:2] / weights.hex()).unlink()
        for pack in (store / "packs").iterdir():
            size = pack.stat().st_size
            for at in range(100, size, 700):
                rot(pack, at)
        readme = fetched.path / "README.md"
        readme.chmod(0o644)
        readme.write_text("# A nodel\n")
        found = await check(b, repair=False)
        assert not found.is_right
        assert found.damaged_count >= 1
        assert found.releases[0].failure == "nothing was repaired"
        again = await check(b)
        assert again.is_right, again
        assert again.releases[0].content_id == content_id
        assert again.releases[0].fetched_bytes > 3_000_000
        assert same_files(model, fetched.path)
        assert await is_whole(b, content_id)
        last = await check(b)
        assert (last.is_right, last.releases, last.inconsistencies) == (True, (), ())


async def test_what_the_user_moved_away_is_lacking_and_held_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a:
        content_id = await publish(a, model)
        await a._publishing.keep(parse_content_id(content_id))
        shutil.move(model / "nested" / "vocabulary.bin", tmp_path / "aside")
        found = await check(a, repair=False)
        if not a._store.usage().adopted_bytes:
            assert found.is_right  # the store has the blocks too
            return
        assert not found.is_right
        assert found.releases[0].files == ("nested/vocabulary.bin",)
        shutil.move(tmp_path / "aside", model / "nested" / "vocabulary.bin")
        again = await check(a)
        assert again.is_right
        assert "is as it was" in again.inconsistencies[0]
        assert await is_whole(a, content_id)


async def test_a_repair_that_finds_nobody_ends_soon_and_is_told_once(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "b") as b:
        async with node(tmp_path / "a") as a:
            content_id = await publish(a, model)
            await fetch(b, content_id, peers=(await address(a),))
        weights = await object_named(b, content_id, "weights.bin")
        rot(Home(tmp_path / "b").store / "data" / weights.hex()[:2] / weights.hex(), 1_000_000)
        await b.upkeep.scrub(ignore)
        with trio.fail_after(40):  # a fetch would wait for a minute
            for _ in range(2):
                (mended,) = await b.repairing.mend_damaged()
                assert "fsck --repair" in mended.failure
        told = [notice.message for notice in b._notices if notice.kind == "Repaired"]
        assert len(told) == 1
        assert "every 1 h" in told[0]
        async with node(tmp_path / "a") as a:
            await b.connect(await address(a))
            (mended,) = await b.repairing.mend_damaged()
            assert mended.failure == ""
        assert await is_whole(b, content_id)
        assert b._notices[-1].message == f"{content_id} is whole again"
