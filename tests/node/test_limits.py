"""Limits that are set while a node runs: they hold at once, are kept, and follow the clock."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2phub.errors import BadSetting, UsageError
from p2phub.net.base import PeerId
from p2phub.net.lane_credit import RateCredit
from p2phub.net.memory import MemoryHub
from p2phub.node.api import PeerShare
from p2phub.node.downloads import STALL_TIMEOUT_S
from p2phub.node.limits import PEERS_MAX, Limiting
from p2phub.node.limits_api import LimitChange
from p2phub.node.rates import Rates
from p2phub.proto.limits import MIB
from tests.node.hostile_peers import node_of
from tests.node.real_nodes import address, fetch, node, publish, write_model

PEER = PeerId("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
ALWAYS = "00:00-24:00"


class Limited:
    """Limits over real rates, and one open channel each way."""

    def __init__(self, folder: Path, **settings: int) -> None:
        self.path = folder / "limits.json"
        self.down, self.up = Rates(), Rates()
        self.credit = RateCredit()
        self.down.add(self.credit, PEER)
        self.limiting = Limiting(self.path, self.down, self.up, **settings)


async def test_a_change_holds_for_channels_that_are_open(tmp_path: Path) -> None:
    limited = Limited(tmp_path)
    assert limited.credit.draw(MIB) == MIB
    view = await limited.limiting.limit(LimitChange(down="1M"))
    assert (view.down, view.up, view.down_now) == (MIB, None, MIB)
    assert limited.credit.draw(MIB) == 0
    assert not limited.up.limiter.is_limited
    await limited.limiting.limit(LimitChange(down="off"))
    assert limited.credit.draw(MIB) == MIB


async def test_limits_are_kept_and_win_over_the_settings(tmp_path: Path) -> None:
    first = Limited(tmp_path, down_rate=5 * MIB)
    assert first.limiting.view().down == 5 * MIB
    await first.limiting.limit(LimitChange(down="2M", up="500K"))
    await first.limiting.limit(LimitChange(peer=PEER, up="10K"))
    again = Limited(tmp_path, down_rate=5 * MIB)
    assert again.limiting.view() == first.limiting.view()
    assert again.up.limiter.limited_peers == (PEER,)


async def test_a_peer_has_limits_of_its_own(tmp_path: Path) -> None:
    limited = Limited(tmp_path)
    view = await limited.limiting.limit(LimitChange(peer=PEER, down="100K"))
    assert [(own.peer_id, own.down, own.up) for own in view.peers] == [(PEER, 100 << 10, None)]
    assert limited.down.limiter.limited_peers == (PEER,)
    assert view.down is None
    view = await limited.limiting.limit(LimitChange(peer=PEER, down="off"))
    assert view.peers == () and limited.credit.draw(MIB) == MIB


async def test_a_schedule_replaces_what_it_names_while_its_window_holds(tmp_path: Path) -> None:
    limited = Limited(tmp_path)
    await limited.limiting.limit(LimitChange(down="1M", up="2M"))
    view = await limited.limiting.limit(LimitChange(schedule=f"{ALWAYS} down=3M"))
    assert (view.down, view.down_now, view.up_now) == (MIB, 3 * MIB, 2 * MIB)
    assert view.window == view.schedule == "00:00-00:00 down=3M"
    view = await limited.limiting.limit(LimitChange(schedule="off"))
    assert (view.down_now, view.schedule, view.window) == (MIB, "", "")


async def test_the_schedule_is_followed_without_a_word(tmp_path: Path) -> None:
    limited = Limited(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limited.limiting.run)
        await limited.limiting.limit(LimitChange(schedule=f"{ALWAYS} up=1M"))
        await trio.testing.wait_all_tasks_blocked()
        assert limited.up.limiter.is_limited
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "change",
    [
        LimitChange(down="fast"),
        LimitChange(up="-1"),
        LimitChange(up=""),
        LimitChange(schedule="at night"),
    ],
)
async def test_what_is_no_limit_is_refused_and_changes_nothing(
    tmp_path: Path, change: LimitChange
) -> None:
    limited = Limited(tmp_path)
    before = await limited.limiting.limit(LimitChange(down="1M"))
    with pytest.raises(BadSetting):
        await limited.limiting.limit(change)
    assert limited.limiting.view() == before


async def test_a_peer_must_be_one_and_has_no_schedule(tmp_path: Path) -> None:
    limited = Limited(tmp_path)
    with pytest.raises(UsageError):
        await limited.limiting.limit(LimitChange(peer="me", down="1M"))
    with pytest.raises(UsageError):
        await limited.limiting.limit(LimitChange(peer=PEER, schedule=f"{ALWAYS} up=1M"))


@pytest.mark.parametrize(
    "kept",
    ["", "[]", "{}", '{"total": {"down": 1.5, "up": "off"}, "peers": {}, "schedule": ""}',
     '{"total": {"down": "off", "up": "off"}, "peers": [], "schedule": ""}',
     '{"total": {"down": "off", "up": "off"}, "peers": {"a": 1}, "schedule": ""}',
     '{"total": {"down": "off", "up": "off"}, "peers": {}, "schedule": 3}'],
)  # fmt: skip
async def test_a_damaged_file_is_as_none(tmp_path: Path, kept: str) -> None:
    (tmp_path / "limits.json").write_text(kept)
    assert Limited(tmp_path, down_rate=MIB).limiting.view().down == MIB


async def test_no_more_peers_are_kept_than_a_person_wrote(tmp_path: Path) -> None:
    peers = {f"peer {number}": {"down": "1M"} for number in range(PEERS_MAX)}
    kept = {"total": {"down": "off", "up": "off"}, "peers": peers, "schedule": ""}
    (tmp_path / "limits.json").write_text(json.dumps(kept))
    limited = Limited(tmp_path)
    with pytest.raises(UsageError):
        await limited.limiting.limit(LimitChange(peer=PEER, down="1M"))


async def test_a_fetch_is_held_back_and_let_go_while_it_runs(tmp_path: Path) -> None:
    async with node(tmp_path / "seed") as seed, node(tmp_path / "peer") as peer:
        content = await publish(seed, write_model(tmp_path / "model", size=4 * MIB))
        await peer.limits.limit(LimitChange(down="64K"))
        seed_address = await address(seed)
        async with trio.open_nursery() as nursery:

            async def get() -> None:
                await fetch(peer, content, to=tmp_path / "result", peers=(seed_address,))

            nursery.start_soon(get)
            with trio.fail_after(10):
                while not (await peer.status()).transfers:
                    await trio.sleep(0.01)
            await trio.sleep(0.5)
            (transfer,) = (await peer.status()).transfers
            assert transfer.progress.done_bytes < MIB
            await peer.limits.limit(LimitChange(down="off"))
            with trio.fail_after(20):
                while (await peer.status()).transfers:
                    await trio.sleep(0.01)
    assert (tmp_path / "result" / "weights.bin").stat().st_size == 4 * MIB


async def test_a_limit_too_low_for_any_timer_drops_nobody(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """A chunk that takes a minute; two peers, of which one at a time gets the little there is."""
    mock_clock.rate = 1.0
    model = tmp_path / "model"
    model.mkdir()
    size = 640 << 10
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + random.Random(1).randbytes(size)
    (model / "model.safetensors").write_bytes(weights)
    hub = MemoryHub()
    async with (
        node_of(hub, "one", tmp_path / "one") as one,
        node_of(hub, "two", tmp_path / "two") as two,
        node_of(hub, "peer", tmp_path / "peer") as peer,
    ):
        content = await publish(one, model)
        await publish(two, model)
        seeds = (await address(one), await address(two))
        await peer.limits.limit(LimitChange(down="10K"))
        shares: list[PeerShare] = []

        async def get() -> None:
            fetched = await fetch(peer, content, to=tmp_path / "result", peers=seeds)
            shares.extend(fetched.peers)

        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get)
            while not (peer._channels.down._credits):
                await trio.sleep(0.01)
            mock_clock.rate = 30.0
        mock_clock.rate = 1.0
        assert trio.current_time() - began_s > STALL_TIMEOUT_S
        assert [share.fault for share in shares if share.fault] == []
        assert (tmp_path / "result" / "model.safetensors").read_bytes() == weights
