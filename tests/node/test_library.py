"""What a node says of what it holds: names, states, what was verified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from p2phub.digest import Digest
from p2phub.net.memory import MemoryHub
from p2phub.proto.manifest import FileRecord
from p2phub.proto.names import parse_reference
from p2phub.store.memory import MemoryStore
from tests.node.hostile_peers import node_of
from tests.node.real_nodes import address, fetch, ignore, node, publish, publish_signed, write_model


async def test_a_release_of_a_publisher_without_a_petname_is_listed_by_the_publishers_id(
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        published = await publish_signed(a, model, tmp_path / "a")
        await fetch(b, published.reference, peers=(await address(a),))
        [row] = await b.releases()
        assert row.reference == f"{published.publisher_id}/tiny@1.0"
        assert row.state == "complete"


async def test_a_release_fetched_by_content_id_is_listed_by_it(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)
        await fetch(b, content_id, peers=(await address(a),))
        [row] = await b.releases()
        assert row.reference == content_id


async def test_a_release_kept_under_its_name_is_listed_by_it_also_after_its_content_id_was_fetched(
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        published = await publish_signed(a, model, tmp_path / "a")
        peers = (await address(a),)
        fetched = await fetch(b, published.reference, peers=peers)
        await fetch(b, fetched.content_id, peers=peers)
        [row] = await b.releases()
        assert row.reference == f"{published.publisher_id}/tiny@1.0"


async def test_an_edited_file_makes_a_published_release_a_changed_one(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a:
        published = await publish_signed(a, model, tmp_path / "a")
        reference = parse_reference(published.reference)
        whole = await a.verify(reference, ignore)
        assert whole.whole_count == whole.file_count and whole.missing_bytes == 0
        assert [row.state for row in await a.releases()] == ["published"]
        with (model / "README.md").open("a") as file:
            file.write("edited")
        verified = await a.verify(reference, ignore)
        assert verified.whole_count == verified.file_count - 1
        assert verified.missing_bytes == len("# A model\n")
        assert [(f.path, f.kind) for f in verified.faults] == [("README.md", "ReleaseChanged")]
        assert [row.state for row in await a.releases()] == ["changed"]


class AskedStore(MemoryStore):
    """Counts the files that it was asked about for a list of releases."""

    asked_count = 0

    def held_among(self, files: Sequence[FileRecord]) -> tuple[set[Digest], set[Digest]]:
        self.asked_count += len(files)
        return super().held_among(files)


async def test_a_whole_release_is_looked_through_again_only_when_something_was_lost(
    tmp_path: Path,
) -> None:
    hub, store = MemoryHub(), AskedStore()
    async with (
        node_of(hub, "a", tmp_path / "a") as a,
        node_of(hub, "b", tmp_path / "b", store=store) as b,
    ):
        for size in (300_000, 400_000):
            content_id = await publish(a, write_model(tmp_path / str(size), size=size))
            await fetch(b, content_id, peers=(await address(a),))
        store.asked_count = 0
        rows = await b.releases()
        assert [row.state for row in rows] == ["complete"] * 2
        asked_count, store.asked_count = store.asked_count, 0
        assert await b.releases() == rows
        assert store.asked_count == 0
        await b.upkeep.remove(parse_reference(content_id))
        assert await b.releases() == tuple(r for r in rows if r.content_id != content_id)
        assert store.asked_count == asked_count // 2
