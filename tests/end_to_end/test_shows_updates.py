"""A new version costs the bytes that are new, however its tensors were moved between files."""

from __future__ import annotations

import json
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemons import Daemon, Daemons, daemons, is_same_tree

SEED = 7
MOVED_SHARE_MAX = 0.01  # of the release's bytes, for tensors in another order and other shards
LAYERS = 12
SHAPES = {  # bytes of one layer's tensors: a few matrices, and vectors too small to stand alone
    "attention.query": 2_359_296,
    "attention.output": 786_432,
    "feed_forward.in": 1_572_864,
    "feed_forward.out": 1_500_000,
    "norm": 1_536,
}

Tensors = dict[str, bytes]
Pair = tuple[Daemons, Daemon, Daemon]


def model(rng: random.Random) -> Tensors:
    return {
        f"layer.{layer}.{name}": rng.randbytes(size)
        for layer in range(LAYERS)
        for name, size in SHAPES.items()
    }


def write_safetensors(path: Path, tensors: Tensors) -> None:
    header, end = {}, 0
    for name, data in tensors.items():
        header[name] = {
            "dtype": "U8",
            "shape": [len(data)],
            "data_offsets": [end, end + len(data)],
        }
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(tensors.values())


def write_shards(folder: Path, names: list[str], tensors: Tensors, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        shard = {name: tensors[name] for name in names[number::count]}
        write_safetensors(folder / f"model-{number + 1}-of-{count}.safetensors", shard)
    return folder


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A publisher and one who follows it."""
    with daemons() as world:
        publisher, follower = world.start_all(["publisher", "follower"], bootstrap=[])
        yield world, publisher, follower


def fetch_both(pair: Pair, name: str, one: Path, two: Path) -> dict[str, Any]:
    """What the second version's fetch says, by a node that has the first."""
    _, publisher, follower = pair
    first = publisher.publish(one, name, "1.0")
    second = publisher.publish(two, name, "2.0")
    follower.json("fetch", first["content_id"], "--peer", publisher.address)
    fetched: dict[str, Any] = follower.json(
        "fetch", second["content_id"], "--peer", publisher.address
    )
    assert is_same_tree(Path(fetched["path"]), two)
    return fetched


def test_a_version_of_moved_tensors_costs_under_one_percent(pair: Pair) -> None:
    rng = random.Random(SEED)
    tensors = model(rng)
    names = list(tensors)
    shuffled = rng.sample(names, len(names))
    one = write_shards(pair[0].folder / "ordered", names, tensors, 2)
    two = write_shards(pair[0].folder / "shuffled", shuffled, tensors, 3)
    fetched = fetch_both(pair, "moved", one, two)
    share = fetched["bytes_fetched"] / fetched["data_size"]
    sys.stderr.write(f"tensors moved: {share:.2%} of {fetched['data_size']:,} bytes\n")
    assert share < MOVED_SHARE_MAX


def test_a_version_with_one_changed_tensor_costs_that_tensor(pair: Pair) -> None:
    rng = random.Random(SEED + 1)
    tensors = model(rng)
    one = write_shards(pair[0].folder / "before", list(tensors), tensors, 2)
    changed = "layer.3.attention.query"
    tensors[changed] = rng.randbytes(len(tensors[changed]))
    two = write_shards(pair[0].folder / "after", list(tensors), tensors, 2)
    fetched = fetch_both(pair, "changed", one, two)
    beside = fetched["bytes_fetched"] - len(tensors[changed])
    sys.stderr.write(f"one tensor changed: {beside:,} bytes beside it\n")
    assert beside < MOVED_SHARE_MAX * fetched["data_size"]
