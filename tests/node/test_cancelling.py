"""A fetch that is cancelled anywhere leaves nothing behind, and the next one succeeds."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import trio

from p2phub.net.memory import MemoryHub
from p2phub.node.api import FetchRequest
from p2phub.node.node import Node
from p2phub.proto.names import parse_reference
from tests.node.cancelling import CancelAtStep
from tests.node.hostile_peers import node_of
from tests.node.real_nodes import ignore, publish, same_files, write_model

STEPS_MAX = 1500  # of the event loop, after which a small fetch is over


async def test_a_fetch_cancelled_at_any_step_leaves_nothing(tmp_path: Path) -> None:
    hub = MemoryHub()
    model = write_model(tmp_path / "model", size=1_200_000)
    rng = random.Random(5)
    async with (
        node_of(hub, "publisher", tmp_path / "publisher") as publisher,
        node_of(hub, "reader", tmp_path / "reader") as reader,
    ):
        content_id = await publish(publisher, model)
        names = tuple(publisher._network.addresses())
        for attempt in range(30):
            steps = int(STEPS_MAX ** rng.random()) if attempt % 4 else rng.randrange(STEPS_MAX)
            # Nothing is held already: each attempt is of another part of the whole.
            request = FetchRequest(
                reference=parse_reference(content_id),
                destination=tmp_path / f"out {attempt}",
                peers=names,
                include=("weights.bin",) if attempt % 2 else (),
            )
            with trio.CancelScope() as scope:
                canceller = CancelAtStep(scope, steps)
                trio.lowlevel.add_instrument(canceller)
                try:
                    await reader.fetch(request, ignore)
                finally:
                    trio.lowlevel.remove_instrument(canceller)
            await is_at_rest(reader)
            await is_at_rest(publisher)
        final = FetchRequest(
            reference=parse_reference(content_id), destination=tmp_path / "out", peers=names
        )
        with trio.fail_after(20):
            await reader.fetch(final, ignore)
        assert same_files(model, tmp_path / "out")
        assert reader._network.faults_count == publisher._network.faults_count == 0


async def is_at_rest(node: Node) -> None:
    """Wait until a node has no session, channel, ticket or lane of a fetch."""
    channels = node._channels
    assert channels._listener is not None
    with trio.fail_after(5):
        while (
            node._serving.sessions_count
            or channels.open_count
            or channels._listener._tickets
            or node._traffic.transfers_count
            or node._serving.watches.by_page
            or any("Lane" in thread.name for thread in threading.enumerate())
        ):
            await trio.sleep(0.005)


async def test_nodes_that_end_in_the_middle_of_a_fetch_leak_no_descriptor(tmp_path: Path) -> None:
    hub = MemoryHub()
    model = write_model(tmp_path / "model", size=1_200_000)
    async with node_of(hub, "publisher", tmp_path / "publisher") as publisher:
        content_id = await publish(publisher, model)
        names = tuple(publisher._network.addresses())
        before = 0
        for attempt in range(12):
            async with node_of(hub, f"reader {attempt}", tmp_path / f"r{attempt}") as reader:
                request = FetchRequest(reference=parse_reference(content_id), peers=names)
                with trio.move_on_after(0.004 * attempt):
                    await reader.fetch(request, ignore)
                await is_at_rest(reader)
            await is_at_rest(publisher)
            after = len(os.listdir("/proc/self/fd"))
            before = before or after
        assert after <= before + 2
