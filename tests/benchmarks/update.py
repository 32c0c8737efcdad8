"""What a second version costs a node that holds the first: bytes from peers, all metadata included.

Plain: 5 % of the bytes overwritten in runs, 1 % inserted, in 4 shards. Safetensors: 5 % of the
tensors changed; then the same tensors in other shards and another order.
"""

from __future__ import annotations

import json
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.daemons import daemon
from tests.benchmarks.measuring import MIB, write_random_file

SHARDS = 4
RUN_BYTES = 2 * MIB  # of one overwritten or inserted run
TENSOR_BYTES = 3 * MIB + 512  # not a multiple of the chunk length


def edit_plain(old: bytes, rng: random.Random) -> bytes:
    """5 % overwritten in runs and 1 % inserted."""
    data = bytearray(old)
    for _ in range(max(1, len(old) * 5 // 100 // RUN_BYTES)):
        start = rng.randrange(len(data) - RUN_BYTES)
        data[start : start + RUN_BYTES] = rng.randbytes(RUN_BYTES)
    insert_bytes = max(1, len(old) // 100)
    start = rng.randrange(len(data))
    data[start:start] = rng.randbytes(insert_bytes)
    return bytes(data)


class Tensors:
    """Named tensors, laid out as valid safetensors files."""

    def __init__(self, size_bytes: int, rng: random.Random) -> None:
        self._rng = rng
        count = size_bytes // TENSOR_BYTES
        self.seeds = {f"layers.{i}.weight": rng.getrandbits(64) for i in range(count)}

    def change(self, share: float) -> int:
        """Give `share` of the tensors other values; how many bytes that are."""
        names = self._rng.sample(sorted(self.seeds), max(1, int(len(self.seeds) * share)))
        for name in names:
            self.seeds[name] = self._rng.getrandbits(64)
        return len(names) * TENSOR_BYTES

    def write(self, folder: Path, shards: int, names: list[str]) -> None:
        folder.mkdir(parents=True)
        share = -(-len(names) // shards)
        for number in range(shards):
            mine = names[number * share : (number + 1) * share]
            offsets = [(i * TENSOR_BYTES, (i + 1) * TENSOR_BYTES) for i in range(len(mine))]
            header = json.dumps(
                {
                    name: {"dtype": "U8", "shape": [TENSOR_BYTES], "data_offsets": list(place)}
                    for name, place in zip(mine, offsets, strict=True)
                }
            ).encode()
            header += b" " * (-len(header) % 8)
            path = folder / f"model-{number + 1:05}-of-{shards:05}.safetensors"
            with path.open("wb") as file:
                file.write(struct.pack("<Q", len(header)) + header)
                for name in mine:
                    file.write(random.Random(self.seeds[name]).randbytes(TENSOR_BYTES))


def cost(home: Path, old: Path, new: Path) -> tuple[int, int, int]:
    """Bytes of the new version, bytes fetched for it, bytes found on the own disk."""
    with daemon(home / "uploader") as uploader, daemon(home / "downloader") as downloader:
        first = uploader.publish(old, "1")
        downloader.fetch(first["content_id"], uploader.address)
        second = uploader.publish(new, "2")
        fetched = downloader.fetch(second["content_id"], uploader.address)
    size = sum(path.stat().st_size for path in new.iterdir())
    return size, fetched["bytes_fetched"], fetched["bytes_reused"]


def plain(home: Path, size_bytes: int) -> dict[str, float]:
    rng = random.Random(5)
    old, new = home / "old", home / "new"
    old.mkdir()
    new.mkdir()
    for number in range(SHARDS):
        write_random_file(old / f"shard-{number}", size_bytes // SHARDS, seed=number)
        (new / f"shard-{number}").write_bytes(
            edit_plain((old / f"shard-{number}").read_bytes(), rng)
        )
    size, fetched, reused = cost(home, old, new)
    return {"plain_percent": 100 * fetched / size, "plain_reused_percent": 100 * reused / size}


def changed_tensors(home: Path, size_bytes: int) -> dict[str, float]:
    tensors = Tensors(size_bytes, random.Random(6))
    names = list(tensors.seeds)
    tensors.write(home / "old", SHARDS, names)
    changed_bytes = tensors.change(0.05)
    tensors.write(home / "new", SHARDS, names)
    size, fetched, _ = cost(home, home / "old", home / "new")
    return {
        "tensors_percent": 100 * fetched / size,
        "tensors_changed_percent": 100 * changed_bytes / size,
    }


def resharded_tensors(home: Path, size_bytes: int) -> dict[str, float]:
    rng = random.Random(7)
    tensors = Tensors(size_bytes, rng)
    names = list(tensors.seeds)
    tensors.write(home / "old", SHARDS, names)
    rng.shuffle(names)
    tensors.write(home / "new", SHARDS + 3, names)
    size, fetched, _ = cost(home, home / "old", home / "new")
    return {"resharded_percent": 100 * fetched / size}


CASES: list[Callable[[Path, int], dict[str, float]]] = [plain, changed_tensors, resharded_tensors]


def run(folder: Path | None, rounds: int, size_bytes: int = 1024 * MIB) -> dict[str, object]:
    result: dict[str, object] = {}
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="p2phub-benchmark-", dir=folder) as text:
            result.update(case(Path(text), size_bytes))
    return result
