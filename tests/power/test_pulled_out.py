"""A disk that dies while files are fetched to it, is taken out and put back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from p2phub.net.memory import MemoryHub
from p2phub.node.api import FetchRequest, Progress
from p2phub.proto.names import parse_reference
from tests.node.hostile_peers import node_of
from tests.node.real_nodes import publish, same_files, write_model
from tests.power.disks import cut_power, missing, mounted, scratch

SIZE = 24_000_000
UP_RATE = 8_000_000


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
async def test_a_fetch_goes_on_when_its_disk_is_back(kind: str, tmp_path: Path) -> None:
    if reason := missing(kind):
        pytest.skip(reason)
    model = write_model(tmp_path / "model", size=SIZE)
    hub = MemoryHub()
    with scratch() as folder, mounted(kind, folder) as disk:
        async with (
            node_of(hub, "publisher", tmp_path / "publisher", up_rate=UP_RATE) as publisher,
            node_of(hub, "reader", tmp_path / "reader") as reader,
        ):
            content_id = await publish(publisher, model)
            is_half_here, is_paused = trio.Event(), trio.Event()

            def hear(progress: Progress) -> None:
                if progress.stage == "transfer" and progress.done_bytes > SIZE // 2:
                    is_half_here.set()
                if progress.stage == "paused":
                    is_paused.set()

            async def pull_out() -> None:
                await is_half_here.wait()
                power = disk.open()
                cut_power(power)
                os.close(power)
                await is_paused.wait()
                disk.unmount()  # nobody keeps it
                disk.mount()

            request = FetchRequest(
                reference=parse_reference(content_id),
                destination=disk.point / "out",
                peers=tuple(publisher._network.addresses()),
            )
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pull_out)
                    fetched = await reader.fetch(request, hear)
            assert is_paused.is_set()
            assert same_files(model, disk.point / "out")
            # Only what was not durable came twice.
            assert SIZE < fetched.bytes_fetched < 2 * SIZE
