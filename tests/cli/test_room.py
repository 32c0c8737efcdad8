"""`rm`, `pin`, `unpin` and `gc` against a real node."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2phub.cli.commands.releases import state
from p2phub.errors import CorruptChunk, NotHeld, ReleaseChanged
from tests.cli.running import Terminal
from tests.control.serving import controlled
from tests.node.real_nodes import node, publish_signed, write_model

Capture = pytest.CaptureFixture[str]


async def test_a_release_is_unpinned_and_removed(tmp_path: Path, capsys: Capture) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, controlled(a, tmp_path) as home:
        published = await publish_signed(a, model, tmp_path / "a")
        p2phub = Terminal(home, capsys)
        name = f"{published.publisher_id}/tiny@1.0"
        assert (await p2phub("unpin", "lab/tiny")).out == f"{name} is no longer pinned\n"
        [row] = (await p2phub("ls", "--json")).json
        assert row["is_pinned"] is False
        pinned = await p2phub("pin", published.content_id, "--json")
        assert (pinned.code, pinned.json["pinned"]) == (0, True)
        [row] = (await p2phub("ls", "--json")).json
        assert row["is_pinned"] is True
        assert (
            state(row) == "published" and state(row | {"state": "complete"}) == "complete, pinned"
        )
        kept = await p2phub("gc", "--dry-run", "--json")
        assert (kept.json["file_count"], kept.json["dry_run"]) == (0, True)
        removed = await p2phub("rm", "lab/tiny@1.0")
        assert (removed.code, removed.out) == (0, f"{name}\n")
        assert "stays" in removed.err
        assert (model / "weights.bin").exists()
        gone = await p2phub("rm", "lab/tiny", "--json")
        assert (gone.code, gone.error["kind"]) == (NotHeld.exit_code, "NotHeld")
        assert (await p2phub("gc")).err.startswith("0 B freed: 0 files")


async def test_a_scrub_finds_what_the_disk_damaged(tmp_path: Path, capsys: Capture) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, controlled(a, tmp_path) as home:
        await publish_signed(a, model, tmp_path / "a")
        p2phub = Terminal(home, capsys)
        right = await p2phub("scrub")
        assert (right.code, right.out.endswith("all of it right\n")) == (0, True), right.err
        pack = next((tmp_path / "a" / "store" / "packs").iterdir())
        with open(pack, "r+b") as file:
            file.seek(-1, 2)
            file.write(b"\xff")
        wrong = await p2phub("scrub", "--json")
        assert (wrong.code, wrong.error["kind"]) == (CorruptChunk.exit_code, "CorruptChunk")
        assert "fsck --repair" in wrong.error["message"]


async def test_a_check_does_not_call_an_edit_of_the_user_damage_of_the_disk(
    tmp_path: Path, capsys: Capture
) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, controlled(a, tmp_path) as home:
        await publish_signed(a, model, tmp_path / "a")
        weights = max(model.iterdir(), key=lambda path: path.stat().st_size)
        with open(weights, "ab") as file:
            file.write(b"edited")
        changed = await Terminal(home, capsys)("fsck")
        assert changed.code == ReleaseChanged.exit_code, changed.err
        assert "check the disk" not in changed.err


async def test_a_check_says_what_is_lacking_and_what_became_of_it(
    tmp_path: Path, capsys: Capture
) -> None:
    model = write_model(tmp_path / "model")
    async with (
        node(tmp_path / "a") as a,
        node(tmp_path / "b") as b,
        controlled(b, tmp_path) as home,
    ):
        published = await publish_signed(a, model, tmp_path / "a")
        p2phub = Terminal(home, capsys)
        assert (await p2phub("fetch", published.reference)).code == 0
        right = await p2phub("fsck")
        assert (right.code, right.out.endswith("read and right\n")) == (0, True), right.err
        whole = next((tmp_path / "b" / "store" / "data").glob("*/*"))
        whole.unlink()
        wrong = await p2phub("fsck", "--json")
        assert (wrong.code, wrong.error["kind"]) == (CorruptChunk.exit_code, "CorruptChunk")
        assert not wrong.json["is_right"]
        repaired = await p2phub("fsck", "--repair")
        assert repaired.code == 0, repaired.err
        assert "whole again" in repaired.err
        assert (await p2phub("fsck", "--json")).json["is_right"]
