"""Twenty nodes, each a process of its own, with one bootstrap node that dies."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import trio

from p2phub.net.base import parse_peer_address
from tests.net.nodes import node

NODES = 20

PROGRAM = """
    import sys, trio
    from p2phub.net.base import parse_peer_address
    from tests.net.nodes import node

    async def main(number, bootstrap):
        network = node(number)
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            if bootstrap:
                await network.connect(parse_peer_address(bootstrap))
                while network.routing().peers_count < 10:
                    await network.refresh()
                    await trio.sleep(0.1)
                print(await network.announce(bytes([number]) * 32), flush=True)
            print(network.addresses()[0], flush=True)
            await trio.sleep_forever()

    trio.run(main, int(sys.argv[1]), sys.argv[2])
"""


@contextmanager
def process(number: int, bootstrap: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(number), bootstrap],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def line_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


@pytest.mark.long
async def test_every_key_of_twenty_processes_is_found_after_their_bootstrap_died(
    nursery: trio.Nursery,
) -> None:
    with ExitStack() as stack:
        bootstrap = stack.enter_context(process(200, ""))
        address = line_of(bootstrap)
        numbers = range(1, NODES + 1)
        children = [stack.enter_context(process(number, address)) for number in numbers]
        taken = [int(line_of(child)) for child in children]
        assert min(taken) >= 10
        addresses = [line_of(child) for child in children]
        bootstrap.kill()
        late = node(201)
        await nursery.start(late.run)
        await late.connect(parse_peer_address(random.Random(5).choice(addresses)))
        await late.refresh()
        durations = []
        for number, found_at in zip(numbers, addresses, strict=True):
            begun_s = trio.current_time()
            async with late.find(bytes([number]) * 32, count=1) as lookup:
                found = [provider.peer async for provider in lookup]
            durations.append(trio.current_time() - begun_s)
            assert found == [parse_peer_address(found_at).peer]
        sys.stderr.write(f"find: median {statistics.median(durations) * 1000:.0f} ms\n")
        assert statistics.median(durations) < 1.0
