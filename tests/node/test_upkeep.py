"""What a node keeps: removing, pinning and collecting between real fetches."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2phub.config import settings
from p2phub.errors import NotHeld, StoreFull, UsageError
from p2phub.net.memory import MemoryHub
from p2phub.node.node import Node
from p2phub.paths import Home
from p2phub.proto.content_id import content_id_text
from p2phub.proto.names import PublisherReference, parse_reference
from p2phub.store.base import Scrubbed
from p2phub.store.memory import MemoryStore
from tests.node.real_nodes import (
    address,
    fetch,
    node,
    publish,
    publish_signed,
    same_files,
    write_model,
)


async def test_a_removed_release_frees_its_tree_and_its_room(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        published = await publish_signed(a, model, tmp_path / "a")
        fetched = await fetch(b, published.reference, peers=(await address(a),))
        assert fetched.path.exists()
        removed = await b.upkeep.remove(parse_reference(published.content_id))
        assert removed.content_ids == (published.content_id,)
        assert removed.trees == (fetched.path,)
        assert removed.freed.freed_bytes > 3_000_000
        assert list((tmp_path / "b" / "releases").iterdir()) == []
        assert await b.releases() == ()
        usage = b._store.usage()
        assert (usage.data_bytes, usage.part_bytes, usage.pack_bytes) == (0, 0, 0)
        with pytest.raises(NotHeld):
            await b.upkeep.remove(parse_reference(published.content_id))
        # It can be fetched again, and its publisher still has it.
        again = await fetch(b, published.reference, peers=(await address(a),))
        assert same_files(model, again.path)
        assert again.bytes_fetched > 3_000_000


async def test_what_the_user_published_and_placed_stays(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        published = await publish_signed(a, model, tmp_path / "a")
        await fetch(b, published.reference, to=tmp_path / "out", peers=(await address(a),))
        removed = await b.upkeep.remove(parse_reference(published.reference))
        assert (removed.trees, removed.folders) == ((), (tmp_path / "out",))
        assert removed.freed.forgotten_count == 2
        # A tree of copies of them takes room of its own, which is told.
        await fetch(b, published.reference, to=tmp_path / "out", peers=(await address(a),))
        tree = await fetch(b, published.reference)
        removed = await b.upkeep.remove(parse_reference(published.reference))
        assert removed.trees == (tree.path,)
        assert (removed.freed.freed_bytes > 3_000_000) == (tree.method == "copy")
        await a.upkeep.remove(parse_reference("lab/tiny"))
        assert same_files(model, tmp_path / "out")
        assert b._store.usage().adopted_bytes == a._store.usage().adopted_bytes == 0


async def test_a_tree_goes_with_its_release_wherever_else_that_was_fetched_to(
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        published = await publish_signed(a, model, tmp_path / "a")
        tree = await fetch(b, published.reference, peers=(await address(a),))
        await b.upkeep.pin(parse_reference(published.content_id), True)
        await fetch(b, published.reference, to=tmp_path / "out")
        # A name that its publisher gets here afterwards makes no second tree.
        await b.trust.add(PublisherReference(published.publisher_id), "lab")
        assert (await fetch(b, "lab/tiny")).path == tree.path
        assert [row.is_pinned for row in await b.releases()] == [True]
        removed = await b.upkeep.remove(parse_reference("lab/tiny"))
        assert removed.trees == (tree.path,)
        assert list((tmp_path / "b" / "releases").iterdir()) == []
        assert same_files(model, tmp_path / "out")


async def test_what_is_published_stays_so_when_it_is_fetched_here(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a:
        published = await publish_signed(a, model, tmp_path / "a")
        tree = await fetch(a, "lab/tiny")
        [row] = a._store.releases()
        assert (row.origin, row.is_pinned, row.path) == ("published", True, tree.path)
        assert (await a.upkeep.remove(parse_reference("lab/tiny"))).trees == (tree.path,)
        assert published.petname == "lab"


async def test_what_is_kept_under_another_name_too_stays_shared(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        published = await publish_signed(a, model, tmp_path / "a")
        await publish_signed(a, model, tmp_path / "a", name="alias")
        announced = a._announcing.statistics().names_count
        removed = await a.upkeep.remove(parse_reference("lab/alias"))
        assert removed.references == (f"{published.publisher_id}/alias@1.0",)
        assert [row.name for row in a._store.releases()] == [f"{published.publisher_id}/tiny@1.0"]
        assert a._announcing.statistics().names_count == announced
        await fetch(b, published.content_id, peers=(await address(a),))
        # All that is kept of a content id goes with the content id.
        await publish_signed(a, model, tmp_path / "a", name="alias", version="1.1")
        removed = await a.upkeep.remove(parse_reference(published.content_id))
        assert len(removed.references) == 2 and a._store.releases() == []


async def test_one_of_several_versions_must_be_named(tmp_path: Path) -> None:
    one, two = write_model(tmp_path / "one"), write_model(tmp_path / "two", seed=2)
    async with node(tmp_path / "a") as a:
        await publish_signed(a, one, tmp_path / "a", version="1.0")
        await publish_signed(a, two, tmp_path / "a", version="1.1")
        with pytest.raises(UsageError) as caught:
            await a.upkeep.remove(parse_reference("lab/tiny"))
        assert caught.value.facts["versions"] == ["1.0", "1.1"]
        with pytest.raises(NotHeld):
            await a.upkeep.remove(parse_reference("lab/tiny@3"))
        removed = await a.upkeep.remove(parse_reference("lab/tiny@1.0.0"))
        assert removed.references[0].endswith("/tiny@1.0")
        await a.upkeep.remove(parse_reference("lab/tiny"))


async def test_what_two_releases_share_stays_with_the_other(tmp_path: Path) -> None:
    one = write_model(tmp_path / "one")
    two = write_model(tmp_path / "two")
    (two / "README.md").write_text("# Another card\n")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        first, second = await publish(a, one), await publish(a, two)
        peers = (await address(a),)
        await fetch(b, first, peers=peers)
        kept = await fetch(b, second, peers=peers)
        removed = await b.upkeep.remove(parse_reference(first))
        assert removed.freed.file_count == 0
        assert same_files(two, kept.path)
        assert (await b.verify(parse_reference(second), lambda progress: None)).missing_bytes == 0


async def test_a_pin_is_set_and_cleared(tmp_path: Path) -> None:
    async with node(tmp_path / "a") as a:
        published = await publish_signed(a, write_model(tmp_path / "model"), tmp_path / "a")
        unpinned = await a.upkeep.pin(parse_reference("lab/tiny@1.0"), False)
        assert (unpinned.pinned, unpinned.content_ids) == (False, (published.content_id,))
        assert [row.is_pinned for row in a._store.releases()] == [False]
        await a.upkeep.pin(parse_reference(published.content_id), True)
        assert [row.is_pinned for row in a._store.releases()] == [True]
        with pytest.raises(NotHeld):
            await a.upkeep.pin(parse_reference("sha256:" + "0" * 64), True)


async def test_a_file_fetched_by_its_own_name_is_kept_and_removed_like_a_release(
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        view = await a.show(parse_reference(await publish(a, model)))
        name = next(file.object for file in view.files if file.path == "weights.bin")
        fetched = await fetch(b, content_id_text(name), peers=(await address(a),))
        [row] = await b.releases()
        assert (row.file_count, row.data_size) == (1, fetched.data_size)
        assert (await b.upkeep.collect(False)).file_count == 0
        assert fetched.path.read_bytes() == (model / "weights.bin").read_bytes()
        removed = await b.upkeep.remove(parse_reference(content_id_text(name)))
        assert removed.freed.file_count == 1
        assert not fetched.path.exists()


async def test_a_dry_run_says_what_a_collection_then_frees(tmp_path: Path) -> None:
    async with node(tmp_path / "a") as a:
        await publish(a, write_model(tmp_path / "model"))
        for manifest, owner, _ in a._store.leases(0.0):
            a._store.lease(manifest, owner, 0)
        said = await a.upkeep.collect(True)
        assert said.dry_run
        done = await a.upkeep.collect(False)
        assert (said.freed_bytes, said.file_count, said.forgotten_count, said.chunk_count) == (
            done.freed_bytes, done.file_count, done.forgotten_count, done.chunk_count,
        )  # fmt: skip
        assert done.file_count > 0
        assert (await a.upkeep.collect(False)).chunk_count == 0


async def test_the_oldest_unpinned_release_makes_room(tmp_path: Path) -> None:
    async with (
        node(tmp_path / "a") as a,
        node(tmp_path / "b", store_max=8_000_000) as b,
    ):
        peers = (await address(a),)
        ids = [
            await publish(a, write_model(tmp_path / f"{seed}", seed=seed)) for seed in range(1, 5)
        ]
        oldest = await fetch(b, ids[0], peers=peers)
        pinned = await fetch(b, ids[1], peers=peers)
        await b.upkeep.pin(parse_reference(ids[1]), True)
        fetched = await fetch(b, ids[2], peers=peers)
        assert not oldest.path.exists()
        assert fetched.warnings == (f"{ids[0]} was removed, to make room within store_max",)
        assert pinned.path.exists()
        assert {row.content_id for row in await b.releases()} == {ids[1], ids[2]}
        usage = b._store.usage()
        assert usage.data_bytes + usage.part_bytes + usage.pack_bytes < 8_000_000
        # One that is larger than all that may go is refused before its first byte.
        large = await publish(a, write_model(tmp_path / "large", size=6_000_000, seed=9))
        with pytest.raises(StoreFull) as caught:
            await fetch(b, large, peers=peers)
        assert caught.value.facts["pinned"] == [ids[1]]
        assert caught.value.facts["needed"] == 6_200_000
        assert fetched.path.exists()
        assert b._store.usage().part_bytes == 0
        # A folder of the user's is not the store's room.
        await fetch(b, large, to=tmp_path / "out", peers=peers)
        assert fetched.path.exists()


class FullStore(MemoryStore):
    """A store whose disk has no room for what a scrub notes down, for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.scrubbed = trio.Event()
        self._refusals = 3

    def scrub(self, since_s: float, now_s: float) -> Scrubbed:
        if self._refusals:
            self._refusals -= 1
            raise StoreFull("no room for the index")
        trio.from_thread.run_sync(self.scrubbed.set)
        return super().scrub(since_s, now_s)


async def test_reading_again_by_itself_outlives_a_full_disk(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    store = FullStore()
    a = Node(Home(tmp_path), settings(""), MemoryHub().network("a"), store, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.upkeep.scrub_slowly)
        await store.scrubbed.wait()
        nursery.cancel_scope.cancel()
    a.close()
