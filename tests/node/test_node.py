"""A node that rests, and one whose disk refuses: it says so and lives."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2phub.errors import StoreFailed
from p2phub.net.memory import MemoryHub
from p2phub.store.memory import MemoryStore
from tests.node.hostile_peers import node_of


@pytest.fixture
def fast_clock(mock_clock: MockClock) -> MockClock:
    mock_clock.rate = 100.0
    return mock_clock


class Wakes(trio.abc.Instrument):
    """The instants at which a task did something."""

    def __init__(self) -> None:
        self.at_s: set[float] = set()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.at_s.add(round(trio.current_time(), 3))


async def test_a_node_that_rests_wakes_for_one_look_a_minute(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with node_of(MemoryHub(), "a", tmp_path):
        await trio.sleep(120)
        wakes = Wakes()
        trio.lowlevel.add_instrument(wakes)
        await trio.sleep(3600)
        trio.lowlevel.remove_instrument(wakes)
    assert 0 < len(wakes.at_s) < 150


async def test_a_disk_that_takes_no_lists_of_ours_does_not_end_the_node(
    tmp_path: Path, fast_clock: MockClock
) -> None:
    async with node_of(MemoryHub(), "a", tmp_path) as a:
        for path in (a._home.peers, a._home.announcements):
            path.unlink(missing_ok=True)
            (path / "in the way").mkdir(parents=True)  # nothing can be renamed over it
        a._announcing._dirtied.set()
        await trio.sleep(150)
        assert (await a.status()).uptime_s > 149


class RefusingStore(MemoryStore):
    """A store whose index cannot be written any more."""

    is_refusing = False

    def recheck(self, count_max: int | None = None) -> int:
        if self.is_refusing:
            raise StoreFailed("cannot write the index: no space left on device")
        return super().recheck(count_max)


async def test_a_disk_that_takes_no_news_of_adopted_files_does_not_end_the_node(
    tmp_path: Path, fast_clock: MockClock
) -> None:
    store = RefusingStore()
    async with node_of(MemoryHub(), "a", tmp_path, store=store) as a:
        store.is_refusing = True
        await trio.sleep(150)
        [notice] = (await a.status()).notices
        assert notice.kind == "StoreFailed"
        store.is_refusing = False
        await trio.sleep(100)
        assert len((await a.status()).notices) == 1
