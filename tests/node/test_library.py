"""What a node says of what it holds: names, states, what was verified."""

from __future__ import annotations

from pathlib import Path

from p2phub.proto.names import parse_reference
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
        assert verified.missing_bytes == len("# A model\n") and verified.faults == ()
        assert [row.state for row in await a.releases()] == ["changed"]
