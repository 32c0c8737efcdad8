"""Verifying what is held: what people edited or removed is a fault, what was never fetched is
none.
"""

from __future__ import annotations

import os
from pathlib import Path

from p2phub.errors import ReleaseChanged
from p2phub.node.node import Node
from p2phub.proto.names import parse_reference
from tests.node.real_nodes import address, fetch, ignore, node, publish, write_model


async def faults(running: Node, content_id: str) -> list[str]:
    """Paths of the faults, all of which are of people's doing."""
    found = (await running.verify(parse_reference(content_id), ignore)).faults
    assert {fault.kind for fault in found} <= {ReleaseChanged.__name__}
    return [fault.path for fault in found]


async def test_what_was_published_and_edited_or_removed_is_a_fault(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a:
        content_id = await publish(a, model)
        assert await faults(a, content_id) == []
        (model / "README.md").unlink()
        (model / "weights.bin").rename(tmp_path / "moved")
        with (model / "nested" / "vocabulary.bin").open("ab") as file:
            file.write(b"edited")
        expected = ["README.md", "nested/vocabulary.bin", "weights.bin"]
        assert sorted(await faults(a, content_id)) == expected


async def test_what_was_only_touched_where_it_was_fetched_to_is_no_fault(tmp_path: Path) -> None:
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)
        await fetch(b, content_id, to=out, peers=(await address(a),))
        for name in ("README.md", "weights.bin"):
            os.chmod(out / name, 0o444)
        verified = await b.verify(parse_reference(content_id), ignore)
        assert verified.faults == () and verified.missing_bytes > 0


async def test_what_was_fetched_and_edited_where_it_lies_is_a_fault(tmp_path: Path) -> None:
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id, peers = await publish(a, model), (await address(a),)
        await fetch(b, content_id, to=out, peers=peers)
        assert await faults(b, content_id) == []
        # A copy: its content is held all the same, and the folder is wrong.
        (out / "README.md").write_bytes(b"# A modem\n")
        (out / "weights.bin").unlink()
        assert sorted(await faults(b, content_id)) == ["README.md", "weights.bin"]


async def test_an_edit_in_the_tree_under_the_home_is_a_fault(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)
        fetched = await fetch(b, content_id, peers=(await address(a),))
        edited = Path(fetched.path) / "README.md"
        os.chmod(edited.parent, 0o755)
        edited.unlink()
        edited.write_bytes(b"# A modem\n")
        assert await faults(b, content_id) == ["README.md"]


async def test_what_was_never_fetched_is_no_fault(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id, peers = await publish(a, model), (await address(a),)
        await fetch(b, content_id, peers=peers, include=("README.md",))
        verified = await b.verify(parse_reference(content_id), ignore)
        assert verified.faults == () and verified.missing_bytes > 3_000_000
