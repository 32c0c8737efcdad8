"""`p2phub limit` against a real socket and real limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2phub.net.base import PeerId
from p2phub.node.limits import Limiting
from p2phub.node.rates import Rates
from tests.cli.running import Terminal
from tests.control.serving import controlled
from tests.memory_node import MemoryNode
from tests.memory_world import World

PEER = PeerId("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")


class LimitedNode(MemoryNode):
    def __init__(self, folder: Path) -> None:
        super().__init__(World())
        self._limiting = Limiting(folder / "limits.json", Rates(), Rates())

    @property
    def limits(self) -> Limiting:
        return self._limiting


async def test_limits_are_shown_and_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with controlled(LimitedNode(tmp_path), tmp_path) as home:
        p2phub = Terminal(home, capsys)
        assert (await p2phub("limit")).out == "down off, up off\n"
        changed = (await p2phub("limit", "--down", "50M", "--up", "10M", "--json")).json
        assert (changed["down"], changed["up"]) == (50 << 20, 10 << 20)
        assert changed["peers"] == [] and changed["schedule"] == ""
        own = (await p2phub("limit", "--peer", PEER, "--up", "500K")).out
        assert own.splitlines()[1] == f"{PEER}: down off, up 500K"
        shown = (await p2phub("limit", "--schedule", "00:00-24:00 up=off")).out
        assert shown.splitlines()[-2:] == [
            "schedule 00:00-00:00 up=off",
            "now down 50M, up off, by 00:00-00:00 up=off",
        ]
        refused = await p2phub("limit", "--up", "fast", "--json")
        assert refused.error["kind"] == "BadSetting" and refused.code == 6
        assert (await p2phub("limit", "--peer", "me", "--up", "1M")).code == 2
