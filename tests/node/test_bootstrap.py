"""The bootstrap list: what a user adds is kept and dialled, what is configured stays configured."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2phub.errors import UsageError
from p2phub.net.memory import MemoryHub, MemoryNetwork
from p2phub.node.bootstrap import BootstrapList
from p2phub.node.neighbours import Neighbours
from p2phub.paths import Home


def neighbours_of(network: MemoryNetwork, folder: Path, configured: list[str]) -> Neighbours:
    return Neighbours(
        network, Home(folder), random.Random(1), bootstrap=configured, on_joined=lambda: None
    )


async def test_an_address_that_is_added_is_dialled_at_once_and_after_the_next_start(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = tmp_path / "bootstrap.json"
    for life in ("first", "second"):
        hub = MemoryHub()
        network, other = hub.network(life), hub.network("other")
        neighbours = neighbours_of(network, tmp_path, [])
        listed = BootstrapList(path, (), neighbours)
        async with trio.open_nursery() as nursery:
            for each in (network, other):
                await nursery.start(each.run)
            nursery.start_soon(neighbours.run)
            await trio.sleep(1)
            if life == "first":
                assert network.peers() == []
                assert await listed.add(other.addresses()[0]) == (other.addresses()[0],)
                await trio.sleep(1)
            assert [status.peer for status in network.peers()] == [other.peer_id]
            nursery.cancel_scope.cancel()


async def test_only_what_is_kept_can_be_removed(tmp_path: Path) -> None:
    hub = MemoryHub()
    network = hub.network("a")
    configured, added = (hub.network(name).addresses()[0] for name in ("b", "c"))
    listed = BootstrapList(
        tmp_path / "bootstrap.json", [configured], neighbours_of(network, tmp_path, [configured])
    )
    assert await listed.add(added) == (configured, added)
    assert await listed.remove(added) == (configured,)
    with pytest.raises(UsageError, match="is not kept"):
        await listed.remove(added)
    with pytest.raises(UsageError, match="it stands in config"):
        await listed.remove(configured)
    with pytest.raises(UsageError):
        await listed.add("an address of nobody")


async def test_what_is_no_address_in_the_file_is_left_out(tmp_path: Path) -> None:
    hub = MemoryHub()
    good = hub.network("b").addresses()[0]
    path = tmp_path / "bootstrap.json"
    path.write_text(json.dumps(["nonsense", good, 7]))
    listed = BootstrapList(path, (), neighbours_of(hub.network("a"), tmp_path, []))
    assert await listed.list() == (good,)
