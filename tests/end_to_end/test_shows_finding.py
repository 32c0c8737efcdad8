"""A finder that joins late, after the bootstrap died, finds by bare ids through the DHT alone."""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from p2phub.proto.limits import MIB
from tests.end_to_end.daemons import Daemon, Daemons, daemons, is_same_tree, write_files

SEED = 20
WEIGHTS = "weights.bin"  # large enough to be announced by itself and by its SHA-256
FILES = {WEIGHTS: 8 * MIB + 4321, "README.md": 900, "config/vocabulary.txt": 70_000}
MEDIAN_SECONDS_MAX = 2.0


@dataclass(frozen=True)
class Network:
    """Nodes whose bootstrap node is dead, one of which has announced a release."""

    world: Daemons
    nodes: list[Daemon]  # without the publisher
    publisher: Daemon
    folder: Path
    content_id: str
    file: dict[str, Any]  # what `show` says of WEIGHTS


def network(nodes_count: int) -> Iterator[Network]:
    with daemons() as world:
        bootstrap = world.start("bootstrap")
        names = [f"node-{number}" for number in range(nodes_count)]
        publisher, *nodes = world.start_all(names, bootstrap=[bootstrap])
        folder = write_files(world.folder / "model", FILES, SEED)
        published = publisher.publish(folder, "sought")
        publisher.wait_announced()
        bootstrap.kill()
        shown = publisher.json("show", published["content_id"])
        [file] = [file for file in shown["files"] if file["path"] == WEIGHTS]
        yield Network(world, nodes, publisher, folder, published["content_id"], file)


@pytest.fixture(scope="module")
def eight() -> Iterator[Network]:
    yield from network(8)


@pytest.fixture(scope="module")
def twenty() -> Iterator[Network]:
    yield from network(20)


def find(found_by: str, network: Network, tries: int) -> None:
    """Fetch `tries` times, each time by a new node that knows one ordinary node."""
    rng = random.Random(SEED)
    seconds = []
    for number in range(tries):
        finder = network.world.start(
            f"finder-{found_by}-{number}", bootstrap=[rng.choice(network.nodes)]
        )
        try:
            seconds.append(fetch(found_by, network, finder))
        finally:
            finder.stop()
    median = statistics.median(seconds)
    sys.stderr.write(
        f"found by {found_by}: {len(seconds)} of {tries}, median {median:.2f} s, "
        f"worst {max(seconds):.2f} s\n"
    )
    assert median < MEDIAN_SECONDS_MAX


def fetch(found_by: str, network: Network, finder: Daemon) -> float:
    """The seconds that the command took, start of its interpreter included."""
    references = {
        "release": network.content_id,
        "object": network.file["object"],
        "sha256": f"sha256:{network.file['sha256']}",
    }
    fetched = finder.run("fetch", references[found_by], "--json")
    path = Path(fetched.value["path"])
    if found_by == "release":
        assert is_same_tree(path, network.folder)
    else:
        assert path.read_bytes() == (network.folder / WEIGHTS).read_bytes()
    return fetched.seconds


@pytest.mark.parametrize("found_by", ["release", "object", "sha256"])
def test_a_late_finder_finds_a_bare_id_among_eight_nodes(eight: Network, found_by: str) -> None:
    find(found_by, eight, 3)


@pytest.mark.long
@pytest.mark.parametrize("found_by", ["release", "object", "sha256"])
def test_a_late_finder_finds_a_bare_id_twenty_times_of_twenty(
    twenty: Network, found_by: str
) -> None:
    find(found_by, twenty, 20)
